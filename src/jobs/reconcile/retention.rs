//! Jobs that ended long ago are deleted with all that was said about them, but for those whose result an
//! image refers to.

use std::time::Duration;

use async_trait::async_trait;

use super::{BATCH, ReconcileError, Reconciler};
use crate::jobs::queue::{Connection, Queue, patiently};

const ACTION: &str = "delete old jobs";

/// Jobs that are too old.
#[derive(Debug)]
pub struct Retention {
    /// The queue.
    pub queue: Queue,
    /// For how long jobs are kept after their end.
    pub keep: Duration,
}

#[async_trait]
impl Reconciler for Retention {
    fn name(&self) -> &'static str {
        "retention"
    }

    fn every(&self) -> Duration {
        Duration::from_mins(1)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        let deleted = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.queue.pool, ACTION).await?;
            let deleted = sqlx::query!(
                "DELETE FROM job WHERE id = ANY(ARRAY(
                     SELECT id FROM job
                     WHERE finished_at IS NOT NULL AND NOT is_kept
                       AND finished_at <= now() - make_interval(secs => $1)
                     ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED))",
                self.keep.as_secs_f64(),
                BATCH.cast_signed(),
            )
            .execute(&mut *db)
            .await;
            db.answered(ACTION, deleted)
        });
        Ok(deleted.await?.rows_affected())
    }
}
