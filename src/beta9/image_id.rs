//! How beta9 names images (CONTRACT E): the hash of a struct by mitchellh/hashstructure, format 2. Names
//! and order of the fields are part of it.

use serde::Deserialize;
use utoipa::ToSchema;

use crate::image_id::ImageId;
use crate::oci::Reference;

/// The registry of names without one, as beta9 writes it.
const DOCKER_HUB: &str = "docker.io";

/// What an image is made of, as far as its id tells. Secrets are no part of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recipe {
    /// The archive version that the gateway is configured for.
    pub clip_version: u8,
    /// The image that it begins with.
    pub base: BaseImage,
    /// The same as the user wrote it; empty if it is one of beta9's own.
    pub existing_image_uri: String,
    /// Such as `python3.11`.
    pub python_version: String,
    /// What pip installs.
    pub python_packages: Vec<String>,
    /// What is run.
    pub commands: Vec<String>,
    /// What else is run.
    pub build_steps: Vec<BuildStep>,
    /// `NAME=value`.
    pub env_vars: Vec<String>,
    /// The Dockerfile's text; empty if there is none.
    pub dockerfile: String,
    /// The object that holds the Dockerfile's context; empty if there is none.
    pub build_ctx_object: String,
}

/// The image that a build begins with, taken apart as beta9 does: nothing is normalised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BaseImage {
    /// Host and port.
    pub registry: String,
    /// Path in the registry.
    pub name: String,
    /// Tag; empty if there is a digest alone.
    pub tag: String,
    /// Digest; empty if there is none.
    pub digest: String,
}

/// One step of a build.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BuildStep {
    /// What runs it, such as `shell` or `pip`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// What is run.
    #[serde(default)]
    pub command: String,
}

impl BaseImage {
    /// Takes a reference apart; `None` if it is none.
    pub fn of(text: &str) -> Option<Self> {
        text.parse::<Reference>().ok()?;
        let (named, digest) = text.split_once('@').unwrap_or((text, ""));
        let (path, tag) = match named.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((path, tag)) => (path, tag),
            None => (named, if digest.is_empty() { "latest" } else { "" }),
        };
        let (registry, name) = match path.split_once('/') {
            Some((host, name)) if host.contains(['.', ':']) || host == "localhost" => (host, name),
            _ => (DOCKER_HUB, path),
        };
        let [registry, name, tag, digest] = [registry, name, tag, digest].map(str::to_owned);
        Some(Self { registry, name, tag, digest })
    }
}

impl Recipe {
    /// The image's id.
    pub fn image_id(&self) -> ImageId {
        let version = fnv1(&u32::from(self.clip_version).to_le_bytes());
        let env_vars = texts(&self.env_vars);
        // An anonymous struct: its name is empty.
        let fields = Fields::of("").and("ClipVersion", version);
        let fields = if self.clip_version == 2 && !self.dockerfile.is_empty() {
            fields
                .and("Dockerfile", text(&self.dockerfile))
                .and("BuildCtxObject", text(&self.build_ctx_object))
                .and("EnvVars", env_vars)
        } else {
            let steps = self.build_steps.iter().map(|step| {
                let BuildStep { kind, command } = step;
                Fields::of("BuildStep").and("Command", text(command)).and("Type", text(kind)).0
            });
            fields
                .and("BaseImageName", text(&self.base.name))
                .and("BaseImageTag", text(&self.base.tag))
                .and("BaseImageDigest", text(&self.base.digest))
                .and("BaseImageRegistry", text(&self.base.registry))
                .and("ExistingImageUri", text(&self.existing_image_uri))
                .and("PythonVersion", text(&self.python_version))
                .and("PythonPackages", texts(&self.python_packages))
                .and("Commands", texts(&self.commands))
                .and("BuildSteps", list(steps))
                .and("EnvVars", env_vars)
                .and("Dockerfile", text(&self.dockerfile))
                .and("BuildCtxObject", text(&self.build_ctx_object))
        };
        ImageId::from(fields.0)
    }
}

/// The hash of a struct so far.
struct Fields(u64);

impl Fields {
    fn of(name: &str) -> Self {
        Self(text(name))
    }

