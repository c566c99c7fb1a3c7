//! Counts what came of rollouts: jobs that ended, and starts that were reported. Each is counted once, in
//! the statement that marks it as counted, so that a report reads counts alone.
//!
//! A job counts for the version that was chosen for its first attempt, whatever became of it. One that
//! failed for what its user got wrong fails with either version and is told apart; one that failed for
//! being v2 is not that.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::Rollouts;
use crate::jobs::pull::decide::Finding;
use crate::jobs::queue::{Connection, QueueError, patiently};
use crate::jobs::reconcile::{ReconcileError, Reconciler};

/// So much is counted in one statement.
const PAGE: i64 = 1000;
/// Some seconds' work.
const PAGES_OF_STARTS: u32 = 10;

/// What came of rollouts and is not counted yet.
#[derive(Debug)]
pub struct Tally {
    /// Rollouts.
    pub rollouts: Rollouts,
}

#[async_trait]
impl Reconciler for Tally {
    fn name(&self) -> &'static str {
        "tally of rollouts"
    }

    fn every(&self) -> Duration {
        Duration::from_secs(2)
    }

    /// Nothing was wrong that is put right here: there is nothing to say of it.
    async fn run(&self) -> Result<u64, ReconcileError> {
        // Jobs that have not ended are passed over: there are no more of them than there is work.
        let mut after = Uuid::nil();
        while let Some(last) = self.count_jobs(after).await? {
            after = last;
        }
        // After the jobs, and not without an end: those of a fleet that was away for a week come at once.
        for _ in 0..PAGES_OF_STARTS {
            if self.count_starts().await? == 0 {
                break;
            }
        }
        Ok(0)
    }
}

