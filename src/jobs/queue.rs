//! The queue: all SQL about jobs. Postgres orders, locks and keeps the time; nothing is remembered
//! here, so that any number of processes may share one database.
//!
//! This file is what clients of the service need; `claim` and `outcome` are the workers' side.
//! It must not know HTTP, nor what work on a job means.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use sqlx::PgPool;
use uuid::Uuid;

use super::job::{EventKind, Image, ImageId, Job, JobEvent, JobSpec, JobState};

/// Leases: claim, heartbeat.
mod claim;
/// Why the queue could not do what was asked.
mod error;
/// Which process reads which layer.
mod layer_claims;
/// What workers report, and the reaper.
mod outcome;
/// Patience with the database.
mod retry;
/// Rows become types.
mod row;
/// A new job.
mod submit;
/// The steps that changes are made of.
mod transition;
/// Credentials at rest.
mod vault;
/// Being told that something may have happened.
mod wake;

pub use claim::{Heartbeat, Lease};
pub use error::QueueError;
pub use layer_claims::DatabaseClaims;
pub use vault::Vault;
pub use wake::Wakeups;

pub(super) use retry::insist;

use retry::{once, patiently};
use row::{job_rows, parse};
use transition::{JobEnd, finish, push};

const DEFAULT_MAX_ATTEMPTS: i32 = 3;
const PING_LIMIT: Duration = Duration::from_secs(2);

/// The queue. Clones share the pool and one connection that listens for notifications.
#[derive(Debug, Clone)]
pub struct Queue {
    pool: PgPool,
    vault: Vault,
    max_attempts: i32,
    hub: Arc<wake::Hub>,
}

/// A job to be accepted.
#[derive(Debug)]
pub struct NewJob {
    /// What is asked for.
    pub spec: JobSpec,
    /// What the handler needs to reach the image; kept encrypted until the job is final.
    pub credentials: Option<SecretString>,
    /// Submitting twice under one key makes one job.
    pub idempotency_key: Option<String>,
    /// How many attempts there may be; the queue's default when absent.
    pub max_attempts: Option<i32>,
}

/// An accepted job.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The job as it is now.
    pub job: Job,
    /// Whether it was there already under the same idempotency key.
    pub existing: bool,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs about this image.
    pub image_id: Option<ImageId>,
    /// Only jobs older than this one.
    pub before: Option<Uuid>,
    /// At most this many.
    pub limit: i64,
}

impl Queue {
    /// A queue in the database of `pool`, which must be migrated.
    pub fn new(pool: PgPool, vault: Vault) -> Self {
        let hub = wake::Hub::new(pool.clone());
        Self { pool, vault, max_attempts: DEFAULT_MAX_ATTEMPTS, hub }
    }

    /// How many attempts a job has that doesn't say; 3 unless told.
    #[must_use]
    pub fn with_max_attempts(mut self, max_attempts: u16) -> Self {
        self.max_attempts = i32::from(max_attempts.max(1));
        self
    }

    /// The job.
    pub async fn get(&self, id: Uuid) -> Result<Option<Job>, QueueError> {
        const ACTION: &str = "look a job up";
        let row = patiently(ACTION, async || {
            job_rows!("WHERE id = $1", id)
                .fetch_optional(&self.pool)
                .await
                .map_err(|error| QueueError::from_sqlx(ACTION, &error))
        });
        row.await?.map(row::JobRow::into_job).transpose()
    }

    /// Jobs, newest first.
    pub async fn list(&self, filter: JobFilter) -> Result<Vec<Job>, QueueError> {
        const ACTION: &str = "list jobs";
        let image_id = filter.image_id.as_ref().map(ImageId::as_str);
        let rows = patiently(ACTION, async || {
            job_rows!(
                "WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR image_id = $2)
                   AND ($3::uuid IS NULL OR id < $3)
                 ORDER BY id DESC LIMIT $4",
                filter.state as Option<JobState>,
                image_id,
                filter.before,
                filter.limit,
            )
            .fetch_all(&self.pool)
            .await
            .map_err(|error| QueueError::from_sqlx(ACTION, &error))
        });
        rows.await?.into_iter().map(row::JobRow::into_job).collect()
    }

