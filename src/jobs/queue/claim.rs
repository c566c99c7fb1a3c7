//! Leases: a worker takes a job for a while and says that it lives. No lock outlasts a statement;
//! every later write is fenced by the worker's name and the number of the claim.

use std::time::Duration;

use secrecy::SecretString;
use sqlx::PgConnection;
use uuid::Uuid;

use super::row::job_rows;
use super::transition::{JobEnd, finish, push};
use super::vault::Sealed;
use super::{Queue, QueueError, patiently};
use crate::error::Classify as _;
use crate::jobs::job::{EventKind, Job, JobError, JobSpec, JobState};

const CLAIM: &str = "claim a job";
const HEARTBEAT: &str = "extend a lease";

/// A job in the hands of one worker.
#[derive(Debug)]
pub struct Lease {
    /// The job as it was when it was claimed.
    pub job: Job,
    /// What it brought to reach its image.
    pub credentials: Option<SecretString>,
    /// Who holds it.
    pub worker_id: String,
    /// The number of this claim of the job; later claims have greater ones.
    pub fence: i64,
    /// How long it lasts from each heartbeat.
    pub lasts: Duration,
}

/// What a worker learns when it says that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// The lease was extended.
    Held,
    /// The lease was extended, and somebody wants the job to be cancelled.
    CancelRequested,
    /// The job was taken away; nothing may be written any more.
    Lost,
}

/// What one try to claim came to.
enum Claimed {
    Job(Box<Lease>),
    Nothing,
    /// Another worker was faster, or the job could not be understood: look again.
    Again,
}

impl Queue {
    /// Takes the oldest job that is due, of a kind that this version knows, and whose image nobody
    /// works on, and records that an attempt started.
    pub async fn claim(
        &self,
        worker_id: &str,
        lasts: Duration,
    ) -> Result<Option<Lease>, QueueError> {
        loop {
            // Once: a claim whose answer was lost holds its job until the lease expires, and a
            // second one would take another job as well. Workers look again by themselves.
            match self.try_claim(worker_id, lasts).await? {
                Claimed::Job(lease) => return Ok(Some(*lease)),
                Claimed::Nothing => return Ok(None),
                Claimed::Again => {}
            }
        }
    }

    async fn try_claim(&self, worker_id: &str, lasts: Duration) -> Result<Claimed, QueueError> {
        let failed = |error: sqlx::Error| QueueError::from_sqlx(CLAIM, &error);
        let mut tx = self.pool.begin().await.map_err(failed)?;
        let claimed = sqlx::query!(
            "UPDATE job
             SET state = 'running', attempt = attempt + 1, fence = fence + 1, worker_id = $1,
                 started_at = now(), lease_expires_at = now() + make_interval(secs => $2)
             WHERE id = (
                 SELECT id FROM job AS next WHERE state = 'queued' AND not_before <= now()
                 AND spec ->> 'kind' = ANY($3)
                 AND NOT EXISTS (SELECT FROM job AS other
                                 WHERE other.image_id = next.image_id AND other.state = 'running')
                 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING id, fence",
            worker_id,
            lasts.as_secs_f64(),
            &JobSpec::KINDS.map(str::to_owned)[..],
        )
        .fetch_optional(&mut *tx)
        .await;
        let claimed = match claimed {
            Ok(Some(claimed)) => claimed,
            Ok(None) => return Ok(Claimed::Nothing),
            // Two workers saw two jobs of one image queued; the index lets one of them have it.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                return Ok(Claimed::Again);
            }
            Err(error) => return Err(failed(error)),
        };
        push(&mut tx, claimed.id, &EventKind::Started { worker: worker_id.to_owned() }).await?;
        let lease = match self.load(&mut tx, claimed.id).await {
            Ok((job, credentials)) => Claimed::Job(Box::new(Lease {
                job,
                credentials,
                worker_id: worker_id.to_owned(),
                fence: claimed.fence,
                lasts,
            })),
            // Left in the queue, it would be claimed for ever.
            Err(error @ (QueueError::Corrupt { .. } | QueueError::Undecipherable { .. })) => {
                let error = JobError {
                    code: error.code().to_owned(),
                    message: error.to_string(),
                    fault: error.fault(),
                    transient: false,
                };
                finish(&mut tx, claimed.id, JobEnd::Failed(error)).await?;
                Claimed::Again
            }
            Err(error) => return Err(error),
        };
        tx.commit().await.map_err(failed)?;
        Ok(lease)
    }

    /// The job and its credentials in the clear.
    async fn load(
        &self,
        db: &mut PgConnection,
        id: Uuid,
    ) -> Result<(Job, Option<SecretString>), QueueError> {
        let failed = |error: sqlx::Error| QueueError::from_sqlx(CLAIM, &error);
        let job =
            job_rows!("WHERE id = $1", id).fetch_one(&mut *db).await.map_err(failed)?.into_job()?;
        let sealed = sqlx::query_as!(
            Sealed,
            "SELECT key_id, nonce, ciphertext FROM job_secret WHERE job_id = $1",
            id
        )
        .fetch_optional(&mut *db)
        .await
        .map_err(failed)?;
        let credentials = sealed.map(|sealed| self.vault.open(id, &sealed)).transpose()?;
        Ok((job, credentials))
    }

    /// Extends the lease from now.
    pub async fn heartbeat(&self, lease: &Lease) -> Result<Heartbeat, QueueError> {
        let cancel_requested = patiently(HEARTBEAT, async || {
            sqlx::query_scalar!(
                "UPDATE job SET lease_expires_at = now() + make_interval(secs => $4)
                 WHERE id = $1 AND state = 'running' AND worker_id = $2 AND fence = $3
                 RETURNING cancel_requested",
                lease.job.id,
                lease.worker_id,
                lease.fence,
                lease.lasts.as_secs_f64(),
            )
            .fetch_optional(&self.pool)
            .await
            .map_err(|error| QueueError::from_sqlx(HEARTBEAT, &error))
        });
        Ok(match cancel_requested.await? {
            Some(false) => Heartbeat::Held,
            Some(true) => Heartbeat::CancelRequested,
            None => Heartbeat::Lost,
        })
    }
}
