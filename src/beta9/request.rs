//! What beta9 asks for, in its own field names (CONTRACT D.1, E). Its requests have many fields that say
//! nothing about the image: those are passed over, as protobuf would. Absent, null and empty are the same.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use secrecy::SecretString;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::{BaseImage, BuildStep, Recipe};
use crate::image_id::ImageId;

/// A build, by the fields of beta9's `ContainerRequest` that say something about it.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({
    "container_id": "build-1a2b3c4d",
    "image_id": "961eaef6668e480f",
    "build_options": {"source_image": "docker.io/library/alpine:3.20"}
}))]
pub struct BuildRequest {
    /// beta9's name of the build, which answers to it for a day; sending it twice makes one build.
    #[serde(default, deserialize_with = "unless_empty")]
    #[schema(value_type = Option<String>, pattern = "^(build-[0-9A-Za-z-]{1,64})?$")]
    pub container_id: Option<ContainerId>,
    /// Names the archive; computed as beta9 does when absent.
    #[serde(default, deserialize_with = "unless_empty")]
    #[schema(value_type = Option<String>, pattern = "^([0-9a-f]{16})?$")]
    pub image_id: Option<ImageId>,
    /// What is to be built.
    pub build_options: BuildOptions,
    /// The archive version wanted; decided by the service when absent. beta9 has no such field.
    #[serde(default, deserialize_with = "version")]
    #[schema(minimum = 1, maximum = 2)]
    pub clip_version: Option<u8>,
    /// How to log in to the build registry; as the service itself when absent.
    #[serde(default, deserialize_with = "secret")]
    #[schema(value_type = Option<String>, write_only)]
    pub build_registry_credentials: Option<SecretString>,
    /// Offer the secrets as build arguments too, as beta9's own Dockerfiles expect (`ARG NAME`): programs
    /// that the build runs can read them then. beta9 has no such field.
    #[serde(default)]
    pub secrets_as_build_args: Option<bool>,
    /// `NAME=value`, for the computed id alone: an image that is indexed keeps its own.
    #[serde(default)]
    pub env: Option<Vec<String>>,
}

impl BuildRequest {
    /// The image's id: the one given, or the one that beta9 would compute; `None` if the source image has
    /// no name that can be understood.
    pub fn image_id(&self) -> Option<ImageId> {
        if let Some(id) = &self.image_id {
            return Some(id.clone());
        }
        let options = &self.build_options;
        let uri = options.source_image().unwrap_or_default();
        let recipe = Recipe {
            clip_version: self.clip_version.unwrap_or(2),
            base: if uri.is_empty() { BaseImage::default() } else { BaseImage::of(uri)? },
            existing_image_uri: uri.to_owned(),
            env_vars: self.env.clone().unwrap_or_default(),
            dockerfile: options.dockerfile().unwrap_or_default().to_owned(),
            build_ctx_object: options.build_context.clone().unwrap_or_default(),
            ..Recipe::default()
        };
        Some(recipe.image_id())
    }
}

/// What is to be built: a Dockerfile if there is one, else the source image as it is.
#[derive(Debug, Deserialize)]
pub struct BuildOptions {
    /// Image reference.
    #[serde(default)]
    source_image: Option<String>,
    /// The Dockerfile's text.
    #[serde(default)]
    dockerfile: Option<String>,
    /// The object that holds the Dockerfile's context.
    #[serde(default)]
    build_context: Option<String>,
    /// Secrets, by their names.
    #[serde(default, deserialize_with = "secrets")]
    build_secrets: BTreeMap<String, SecretString>,
    /// How to log in to the source image's registry.
    #[serde(default, deserialize_with = "secret")]
    pub source_image_creds: Option<SecretString>,
}

/// `build-` and what beta9 puts behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerId(String);

impl ContainerId {
    /// What a build's name begins with, which no job's id does.
    const PREFIX: &str = "build-";

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = InvalidContainerId;

