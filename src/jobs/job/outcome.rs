//! What came of a job, or why nothing did.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::archive::Summary;
use crate::build::{BackendVersion, BaseImage, BuildStep, Network, Timings};
use crate::digest::Digest;
use crate::error::{Classify, Fault};
use crate::image_id::ImageId;
use crate::publish::migrate::Comparison;

/// Characters of an error's sentence at most.
const MAX_MESSAGE: usize = 4096;

/// What came of a job that succeeded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobResult {
    /// Names the archive in the store.
    pub image_id: ImageId,
    /// What the archive was made from and holds.
    #[serde(flatten)]
    pub summary: Summary,
    /// The archive object.
    pub archive: ArchiveObject,
    /// How it came to its version. Absent in results of before there were several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<VersionReport>,
    /// The image as it was asked for, if the archive points to a re-published one instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub republished_from: Option<String>,
    /// What a migration did; absent in results of other jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub migration: Option<Migration>,
    /// What a build did; absent in results of other jobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildReport>,
    /// Wall time of the successful attempt, in seconds.
    pub seconds: f64,
}

/// What a build did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BuildReport {
    /// Where the image is, by tag and digest; absent if it is in no registry, as one that was asked for
    /// as v1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// What built it; absent if an earlier attempt did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<BackendVersion>,
    /// The network that `RUN` and `ADD` had; absent if an earlier attempt built it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// What `COPY` took from; absent if it was empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<ContextOrigin>,
    /// The images that it began with, pinned.
    pub bases: Vec<BaseImage>,
    /// What was built from, by whom and when; absent if an earlier attempt did it that left no word of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<BuildRun>,
    /// What was done, in order.
    pub steps: Vec<BuildStep>,
    /// Steps whose layers were there already.
    pub cached_steps: usize,
    /// How long each part took, in seconds.
    pub timings: Timings,
}

/// What was built from, by whom and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BuildRun {
    /// Digest of the Dockerfile's text.
    #[schema(value_type = String)]
    pub dockerfile: Digest,
    /// Version of the service.
    pub service_version: String,
    /// When the build began.
    pub started_at: DateTime<Utc>,
    /// When the image was built.
    pub finished_at: DateTime<Utc>,
}

/// What a context was, pinned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ContextOrigin {
    /// Of the archive's bytes.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// The object of the workspace's bucket that it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The repository, the reference and the directory that were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<String>,
    /// The commit that it was then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
}

/// What a migration did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Migration {
    /// The version that was found.
    pub from: u8,
    /// The version that is there now.
    pub to: u8,
    /// What both versions were found to have in common before the switch, which is everything;
    /// absent if there was nothing to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compared: Option<Comparison>,
    /// Key of the archive that was there before, if it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Whether the archive is one that an earlier migration kept, rather than a new one.
    pub restored: bool,
    /// Keys of what was kept until now and is gone.
    pub discarded: Vec<String>,
}

/// What decided which version an archive was to get: the first of these that had something to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DecidedBy {
    /// The job.
    Request,
    /// Its workspace.
    Workspace,
    /// A rollout.
    Rollout,
    /// The settings of the service.
    Settings,
    /// Nobody: then it is v1.
    Default,
}

impl DecidedBy {
    /// As it stands in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Workspace => "workspace",
            Self::Rollout => "rollout",
            Self::Settings => "settings",
            Self::Default => "default",
        }
    }
}

/// How an archive came to its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionReport {
    /// The version that the job asked for; absent if it left that to the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<u8>,
    /// The version decided on before the image was looked at.
    pub decided: u8,
    /// What decided that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<DecidedBy>,
    /// The rollout that did, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// The version made.
    pub produced: u8,
    /// Why another one was made than decided on: a stable code in `snake_case`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same in one sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// An object in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ArchiveObject {
    /// Its key.
    pub key: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    #[schema(value_type = String)]
    pub digest: Digest,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobError {
    /// Stable code in `snake_case`, such as `image_not_found`.
    pub code: String,
    /// The true cause in one sentence.
    pub message: String,
    /// Whose fault it is.
    pub fault: Fault,
    /// Whether trying again can help.
    pub transient: bool,
    /// For how many seconds the other side asked to be left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

impl JobError {
    /// Code of what came with another digest than it was asked for by. A cache on the way may have
    /// served it once: another attempt can help, but one that reads as much as the first.
    pub const WRONG_CONTENT: &str = "digest_mismatch";

    /// What a job tells of an error of the lower floors.
    pub fn of(error: &impl Classify) -> Self {
        Self {
            code: error.code().to_owned(),
            // It may quote what a hostile image or registry said.
            message: error.to_string().chars().take(MAX_MESSAGE).collect(),
            fault: error.fault(),
            transient: error.is_transient() || error.code() == Self::WRONG_CONTENT,
            retry_after: error.retry_after().map(|time| time.as_secs()),
        }
    }
}
