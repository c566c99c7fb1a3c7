//! A row of `job` becomes a [`Job`]. What an older or newer version wrote may not be understood:
//! that is an error of the one row, never of the query.

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde_json::Value;
use uuid::Uuid;

use super::QueueError;
use crate::jobs::job::{Job, JobState};

/// The columns of `job` that are shown.
pub(super) struct JobRow {
    pub(super) id: Uuid,
    pub(super) spec: Value,
    pub(super) state: JobState,
    pub(super) attempt: i32,
    pub(super) max_attempts: i32,
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
            r#"SELECT id, spec, state AS "state: JobState", attempt, max_attempts, created_at,
                      started_at, finished_at, result, error
               FROM job "# + $tail
            $(, $argument)*
        )
    };
}
pub(super) use job_rows;

impl JobRow {
    pub(super) fn into_job(self) -> Result<Job, QueueError> {
        let of = || format!("job {}", self.id);
        Ok(Job {
            id: self.id,
            spec: parse("the spec", of, self.spec)?,
            state: self.state,
            attempt: self.attempt,
            max_attempts: self.max_attempts,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            result: self.result.map(|json| parse("the result", of, json)).transpose()?,
            error: self.error.map(|json| parse("the error", of, json)).transpose()?,
        })
    }
}

/// Reads a JSON column.
pub(super) fn parse<T: DeserializeOwned>(
    what: &'static str,
    of: impl FnOnce() -> String,
    json: Value,
) -> Result<T, QueueError> {
    serde_json::from_value(json).map_err(|error| QueueError::Corrupt {
        what,
        of: of(),
        reason: error.to_string(),
    })
}
