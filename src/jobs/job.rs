//! The job and everything that is said about it. These types are the rows of `job` and
//! `job_event`, and the JSON of the API.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// What happens to a job.
mod event;
/// What came of it.
mod outcome;
/// What it asks for.
mod spec;
/// Where it stands.
mod state;

pub use crate::image_id::{ImageId, InvalidImageId};
pub use event::{EventKind, JobEvent};
pub use outcome::{
    ArchiveObject, BuildReport, BuildRun, ContextOrigin, DecidedBy, JobError, JobResult, Migration,
    VersionReport,
};
pub use spec::{BuildSpec, JobKind, JobSpec, MigrateSpec, Priority, PullSpec};
pub use state::JobState;

use super::recorded::Recorded;
use crate::workspace::WorkspaceId;

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
    /// What its attempt is at: the name of the last `phase` event.
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
