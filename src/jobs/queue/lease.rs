//! Leases: a worker says that it lives, and asks whether a job is still its own before it does what
//! can't be taken back.

use std::collections::BTreeMap;
use std::time::Duration;

use secrecy::SecretString;
use uuid::Uuid;

use super::connection::Connection;
use super::{Queue, QueueError, once, patiently};
use crate::digest::Digest;
use crate::jobs::job::{Job, JobSpec};

const HEARTBEAT: &str = "extend leases";
const FENCE: &str = "ask whether a job is still ours";
const PIN: &str = "pin the image of a job";
const OWN: &str = "ask whose an image id is";

/// A heartbeat that takes longer may be too late; the next one comes soon.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(5);

/// Secrets by their names.
pub type Secrets = BTreeMap<String, SecretString>;

/// A job in the hands of one worker.
#[derive(Debug)]
pub struct Lease {
    /// The job as it was when it was claimed.
    pub job: Job,
    /// What it asks for.
    pub spec: JobSpec,
    /// What it brought to reach its image.
    pub secrets: Secrets,
    /// Who holds it.
    pub worker_id: String,
    /// The number of this claim; later claims have greater ones.
    pub fence: i64,
    /// How long it lasts from each heartbeat.
    pub lasts: Duration,
    /// How long before the claim its first attempt started.
    pub tried_for: Duration,
    /// The trace that the job is a part of (W3C `traceparent`).
    pub trace_context: Option<String>,
}

impl Lease {
    /// Names the claim in every write.
    pub(super) fn id(&self) -> (Uuid, i64) {
        (self.job.id, self.fence)
    }
}

/// What a worker learns of one of its jobs when it says that it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// The lease was extended.
    Held,
    /// The lease was extended, and somebody wants the job to be cancelled.
    CancelRequested,
    /// The job was taken away; nothing may be written any more.
    Lost,
}

impl Queue {
    /// Extends leases from now, those of a whole process in one statement. The answers are in the
    /// order of the leases.
    pub async fn heartbeat(&self, leases: &[&Lease]) -> Result<Vec<Heartbeat>, QueueError> {
        let ids: Vec<_> = leases.iter().map(|lease| lease.job.id).collect();
        let fences: Vec<_> = leases.iter().map(|lease| lease.fence).collect();
        let lasts: Vec<_> = leases.iter().map(|lease| lease.lasts.as_secs_f64()).collect();
        let held = once(HEARTBEAT, HEARTBEAT_LIMIT, async {
            let mut db = Connection::acquire(&self.pool, HEARTBEAT).await?;
            let held = sqlx::query!(
                "UPDATE live_job
                 SET lease_expires_at = now() + make_interval(secs => ours.lasts)
                 FROM unnest($1::uuid[], $2::bigint[], $3::float8[]) AS ours (job_id, fence, lasts)
                 WHERE live_job.job_id = ours.job_id AND live_job.fence = ours.fence
                   AND worker_id IS NOT NULL
                 RETURNING live_job.job_id, cancel_requested",
                &ids,
                &fences,
                &lasts,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(HEARTBEAT, held)
        });
        let held = held.await?;
        let answer = |id: &Uuid| match held.iter().find(|held| held.job_id == *id) {
            Some(held) if held.cancel_requested => Heartbeat::CancelRequested,
            Some(_) => Heartbeat::Held,
            None => Heartbeat::Lost,
        };
        Ok(ids.iter().map(answer).collect())
    }

    /// Asked before what can't be taken back: whether the lease is still held, and has not expired.
    pub async fn check_fence(&self, lease: &Lease) -> Result<(), QueueError> {
        let (id, fence) = lease.id();
        let held = patiently(FENCE, async || {
            let mut db = Connection::acquire(&self.pool, FENCE).await?;
            let held = sqlx::query!(
                "SELECT job_id FROM live_job
                 WHERE job_id = $1 AND fence = $2 AND worker_id IS NOT NULL
                   AND lease_expires_at > now()",
                id,
                fence,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(FENCE, held)
        });
        held.await?.map(drop).ok_or(QueueError::LeaseLost { job: id })
    }

    /// Keeps what the source of a job meant at its first attempt, and says what that was.
    pub async fn pin(&self, lease: &Lease, resolved: Digest) -> Result<Digest, QueueError> {
        let (id, fence) = lease.id();
        let pinned = patiently(PIN, async || {
            let mut db = Connection::acquire(&self.pool, PIN).await?;
            let pinned = sqlx::query_scalar!(
                r#"WITH held AS (
                       SELECT job_id FROM live_job
                       WHERE job_id = $1 AND fence = $2 AND worker_id IS NOT NULL FOR UPDATE)
                   UPDATE job SET resolved_digest = coalesce(resolved_digest, $3)
                   FROM held WHERE job.id = held.job_id
                   RETURNING resolved_digest AS "resolved_digest!""#,
                id,
                fence,
                resolved.to_string(),
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(PIN, pinned)
        });
        let pinned = pinned.await?.ok_or(QueueError::LeaseLost { job: id })?;
        pinned.parse().map_err(|_| QueueError::Corrupt {
            what: "the resolved digest",
            of: format!("job {id}"),
            reason: format!("{pinned:?} is no digest"),
        })
    }

    /// Whether the archive under the job's image id belongs to the job's workspace, which it does from
    /// now on if it was nobody's. The lease must be held.
    pub async fn own_archive(&self, lease: &Lease) -> Result<bool, QueueError> {
        let (id, fence) = lease.id();
        let own = patiently(OWN, async || {
            let mut db = Connection::acquire(&self.pool, OWN).await?;
            let own = sqlx::query_scalar!(
                r#"WITH held AS (
                       SELECT live_job.image_id, job.workspace_id
                       FROM live_job JOIN job ON job.id = live_job.job_id
                       WHERE live_job.job_id = $1 AND live_job.fence = $2
                         AND live_job.worker_id IS NOT NULL
                         AND live_job.lease_expires_at > now()),
                   taken AS (
                       INSERT INTO archive_owner (image_id, workspace_id)
                       SELECT image_id, workspace_id FROM held
                       -- Said anew, lest it be freed at the same moment.
                       ON CONFLICT (image_id) DO UPDATE SET since = now()
                       WHERE archive_owner.workspace_id = excluded.workspace_id
                       RETURNING image_id)
                   SELECT EXISTS (SELECT FROM taken) AS "own!" FROM held"#,
                id,
                fence,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(OWN, own)
        });
        own.await?.ok_or(QueueError::LeaseLost { job: id })
    }
}
