//! Where a build's context is: it was sent, or lies in a bucket, or in a git repository.

use secrecy::ExposeSecret as _;
use serde::{Deserialize, Deserializer, de};
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type,
};
use utoipa::{PartialSchema, ToSchema};

use super::{Faults, MAX_CREDENTIALS};
use crate::api::extract::SecretText;
use crate::build::source::{GitContext, ObjectKey};
use crate::digest::Digest;
use crate::jobs::build::GIT_SECRET;
use crate::jobs::queue::Secrets;

/// How to log in to a git repository: `user:password`, as a regular expression (ECMA 262).
const LOGIN_PATTERN: &str = "^[!-9;-~][ -9;-~]*:[ -~]+$";

/// Where a context is.
pub(in crate::api) enum NewContext {
    /// It was sent to `/v1/contexts`: its digest.
    Sent(String),
    /// An object of the workspace's bucket.
    Object(String),
    /// A commit of a repository, and how to log in there.
    Git(String, Option<SecretText>),
}

/// The places, by their names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    object: Option<String>,
    git: Option<String>,
    credentials: Option<SecretText>,
}

impl<'de> Deserialize<'de> for NewContext {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = || {
            de::Error::custom(
                "expected a digest, {\"object\": \"..\"} or {\"git\": \"..\", \"credentials\": \"..\"}",
            )
        };
        let place: Place = match Value::deserialize(deserializer)? {
            Value::String(digest) => return Ok(Self::Sent(digest)),
            // Its own message could quote what it found.
            object => serde_json::from_value(object).map_err(|_| expected())?,
        };
        match (place.object, place.git, place.credentials) {
            (Some(object), None, None) => Ok(Self::Object(object)),
            (None, Some(git), login) => Ok(Self::Git(git, login)),
            _ => Err(expected()),
        }
    }
}

/// A context as a build's spec has it.
#[derive(Debug, Default)]
pub(in crate::api) struct ContextPlace {
    pub(in crate::api) sent: Option<Digest>,
    pub(in crate::api) object: Option<ObjectKey>,
    pub(in crate::api) git: Option<GitContext>,
}

impl NewContext {
    /// The place; credentials go to the `secrets`.
    pub(super) fn into_place(self, faults: &mut Faults, secrets: &mut Secrets) -> ContextPlace {
        let none = ContextPlace::default();
        match self {
            Self::Sent(digest) => {
                ContextPlace { sent: faults.keep("context", digest.parse()), ..none }
            }
            Self::Object(key) => {
                ContextPlace { object: faults.keep("context.object", key.parse()), ..none }
            }
            Self::Git(name, login) => {
                if let Some(login) = login.map(SecretText::into_secret) {
                    if !is_login(login.expose_secret()) {
                        let detail = "expected user:password, of ASCII characters";
                        faults.wrong("context.credentials", detail);
                    }
                    secrets.insert(GIT_SECRET.to_owned(), login);
                }
                ContextPlace { git: faults.keep("context.git", name.parse()), ..none }
            }
        }
    }
}

fn is_login(text: &str) -> bool {
    let plain = |byte: u8| (b' '..=b'~').contains(&byte);
    let pair = text.split_once(':');
    text.len() <= MAX_CREDENTIALS
        && text.bytes().all(plain)
        && pair.is_some_and(|(user, password)| {
            !user.is_empty() && !user.starts_with(' ') && !password.is_empty()
        })
}

impl PartialSchema for NewContext {
    fn schema() -> RefOr<Schema> {
        let text = || ObjectBuilder::new().schema_type(Type::String);
        let object = |title: &str| {
            ObjectBuilder::new()
                .schema_type(Type::Object)
                .title(Some(title))
                .additional_properties(Some(AdditionalProperties::<Schema>::FreeForm(false)))
        };
        let sent = text()
            .pattern(Some("^sha256:[0-9a-f]{64}$"))
            .description(Some("Digest of a context that was sent to `/v1/contexts`"));
        let key = text()
            .pattern(Some(ObjectKey::PATTERN))
            .description(Some("Name of an object in the workspace's storage: a zip or a tar"));
        let git = text().max_length(Some(2048)).pattern(Some(GitContext::PATTERN)).description(Some(
            "`https://host/repository`, and behind it `#branch-tag-or-commit:directory` if it is not all of what is there",
        ));
        let login = ObjectBuilder::new()
            .schema_type(SchemaType::from_iter([Type::String, Type::Null]))
            .pattern(Some(LOGIN_PATTERN))
            .max_length(Some(MAX_CREDENTIALS))
            .write_only(true)
            .description(Some("`user:password`. Kept encrypted until the job is final"));
        OneOfBuilder::new()
            .description(Some("Where a build's context is."))
            .item(sent)
            .item(object("An object of a bucket").property("object", key).required("object"))
            .item(
                object("A commit of a git repository")
                    .property("git", git)
                    .required("git")
                    .property("credentials", login),
            )
            .into()
    }
}

impl ToSchema for NewContext {}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<(ContextPlace, Secrets), String> {
        let context: NewContext =
            serde_json::from_value(body).map_err(|error| error.to_string())?;
        let (mut faults, mut secrets) = (Faults::default(), Secrets::new());
        let place = context.into_place(&mut faults, &mut secrets);
        match faults.0.first() {
            None => Ok((place, secrets)),
            Some(fault) => Err(format!("{}: {}", fault.field, fault.detail)),
        }
    }

    #[test]
    fn a_context_is_in_one_place() {
        let digest = Digest::of(b"x");
        assert_eq!(read(json!(digest)).unwrap().0.sent, Some(digest));
        let (place, _) = read(json!({"object": "objects/1"})).unwrap();
        assert_eq!(place.object.unwrap().as_str(), "objects/1");
        let git = json!({"git": "https://git.example/a#main", "credentials": "user:hunter2"});
        let (place, secrets) = read(git).unwrap();
        assert_eq!(place.git.unwrap().to_string(), "https://git.example/a#main");
        assert_eq!(secrets[GIT_SECRET].expose_secret(), "user:hunter2");
        for (bad, expected) in [
            (json!("sha256:x"), "context: "),
            (json!({"object": "../x"}), "context.object: "),
            (json!({"git": "file:///etc"}), "context.git: "),
            (
                json!({"git": "https://git.example/a", "credentials": "hunter2"}),
                "context.credentials: ",
            ),
            (json!({"git": "https://git.example/a", "object": "a"}), "expected a digest"),
            (json!({"object": "a", "credentials": "u:hunter2"}), "expected a digest"),
            (
                json!({"git": "https://git.example/a", "credentials": ["hunter2"]}),
                "expected a digest",
            ),
            (json!(["hunter2"]), "expected a digest"),
            (json!({}), "expected a digest"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
    }
}
