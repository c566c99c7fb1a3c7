//! The job and everything that is said about it. These types are the rows of `job` and
//! `job_event`, and the JSON of the API.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

use crate::archive::{Fallback, LayerPolicy, Summary};
use crate::digest::Digest;
use crate::error::{Classify, Fault};
pub use crate::image_id::{ImageId, InvalidImageId};
use crate::oci::{Platform, Reference};
use crate::publish::migrate::Comparison;
use crate::workspace::WorkspaceId;

use super::recorded::Recorded;

/// Characters of an error's sentence at most.
const MAX_MESSAGE: usize = 4096;

/// What is asked for. Credentials travel beside it, never in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum JobSpec {
    /// Index an image that is in a registry already.
    Pull(PullSpec),
    /// Bring an archive to the other version.
    Migrate(MigrateSpec),
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

impl JobSpec {
    /// The image that the job is about.
    pub fn image_id(&self) -> &ImageId {
        match self {
            Self::Pull(pull) => &pull.image_id,
            Self::Migrate(migrate) => &migrate.image_id,
        }
    }

    /// The shape that this version writes. A replica runs none that is newer than its own.
    pub const VERSION: i32 = 1;

    /// What it asks for.
    pub fn kind(&self) -> JobKind {
        match self {
            Self::Pull(_) => JobKind::Pull,
            Self::Migrate(_) => JobKind::Migrate,
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
}

impl JobKind {
    /// All that this version knows.
    pub const ALL: [Self; 2] = [Self::Pull, Self::Migrate];

    /// As it stands in specs and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Migrate => "migrate",
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

impl From<Priority> for i16 {
    fn from(priority: Priority) -> Self {
        priority as Self
    }
}

/// Where a job stands. All but `queued` and `running` are final.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum JobState {
    /// Waits for a worker, or for its next attempt.
    Queued,
    /// A worker holds its lease.
    Running,
    /// Its archive is in the store.
    Succeeded,
    /// It will not be tried again by itself.
    Failed,
    /// It was cancelled before it succeeded.
    Cancelled,
    /// No worker took it in time.
    Expired,
    /// A state of a later version of the service.
    Other(String),
}

impl JobState {
    /// Those that this version knows.
    pub const KNOWN: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// As it stands in the database and in JSON.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Other(name) => name,
        }
    }
}

impl From<String> for JobState {
    fn from(name: String) -> Self {
        Self::KNOWN.into_iter().find(|state| state.as_str() == name).unwrap_or(Self::Other(name))
    }
}

impl From<JobState> for String {
    fn from(state: JobState) -> Self {
        state.as_str().to_owned()
    }
}

impl PartialSchema for JobState {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("Where a job stands. All but `queued` and `running` are final."))
            .enum_values(Some(Self::KNOWN.map(String::from)))
            .into()
    }
}

impl ToSchema for JobState {}

/// A job as the queue holds it and the API shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Time-ordered UUID (version 7).
    pub id: Uuid,
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// What was asked for.
    #[schema(value_type = JobSpec)]
    pub spec: Recorded<JobSpec>,
    /// Which of several is taken first.
    pub priority: i16,
    /// Where it stands.
    pub state: JobState,
    /// Why it is in this state, as a code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What its attempt is at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<String>,
    /// How many attempts were started.
    pub attempt: i32,
    /// How many there may be.
    pub max_attempts: i32,
    /// How many more were lost because their worker fell silent.
    pub losses: i32,
    /// Digest of the image that its source meant at the first attempt; later ones are about it too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_digest: Option<String>,
    /// The request that it came by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When its last attempt started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached a final state.
    pub finished_at: Option<DateTime<Utc>>,
    /// Set when `succeeded`.
    #[schema(value_type = Option<JobResult>)]
    pub result: Option<Recorded<JobResult>>,
    /// Why it `failed`, or why its last attempt did.
    #[schema(value_type = Option<JobError>)]
    pub error: Option<Recorded<JobError>>,
}

