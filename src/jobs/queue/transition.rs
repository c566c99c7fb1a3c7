//! The steps that every change of a job is made of. Each runs inside a transaction that has
//! locked the job's row, which is what makes seqs gapless and the final event the last.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Lease, QueueError};
use crate::jobs::job::{EventKind, JobError, JobResult, JobState};

/// What a transition needs to know of the row that it locked.
pub(super) struct Locked {
    pub(super) id: Uuid,
    pub(super) attempt: i32,
    pub(super) max_attempts: i32,
    pub(super) cancel_requested: bool,
}

/// How a job ends.
pub(super) enum JobEnd {
    Succeeded(Box<JobResult>),
    Failed(JobError),
    Cancelled,
}

/// Locks the row of a job that this lease still holds. A lease that has expired holds until the
/// reaper takes it: to refuse finished work that nobody else has begun would help nobody.
pub(super) async fn lock_held(
    db: &mut PgConnection,
    lease: &Lease,
    action: &'static str,
) -> Result<Locked, QueueError> {
    sqlx::query_as!(
        Locked,
        "SELECT id, attempt, max_attempts, cancel_requested FROM job
         WHERE id = $1 AND state = 'running' AND worker_id = $2 AND fence = $3 FOR UPDATE",
        lease.job.id,
        lease.worker_id,
        lease.fence,
    )
    .fetch_optional(db)
    .await
    .map_err(|error| QueueError::from_sqlx(action, &error))?
    .ok_or(QueueError::LeaseLost { job: lease.job.id })
}

/// Appends an event under the next seq.
pub(super) async fn push(
    db: &mut PgConnection,
    id: Uuid,
    kind: &EventKind,
) -> Result<(), QueueError> {
    const ACTION: &str = "record an event";
    let body = to_json(ACTION, kind)?;
    sqlx::query!(
        "WITH numbered AS (
             UPDATE job SET last_seq = last_seq + 1 WHERE id = $1 RETURNING id, last_seq, attempt)
         INSERT INTO job_event (job_id, seq, attempt, body)
         SELECT id, last_seq, attempt, $2 FROM numbered",
        id,
        body,
    )
    .execute(db)
    .await
    .map_err(|error| QueueError::from_sqlx(ACTION, &error))?;
    Ok(())
}

/// Ends a job: state, final event, and its credentials are gone.
pub(super) async fn finish(
    db: &mut PgConnection,
    id: Uuid,
    outcome: JobEnd,
) -> Result<(), QueueError> {
    const ACTION: &str = "record the end of a job";
    let failed = |error: sqlx::Error| QueueError::from_sqlx(ACTION, &error);
    let (state, result, error) = match &outcome {
        JobEnd::Succeeded(result) => (JobState::Succeeded, Some(to_json(ACTION, result)?), None),
        JobEnd::Failed(error) => (JobState::Failed, None, Some(to_json(ACTION, error)?)),
        JobEnd::Cancelled => (JobState::Cancelled, None, None),
    };
    // A success leaves no error behind; a cancelled job keeps that of its last attempt.
    sqlx::query!(
        "UPDATE job
         SET state = $2, result = $3, finished_at = clock_timestamp(),
             error = CASE WHEN $2 = 'succeeded' THEN NULL ELSE coalesce($4, error) END,
             worker_id = NULL, lease_expires_at = NULL
         WHERE id = $1",
        id,
        state as JobState,
        result,
        error,
    )
    .execute(&mut *db)
    .await
    .map_err(failed)?;
    sqlx::query!("DELETE FROM job_secret WHERE job_id = $1", id)
        .execute(&mut *db)
        .await
        .map_err(failed)?;
    let event = match outcome {
        JobEnd::Succeeded(result) => EventKind::Succeeded { result },
        JobEnd::Failed(error) => EventKind::Failed { error },
        JobEnd::Cancelled => EventKind::Cancelled,
    };
    push(db, id, &event).await
}

/// What becomes of a job whose attempt failed: cancelled if somebody asked for that, tried again
/// if that can help and is allowed, failed otherwise.
pub(super) async fn settle_failure(
    db: &mut PgConnection,
    job: &Locked,
    error: JobError,
    delay: Duration,
) -> Result<(), QueueError> {
    const ACTION: &str = "queue a job again";
    if job.cancel_requested {
        return finish(db, job.id, JobEnd::Cancelled).await;
    }
    if !error.transient || job.attempt >= job.max_attempts {
        return finish(db, job.id, JobEnd::Failed(error)).await;
    }
    let json = to_json(ACTION, &error)?;
    let not_before: DateTime<Utc> = sqlx::query_scalar!(
        "UPDATE job
         SET state = 'queued', error = $2, not_before = now() + make_interval(secs => $3),
             worker_id = NULL, lease_expires_at = NULL
         WHERE id = $1 RETURNING not_before",
        job.id,
        json,
        delay.as_secs_f64(),
    )
    .fetch_one(&mut *db)
    .await
    .map_err(|error| QueueError::from_sqlx(ACTION, &error))?;
    push(db, job.id, &EventKind::Retrying { error, not_before }).await
}

/// JSON as Postgres takes it: `jsonb` can't hold NUL, which names in a hostile image may.
pub(super) fn to_json(
    action: &'static str,
    value: &impl serde::Serialize,
) -> Result<Value, QueueError> {
    let mut json = serde_json::to_value(value)
        .map_err(|error| QueueError::Refused { action, reason: error.to_string() })?;
    replace_nul(&mut json);
    Ok(json)
}

fn replace_nul(json: &mut Value) {
    match json {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', "\u{fffd}"),
        Value::Array(items) => items.iter_mut().for_each(replace_nul),
        Value::Object(fields) => fields.values_mut().for_each(replace_nul),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_never_reaches_the_database() {
        let json = to_json("test", &serde_json::json!({"a": ["x\0y", 1], "b": {"c": "\0"}}));
        let expected = serde_json::json!({"a": ["x\u{fffd}y", 1], "b": {"c": "\u{fffd}"}});
        assert_eq!(json.unwrap(), expected);
    }
}
