//! What a job asks for.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::archive::{Fallback, LayerPolicy};
use crate::build::source::{GitContext, ObjectKey};
use crate::digest::Digest;
use crate::image_id::ImageId;
use crate::oci::{Platform, Reference};

/// What is asked for. Credentials travel beside it, never in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobSpec {
    /// Index an image that is in a registry already.
    Pull(PullSpec),
    /// Bring an archive to the other version.
    Migrate(MigrateSpec),
    /// Build an image from a Dockerfile, and index it.
    Build(Box<BuildSpec>),
}

/// A migration: the archive that the image id names gets the other version, with the same content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MigrateSpec {
    /// Names the archive in the store.
    pub image_id: ImageId,
    /// The archive version wanted, 1 or 2.
    pub to: u8,
    /// Remove in the end what this and earlier migrations of the image kept.
    #[serde(default)]
    pub discard_kept: bool,
}

/// A pull: the archive points into the user's own registry; nothing is pushed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PullSpec {
    /// Names the archive in the store.
    pub image_id: ImageId,
    /// Image reference in full, such as `index.docker.io/library/alpine:3.20` or
    /// `host:5000/app@sha256:...`.
    #[schema(value_type = String)]
    pub source: Reference,
    /// `os/architecture[/variant]`.
    #[schema(value_type = String)]
    pub platform: Platform,
    /// The archive version wanted; the configured one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_version: Option<u8>,
    /// What to do with layers that beta9's workers can't read.
    #[serde(default, skip_serializing_if = "LayerPolicy::is_default")]
    pub layers: LayerPolicy,
    /// What to do when the image can't be served as v2; what is configured when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Replace an archive of this image id that has other content.
    #[serde(default)]
    pub force: bool,
}

/// A build: the image goes to the build registry under the image id, and the archive points there.
/// Secrets travel beside it; their ids alone are here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildSpec {
    /// Names the archive in the store, and is the tag in the build registry.
    pub image_id: ImageId,
    /// The Dockerfile's text; absent, it is in the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile: Option<String>,
    /// Where in the context it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dockerfile_path: Option<String>,
    /// Digest of the context as it was sent; absent, it is empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub context: Option<Digest>,
    /// Name of an object in the workspace's bucket that is the context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub context_object: Option<ObjectKey>,
    /// The commit of a git repository that is the context: `https://host/repository#reference:directory`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub context_git: Option<GitContext>,
    /// Values of `ARG`s.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub build_args: BTreeMap<String, String>,
    /// Ids of the secrets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_ids: Vec<String>,
    /// Whether secrets are offered as `ARG`s too.
    #[serde(default)]
    pub secrets_as_build_args: bool,
    /// The stage to build; the last one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `os/architecture[/variant]`.
    #[schema(value_type = String)]
    pub platform: Platform,
    /// Labels that the image gets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Use no layers of earlier builds.
    #[serde(default)]
    pub no_cache: bool,
    /// Seconds that the builder may take.
    pub timeout: u64,
    /// The archive version wanted; the configured one when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_version: Option<u8>,
    /// What to do when the image can't be served as v2; what is configured when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Replace an archive of this image id that has other content.
    #[serde(default)]
    pub force: bool,
}

impl JobSpec {
    /// The image that the job is about.
    pub fn image_id(&self) -> &ImageId {
        match self {
            Self::Pull(pull) => &pull.image_id,
            Self::Migrate(migrate) => &migrate.image_id,
            Self::Build(build) => &build.image_id,
        }
    }

    /// The registry that it needs, by host and port.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Pull(pull) => Some(pull.source.registry()),
            Self::Migrate(_) | Self::Build(_) => None,
        }
    }

    /// The newest shape that this version understands. A replica runs none that is newer.
    pub const VERSION: i32 = 2;

    /// The oldest shape that says all of it: replicas of versions before run what they understand.
    pub fn version(&self) -> i32 {
        match self {
            // Others would pass over where the context is, and build in an empty one.
            Self::Build(build) if build.context_object.is_some() || build.context_git.is_some() => {
                2
            }
            _ => 1,
        }
    }

    /// What it asks for.
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Pull(_) => JobKind::Pull,
            Self::Migrate(_) => JobKind::Migrate,
            Self::Build(_) => JobKind::Build,
        }
    }
}

/// A kind of job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobKind {
    /// [`JobSpec::Pull`].
    Pull,
    /// [`JobSpec::Migrate`].
    Migrate,
    /// [`JobSpec::Build`].
    Build,
}

impl JobKind {
    /// All that this version knows.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Migrate, Self::Build];

    /// As it stands in specs and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Migrate => "migrate",
            Self::Build => "build",
        }
    }
}

/// Which of several jobs is taken first.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// When nothing else is waiting.
    Low = -1,
    /// As it comes.
    #[default]
    Normal = 0,
    /// Before all others.
    High = 1,
}

impl TryFrom<i16> for Priority {
    type Error = i16;

    /// Of a number that a later version wrote there may be none.
    fn try_from(number: i16) -> Result<Self, i16> {
        [Self::Low, Self::Normal, Self::High]
            .into_iter()
            .find(|priority| i16::from(*priority) == number)
            .ok_or(number)
    }
}

impl From<Priority> for i16 {
    fn from(priority: Priority) -> Self {
        priority as Self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::archive::InvalidFallback;

    /// Workers claim by kind: one that is missing would never be worked on.
    #[test]
    fn every_kind_is_known_by_its_name() {
        let image_id: ImageId = "961eaef6668e480f".parse().unwrap();
        let pull = json!({
            "kind": "pull", "image_id": image_id, "source": "app", "platform": "linux/amd64",
        });
        let build = json!({
            "kind": "build", "image_id": image_id, "platform": "linux/amd64", "timeout": 1,
        });
        let migrate = JobSpec::Migrate(MigrateSpec { image_id, to: 2, discard_kept: false });
        let [pull, build] = [pull, build].map(|json| serde_json::from_value(json).unwrap());
        let specs = [pull, migrate, build];
        for spec in &specs {
            assert_eq!(serde_json::to_value(spec).unwrap()["kind"], spec.kind().as_str());
        }
        assert_eq!(specs.each_ref().map(JobSpec::kind), JobKind::ALL);
    }

    #[test]
    fn policies_are_spelt_one_way() {
        assert_eq!(json!([LayerPolicy::AsIs, LayerPolicy::Gzip]), json!(["as-is", "gzip"]));
        for fallback in [Fallback::V1, Fallback::None] {
            let text: String = serde_json::from_value(json!(fallback)).unwrap();
            assert_eq!(text.parse(), Ok(fallback));
        }
        assert_eq!("v2".parse::<Fallback>(), Err(InvalidFallback));
    }
}
