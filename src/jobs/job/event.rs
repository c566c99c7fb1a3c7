//! What happens to a job.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::outcome::{JobError, JobResult, VersionReport};
use crate::digest::Digest;
use crate::jobs::recorded::Recorded;

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
    /// A part of the attempt's work began, and the one before it ended.
    Phase {
        /// Such as `resolve`, `index` or `publish`; it is the job's `phase` until the next one.
        name: String,
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