    fn from_str(text: &str) -> Result<Self, InvalidContainerId> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        match text.strip_prefix(Self::PREFIX) {
            Some(rest) if (1..=64).contains(&rest.len()) && rest.bytes().all(is_plain) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(InvalidContainerId { text: text.chars().take(100).collect() }),
        }
    }
}

/// The text is not a [`ContainerId`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} names no build: expected build- and 1 to 64 letters, digits and '-'")]
pub struct InvalidContainerId {
    /// The text, cut to 100 characters.
    pub text: String,
}

/// A value by its text; an empty one is none.
fn unless_empty<'de, D: Deserializer<'de>, T: FromStr<Err: fmt::Display>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
}

fn version<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u8>, D::Error> {
    match Option::<u8>::deserialize(deserializer)? {
        Some(number) if !(1..=2).contains(&number) => {
            Err(D::Error::custom(format!("{number} is not an archive version: expected 1 or 2")))
        }
        version => Ok(version),
    }
}

/// A blank one is none.
fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)
        .map_err(|_| D::Error::custom("expected a text, or null"))?;
    Ok(text.filter(|text| !text.trim().is_empty()).map(SecretString::from))
}

/// `NAME=value`, each.
fn secrets<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, SecretString>, D::Error> {
    let expected = || D::Error::custom("expected a list of NAME=value");
    let texts = Option::<Vec<String>>::deserialize(deserializer).map_err(|_| expected())?;
    let pair = |text: String| {
        let (name, value) = text.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), SecretString::from(value)))
    };
    let pairs = texts.unwrap_or_default().into_iter().map(pair);
    pairs.collect::<Option<_>>().ok_or_else(expected)
}

impl BuildOptions {
    /// The Dockerfile, if there is one.
    pub fn dockerfile(&self) -> Option<&str> {
        self.dockerfile.as_deref().filter(|text| !text.is_empty())
    }

    /// The context, if there is one.
    pub fn build_context(&self) -> Option<&str> {
        self.build_context.as_deref().filter(|text| !text.is_empty())
    }

    /// The secrets, by their names.
    pub fn build_secrets(&self) -> &BTreeMap<String, SecretString> {
        &self.build_secrets
    }

    /// The source image, if there is one.
    pub fn source_image(&self) -> Option<&str> {
        self.source_image.as_deref().filter(|text| !text.is_empty())
    }
}

/// What `VerifyImageBuild` is asked.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"existing_image_uri": "docker.io/library/alpine:3.20", "python_version": "python3.11"}))]
pub struct VerifyRequest {
    /// Such as `python3.11`.
    pub python_version: Option<String>,
    /// What pip installs, with what beta9 adds.
    pub python_packages: Option<Vec<String>>,
    /// What is run.
    pub commands: Option<Vec<String>>,
    /// What else is run.
    pub build_steps: Option<Vec<BuildStep>>,
    /// The image that it begins with, pinned if its id is to be.
    pub existing_image_uri: Option<String>,
    /// `NAME=value`.
    pub env_vars: Option<Vec<String>>,
    /// The Dockerfile's text, as it would be built.
    pub dockerfile: Option<String>,
    /// The object that holds the Dockerfile's context.
    pub build_ctx_object: Option<String>,
    /// The image, if its id is known.
    #[serde(default, deserialize_with = "unless_empty")]
    #[schema(value_type = Option<String>, pattern = "^([0-9a-f]{16})?$")]
    pub image_id: Option<ImageId>,
    /// The archive version that the gateway is configured for; 2 when absent. beta9 has no such field.
    #[serde(default, deserialize_with = "version")]
    #[schema(minimum = 1, maximum = 2)]
    pub clip_version: Option<u8>,
}