impl Tally {
    /// Counts those of the next page that have ended; the last of the page, if there may be more.
    async fn count_jobs(&self, after: Uuid) -> Result<Option<Uuid>, QueueError> {
        const ACTION: &str = "count what came of jobs";
        let codes = Finding::CODES.map(str::to_owned);
        let page = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.rollouts.pool, ACTION).await?;
            let page = sqlx::query!(
                r#"WITH page AS MATERIALIZED (
                       SELECT job_id FROM rollout_trial WHERE counted_at IS NULL AND job_id > $1
                       ORDER BY job_id LIMIT $2),
                   counted AS (
                       UPDATE rollout_trial AS trial SET counted_at = now()
                       FROM page JOIN job ON job.id = page.job_id
                       WHERE trial.job_id = page.job_id AND trial.counted_at IS NULL
                         AND job.finished_at IS NOT NULL
                       RETURNING trial.rollout_id, trial.arm, job.kind, job.workspace_id,
                           job.image_id, job.finished_at,
                           CASE WHEN job.state = 'succeeded' THEN 'jobs_succeeded'
                                WHEN job.state <> 'failed' THEN 'jobs_cancelled'
                                WHEN job.error ->> 'fault' = 'user'
                                     AND NOT coalesce(job.error ->> 'code' = ANY($3), false)
                                    THEN 'jobs_refused'
                                ELSE 'jobs_failed' END AS ended,
                           job.state = 'succeeded' AND trial.arm = 2
                               AND job.result #>> '{version,produced}' = '1' AS fell_back,
                           -- A later version may write something else there.
                           CASE jsonb_typeof(job.result -> 'seconds') WHEN 'number'
                               THEN (job.result ->> 'seconds')::float8 END AS seconds,
                           CASE jsonb_typeof(job.result #> '{archive,size}') WHEN 'number'
                               THEN (job.result #>> '{archive,size}')::float8 END AS size),
                   outcome AS MATERIALIZED (
                       SELECT counted.*, rollout.sticky
                       FROM counted JOIN rollout ON rollout.id = counted.rollout_id),
                   sample AS (
                       SELECT rollout_id, (finished_at AT TIME ZONE 'UTC')::date AS day, arm,
                              rollout_part(sticky, workspace_id, image_id) AS part, measure, bucket
                       FROM outcome, LATERAL (VALUES
                           (ended, 0::smallint),
                           (CASE WHEN fell_back THEN 'jobs_fell_back' END, 0::smallint),
                           (CASE WHEN kind IN ('pull', 'build') THEN kind || '_seconds' END,
                            rollout_bucket(seconds)),
                           ('archive_bytes', rollout_bucket(size))) AS taken (measure, bucket)
                       WHERE measure IS NOT NULL AND bucket IS NOT NULL),
                   added AS (
                       INSERT INTO rollout_sketch AS sketch
                           (rollout_id, day, arm, part, measure, buckets, counts)
                       SELECT rollout_id, day, arm, part, measure, array_agg(bucket), array_agg(count)
                       FROM (SELECT rollout_id, day, arm, part, measure, bucket, count(*) AS count
                             FROM sample GROUP BY 1, 2, 3, 4, 5, 6) AS counted
                       GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
                       ON CONFLICT (rollout_id, day, arm, part, measure) DO UPDATE
                       SET (buckets, counts) = (
                           SELECT merged.buckets, merged.counts
                           FROM rollout_merge(sketch.buckets, sketch.counts,
                                              excluded.buckets, excluded.counts) AS merged)),
                   unit AS (
                       INSERT INTO rollout_unit
                           (rollout_id, stage, workspace_id, image_id, arm, has_failed)
                       SELECT rollout_id, 'job', workspace_id, image_id, arm, ended = 'jobs_failed'
                       FROM outcome WHERE ended IN ('jobs_succeeded', 'jobs_failed')
                       ORDER BY rollout_id, workspace_id, image_id
                       ON CONFLICT DO NOTHING)
                   SELECT job_id AS "last!", (SELECT count(*) FROM page) AS "count!"
                   FROM page ORDER BY job_id DESC LIMIT 1"#,
                after,
                PAGE,
                &codes,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, page)
        });
        Ok(page.await?.filter(|page| page.count == PAGE).map(|page| page.last))
    }

    /// Counts some of those that were not; how many.
    async fn count_starts(&self) -> Result<i64, QueueError> {
        const ACTION: &str = "count starts of images";
        let counted = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.rollouts.pool, ACTION).await?;
            let counted = sqlx::query_scalar!(
                r#"WITH RECURSIVE whose (workspace_id) AS (
                       (SELECT workspace_id FROM image_start
                        WHERE rollout_id IS NOT NULL AND counted_at IS NULL
                        ORDER BY workspace_id LIMIT 1)
                       UNION ALL
                       SELECT (SELECT following.workspace_id FROM image_start AS following
                               WHERE rollout_id IS NOT NULL AND counted_at IS NULL
                                 AND following.workspace_id > whose.workspace_id
                               ORDER BY following.workspace_id LIMIT 1)
                       FROM whose WHERE whose.workspace_id IS NOT NULL),
                   -- As many of each workspace's: who reports most does not hold up the others.
                   page AS MATERIALIZED (
                       SELECT new.workspace_id, new.id FROM whose CROSS JOIN LATERAL (
                           SELECT workspace_id, id FROM image_start
                           WHERE image_start.workspace_id = whose.workspace_id
                             AND rollout_id IS NOT NULL AND counted_at IS NULL
                           ORDER BY received_at
                           LIMIT greatest($1 / (SELECT count(*) FROM whose), 1)
                           FOR UPDATE SKIP LOCKED) AS new),
                   counted AS (
                       UPDATE image_start AS start SET counted_at = now() FROM page
                       WHERE start.workspace_id = page.workspace_id AND start.id = page.id
                       RETURNING start.*),
                   outcome AS MATERIALIZED (
                       SELECT counted.*, rollout.sticky
                       FROM counted JOIN rollout ON rollout.id = counted.rollout_id),
                   sample AS (
                       SELECT rollout_id, (at AT TIME ZONE 'UTC')::date AS day, arm,
                              rollout_part(sticky, workspace_id, image_id) AS part, measure, bucket
                       FROM outcome, LATERAL (VALUES
                           (CASE WHEN has_failed THEN 'starts_failed' ELSE 'starts_succeeded' END,
                            0::smallint),
                           (CASE WHEN clip_version <> arm THEN 'starts_fell_back' END, 0::smallint),
                           (CASE WHEN is_warm THEN 'warm_start_seconds' ELSE 'cold_start_seconds' END,
                            CASE WHEN NOT has_failed THEN rollout_bucket(start_seconds) END),
                           ('first_exec_ms', CASE WHEN NOT has_failed
                                                  THEN rollout_bucket(first_exec_ms) END),
                           ('wire_bytes', rollout_bucket(wire_bytes::float8)),
                           ('range_gets', rollout_bucket(range_gets::float8)),
                           ('cache_hits', rollout_bucket(cache_hits::float8)))
                           AS taken (measure, bucket)
                       WHERE measure IS NOT NULL AND bucket IS NOT NULL),
                   added AS (
                       INSERT INTO rollout_sketch AS sketch
                           (rollout_id, day, arm, part, measure, buckets, counts)
                       SELECT rollout_id, day, arm, part, measure, array_agg(bucket), array_agg(count)
                       FROM (SELECT rollout_id, day, arm, part, measure, bucket, count(*) AS count
                             FROM sample GROUP BY 1, 2, 3, 4, 5, 6) AS counted
                       GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5
                       ON CONFLICT (rollout_id, day, arm, part, measure) DO UPDATE
                       SET (buckets, counts) = (
                           SELECT merged.buckets, merged.counts
                           FROM rollout_merge(sketch.buckets, sketch.counts,
                                              excluded.buckets, excluded.counts) AS merged)),
                   unit AS (
                       INSERT INTO rollout_unit
                           (rollout_id, stage, workspace_id, image_id, arm, has_failed)
                       SELECT DISTINCT ON (rollout_id, workspace_id, image_id)
                              rollout_id, 'start', workspace_id, image_id, arm, has_failed
                       FROM outcome WHERE is_vouched ORDER BY rollout_id, workspace_id, image_id, at
                       ON CONFLICT DO NOTHING)
                   SELECT count(*) AS "count!" FROM page"#,
                PAGE,
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(ACTION, counted)
        });
        counted.await
    }
}
