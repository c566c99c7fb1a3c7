//! The job and everything that is said about it. These types are the rows of `job` and
//! `job_event`, and the JSON of the API.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::archive::{Fallback, LayerPolicy, Summary};
use crate::digest::Digest;
use crate::error::{Classify, Fault};
pub use crate::image_id::{ImageId, InvalidImageId};
use crate::publish::migrate::Comparison;

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
    /// Image reference, such as `docker.io/library/alpine:3.20` or `host:5000/app@sha256:...`.
    pub source: String,
    /// `os/architecture[/variant]`; the service's own platform when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
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

    /// The kinds that this version knows, as they stand in the spec.
    pub const KINDS: [&str; 2] = ["pull", "migrate"];

    /// Its kind, as the API spells it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pull(_) => "pull",
            Self::Migrate(_) => "migrate",
        }
    }
}

/// Where a job stands. `succeeded`, `failed` and `cancelled` are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
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
}

impl JobState {
    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// A job as the queue holds it and the API shows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Time-ordered UUID (version 7).
    pub id: Uuid,
    /// What was asked for.
    pub spec: JobSpec,
    /// Where it stands.
    pub state: JobState,
    /// How many attempts were started.
    pub attempt: i32,
    /// How many there may be.
    pub max_attempts: i32,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When its last attempt started.
    pub started_at: Option<DateTime<Utc>>,
    /// When it reached a final state.
    pub finished_at: Option<DateTime<Utc>>,
    /// Set when `succeeded`.
    pub result: Option<JobResult>,
    /// Why it `failed`, or why its last attempt did.
    pub error: Option<JobError>,
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

/// How an archive came to its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VersionReport {
    /// The version that the job asked for; absent if it left that to the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requested: Option<u8>,
    /// The version decided on before the image was looked at.
    pub decided: u8,
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
}

impl JobError {
    /// What a job tells of an error of the lower floors.
    pub fn of(error: &impl Classify) -> Self {
        Self {
            code: error.code().to_owned(),
            message: error.to_string(),
            fault: error.fault(),
            transient: error.is_transient(),
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
    pub kind: EventKind,
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
        /// What came of it.
        result: Box<JobResult>,
    },
    /// Final: the job failed.
    Failed {
        /// Why.
        error: JobError,
    },
    /// Final: the job was cancelled.
    Cancelled,
}

impl EventKind {
    /// Whether no event follows.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Succeeded { .. } | Self::Failed { .. } | Self::Cancelled)
    }
}

/// An image whose archive is in the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Image {
    /// What the job that made it said.
    #[serde(flatten)]
    pub result: JobResult,
    /// The job that made it.
    pub job_id: Uuid,
    /// When the archive was published.
    pub created_at: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::archive::InvalidFallback;

    /// Workers claim by kind: one that is missing would never be worked on.
    #[test]
    fn every_kind_is_known_by_its_name() {
        let image_id: ImageId = "961eaef6668e480f".parse().unwrap();
        let pull = json!({"kind": "pull", "image_id": image_id, "source": "app"});
        let migrate = JobSpec::Migrate(MigrateSpec { image_id, to: 2, discard_kept: false });
        let specs = [serde_json::from_value(pull).unwrap(), migrate];
        for spec in &specs {
            assert_eq!(serde_json::to_value(spec).unwrap()["kind"], spec.kind());
        }
        assert_eq!(specs.each_ref().map(JobSpec::kind), JobSpec::KINDS);
    }

    /// Rows that earlier versions wrote must stay readable.
    #[test]
    fn rows_from_before_there_were_versions() {
        let spec = json!({"kind": "pull", "image_id": "961eaef6668e480f", "source": "app"});
        let JobSpec::Pull(pull) = serde_json::from_value(spec).unwrap() else { panic!() };
        assert_eq!((pull.layers, pull.fallback, pull.force), (LayerPolicy::Refuse, None, false));
        let digest = Digest::of(b"x");
        let result = json!({
            "image_id": "961eaef6668e480f", "reference": "h/r@sha256:1", "manifest_digest": digest,
            "platform": "linux/amd64", "clip_version": 2, "layers": [], "compressed_bytes": 1,
            "plain_bytes": 2, "files": 3, "nodes": 4, "warnings": [],
            "archive": {"key": "961eaef6668e480f.clip", "size": 5, "digest": digest},
            "seconds": 0.5,
        });
        let read: JobResult = serde_json::from_value(result.clone()).unwrap();
        assert_eq!((&read.version, &read.republished_from), (&None, &None));
        let written: Value = serde_json::to_value(&read).unwrap();
        assert_eq!(written, result);
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
