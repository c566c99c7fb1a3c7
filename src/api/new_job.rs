//! The body of `POST /v1/jobs`, and how it becomes a [`JobSpec`]: one struct a kind.
//!
//! The wire forms refuse unknown fields, take credentials which a `JobSpec` never holds, and let every
//! wrong field be reported at once. What names the same is the same from here on: references and
//! platforms are written in one way.

use secrecy::SecretString;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use utoipa::openapi::schema::{Discriminator, ObjectBuilder, OneOfBuilder, Schema, Type};
use utoipa::openapi::{Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

use crate::archive::{Fallback, LayerPolicy};
use crate::digest::Digest;
use crate::jobs::job::{ImageId, JobSpec, MigrateSpec, Priority, PullSpec};
use crate::jobs::queue::{NewJob, Secrets};
use crate::oci::{Credentials, MAX_SOURCE, Reference, reference_pattern};

use super::extract::{SecretText, invalid_job, whole_numbers};
use super::problem::{ApiError, FieldError};

/// The body of a build.
mod build;
/// Where a build's context is.
mod context;
/// What is wrong with the fields.
mod faults;

pub(super) use build::{NewBuild, TIMEOUT as BUILD_TIMEOUT};
pub(super) use faults::Faults;

/// Bytes of a job as it is submitted, at most: a Dockerfile is a part of one.
pub(super) const MAX_JOB: usize = 1 << 20;

pub(super) const MAX_CREDENTIALS: usize = 16 * 1024;
/// The longest that a job may wait for a worker: 30 days, in seconds.
const MAX_EXPIRY: u64 = 30 * 24 * 60 * 60;

/// A job to be done, by its kind.
pub(super) enum NewJobBody {
    Pull(NewPull),
    Migrate(NewMigrate),
    Build(Box<NewBuild>),
}

/// A pull: index an image that is in a registry already.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "kind": "pull",
    "image_id": "961eaef6668e480f",
    "source": "docker.io/library/alpine:3.20",
    "platform": "linux/amd64"
}))]
pub(super) struct NewPull {
    /// `pull`.
    kind: PullKind,
    /// Names the archive in the store.
    #[schema(value_type = ImageId, required)]
    image_id: Option<String>,
    /// Image reference, such as `docker.io/library/alpine:3.20` or `host:5000/app@sha256:...`.
    #[schema(schema_with = source_schema, required)]
    source: Option<String>,
    /// `os/architecture[/variant]`; the service's own platform when absent.
    #[schema(value_type = Option<String>, pattern = r"^[A-Za-z0-9._-]{1,64}(/[A-Za-z0-9._-]{1,64}){1,2}$", examples("linux/arm64"))]
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
    /// Which of several jobs is taken first; `normal` when absent.
    priority: Option<Priority>,
    /// The job ends as `expired` when no worker takes it in so many seconds.
    #[schema(minimum = 1, maximum = 2_592_000)]
    expires_in: Option<u64>,
    /// How to log in to the source's registry. Kept encrypted until the job is final, never shown.
    #[schema(write_only)]
    credentials: Option<CredentialText>,
    /// Whom to tell when the job ends.
    webhook: Option<NewWebhook>,
}

fn source_schema() -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some(reference_pattern()))
        .max_length(Some(MAX_SOURCE))
        .description(Some(
            "Image reference, such as `docker.io/library/alpine:3.20` or `host:5000/app@sha256:...`.",
        ))
}

/// A migration: bring an archive to the other version.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"kind": "migrate", "image_id": "961eaef6668e480f", "to": 2}))]
pub(super) struct NewMigrate {
    /// `migrate`.
    kind: MigrateKind,
    /// Names the archive in the store.
    #[schema(value_type = ImageId, required)]
    image_id: Option<String>,
    /// The archive version wanted.
    #[schema(value_type = u8, minimum = 1, maximum = 2, required)]
    to: Option<u8>,
    /// Remove in the end what this and earlier migrations of the image kept.
    #[schema(default = false)]
    discard_kept: Option<bool>,
    /// Which of several jobs is taken first; `normal` when absent.
    priority: Option<Priority>,
    /// The job ends as `expired` when no worker takes it in so many seconds.
    #[schema(minimum = 1, maximum = 2_592_000)]
    expires_in: Option<u64>,
    /// How to log in to the image's registry. Kept encrypted until the job is final, never shown.
    #[schema(write_only)]
    credentials: Option<CredentialText>,
    /// Whom to tell when the job ends.
    webhook: Option<NewWebhook>,
}

