//! How long the queue is, for metrics: counted to a bound, from an index that holds no more than what is
//! counted.

use std::time::Duration;

use super::connection::Connection;
use super::{Queue, QueueError, once};
use crate::jobs::job::JobKind;
use crate::telemetry::metrics::QueuedJobs;

const ACTION: &str = "look how long the queue is";
/// Whoever asks for metrics waits for the answer.
const LIMIT: Duration = Duration::from_secs(2);
/// So many jobs of a kind are counted at most.
const MOST: i64 = 10_000;

/// How long the queue is.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueDepth {
    /// Of each kind that this version knows.
    pub kinds: Vec<QueuedJobs>,
    /// Registries that don't answer, whose jobs wait.
    pub resting_registries: u64,
}

impl Queue {
    /// How many jobs of each kind could be taken now and how many run, 10,000 of each at most, and for how
    /// long the one that was due first has waited.
    pub async fn depth(&self) -> Result<QueueDepth, QueueError> {
        let kinds = JobKind::ALL.map(|kind| kind.as_str().to_owned());
        once(ACTION, LIMIT, async {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let depth = sqlx::query!(
                r#"SELECT ready.jobs AS "ready!", running.jobs AS "running!", age.seconds AS "age!",
                          (SELECT count(*) FROM (
                               SELECT FROM resting_host WHERE rests_until IS NOT NULL LIMIT $2)
                               AS resting) AS "resting!"
                   FROM unnest($1::text[]) WITH ORDINALITY AS wanted (kind, number)
                   CROSS JOIN LATERAL (
                       SELECT count(*) AS jobs FROM (
                           SELECT FROM live_job
                           WHERE kind = wanted.kind AND head AND worker_id IS NULL
                             AND parked_at IS NULL
                             AND due_at AT TIME ZONE 'UTC' <= now() AT TIME ZONE 'UTC'
                           -- No other index knows this order.
                           ORDER BY due_at AT TIME ZONE 'UTC' LIMIT $2) AS counted) AS ready
                   CROSS JOIN LATERAL (
                       SELECT count(*) AS jobs FROM (
                           SELECT FROM live_job
                           WHERE worker_id IS NOT NULL AND kind = wanted.kind
                           LIMIT $2) AS counted) AS running
                   CROSS JOIN LATERAL (
                       SELECT greatest(0, coalesce(extract(epoch FROM now() - (
                           SELECT due_at FROM live_job
                           WHERE kind = wanted.kind AND head AND worker_id IS NULL
                             AND parked_at IS NULL
                           ORDER BY due_at AT TIME ZONE 'UTC' LIMIT 1)), 0))::float8 AS seconds) AS age
                   ORDER BY wanted.number"#,
                &kinds,
                MOST,
            )
            .fetch_all(&mut *db)
            .await;
            let depth = db.answered(ACTION, depth)?;
            let resting = depth.first().map_or(0, |row| row.resting);
            let kinds = JobKind::ALL.iter().zip(depth).map(|(kind, row)| QueuedJobs {
                kind: kind.as_str(),
                ready: row.ready.unsigned_abs(),
                running: row.running.unsigned_abs(),
                age: Duration::try_from_secs_f64(row.age).unwrap_or_default(),
            });
            Ok(QueueDepth { kinds: kinds.collect(), resting_registries: resting.unsigned_abs() })
        })
        .await
    }
}