impl VerifyRequest {
    /// The image's id: the one given, or the one that beta9 would compute; `None` if the image that it
    /// begins with has no name that can be understood.
    pub fn image_id(self) -> Option<ImageId> {
        if let Some(id) = self.image_id {
            return Some(id);
        }
        let existing_image_uri = self.existing_image_uri.unwrap_or_default();
        let base = match existing_image_uri.as_str() {
            "" => BaseImage::default(),
            uri => BaseImage::of(uri)?,
        };
        let recipe = Recipe {
            clip_version: self.clip_version.unwrap_or(2),
            base,
            existing_image_uri,
            python_version: self.python_version.unwrap_or_default(),
            python_packages: self.python_packages.unwrap_or_default(),
            commands: self.commands.unwrap_or_default(),
            build_steps: self.build_steps.unwrap_or_default(),
            env_vars: self.env_vars.unwrap_or_default(),
            dockerfile: self.dockerfile.unwrap_or_default(),
            build_ctx_object: self.build_ctx_object.unwrap_or_default(),
        };
        Some(recipe.image_id())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;
    use serde_json::{Value, json};

    use super::*;

    fn build(body: Value) -> Result<BuildRequest, serde_json::Error> {
        serde_json::from_value(body)
    }

    #[test]
    fn a_whole_container_request_is_understood() {
        let request = build(json!({
            "container_id": "build-1a2b3c4d", "image_id": "", "cpu": 1000, "memory": 1024,
            "env": null, "stub": {"object": {}}, "mounts": null, "gpu_request": [],
            "build_options": {
                "source_image": "docker.io/library/alpine:3.20", "dockerfile": null,
                "build_context": "", "source_image_creds": "u:p", "build_secrets": [],
            },
        }))
        .unwrap();
        assert_eq!(request.container_id.as_ref().unwrap().as_str(), "build-1a2b3c4d");
        assert_eq!(request.image_id().unwrap().as_str(), "a3c3b792652dda33");
        let options = &request.build_options;
        assert_eq!(options.dockerfile(), None);
        assert_eq!(options.source_image(), Some("docker.io/library/alpine:3.20"));
        assert_eq!(options.source_image_creds.as_ref().unwrap().expose_secret(), "u:p");
        assert!(!format!("{request:?}").contains("u:p"));
        let dockerfile = build(json!({"build_options": {"dockerfile": "FROM alpine\n"}})).unwrap();
        assert_eq!(dockerfile.image_id().unwrap().as_str(), "961eaef6668e480f");
    }

    #[test]
    fn what_is_wrong_is_named_and_secrets_are_not_quoted() {
        let options = json!({"source_image": "alpine"});
        for (body, expected) in [
            (json!({"container_id": "a-b", "build_options": options}), "names no build"),
            (json!({"image_id": "xyz", "build_options": options}), "is not an image id"),
            (json!({"clip_version": 3, "build_options": options}), "expected 1 or 2"),
            (json!({}), "build_options"),
            (json!({"build_options": {"source_image_creds": ["hunter2"]}}), "expected a text"),
        ] {
            let error = build(body).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_explicit_id_goes_before_a_computed_one() {
        let verify = |body: Value| -> VerifyRequest { serde_json::from_value(body).unwrap() };
        let id = verify(json!({"image_id": "0123456789abcdef", "existing_image_uri": "A B"}));
        assert_eq!(id.image_id().unwrap().as_str(), "0123456789abcdef");
        assert_eq!(verify(json!({"existing_image_uri": "A B"})).image_id(), None);
        let id = verify(json!({
            "dockerfile": "FROM alpine\n", "build_ctx_object": "obj", "env_vars": ["A=b"],
            "force_rebuild": true, "gpu": "", "secrets": [],
        }));
        assert_eq!(id.image_id().unwrap().as_str(), "89a950f723ba5e93");
    }

    proptest! {
        #[test]
        fn any_text_is_taken_or_refused(text in ".{0,80}") {
            let _ = text.parse::<ContainerId>();
            let _ = build(json!({"image_id": text, "build_options": {"source_image": text}}))
                .map(|request| request.image_id());
        }
    }
}
