//! Registries that do not answer. Each job that is tried against one costs a worker the time until it is
//! given up, so that after a few of them all jobs of the registry are parked. From time to time one is let
//! go to try; when the registry answers, all are.

use std::time::Duration;

use uuid::Uuid;

use super::connection::Connection;
use super::json::to_json;
use super::wake::Topic;
use super::{Queue, QueueError, patiently};
use crate::error::Fault;
use crate::jobs::job::{EventKind, JobError, JobKind, JobSpec};

const ANSWERED: &str = "note that a registry answers";
const AWAY: &str = "note that a registry does not answer";
const PARK: &str = "park the jobs of a registry that does not answer";
const TRY: &str = "let a job try whether its registry is back";
const RELEASE: &str = "let go the jobs of a registry that is back";
const GIVE_UP: &str = "end jobs whose registry stayed away";

/// A registry is away when so many jobs in a row have found it so: one job may have a fault of its own.
const FAILURES: i32 = 3;
/// Failures that are further apart have nothing to do with each other.
const MEMORY: Duration = Duration::from_mins(10);
/// How long a registry rests at first, and at most.
const REST: (Duration, Duration) = (Duration::from_secs(5), Duration::from_mins(1));
/// Jobs in one statement.
const BATCH: i64 = 500;

impl Queue {
    /// The registry has answered: its jobs wait no longer.
    pub async fn host_answered(&self, host: &str) -> Result<(), QueueError> {
        let known = patiently(ANSWERED, async || {
            let mut db = Connection::acquire(&self.pool, ANSWERED).await?;
            let known = sqlx::query!("DELETE FROM resting_host WHERE host = $1", host);
            let known = known.execute(&mut *db).await;
            db.answered(ANSWERED, known)
        });
        if known.await?.rows_affected() > 0 {
            self.let_go().await?;
        }
        Ok(())
    }

