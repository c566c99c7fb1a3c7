//! The body of `POST /v1/jobs`, and how it becomes a [`JobSpec`].
//!
//! The wire form is a struct of its own: it refuses unknown fields, takes credentials which a
//! `JobSpec` never holds, and lets every wrong field be reported at once.

use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::archive::{Fallback, LayerPolicy};
use crate::jobs::job::{ImageId, JobSpec, MigrateSpec, PullSpec};

use super::SpecValidator;
use super::extract::invalid_job;
use super::problem::{ApiError, FieldError};

const MAX_SOURCE: usize = 1024;
const MAX_PLATFORM: usize = 64;
const MAX_CREDENTIALS: usize = 16 * 1024;

/// A job to be done.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewJob, example = json!({
    "kind": "pull",
    "image_id": "961eaef6668e480f",
    "source": "docker.io/library/alpine:3.20",
    "platform": "linux/amd64"
}))]
pub(super) struct NewJobBody {
    /// What to do.
    #[schema(value_type = JobKind, required)]
    kind: Option<JobKind>,
    /// Names the archive in the store.
    #[schema(value_type = ImageId, required)]
    image_id: Option<String>,
    /// Of a pull: image reference, such as `docker.io/library/alpine:3.20` or
    /// `host:5000/app@sha256:...`.
    #[schema(max_length = 1024)]
    source: Option<String>,
    /// `os/architecture[/variant]`; the service's own platform when absent.
    #[schema(value_type = Option<String>, max_length = 64, examples("linux/arm64/v8"))]
    platform: Option<String>,
    /// The archive version wanted, 1 or 2; the configured one when absent.
    #[schema(minimum = 1, maximum = 2)]
    clip_version: Option<u8>,
    /// What to do with layers that beta9's workers can't read (those that are not gzip): take them
    /// for a reason to fall back (when absent), index them as they are, or re-publish the image in
    /// gzip to the build registry.
    layers: Option<LayerPolicy>,
    /// What to do when the image can't be served as v2: a v1 archive instead, or no archive; what
    /// is configured when absent.
    fallback: Option<Fallback>,
    /// Replace an archive of this image id that has other content.
    #[schema(default = false)]
    force: Option<bool>,
    /// Of a migration: the archive version wanted.
    #[schema(minimum = 1, maximum = 2)]
    to: Option<u8>,
    /// Of a migration: remove in the end what this and earlier migrations of the image kept.
    #[schema(default = false)]
    discard_kept: Option<bool>,
    /// How to log in to the source's registry. Kept encrypted until the job is final, never shown.
    #[schema(write_only)]
    credentials: Option<CredentialText>,
}

/// What kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum JobKind {
    /// Index an image that is in a registry already; needs `source`.
    Pull,
    /// Bring an archive to the other version; needs `to`.
    Migrate,
}

/// Registry credentials in one of the encodings of CONTRACT F.1, as their text; what they mean is
/// for the floor that uses them to say.
#[derive(Debug)]
pub(super) struct CredentialText(SecretString);

impl<'de> Deserialize<'de> for CredentialText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Through `Value`, because serde's own messages would quote what they found.
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self(text.into())),
            object @ Value::Object(_) => Ok(Self(object.to_string().into())),
            _ => Err(de::Error::custom("expected a string \"user:password\" or an object")),
        }
    }
}

impl PartialSchema for CredentialText {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("`user:password`, or one of the objects as text"));
        let object = ObjectBuilder::new().schema_type(Type::Object).description(Some(
            "A flat map such as `{\"USERNAME\": \"..\", \"PASSWORD\": \"..\"}`, or \
             `{\"registry\": \"..\", \"type\": \"..\", \"credentials\": {..}}`",
        ));
        OneOfBuilder::new().item(text).item(object).into()
    }
}

impl ToSchema for CredentialText {}

impl NewJobBody {
    /// The job that is asked for and its credentials, or 422 with everything that is wrong.
    pub(super) fn into_spec(
        self,
        validate: &SpecValidator,
    ) -> Result<(JobSpec, Option<SecretString>), ApiError> {
        let mut faults = Faults::default();
        let image_id = faults.required("image_id", self.image_id.as_deref());
        let image_id = image_id.and_then(|text| faults.keep("image_id", text.parse::<ImageId>()));
        let spec = match faults.required("kind", self.kind) {
            Some(JobKind::Pull) => self.pull(image_id, &mut faults).map(JobSpec::Pull),
            Some(JobKind::Migrate) => self.migrate(image_id, &mut faults).map(JobSpec::Migrate),
            None => None,
        };
        let credentials = self.credentials.map(|c| faults.keep("credentials", bounded(c)));
        let (Some(spec), []) = (spec, faults.0.as_slice()) else {
            return Err(invalid_job(faults.0));
        };
        let credentials = credentials.flatten();
        validate(&spec, credentials.as_ref()).map_err(invalid_job)?;
        Ok((spec, credentials))
    }