impl Job {
    /// Whether nothing will change any more.
    pub fn is_final(&self) -> bool {
        self.finished_at.is_some()
    }
}

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
    /// Wall time of the successful attempt, in seconds.
    pub seconds: f64,
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

/// One thing that happened to a job; the last one of a job is final.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobEvent {
    /// Counts from 1 within the job, without gaps.
    pub seq: i64,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The attempt it belongs to; 0 before the first.
    pub attempt: i32,
    /// What happened.
    #[serde(flatten)]
    #[schema(value_type = EventKind)]
    pub kind: Recorded<EventKind>,
}

impl JobEvent {
    /// The event's name, such as `started`.
    pub fn name(&self) -> &str {
        self.kind.json()["event"].as_str().unwrap_or("message")
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", content = "data", rename_all = "snake_case")]
pub enum EventKind {
    /// The job was accepted.
    Queued,
    /// An attempt started.
    Started {
        /// Which worker holds the lease.
        worker: String,
    },
    /// The image was found.
    Resolved {
        /// Digest of the platform manifest.
        #[schema(value_type = String)]
        manifest_digest: Digest,
        /// How many layers it has.
        layers: u64,
        /// Sum of the compressed layers, in bytes.
        compressed_bytes: u64,
    },
    /// How far reading has come; sent at most about once a second.
    Progress {
        /// Layers read to their end, or known.
        layers_done: u64,
        /// Those of them that were known, so that they were not downloaded.
        #[serde(default)]
        layers_cached: u64,
        /// Layers in the image.
        layers_total: u64,
        /// Compressed bytes read, or known.
        bytes_done: u64,
        /// Compressed bytes in all.
        bytes_total: u64,
    },
    /// Something the user should know.
    Warning {
        /// One sentence.
        message: String,
    },
    /// The image can't be served as v2, and a v1 archive is made instead.
    FellBack(VersionReport),
    /// The image was re-published with all layers in gzip; the archive points there.
    Republished {
        /// Where it is, pinned.
        reference: String,
        /// Layers that had to be compressed anew.
        layers: u64,
    },
    /// The attempt failed and another will be made.
    Retrying {
        /// Why it failed.
        error: JobError,
        /// When the next attempt may start.
        not_before: DateTime<Utc>,
    },
    /// Somebody asked for the job to be cancelled.
    CancelRequested,
    /// Final: the archive is in the store.
    Succeeded {
        /// What came of it, which is the job's result.
        result: Box<JobResult>,
    },
    /// Final: the job failed.
    Failed {
        /// Why.
        error: JobError,
    },
    /// Final: the job was cancelled.
    Cancelled,
    /// Final: no worker took the job in time.
    Expired,
}

impl EventKind {
    /// Whether no event follows.
    pub fn is_final(&self) -> bool {
        matches!(
            self,
            Self::Succeeded { .. } | Self::Failed { .. } | Self::Cancelled | Self::Expired
        )
    }
}

/// An image whose archive is in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// What the job that made it said.
    #[serde(flatten)]
    #[schema(value_type = JobResult)]
    pub result: Recorded<JobResult>,
    /// The job that made it.
    pub job_id: Uuid,
    /// When the archive was published.
    pub created_at: DateTime<Utc>,
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
        let migrate = JobSpec::Migrate(MigrateSpec { image_id, to: 2, discard_kept: false });
        let specs = [serde_json::from_value(pull).unwrap(), migrate];
        for spec in &specs {
            assert_eq!(serde_json::to_value(spec).unwrap()["kind"], spec.kind().as_str());
        }
        assert_eq!(specs.each_ref().map(JobSpec::kind), JobKind::ALL);
    }

    #[test]
    fn states_of_later_versions_are_kept() {
        for state in JobState::KNOWN.into_iter().chain([JobState::Other("paused".into())]) {
            let json = serde_json::to_value(&state).unwrap();
            assert_eq!(json, state.as_str());
            assert_eq!(serde_json::from_value::<JobState>(json).unwrap(), state);
        }
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
