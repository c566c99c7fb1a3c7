//! What is not needed any more: starts so old that nobody reports them again, and what was kept about
//! rollouts that were removed. Which version was chosen for a job goes with the job.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::Rollouts;
use super::starts::MAX_AGE;
use crate::jobs::queue::{Connection, QueueError, patiently};
use crate::jobs::reconcile::{BATCH, ReconcileError, Reconciler};

/// So many rows go at a time.
const PAGE: i64 = 1000;

/// Old starts, and what is left of rollouts.
#[derive(Debug)]
pub struct Tidy {
    /// Rollouts.
    pub rollouts: Rollouts,
}

#[async_trait]
impl Reconciler for Tidy {
    fn name(&self) -> &'static str {
        "old starts and rollouts"
    }

    fn every(&self) -> Duration {
        Duration::from_mins(1)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        let starts = self.delete_starts().await?;
        let gone = self.gone().await?;
        let mut rows = starts;
        for rollout in gone {
            let left = self.delete_what_is_left(rollout).await?;
            rows += left;
            if left == 0 {
                self.forget(rollout).await?;
            }
        }
        // A full page of anything: there may be more.
        Ok(if rows >= PAGE { rows.max(BATCH.cast_signed()) } else { rows.min(1) }.cast_unsigned())
    }
}

impl Tidy {
    async fn delete_starts(&self) -> Result<i64, QueueError> {
        const ACTION: &str = "delete old starts of images";
        let keep = MAX_AGE * 2;
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.rollouts.pool, ACTION).await?;
            let deleted = sqlx::query_scalar!(
                r#"WITH old AS MATERIALIZED (
                       SELECT workspace_id, id FROM image_start
                       WHERE received_at <= now() - make_interval(secs => $1)
                       ORDER BY received_at LIMIT $2 FOR UPDATE SKIP LOCKED),
                   deleted AS (
                       DELETE FROM image_start AS start USING old
                       WHERE start.workspace_id = old.workspace_id AND start.id = old.id
                       RETURNING start.id)
                   SELECT count(*) AS "count!" FROM deleted"#,
                keep.as_seconds_f64(),
                PAGE,
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(ACTION, deleted)
        })
        .await
    }

    async fn gone(&self) -> Result<Vec<Uuid>, QueueError> {
        const ACTION: &str = "look for rollouts that were removed";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.rollouts.pool, ACTION).await?;
            let gone =
                sqlx::query_scalar!("SELECT rollout_id FROM rollout_gone ORDER BY 1 LIMIT 100")
                    .fetch_all(&mut *db)
                    .await;
            db.answered(ACTION, gone)
        })
        .await
    }

    /// How many rows went.
    async fn delete_what_is_left(&self, rollout: Uuid) -> Result<i64, QueueError> {
        const ACTION: &str = "delete what was kept about a rollout";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.rollouts.pool, ACTION).await?;
            let deleted = sqlx::query_scalar!(
                r#"WITH sketch AS (
                       DELETE FROM rollout_sketch
                       WHERE (rollout_id, day, arm, part, measure) IN (
                           SELECT rollout_id, day, arm, part, measure FROM rollout_sketch
                           WHERE rollout_id = $1 ORDER BY rollout_id, day, arm, part, measure
                           LIMIT $2)
                       RETURNING 1),
                   unit AS (
                       DELETE FROM rollout_unit
                       WHERE (rollout_id, stage, workspace_id, image_id) IN (
                           SELECT rollout_id, stage, workspace_id, image_id FROM rollout_unit
                           WHERE rollout_id = $1
                           ORDER BY rollout_id, stage, workspace_id, image_id LIMIT $2)
                       RETURNING 1),
                   guard AS (DELETE FROM rollout_guard WHERE rollout_id = $1 RETURNING 1)
                   SELECT (SELECT count(*) FROM sketch) + (SELECT count(*) FROM unit)
                        + (SELECT count(*) FROM guard) AS "count!""#,
                rollout,
                PAGE,
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(ACTION, deleted)
        })
        .await
    }

    async fn forget(&self, rollout: Uuid) -> Result<(), QueueError> {
        const ACTION: &str = "forget a rollout";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.rollouts.pool, ACTION).await?;
            let forgotten = sqlx::query!("DELETE FROM rollout_gone WHERE rollout_id = $1", rollout)
                .execute(&mut *db)
                .await;
            db.answered(ACTION, forgotten).map(drop)
        })
        .await
    }
}
