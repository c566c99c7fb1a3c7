//! The queue: all SQL about jobs. Postgres orders, locks and keeps the time; nothing is remembered
//! here, so that any number of processes may share one database.
//!
//! Each step of a job is one statement. Whoever changes a job locks its row in `live_job` first and
//! that in `job` after it, which is what makes seqs gapless and the final event the last.
//!
//! It must not know HTTP, nor what work on a job means.

use std::sync::Arc;
use std::time::Duration;

use sqlx::PgPool;
use uuid::Uuid;

use super::job::{ImageId, Job, JobSpec, JobState, Priority};
use super::webhook::Webhook;
use crate::workspace::WorkspaceId;

/// Taking a job.
mod claim;
/// Connections, and the end of abandoned ones.
mod connection;
/// How long the queue is.
mod depth;
/// Why the queue could not do what was asked.
mod error;
/// Registries that are away.
mod hosts;
/// JSON as Postgres takes it.
mod json;
/// Which process reads which layer.
mod layer_claims;
/// Holding a job.
mod lease;
/// What a job writes while it works.
mod log;
/// What clients look up.
mod look;
/// Jobs whose secrets nobody can open.
mod lost_keys;
/// What becomes of a job that a worker has.
mod outcome;
/// Secrets of a former key.
mod reseal;
/// Patience with the database.
mod retry;
/// How many jobs may wait in all.
mod room;
/// Rows become types.
mod row;
/// A new job.
mod submit;
/// Secrets at rest.
mod vault;
/// Being told that something may have happened.
mod wake;
/// The outbox of webhooks.
mod webhooks;

pub use claim::Wanted;
pub use depth::QueueDepth;
pub use error::QueueError;
pub use layer_claims::DatabaseClaims;
pub use lease::{Heartbeat, Lease, Secrets};
pub use log::{LogChunk, MAX_CHUNK};
pub(crate) use vault::Sealed;
pub use vault::Vault;
pub use wake::Wakeups;

pub(crate) use connection::Connection;
pub(super) use outcome::LostJob;
pub(super) use retry::insist;
pub(crate) use retry::patiently;
pub(super) use webhooks::{DueDelivery, Receipt};

use retry::once;

const DEFAULT_MAX_ATTEMPTS: i32 = 3;
const DEFAULT_RETRY_FOR: Duration = Duration::from_hours(1);

/// The queue. Clones share the pool and one connection that listens for notifications.
#[derive(Debug, Clone)]
pub struct Queue {
    pub(super) pool: PgPool,
    vault: Vault,
    max_attempts: i32,
    retry_for: Duration,
    /// How many jobs of all workspaces may run at a time.
    max_running: i64,
    room: Option<Arc<room::Room>>,
    hub: Arc<wake::Hub>,
}

/// Which jobs do for a new one that asks for the same in the same workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sharing {
    /// None.
    #[default]
    Apart,
    /// One that has not ended and was brought the same secrets.
    WithActive,
    /// One that has not ended, or the one whose archive is the image's.
    WithArchived,
}

/// A job to be accepted.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// What is asked for.
    pub spec: JobSpec,
    /// Which of several is taken first.
    pub priority: Priority,
    /// What the handler needs to do it; kept encrypted until the job is final.
    pub secrets: Secrets,
    /// Submitting twice under one key makes one job.
    pub idempotency_key: Option<String>,
    /// Who is told when it ends.
    pub webhook: Option<Webhook>,
    /// Which jobs do instead.
    pub sharing: Sharing,
    /// How many attempts there may be; the queue's default when absent.
    pub max_attempts: Option<i32>,
    /// It expires when no worker takes it in this time.
    pub expires_in: Option<Duration>,
    /// The request that it came by.
    pub request_id: Option<String>,
    /// The trace that it is a part of (W3C `traceparent`).
    pub trace_context: Option<String>,
}

impl NewJob {
    /// A job of the default workspace, and nothing special about it.
    pub fn new(spec: JobSpec) -> Self {
        Self {
            workspace: WorkspaceId::default(),
            spec,
            priority: Priority::default(),
            secrets: Secrets::default(),
            idempotency_key: None,
            webhook: None,
            sharing: Sharing::default(),
            max_attempts: None,
            expires_in: None,
            request_id: None,
            trace_context: None,
        }
    }
}

/// An accepted job.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The job as it is now.
    pub job: Job,
    /// Whether it was there already: under the same idempotency key, or because it asks for the same.
    pub existing: bool,
}

/// Which jobs of a workspace to list. An index serves each combination but that of state and image.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    /// Whose jobs.
    pub workspace: WorkspaceId,
    /// Only jobs in this state.
    pub state: Option<JobState>,
    /// Only jobs about this image.
    pub image_id: Option<ImageId>,
    /// Only jobs older than this one.
    pub before: Option<Uuid>,
    /// At most this many.
    pub limit: i64,
}

