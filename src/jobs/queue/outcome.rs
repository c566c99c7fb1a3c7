//! What workers report of a job, and the reaper for workers that don't report any more. Each is
//! one transaction, fenced by the lease.

use std::time::Duration;

use super::transition::{JobEnd, Locked, finish, lock_held, push, settle_failure, to_json};
use super::{Lease, Queue, QueueError, patiently};
use crate::error::Fault;
use crate::jobs::job::{EventKind, JobError, JobResult};
use crate::retry::RetrySettings;

const APPEND: &str = "record an event";
const SUCCEED: &str = "record a success";
const FAIL: &str = "record a failure";
const CANCELLED: &str = "record a cancellation";
const RELEASE: &str = "release a job";
const REAP: &str = "take back expired leases";

/// When a job that failed is run again.
const RUN_AGAIN: RetrySettings =
    RetrySettings::endless(Duration::from_secs(2), Duration::from_mins(5));
/// So many leases are taken back at a time, each in its own transaction.
const REAP_BATCH: usize = 1000;

impl Queue {
    /// Records an event. Final ones are refused: they come with the state that they tell of.
    pub async fn append(&self, lease: &Lease, kind: &EventKind) -> Result<(), QueueError> {
        if kind.is_final() {
            let reason = "a final event is recorded with the end of its job".to_owned();
            return Err(QueueError::Refused { action: APPEND, reason });
        }
        patiently(APPEND, async || {
            let failed = |error: sqlx::Error| QueueError::from_sqlx(APPEND, &error);
            let mut tx = self.pool.begin().await.map_err(failed)?;
            let job = lock_held(&mut tx, lease, APPEND).await?;
            push(&mut tx, job.id, kind).await?;
            tx.commit().await.map_err(failed)
        })
        .await
    }

    /// Records success: result, image, final event and the end of the credentials at once. A job
    /// that was to be cancelled but was done before has succeeded.
    pub async fn succeed(&self, lease: &Lease, result: &JobResult) -> Result<(), QueueError> {
        patiently(SUCCEED, async || {
            let failed = |error: sqlx::Error| QueueError::from_sqlx(SUCCEED, &error);
            let mut tx = self.pool.begin().await.map_err(failed)?;
            let job = lock_held(&mut tx, lease, SUCCEED).await?;
            sqlx::query!(
                "INSERT INTO image (image_id, job_id, result) VALUES ($1, $2, $3)
                 ON CONFLICT (image_id) DO UPDATE
                 SET job_id = excluded.job_id, result = excluded.result, created_at = now()",
                result.image_id.as_str(),
                job.id,
                to_json(SUCCEED, result)?,
            )
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
            finish(&mut tx, job.id, JobEnd::Succeeded(Box::new(result.clone()))).await?;
            tx.commit().await.map_err(failed)
        })
        .await
    }

    /// Records that an attempt failed. A transient error leads to another attempt, later each
    /// time, while there are any left.
    pub async fn fail(&self, lease: &Lease, error: &JobError) -> Result<(), QueueError> {
        patiently(FAIL, async || {
            let failed = |error: sqlx::Error| QueueError::from_sqlx(FAIL, &error);
            let mut tx = self.pool.begin().await.map_err(failed)?;
            let job = lock_held(&mut tx, lease, FAIL).await?;
            settle_failure(&mut tx, &job, error.clone(), backoff(job.attempt)).await?;
            tx.commit().await.map_err(failed)
        })
        .await
    }

    /// Records that a job was cancelled.
    pub async fn cancelled(&self, lease: &Lease) -> Result<(), QueueError> {
        patiently(CANCELLED, async || {
            let failed = |error: sqlx::Error| QueueError::from_sqlx(CANCELLED, &error);
            let mut tx = self.pool.begin().await.map_err(failed)?;
            let job = lock_held(&mut tx, lease, CANCELLED).await?;
            finish(&mut tx, job.id, JobEnd::Cancelled).await?;
            tx.commit().await.map_err(failed)
        })
        .await
    }

    /// Gives a job back unfinished, for any worker to take at once; the attempt isn't counted.
    pub async fn release(&self, lease: &Lease) -> Result<(), QueueError> {
        patiently(RELEASE, async || {
            let failed = |error: sqlx::Error| QueueError::from_sqlx(RELEASE, &error);
            let mut tx = self.pool.begin().await.map_err(failed)?;
            let job = lock_held(&mut tx, lease, RELEASE).await?;
            if job.cancel_requested {
                finish(&mut tx, job.id, JobEnd::Cancelled).await?;
            } else {
                sqlx::query!(
                    "UPDATE job SET state = 'queued', attempt = attempt - 1, not_before = now(),
                         worker_id = NULL, lease_expires_at = NULL
                     WHERE id = $1",
                    job.id
                )
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            }
            tx.commit().await.map_err(failed)
        })
        .await
    }

    /// Takes back the jobs of workers that fell silent: each is queued again, or ends if it was to
    /// be cancelled or has no attempt left. Returns how many. Any process may do this at any time.
    pub async fn reap(&self) -> Result<usize, QueueError> {
        let mut reaped = 0;
        while reaped < REAP_BATCH && patiently(REAP, || self.reap_one()).await? {
            reaped += 1;
        }
        Ok(reaped)
    }

    async fn reap_one(&self) -> Result<bool, QueueError> {
        let failed = |error: sqlx::Error| QueueError::from_sqlx(REAP, &error);
        let mut tx = self.pool.begin().await.map_err(failed)?;
        let expired = sqlx::query_as!(
            Locked,
            "SELECT id, attempt, max_attempts, cancel_requested
             FROM job WHERE state = 'running' AND lease_expires_at <= now()
             ORDER BY lease_expires_at LIMIT 1 FOR UPDATE SKIP LOCKED"
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        let Some(job) = expired else { return Ok(false) };
        let error = JobError {
            code: "worker_lost".to_owned(),
            message: format!("the worker of attempt {} fell silent", job.attempt),
            fault: Fault::Ours,
            transient: true,
        };
        // The lease was wait enough.
        settle_failure(&mut tx, &job, error, Duration::ZERO).await?;
        tx.commit().await.map_err(failed)?;
        Ok(true)
    }
}

fn backoff(attempt: i32) -> Duration {
    RUN_AGAIN.delay(u32::try_from(attempt).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_limit() {
        let within = |attempt, seconds: u64| {
            let full = Duration::from_secs(seconds);
            assert!((full / 2..=full).contains(&backoff(attempt)), "attempt {attempt}");
        };
        within(1, 2);
        within(2, 4);
        within(8, 256);
        within(9, 300);
        within(i32::MAX, 300);
        within(i32::MIN + 1, 2);
    }
}