    /// A job found the registry away. Whether it rests now, and its jobs are parked.
    pub async fn host_away(&self, host: &str, job: Uuid) -> Result<bool, QueueError> {
        let (first, longest) = REST;
        let rests = patiently(AWAY, async || {
            let mut db = Connection::acquire(&self.pool, AWAY).await?;
            let rests = sqlx::query_scalar!(
                r#"INSERT INTO resting_host AS known (host, failures, last_job) VALUES ($1, 1, $2)
                   ON CONFLICT (host) DO UPDATE
                   SET failures = CASE
                           WHEN known.rests_until IS NULL
                                AND known.failed_at < now() - make_interval(secs => $4) THEN 1
                           WHEN known.rests_until IS NULL AND known.last_job = $2
                               THEN known.failures
                           ELSE known.failures + 1 END,
                       last_job = $2, failed_at = now(),
                       rests_until = CASE
                           WHEN known.rests_until IS NOT NULL
                                OR known.last_job <> $2 AND known.failures + 1 >= $3
                                   AND known.failed_at >= now() - make_interval(secs => $4)
                           THEN now() + make_interval(secs => least(
                               $6, $5 * 2 ^ least(greatest(known.failures + 1 - $3, 0), 10))) END
                   RETURNING rests_until IS NOT NULL AS "rests!""#,
                host,
                job,
                FAILURES,
                MEMORY.as_secs_f64(),
                first.as_secs_f64(),
                longest.as_secs_f64(),
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(AWAY, rests)
        });
        let rests = rests.await?;
        if rests {
            let parked = self.park(host).await?;
            tracing::warn!(host, parked, "the registry does not answer: its jobs are parked");
        }
        Ok(rests)
    }

    async fn park(&self, host: &str) -> Result<u64, QueueError> {
        let mut parked = 0;
        loop {
            let more = patiently(PARK, async || {
                let mut db = Connection::acquire(&self.pool, PARK).await?;
                let more = sqlx::query!(
                    "UPDATE live_job SET parked_at = now() WHERE job_id = ANY(ARRAY(
                         SELECT job_id FROM live_job
                         WHERE host = $1 AND worker_id IS NULL AND parked_at IS NULL
                         LIMIT $2 FOR UPDATE SKIP LOCKED))",
                    host,
                    BATCH,
                )
                .execute(&mut *db)
                .await;
                db.answered(PARK, more)
            });
            let more = more.await?.rows_affected();
            parked += more;
            if more < BATCH.cast_unsigned() {
                return Ok(parked);
            }
        }
    }

    /// Lets one job of each registry that has rested go and try; the next one only when there was time to
    /// find out. How many were let go.
    pub(in crate::jobs) async fn try_hosts(&self) -> Result<u64, QueueError> {
        let (_, longest) = REST;
        let (keys, kinds) = (self.keys(), JobKind::ALL.map(|kind| kind.as_str().to_owned()));
        let tried = patiently(TRY, async || {
            let mut db = Connection::acquire(&self.pool, TRY).await?;
            let tried = sqlx::query!(
                "WITH rested AS (
                     UPDATE resting_host SET rests_until = now() + make_interval(secs => $1)
                     WHERE host IN (SELECT host FROM resting_host WHERE rests_until <= now()
                                    LIMIT $2 FOR UPDATE SKIP LOCKED)
                     RETURNING host)
                 UPDATE live_job SET parked_at = NULL, due_at = least(due_at, now())
                 FROM rested CROSS JOIN LATERAL (
                     -- The one that waits longest of those that a worker would take: who has tried comes
                     -- after the others.
                     SELECT job_id FROM live_job AS waiting
                     JOIN workspace ON workspace.id = waiting.workspace_id
                     WHERE waiting.host = rested.host AND worker_id IS NULL AND head
                       AND parked_at IS NOT NULL AND NOT suspect AND key_id = ANY($3)
                       AND kind = ANY($4) AND spec_version <= $5
                       AND (workspace.max_running IS NULL OR workspace.max_running > (
                           SELECT count(*) FROM live_job AS running
                           WHERE running.workspace_id = waiting.workspace_id
                             AND running.worker_id IS NOT NULL))
                     ORDER BY parked_at LIMIT 1 FOR UPDATE OF waiting SKIP LOCKED) AS first
                 WHERE live_job.job_id = first.job_id",
                longest.as_secs_f64(),
                BATCH,
                &keys,
                &kinds,
                JobSpec::VERSION,
            )
            .execute(&mut *db)
            .await;
            db.answered(TRY, tried)
        });
        let tried = tried.await?.rows_affected();
        if tried > 0 {
            self.hub.tell(Topic::Work);
        }
        Ok(tried)
    }

    /// Lets all jobs go whose registry is back, and forgets registries that nobody has found away for a
    /// while and whose jobs are gone. How many jobs were let go.
    pub(in crate::jobs) async fn let_go(&self) -> Result<u64, QueueError> {
        let mut released = 0;
        loop {
            let more = patiently(RELEASE, async || {
                let mut db = Connection::acquire(&self.pool, RELEASE).await?;
                let more = sqlx::query!(
                    "WITH RECURSIVE away (host) AS (
                         (SELECT host FROM live_job
                          WHERE worker_id IS NULL AND host IS NOT NULL AND parked_at IS NOT NULL
                          ORDER BY host LIMIT 1)
                         UNION ALL
                         SELECT (SELECT following.host FROM live_job AS following
                                 WHERE worker_id IS NULL AND following.host > away.host
                                   AND parked_at IS NOT NULL
                                 ORDER BY following.host LIMIT 1)
                         FROM away WHERE away.host IS NOT NULL),
                     back AS MATERIALIZED (
                         SELECT host FROM away
                         WHERE host IS NOT NULL AND NOT EXISTS (
                             SELECT FROM resting_host
                             WHERE resting_host.host = away.host AND rests_until IS NOT NULL)),
                     stale AS (
                         DELETE FROM resting_host
                         WHERE failed_at < now() - make_interval(secs => $1)
                           AND NOT EXISTS (SELECT FROM live_job
                                           WHERE live_job.host = resting_host.host
                                             AND worker_id IS NULL))
                     UPDATE live_job SET parked_at = NULL WHERE job_id = ANY(ARRAY(
                         SELECT parked.job_id FROM back CROSS JOIN LATERAL (
                             SELECT job_id FROM live_job
                             WHERE live_job.host = back.host AND worker_id IS NULL
                               AND parked_at IS NOT NULL
                             LIMIT $2 FOR UPDATE SKIP LOCKED) AS parked
                         LIMIT $2))",
                    MEMORY.as_secs_f64(),
                    BATCH,
                )
                .execute(&mut *db)
                .await;
                db.answered(RELEASE, more)
            });
            let more = more.await?.rows_affected();
            released += more;
            if more > 0 {
                self.hub.tell(Topic::Work);
            }
            if more < BATCH.cast_unsigned() {
                return Ok(released);
            }
        }
    }

    /// Ends jobs that have been parked for as long as jobs are tried again. How many there were.
    pub(in crate::jobs) async fn give_up_parked(&self) -> Result<u64, QueueError> {
        let error = JobError {
            code: "registry_unavailable".to_owned(),
            message: format!(
                "the registry has not answered anybody for {} minutes",
                self.retry_for.as_secs() / 60
            ),
            fault: Fault::Upstream,
            transient: true,
            retry_after: None,
        };
        let event = to_json(GIVE_UP, &EventKind::Failed { error: error.clone() })?;
        let failure = to_json(GIVE_UP, &error)?;
        let ended = patiently(GIVE_UP, async || {
            let mut db = Connection::acquire(&self.pool, GIVE_UP).await?;
            let ended = sqlx::query_scalar!(
                r#"WITH over AS MATERIALIZED (
                       SELECT parked.job_id FROM resting_host CROSS JOIN LATERAL (
                           SELECT job_id FROM live_job
                           WHERE live_job.host = resting_host.host AND worker_id IS NULL
                             AND parked_at <= now() - make_interval(secs => $1)
                           ORDER BY parked_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS parked
                       -- Of one that nobody has tried lately nothing is known.
                       WHERE failed_at > now() - make_interval(secs => $5)
                       LIMIT $2)
                   SELECT ended AS "id!" FROM end_waiting(
                       ARRAY(SELECT job_id FROM over), 'failed', $6, $3, $4) AS ended"#,
                self.retry_for.as_secs_f64(),
                BATCH,
                failure,
                event,
                MEMORY.as_secs_f64(),
                error.code,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(GIVE_UP, ended)
        });
        let ended = ended.await?;
        for id in &ended {
            self.tell_ended(*id);
        }
        Ok(ended.len() as u64)
    }
}