/// Whom to tell when a job ends: by a POST of the job, as `GET /v1/jobs/{id}` shows it. Kept encrypted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"url": "https://gateway.example/hooks/clipwright", "secret": "a long random text"}))]
pub(super) struct NewWebhook {
    /// Where to send it. Redirects are not followed.
    #[schema(
        max_length = 2048,
        pattern = r"^https?://(([a-z0-9]|[a-z0-9]-[a-z0-9])+[.])*[a-z]([a-z0-9]|[a-z0-9]-[a-z0-9])*(:[1-9][0-9]{0,3})?(/[!-~]*)?$",
        write_only
    )]
    url: String,
    /// What to sign it with: `Clipwright-Signature: t=SECONDS,v1=HEX`, the HMAC-SHA-256 of
    /// `SECONDS.BODY`.
    #[schema(value_type = Option<String>, min_length = 1, max_length = 256, write_only)]
    secret: Option<SecretText>,
}

/// The kind of a pull.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum PullKind {
    /// Index an image that is in a registry already.
    Pull,
}

/// The kind of a migration.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum MigrateKind {
    /// Bring an archive to the other version.
    Migrate,
}

impl PartialSchema for NewJobBody {
    fn schema() -> RefOr<Schema> {
        let names = [
            ("pull", NewPull::name()),
            ("migrate", NewMigrate::name()),
            ("build", NewBuild::name()),
        ];
        let kinds = names.map(|(kind, name)| (kind, Ref::from_schema_name(name)));
        let mapping = kinds.iter().map(|(kind, schema)| (*kind, schema.ref_location.clone()));
        let discriminator = Discriminator::with_mapping("kind", mapping);
        let one_of = kinds.iter().fold(OneOfBuilder::new(), |one_of, (_, schema)| {
            one_of.item(RefOr::<Schema>::Ref(schema.clone()))
        });
        one_of.discriminator(Some(discriminator)).description(Some("A job to be done.")).into()
    }
}

impl ToSchema for NewJobBody {
    fn name() -> std::borrow::Cow<'static, str> {
        "NewJob".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((NewPull::name().into_owned(), NewPull::schema()));
        NewPull::schemas(schemas);
        schemas.push((NewMigrate::name().into_owned(), NewMigrate::schema()));
        NewMigrate::schemas(schemas);
        schemas.push((NewBuild::name().into_owned(), NewBuild::schema()));
        NewBuild::schemas(schemas);
    }
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
            .pattern(Some(Credentials::PATTERN))
            .max_length(Some(MAX_CREDENTIALS))
            .description(Some("`user:password`, or one of the objects as text"));
        let some = || {
            ObjectBuilder::new()
                .schema_type(Type::String)
                .min_length(Some(1))
                .max_length(Some(4096))
        };
        let object = ObjectBuilder::new()
            .schema_type(Type::Object)
            .property("USERNAME", some())
            .required("USERNAME")
            .property("PASSWORD", some())
            .required("PASSWORD")
            .description(Some(
                "A flat map; the other keys that beta9 knows are understood as well, and so is \
                 `{\"registry\": \"..\", \"type\": \"..\", \"credentials\": {..}}`",
            ));
        OneOfBuilder::new().item(text).item(object).into()
    }
}

impl ToSchema for CredentialText {}