/// A list of jobs, newest first.
#[derive(Debug, Clone)]
pub struct JobList {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// Whether there are older ones.
    pub more: bool,
}

impl Queue {
    /// A queue in the database of `pool`, which must be migrated.
    pub fn new(pool: PgPool, vault: Vault) -> Self {
        let hub = wake::Hub::new(pool.clone());
        let (max_attempts, retry_for) = (DEFAULT_MAX_ATTEMPTS, DEFAULT_RETRY_FOR);
        Self { pool, vault, max_attempts, retry_for, max_running: i64::MAX, room: None, hub }
    }

    /// The same queue over other connections to the same database.
    #[must_use]
    pub fn over(&self, pool: PgPool) -> Self {
        Self { pool, ..self.clone() }
    }

    /// How many attempts a job has that doesn't say; 3 unless told.
    #[must_use]
    pub fn with_max_attempts(mut self, max_attempts: u16) -> Self {
        self.max_attempts = i32::from(max_attempts.max(1));
        self
    }

    /// For how long after its first attempt started a job is tried again, however often, while what it
    /// depends on is away; an hour unless told.
    #[must_use]
    pub fn with_retry_for(self, retry_for: Duration) -> Self {
        Self { retry_for, ..self }
    }

    /// How many jobs of all workspaces may run at a time, whatever workers there are, and how many may
    /// wait; any number unless told. Processes that claim at the same moment may go beyond it by one each.
    #[must_use]
    pub fn with_limits(self, max_running: Option<u32>, max_queued: Option<u32>) -> Self {
        Self {
            max_running: max_running.map_or(i64::MAX, i64::from),
            room: max_queued.map(|most| Arc::new(room::Room::new(most))),
            ..self
        }
    }

    /// Asks for the end of a job: a queued one is cancelled at once, a running one as soon as its
    /// worker notices, a final one stays as it is. Asking again changes nothing.
    pub async fn cancel(&self, id: Uuid) -> Result<Option<Job>, QueueError> {
        const ACTION: &str = "cancel a job";
        let changed = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let changed = sqlx::query_scalar!(
                r#"WITH target AS (
                       SELECT job_id, worker_id FROM live_job WHERE job_id = $1 FOR UPDATE),
                   gone AS (
                       DELETE FROM live_job USING target
                       WHERE live_job.job_id = target.job_id AND target.worker_id IS NULL
                       RETURNING live_job.job_id),
                   asked AS (
                       UPDATE live_job SET cancel_requested = true FROM target
                       WHERE live_job.job_id = target.job_id AND target.worker_id IS NOT NULL
                         AND NOT cancel_requested
                       RETURNING live_job.job_id),
                   ended AS (
                       UPDATE job
                       SET state = 'cancelled', reason = 'cancelled', last_seq = last_seq + 1,
                           finished_at = clock_timestamp()
                       FROM gone WHERE job.id = gone.job_id
                       RETURNING id, last_seq, attempt),
                   told AS (
                       UPDATE job SET last_seq = last_seq + 1
                       FROM asked WHERE job.id = asked.job_id
                       RETURNING id, last_seq, attempt),
                   secret AS (DELETE FROM job_secret WHERE job_id IN (SELECT job_id FROM gone)),
                   event AS (
                       INSERT INTO job_event (job_id, seq, attempt, body)
                       SELECT id, last_seq, attempt, '{"event": "cancelled"}'::jsonb FROM ended
                       UNION ALL
                       SELECT id, last_seq, attempt, '{"event": "cancel_requested"}' FROM told)
                   SELECT id AS "id!" FROM ended UNION ALL SELECT id FROM told"#,
                id,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, changed)
        });
        if changed.await?.is_some() {
            self.hub.tell(wake::Topic::Cancel(id));
            self.tell_ended(id);
        }
        self.get(id).await
    }

    /// Tells when the job may have new events. Take it before you query. Needs a Tokio runtime.
    pub fn wakes(&self, id: Uuid) -> Wakeups {
        self.hub.subscribe(wake::Topic::Job(id))
    }

    /// Tells that a job has ended, which makes room for the next one of its image.
    pub(super) fn tell_ended(&self, id: Uuid) {
        self.hub.tell(wake::Topic::Job(id));
        self.hub.tell(wake::Topic::Work);
    }

    /// Tells when the job may be to be cancelled.
    pub(super) fn cancel_wakes(&self, id: Uuid) -> Wakeups {
        self.hub.subscribe(wake::Topic::Cancel(id))
    }

    /// Tells when there may be a job to claim.
    pub(super) fn work_wakes(&self) -> Wakeups {
        self.hub.subscribe(wake::Topic::Work)
    }
}
