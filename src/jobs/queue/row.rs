//! A row of `job` becomes a [`Job`]. What a later version wrote is kept as it is.

use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::QueueError;
use crate::jobs::job::{Job, JobState};
use crate::jobs::recorded::Recorded;
use crate::workspace::WorkspaceId;

/// The columns of `job` that are shown.
pub(super) struct JobRow {
    pub(super) id: Uuid,
    pub(super) workspace_id: String,
    pub(super) spec: Value,
    pub(super) priority: i16,
    pub(super) state: String,
    pub(super) reason: Option<String>,
    pub(super) phase: Option<String>,
    pub(super) attempt: i32,
    pub(super) max_attempts: i32,
    pub(super) losses: i32,
    pub(super) resolved_digest: Option<String>,
    pub(super) request_id: Option<String>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) started_at: Option<DateTime<Utc>>,
    pub(super) finished_at: Option<DateTime<Utc>>,
    pub(super) result: Option<Value>,
    pub(super) error: Option<Value>,
}

/// Selects [`JobRow`]s: `job_rows!("WHERE id = $1", id)`.
macro_rules! job_rows {
    ($tail:literal $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            crate::jobs::queue::row::JobRow,
            "SELECT id, workspace_id, spec, priority, state,
                    CASE WHEN state = 'queued' AND EXISTS (
                        SELECT FROM live_job WHERE job_id = job.id AND parked_at IS NOT NULL)
                    THEN 'registry_away' ELSE reason END AS reason, phase, attempt, max_attempts,
                    losses, resolved_digest, request_id, created_at, started_at, finished_at,
                    result, error
             FROM job " + $tail
            $(, $argument)*
        )
    };
}
pub(super) use job_rows;

impl JobRow {
    /// Bytes of the JSON in it.
    pub(super) fn bytes(&self) -> usize {
        let parts = [Some(&self.spec), self.result.as_ref(), self.error.as_ref()];
        parts.into_iter().flatten().map(|json| json.to_string().len()).sum()
    }

    pub(super) fn into_job(self) -> Result<Job, QueueError> {
        let workspace: WorkspaceId =
            self.workspace_id.parse().map_err(|error| QueueError::Corrupt {
                what: "the workspace",
                of: format!("job {}", self.id),
                reason: format!("{error}"),
            })?;
        Ok(Job {
            id: self.id,
            workspace,
            spec: Recorded::from_json(self.spec),
            priority: self.priority,
            state: JobState::from(self.state),
            reason: self.reason,
            phase: self.phase,
            attempt: self.attempt,
            max_attempts: self.max_attempts,
            losses: self.losses,
            resolved_digest: self.resolved_digest,
            request_id: self.request_id,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            result: self.result.map(Recorded::from_json),
            error: self.error.map(Recorded::from_json),
        })
    }
}