impl NewJobBody {
    /// Reads the body of its kind, or 422 with the field that is wrong.
    pub(super) fn read(body: Value) -> Result<Self, ApiError> {
        let kind = body.get("kind").map(|kind| kind.as_str().map(str::to_owned));
        let wrong = |detail: &str| Err(invalid_job(vec![FieldError::new("kind", detail)]));
        match kind {
            None if body.is_object() => wrong("is missing: expected pull, migrate or build"),
            None => Err(invalid_job(vec![FieldError::new("body", "expected an object")])),
            Some(kind) => match kind.as_deref() {
                Some("pull") => fields(body).map(Self::Pull),
                Some("migrate") => fields(body).map(Self::Migrate),
                Some("build") => fields(body).map(|build| Self::Build(Box::new(build))),
                _ => wrong("is no kind of job: expected pull, migrate or build"),
            },
        }
    }

    /// The job that is asked for, or 422 with everything that is wrong.
    pub(super) fn into_job(self) -> Result<NewJob, ApiError> {
        let mut faults = Faults::default();
        let job = match self {
            Self::Pull(pull) => pull.into_job(&mut faults),
            Self::Migrate(migrate) => migrate.into_job(&mut faults),
            Self::Build(build) => build.into_job(&mut faults),
        };
        match job {
            Some(job) if faults.0.is_empty() => Ok(job),
            _ => Err(invalid_job(faults.0)),
        }
    }
}

fn fields<T: DeserializeOwned>(mut body: Value) -> Result<T, ApiError> {
    whole_numbers(&mut body);
    serde_path_to_error::deserialize(body).map_err(|error| {
        let field = error.path().to_string();
        let field = if field == "." { "body".to_owned() } else { field };
        invalid_job(vec![FieldError::new(field, error.into_inner())])
    })
}

impl NewPull {
    fn into_job(self, faults: &mut Faults) -> Option<NewJob> {
        let PullKind::Pull = self.kind;
        let image_id = faults.image_id(self.image_id);
        let source = faults.required("source", self.source);
        let source = source.and_then(|text| faults.keep("source", source_of(&text)));
        let platform = faults.platform(self.platform);
        let clip_version = self.clip_version.map(|n| faults.keep("clip_version", version(n)));
        let registry = source.as_ref().map(Reference::registry);
        let secrets = faults.secrets(self.credentials, registry);
        let expires_in = faults.expiry(self.expires_in);
        let webhook = faults.webhook(self.webhook);
        let spec = PullSpec {
            image_id: image_id?,
            source: source?,
            platform: platform?.normalised(),
            clip_version: clip_version.flatten(),
            layers: self.layers.unwrap_or_default(),
            fallback: self.fallback,
            force: self.force.unwrap_or_default(),
        };
        let priority = self.priority.unwrap_or_default();
        let new = NewJob::new(JobSpec::Pull(spec));
        Some(NewJob { priority, secrets, webhook, expires_in, ..new })
    }
}

impl NewMigrate {
    fn into_job(self, faults: &mut Faults) -> Option<NewJob> {
        let MigrateKind::Migrate = self.kind;
        let image_id = faults.image_id(self.image_id);
        let to = faults.required("to", self.to);
        let to = to.and_then(|number| faults.keep("to", version(number)));
        let secrets = faults.secrets(self.credentials, None);
        let expires_in = faults.expiry(self.expires_in);
        let webhook = faults.webhook(self.webhook);
        let discard_kept = self.discard_kept.unwrap_or_default();
        let spec = MigrateSpec { image_id: image_id?, to: to?, discard_kept };
        let priority = self.priority.unwrap_or_default();
        let new = NewJob::new(JobSpec::Migrate(spec));
        Some(NewJob { priority, secrets, webhook, expires_in, ..new })
    }
}