    fn pull(&self, image_id: Option<ImageId>, faults: &mut Faults) -> Option<PullSpec> {
        faults.foreign("to", self.to.as_ref());
        faults.foreign("discard_kept", self.discard_kept.as_ref());
        let source = faults.required("source", self.source.clone());
        let source = source.and_then(|text| faults.keep("source", source_text(text)));
        let platform = self.platform.clone();
        let platform = platform.map(|text| faults.keep("platform", platform_text(text)));
        let clip_version = self.clip_version.map(|n| faults.keep("clip_version", version(n)));
        Some(PullSpec {
            image_id: image_id?,
            source: source?,
            platform: platform.flatten(),
            clip_version: clip_version.flatten(),
            layers: self.layers.unwrap_or_default(),
            fallback: self.fallback,
            force: self.force.unwrap_or_default(),
        })
    }

    fn migrate(&self, image_id: Option<ImageId>, faults: &mut Faults) -> Option<MigrateSpec> {
        faults.foreign("source", self.source.as_ref());
        faults.foreign("platform", self.platform.as_ref());
        faults.foreign("clip_version", self.clip_version.as_ref());
        faults.foreign("layers", self.layers.as_ref());
        faults.foreign("fallback", self.fallback.as_ref());
        faults.foreign("force", self.force.as_ref());
        let to = faults.required("to", self.to);
        let to = to.and_then(|number| faults.keep("to", version(number)));
        let discard_kept = self.discard_kept.unwrap_or_default();
        Some(MigrateSpec { image_id: image_id?, to: to?, discard_kept })
    }
}

/// Collects what is wrong while the fields are walked through.
#[derive(Default)]
struct Faults(Vec<FieldError>);

impl Faults {
    fn required<T>(&mut self, field: &str, value: Option<T>) -> Option<T> {
        self.keep(field, value.ok_or("is missing"))
    }

    /// For fields of other kinds of jobs.
    fn foreign<T>(&mut self, field: &str, value: Option<&T>) {
        if value.is_some() {
            self.0.push(FieldError::new(field, "does not belong to a job of this kind"));
        }
    }

    fn keep<T, E: fmt::Display>(&mut self, field: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.0.push(FieldError::new(field, error))).ok()
    }
}

fn source_text(text: String) -> Result<String, String> {
    let odd = |c: char| c.is_whitespace() || c.is_control();
    match text.len() {
        0 => Err("is empty: expected an image reference".to_owned()),
        1..=MAX_SOURCE if text.contains(odd) => {
            Err("has white space in it: expected an image reference".to_owned())
        }
        1..=MAX_SOURCE => Ok(text),
        found => Err(format!("has {found} bytes: expected at most {MAX_SOURCE}")),
    }
}

fn platform_text(text: String) -> Result<String, String> {
    let word = |part: &str| {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
        !part.is_empty() && part.bytes().all(allowed)
    };
    let parts = text.split('/').count();
    if text.len() <= MAX_PLATFORM && matches!(parts, 2 | 3) && text.split('/').all(word) {
        return Ok(text);
    }
    let shown: String = text.chars().take(MAX_PLATFORM).collect();
    Err(format!("{shown:?} is not a platform: expected os/architecture[/variant]"))
}

fn version(number: u8) -> Result<u8, String> {
    match number {
        1 | 2 => Ok(number),
        other => Err(format!("{other} is not an archive version: expected 1 or 2")),
    }
}

fn bounded(CredentialText(secret): CredentialText) -> Result<SecretString, String> {
    match secret.expose_secret().len() {
        0..=MAX_CREDENTIALS => Ok(secret),
        found => Err(format!("has {found} bytes: expected at most {MAX_CREDENTIALS}")),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn spec_of(body: &str) -> Option<(JobSpec, Option<SecretString>)> {
        let validate: SpecValidator = Arc::new(|_, _| Ok(()));
        let body: NewJobBody = serde_json::from_str(body).ok()?;
        body.into_spec(&validate).ok()
    }

    #[test]
    fn credentials_leave_as_text_and_are_not_in_the_spec() {
        let map = json!({"USERNAME": "u", "PASSWORD": "hunter2"});
        for (given, text) in
            [(json!("u:hunter2"), "u:hunter2".to_owned()), (map.clone(), map.to_string())]
        {
            let body = json!({
                "kind": "pull",
                "image_id": "961eaef6668e480f",
                "source": "app",
                "credentials": given,
            });
            let (spec, credentials) = spec_of(&body.to_string()).unwrap();
            assert_eq!(credentials.unwrap().expose_secret(), text);
            assert!(!serde_json::to_string(&spec).unwrap().contains("hunter2"));
            let parsed: NewJobBody = serde_json::from_value(body).unwrap();
            assert!(!format!("{parsed:?}").contains("hunter2"));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_text_is_accepted_or_refused(body in ".{0,200}", image_id in ".{0,20}",
            source in ".{0,40}", platform in ".{0,20}", version in any::<u16>())
        {
            spec_of(&body);
            spec_of(&json!({"kind": "pull", "image_id": image_id, "source": source,
                "platform": platform, "clip_version": version}).to_string());
        }

        #[test]
        fn platforms_of_two_or_three_words_are_kept(text in "[a-z0-9]{1,8}(/[a-z0-9_.-]{1,8}){1,2}") {
            prop_assert_eq!(platform_text(text.clone()), Ok(text));
        }
    }
}