    /// Asks for the end of a job: a queued one is cancelled at once, a running one as soon as its
    /// worker notices, a final one stays as it is. Asking again changes nothing.
    pub async fn cancel(&self, id: Uuid) -> Result<Option<Job>, QueueError> {
        patiently("cancel a job", || self.try_cancel(id)).await?;
        self.get(id).await
    }

    async fn try_cancel(&self, id: Uuid) -> Result<(), QueueError> {
        let failed = |error: sqlx::Error| QueueError::from_sqlx("cancel a job", &error);
        let mut tx = self.pool.begin().await.map_err(failed)?;
        let job = sqlx::query!(
            r#"SELECT state AS "state: JobState", cancel_requested FROM job WHERE id = $1
               FOR UPDATE"#,
            id
        )
        .fetch_optional(&mut *tx)
        .await
        .map_err(failed)?;
        match job {
            Some(job) if job.state == JobState::Queued => {
                finish(&mut tx, id, JobEnd::Cancelled).await?;
            }
            Some(job) if job.state == JobState::Running && !job.cancel_requested => {
                sqlx::query!("UPDATE job SET cancel_requested = true WHERE id = $1", id)
                    .execute(&mut *tx)
                    .await
                    .map_err(failed)?;
                push(&mut tx, id, &EventKind::CancelRequested).await?;
            }
            _ => {}
        }
        tx.commit().await.map_err(failed)
    }

    /// The events of a job after the one of seq `after_seq`, in order, at most `limit`.
    pub async fn events(
        &self,
        id: Uuid,
        after_seq: i64,
        limit: i64,
    ) -> Result<Vec<JobEvent>, QueueError> {
        const ACTION: &str = "read events";
        let rows = patiently(ACTION, async || {
            sqlx::query!(
                "SELECT seq, at, attempt, body FROM job_event WHERE job_id = $1 AND seq > $2
                 ORDER BY seq LIMIT $3",
                id,
                after_seq,
                limit
            )
            .fetch_all(&self.pool)
            .await
            .map_err(|error| QueueError::from_sqlx(ACTION, &error))
        });
        let event = |seq| format!("event {seq} of job {id}");
        rows.await?
            .into_iter()
            .map(|row| {
                let kind = parse("the body", || event(row.seq), row.body)?;
                Ok(JobEvent { seq: row.seq, at: row.at, attempt: row.attempt, kind })
            })
            .collect()
    }

    /// Tells when the job may have new events. Take it before you query. Needs a Tokio runtime.
    pub fn wakes(&self, id: Uuid) -> Wakeups {
        self.hub.subscribe(wake::Topic::Job(id))
    }

    /// Tells when there may be a job to claim.
    pub(super) fn work_wakes(&self) -> Wakeups {
        self.hub.subscribe(wake::Topic::Work)
    }

    /// The image, if its archive is in the store.
    pub async fn image(&self, image_id: &ImageId) -> Result<Option<Image>, QueueError> {
        const ACTION: &str = "look an image up";
        let row = patiently(ACTION, async || {
            sqlx::query!(
                "SELECT result, job_id, created_at FROM image WHERE image_id = $1",
                image_id.as_str()
            )
            .fetch_optional(&self.pool)
            .await
            .map_err(|error| QueueError::from_sqlx(ACTION, &error))
        });
        let Some(row) = row.await? else { return Ok(None) };
        let result = parse("the result", || format!("image {image_id}"), row.result)?;
        Ok(Some(Image { result, job_id: row.job_id, created_at: row.created_at }))
    }

    /// Whether the database answers: one try, two seconds.
    pub async fn ping(&self) -> Result<(), QueueError> {
        const ACTION: &str = "answer";
        once(ACTION, PING_LIMIT, async {
            sqlx::query!("SELECT 1 AS one FROM job LIMIT 1")
                .fetch_optional(&self.pool)
                .await
                .map(drop)
                .map_err(|error| QueueError::from_sqlx(ACTION, &error))
        })
        .await
    }
}