/// Credentials for a job that asks for this, or 422.
pub(super) fn secrets_for(
    spec: &JobSpec,
    given: Option<CredentialText>,
) -> Result<Secrets, ApiError> {
    let registry = match spec {
        JobSpec::Pull(pull) => Some(pull.source.registry()),
        // Theirs are several, by their names.
        JobSpec::Build(_) if given.is_some() => {
            let detail = "a build's credentials and secrets can't be sent again: submit it anew";
            return Err(invalid_job(vec![FieldError::new("credentials", detail)]));
        }
        JobSpec::Build(build) if !build.secret_ids.is_empty() => {
            let detail = "the build needs secrets, which were erased when it ended: submit it anew";
            return Err(invalid_job(vec![FieldError::new("secrets", detail)]));
        }
        JobSpec::Build(_) | JobSpec::Migrate(_) => None,
    };
    let mut faults = Faults::default();
    let secrets = faults.secrets(given, registry);
    if faults.0.is_empty() { Ok(secrets) } else { Err(invalid_job(faults.0)) }
}

/// A reference; one that has credentials in it is refused without being quoted.
pub(super) fn source_of(text: &str) -> Result<Reference, String> {
    if text.split('@').skip(1).any(|digest| digest.parse::<Digest>().is_err()) {
        return Err("has something before an @ that is no reference, or no digest behind it: \
                    credentials belong into `credentials`"
            .to_owned());
    }
    match text.len() {
        0 => Err("is empty: expected an image reference".to_owned()),
        1..=MAX_SOURCE => text.parse::<Reference>().map_err(|error| error.to_string()),
        found => Err(format!("has {found} bytes: expected at most {MAX_SOURCE}")),
    }
}

fn version(number: u8) -> Result<u8, String> {
    match number {
        1 | 2 => Ok(number),
        other => Err(format!("{other} is not an archive version: expected 1 or 2")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;
    use serde_json::json;

    use super::*;
    use crate::jobs::pull::REGISTRY_SECRET;

    fn job_of(body: &Value) -> Result<NewJob, ApiError> {
        NewJobBody::read(body.clone())?.into_job()
    }

    fn pull(source: &str, platform: &str) -> Value {
        json!({
            "kind": "pull", "image_id": "961eaef6668e480f", "source": source, "platform": platform,
        })
    }

    #[test]
    fn credentials_leave_as_text_and_are_not_in_the_spec() {
        let map = json!({"USERNAME": "u", "PASSWORD": "hunter2"});
        for (given, text) in
            [(json!("u:hunter2"), "u:hunter2".to_owned()), (map.clone(), map.to_string())]
        {
            let mut body = pull("app", "linux/amd64");
            body["credentials"] = given;
            let job = job_of(&body).unwrap();
            assert_eq!(job.secrets[REGISTRY_SECRET].expose_secret(), text);
            assert!(!serde_json::to_string(&job.spec).unwrap().contains("hunter2"));
            assert!(!format!("{job:?}").contains("hunter2"));
        }
    }

    #[test]
    fn what_names_the_same_is_the_same() {
        let one = job_of(&pull("alpine", "linux/arm64")).unwrap();
        for (source, platform) in [
            ("docker.io/library/alpine:latest", "linux/arm64/v8"),
            ("index.docker.io/library/alpine", "Linux/AARCH64"),
        ] {
            assert_eq!(job_of(&pull(source, platform)).unwrap().spec, one.spec);
        }
    }

    #[test]
    fn credentials_in_a_source_are_not_quoted() {
        for source in [
            "user:hunter2@host/app",
            "https://user:hunter2@host:5000/app",
            "user:hunter2@host:5000",
            "hunter2@host/app",
            &format!("user:hunter2@host/app@{}", Digest::of(b"x")),
        ] {
            let error = source_of(source).unwrap_err();
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(source_of(&format!("app:1@{}", Digest::of(b"x"))).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_text_is_accepted_or_refused(kind in "pull|migrate|build|.{0,5}", image_id in ".{0,20}",
            source in ".{0,40}", platform in ".{0,20}", version in any::<u16>())
        {
            let _ = job_of(&json!({"kind": kind, "image_id": image_id, "source": source,
                "platform": platform, "clip_version": version}));
            let _ = job_of(&json!({"kind": kind, "image_id": image_id, "to": version}));
        }
    }
}
