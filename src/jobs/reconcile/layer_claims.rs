//! Claims of layers by processes that died, of layers that nobody wanted since.

use std::time::Duration;

use async_trait::async_trait;

use super::{BATCH, ReconcileError, Reconciler};
use crate::jobs::queue::{Connection, Queue, patiently};

const ACTION: &str = "delete old claims of layers";

/// Claims of layers by processes that died.
#[derive(Debug)]
pub struct LayerClaims {
    /// The queue.
    pub queue: Queue,
}

#[async_trait]
impl Reconciler for LayerClaims {
    fn name(&self) -> &'static str {
        "layer claims"
    }

    fn every(&self) -> Duration {
        Duration::from_mins(5)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        let deleted = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.queue.pool, ACTION).await?;
            let deleted = sqlx::query!(
                "DELETE FROM layer_claim WHERE key IN (
                     SELECT key FROM layer_claim WHERE expires_at <= now() - interval '1 hour'
                     ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
                BATCH.cast_signed(),
            )
            .execute(&mut *db)
            .await;
            db.answered(ACTION, deleted)
        });
        Ok(deleted.await?.rows_affected())
    }
}