    /// With one field more. That the whole is hashed after each of them is how the original does it.
    fn and(self, name: &str, value: u64) -> Self {
        let mixed = self.0 ^ ordered(text(name), value);
        Self(fnv1(&mixed.to_le_bytes()))
    }
}

fn text(text: &str) -> u64 {
    fnv1(text.as_bytes())
}

fn texts(all: &[String]) -> u64 {
    list(all.iter().map(|one| text(one)))
}

fn list(values: impl Iterator<Item = u64>) -> u64 {
    values.fold(0, ordered)
}

fn ordered(first: u64, second: u64) -> u64 {
    fnv1(&[first.to_le_bytes(), second.to_le_bytes()].concat())
}

/// FNV-1, which multiplies first; the crates have FNV-1a.
fn fnv1(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(OFFSET, |hash, byte| hash.wrapping_mul(PRIME) ^ u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(items: &[&str]) -> Vec<String> {
        items.iter().map(ToString::to_string).collect()
    }

    fn built(dockerfile: &str, context: &str, env_vars: &[&str]) -> String {
        let (dockerfile, build_ctx_object) = (dockerfile.to_owned(), context.to_owned());
        let env_vars = all(env_vars);
        let recipe =
            Recipe { clip_version: 2, dockerfile, build_ctx_object, env_vars, ..Recipe::default() };
        recipe.image_id().to_string()
    }

    /// What the Go library itself makes of the same structs.
    #[test]
    fn ids_are_beta9s_own() {
        assert_eq!(built("FROM alpine\n", "", &[]), "961eaef6668e480f");
        assert_eq!(built("FROM alpine\n", "obj", &["A=b"]), "89a950f723ba5e93");
        assert_eq!(built("FROM alpine\n", "", &["A=b", "C=ü"]), "7c3d2f707906a0ac");

        let existing = Recipe {
            clip_version: 2,
            base: BaseImage::of("docker.io/library/alpine:3.20").unwrap(),
            existing_image_uri: "docker.io/library/alpine:3.20".to_owned(),
            ..Recipe::default()
        };
        assert_eq!(existing.image_id().as_str(), "a3c3b792652dda33");
        let step = |kind: &str, command: &str| BuildStep {
            kind: kind.to_owned(),
            command: command.to_owned(),
        };
        let everything = Recipe {
            clip_version: 1,
            base: BaseImage {
                registry: "registry.example".to_owned(),
                name: "team/app".to_owned(),
                tag: String::new(),
                digest: "sha256:aa".to_owned(),
            },
            existing_image_uri: "registry.example/team/app@sha256:aa".to_owned(),
            python_version: "python3.11".to_owned(),
            python_packages: all(&["numpy", "scipy"]),
            commands: all(&["echo hi"]),
            build_steps: vec![step("shell", "apt update"), step("pip", "numpy")],
            env_vars: all(&["A=b"]),
            ..Recipe::default()
        };
        assert_eq!(everything.image_id().as_str(), "b9f5a2739273cb18");
        let nothing = Recipe { clip_version: 2, ..Recipe::default() };
        assert_eq!(nothing.image_id().as_str(), "23e4e7764f9cfff7");
    }

    #[test]
    fn references_are_taken_apart_and_not_normalised() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (text, registry, name, tag, pinned) in [
            ("alpine", "docker.io", "alpine", "latest", ""),
            ("bitnami/redis:7", "docker.io", "bitnami/redis", "7", ""),
            ("localhost/app", "localhost", "app", "latest", ""),
            ("Host.example:5000/a/b:c", "Host.example:5000", "a/b", "c", ""),
            (&format!("a.b/c@{digest}"), "a.b", "c", "", &digest),
            (&format!("a.b/c:d@{digest}"), "a.b", "c", "d", &digest),
        ] {
            let [registry, name, tag, digest] = [registry, name, tag, pinned].map(str::to_owned);
            assert_eq!(BaseImage::of(text), Some(BaseImage { registry, name, tag, digest }));
        }
        for text in ["", "A", "a:", "https://a/b"] {
            assert_eq!(BaseImage::of(text), None, "{text:?}");
        }
    }
}
