//! Jobs of workers that fell silent are taken back: each is queued again, or ends if it was to be
//! cancelled or has cost too many workers.

use std::time::Duration;

use async_trait::async_trait;

use super::{BATCH, ReconcileError, Reconciler};
use crate::jobs::queue::{Connection, LostJob, Queue, patiently};
use crate::telemetry::metrics::leases_lost;

const ACTION: &str = "look for leases that ended";

/// Leases that ended.
#[derive(Debug)]
pub struct Leases {
    /// The queue.
    pub queue: Queue,
    /// A part of how long leases last.
    pub every: Duration,
}

#[async_trait]
impl Reconciler for Leases {
    fn name(&self) -> &'static str {
        "leases"
    }

    fn every(&self) -> Duration {
        self.every
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        let lost = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.queue.pool, ACTION).await?;
            let lost = sqlx::query_as!(
                LostJob,
                // Written so that no planner can begin with `job`, whatever it thinks of its size.
                r#"SELECT lost.job_id AS "id!", lost.fence AS "fence!", job.attempt AS "attempt!",
                          job.losses AS "losses!"
                   FROM (SELECT job_id, fence FROM live_job
                         WHERE worker_id IS NOT NULL AND lease_expires_at <= now()
                         LIMIT $1) AS lost
                   CROSS JOIN LATERAL (
                       SELECT attempt, losses FROM job WHERE id = lost.job_id LIMIT 1) AS job"#,
                BATCH.cast_signed(),
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(ACTION, lost)
        });
        let mut taken = 0;
        for lost in lost.await? {
            // Another process may be doing the same: whoever comes second changes nothing.
            taken += u64::from(self.queue.take_back(&lost).await?);
        }
        leases_lost("reconciler", taken);
        Ok(taken)
    }
}
