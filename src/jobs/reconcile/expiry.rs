//! Jobs that no worker took in time end unrun, and keys of requests are forgotten when they are old.

use std::time::Duration;

use async_trait::async_trait;

use super::{BATCH, ReconcileError, Reconciler};
use crate::jobs::queue::{Connection, Queue, patiently};

const JOBS: &str = "end jobs that nobody took in time";
const KEYS: &str = "forget idempotency keys";

/// Jobs and idempotency keys whose time is over.
#[derive(Debug)]
pub struct Expiry {
    /// The queue.
    pub queue: Queue,
}

#[async_trait]
impl Reconciler for Expiry {
    fn name(&self) -> &'static str {
        "expiry"
    }

    fn every(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        let ended = patiently(JOBS, async || {
            let mut db = Connection::acquire(&self.queue.pool, JOBS).await?;
            let ended = sqlx::query_scalar!(
                r#"WITH over AS (
                       SELECT job_id FROM live_job
                       WHERE worker_id IS NULL AND expires_at IS NOT NULL AND expires_at <= now()
                       ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)
                   SELECT ended AS "id!" FROM end_waiting(
                       ARRAY(SELECT job_id FROM over), 'expired', 'not_taken_in_time', NULL,
                       '{"event": "expired"}') AS ended"#,
                BATCH.cast_signed(),
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(JOBS, ended)
        });
        let ended = ended.await?;
        for id in &ended {
            self.queue.tell_ended(*id);
        }
        let gone = patiently(KEYS, async || {
            let mut db = Connection::acquire(&self.queue.pool, KEYS).await?;
            let gone = sqlx::query!(
                "DELETE FROM idempotency_key WHERE (workspace_id, key) IN (
                     SELECT workspace_id, key FROM idempotency_key WHERE expires_at <= now()
                     ORDER BY expires_at LIMIT $1)",
                BATCH.cast_signed(),
            )
            .execute(&mut *db)
            .await;
            db.answered(KEYS, gone)
        });
        // There may be more of either.
        Ok(gone.await?.rows_affected().max(ended.len() as u64))
    }
}
