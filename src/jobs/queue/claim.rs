//! Claims: a worker takes a job for a while. No lock outlasts a statement; every later write is fenced
//! by the number of the claim.
//!
//! Workspaces share the workers: the one that has the fewest jobs running is served first, and of several
//! the one whose last claim is the longest ago. Priorities order the jobs of a workspace, not workspaces.
//!
//! The statement walks one index to its first entry, for each workspace that has jobs waiting until there
//! is one, and for each kind, priority and key. What may run next of an image in a workspace is chosen when
//! jobs come and go (`choose_head` in the migrations), and jobs that wait for their registry are not in the
//! index, so that no plan can go wrong with the statistics. Passed over are jobs whose image is worked on
//! for another workspace: no more than there are jobs that run.

use std::time::Duration;

use uuid::Uuid;

use super::connection::Connection;
use super::lease::{Lease, Secrets};
use super::outcome::End;
use super::row::JobRow;
use super::vault::Sealed;
use super::wake::Topic;
use super::{Queue, QueueError, once};
use crate::jobs::job::{JobError, JobKind, JobSpec};

const ACTION: &str = "claim a job";
/// A claim without an answer stops the only loop of a process that claims.
const LIMIT: Duration = Duration::from_secs(5);

/// What a worker is ready to take.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Who asks; unique among all processes that run.
    pub worker_id: &'a str,
    /// How long the lease lasts from each heartbeat.
    pub lasts: Duration,
    /// The kinds that there is room for.
    pub kinds: &'a [JobKind],
    /// Jobs whose worker fell silent, and no others.
    pub suspects: bool,
}

impl Queue {
    /// Takes a job of the workspace whose turn it is: the one that is due first among those of the
    /// highest priority, if its secrets can be opened here, its image is worked on by nobody and its
    /// registry is not known to be away. Records that an attempt started.
    pub async fn claim(&self, wanted: &Wanted<'_>) -> Result<Option<Lease>, QueueError> {
        loop {
            // Once: a claim whose answer was lost holds its job, and a second one would take another
            // as well. Workers give the first back (`release_all_but`).
            let Some(claim) = once(ACTION, LIMIT, self.try_claim(wanted)).await? else {
                return Ok(None);
            };
            self.hub.tell(Topic::Job(claim.row.id));
            let (id, fence) = (claim.row.id, claim.fence);
            match self.open(claim, wanted) {
                Ok(lease) => return Ok(Some(lease)),
                // Left in the queue, it would be claimed for ever.
                Err(error) => {
                    self.end(id, fence, &End::Failed(JobError::of(&error))).await?;
                }
            }
        }
    }

    async fn try_claim(&self, wanted: &Wanted<'_>) -> Result<Option<ClaimedJob>, QueueError> {
        let kinds: Vec<_> = wanted.kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
        let mut db = Connection::acquire(&self.pool, ACTION).await?;
        let claimed = sqlx::query!(
            r#"WITH RECURSIVE waiting (workspace_id) AS (
                   (SELECT workspace_id FROM live_job
                    WHERE head AND worker_id IS NULL AND parked_at IS NULL
                    ORDER BY workspace_id LIMIT 1)
                   UNION ALL
                   SELECT (SELECT following.workspace_id FROM live_job AS following
                           WHERE head AND worker_id IS NULL AND parked_at IS NULL
                             AND following.workspace_id > waiting.workspace_id
                           ORDER BY following.workspace_id LIMIT 1)
                   FROM waiting WHERE waiting.workspace_id IS NOT NULL),
               running AS MATERIALIZED (
                   SELECT workspace_id, count(*) AS jobs FROM live_job
                   WHERE worker_id IS NOT NULL GROUP BY workspace_id),
               line AS MATERIALIZED (
                   SELECT waiting.workspace_id
                   FROM waiting
                   JOIN workspace ON workspace.id = waiting.workspace_id
                   LEFT JOIN running ON running.workspace_id = waiting.workspace_id
                   LEFT JOIN workspace_turn
                       ON workspace_turn.workspace_id = waiting.workspace_id
                   WHERE (workspace.max_running IS NULL
                          OR coalesce(running.jobs, 0) < workspace.max_running)
                     AND (SELECT coalesce(sum(jobs), 0)::bigint FROM running) < $7
                   ORDER BY coalesce(running.jobs, 0), last_fence NULLS FIRST),
               next AS (
                   SELECT first.job_id FROM line CROSS JOIN LATERAL (
                       SELECT best.job_id
                       FROM (VALUES (1::smallint), (0::smallint), (-1::smallint))
                           AS level (priority)
                       CROSS JOIN LATERAL (
                           SELECT due.job_id FROM unnest($1::text[]) AS wanted (kind)
                           CROSS JOIN unnest($4::text[]) AS here (key)
                           CROSS JOIN LATERAL (
                               SELECT job_id, due_at FROM live_job
                               WHERE head AND worker_id IS NULL AND parked_at IS NULL
                                 AND workspace_id = line.workspace_id AND kind = wanted.kind
                                 AND suspect = $2 AND priority = level.priority
                                 AND key_id = here.key AND due_at <= now()
                                 AND spec_version <= $3
                                 AND NOT EXISTS (SELECT FROM live_job AS other
                                                 WHERE other.image_id = live_job.image_id
                                                   AND other.worker_id IS NOT NULL)
                               ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED) AS due
                           ORDER BY due.due_at LIMIT 1) AS best
                       LIMIT 1) AS first
                   LIMIT 1),
               taken AS (
                   UPDATE live_job
                   SET worker_id = $5, fence = nextval('job_fence'), expires_at = NULL,
                       lease_expires_at = now() + make_interval(secs => $6)
                   FROM next WHERE live_job.job_id = next.job_id
                   RETURNING live_job.job_id, live_job.workspace_id, fence),
               -- Whoever writes it at the same moment writes much the same.
               served AS (
                   UPDATE workspace_turn SET last_fence = turn.fence
                   FROM (SELECT mine.workspace_id, taken.fence
                         FROM workspace_turn AS mine JOIN taken USING (workspace_id)
                         FOR UPDATE OF mine SKIP LOCKED) AS turn
                   WHERE workspace_turn.workspace_id = turn.workspace_id),
               started AS (
                   UPDATE job
                   SET state = 'running', reason = NULL, attempt = attempt + 1,
                       last_seq = last_seq + 1, started_at = now()
                   FROM taken WHERE job.id = taken.job_id
                   RETURNING job.*, taken.fence),
               event AS (
                   INSERT INTO job_event (job_id, seq, attempt, body)
                   SELECT id, last_seq, attempt,
                          jsonb_build_object('event', 'started',
                                             'data', jsonb_build_object('worker', $5::text))
                   FROM started)
               SELECT id AS "id!", workspace_id AS "workspace_id!", spec AS "spec!",
                      priority AS "priority!", state AS "state!", reason, phase,
                      attempt AS "attempt!", max_attempts AS "max_attempts!", losses AS "losses!",
                      resolved_digest, request_id, trace_context, created_at AS "created_at!",
                      started_at,
                      finished_at, result, error, fence AS "fence!",
                      -- The second event of a job says that its first attempt started.
                      (SELECT extract(epoch FROM now() - at) FROM job_event
                       WHERE job_id = started.id AND seq = 2)::float8 AS tried_for,
                      ARRAY(SELECT name FROM job_secret WHERE job_id = started.id ORDER BY name)
                          AS "names!",
                      ARRAY(SELECT key_id FROM job_secret WHERE job_id = started.id ORDER BY name)
                          AS "key_ids!",
                      ARRAY(SELECT nonce FROM job_secret WHERE job_id = started.id ORDER BY name)
                          AS "nonces!",
                      ARRAY(SELECT ciphertext FROM job_secret WHERE job_id = started.id
                            ORDER BY name) AS "ciphertexts!"
               FROM started"#,
            &kinds,
            wanted.suspects,
            JobSpec::VERSION,
            &self.keys(),
            wanted.worker_id,
            wanted.lasts.as_secs_f64(),
            self.max_running,
        )
        .fetch_optional(&mut *db)
        .await;
        if claimed.as_ref().is_err_and(is_beaten) {
            db.answered(ACTION, Ok(()))?;
            self.hub.tell(Topic::Work);
            return Ok(None);
        }
        let Some(row) = db.answered(ACTION, claimed)? else { return Ok(None) };
        let sealed = row.key_ids.into_iter().zip(row.nonces).zip(row.ciphertexts);
        let sealed =
            sealed.map(|((key_id, nonce), ciphertext)| Sealed { key_id, nonce, ciphertext });
        Ok(Some(ClaimedJob {
            secrets: row.names.into_iter().zip(sealed).collect(),
            fence: row.fence,
            trace_context: row.trace_context,
            tried_for: Duration::try_from_secs_f64(row.tried_for.unwrap_or(0.0))
                .unwrap_or_default(),
            row: JobRow {
                id: row.id,
                workspace_id: row.workspace_id,
                spec: row.spec,
                priority: row.priority,
                state: row.state,
                reason: row.reason,
                phase: row.phase,
                attempt: row.attempt,
                max_attempts: row.max_attempts,
                losses: row.losses,
                resolved_digest: row.resolved_digest,
                request_id: row.request_id,
                created_at: row.created_at,
                started_at: row.started_at,
                finished_at: row.finished_at,
                result: row.result,
                error: row.error,
            },
        }))
    }

    /// What jobs may be sealed with that are claimed here.
    pub(super) fn keys(&self) -> Vec<String> {
        [String::new()].into_iter().chain(self.vault.key_ids()).collect()
    }

    /// Makes a lease of what was claimed.
    fn open(&self, claim: ClaimedJob, wanted: &Wanted<'_>) -> Result<Lease, QueueError> {
        let ClaimedJob { row, fence, tried_for, trace_context, secrets } = claim;
        let job = row.into_job()?;
        let spec = job.spec.read().map_err(|error| QueueError::Corrupt {
            what: "the spec",
            of: format!("job {}", job.id),
            reason: error.to_string(),
        })?;
        let open = |(name, sealed): (String, Sealed)| -> Result<_, QueueError> {
            let secret = self.vault.open(job.id, &name, &sealed)?;
            Ok((name, secret))
        };
        let secrets = secrets.into_iter().map(open).collect::<Result<Secrets, _>>()?;
        let (worker_id, lasts) = (wanted.worker_id.to_owned(), wanted.lasts);
        Ok(Lease { job, spec, secrets, worker_id, fence, lasts, tried_for, trace_context })
    }
}

/// Whether somebody has claimed another workspace's job of the same image at the same moment.
fn is_beaten(error: &sqlx::Error) -> bool {
    let database = error.as_database_error();
    database.is_some_and(|error| error.constraint() == Some("live_job_one_runs"))
}

const SUSPECTS: &str = "look for jobs whose worker fell silent";
const RELEASE: &str = "release what a lost claim took";

impl Queue {
    /// Whether a job that could be claimed is due whose worker fell silent, and no such job runs: one at a
    /// time is enough to keep processes from other work.
    pub async fn suspect_waits(&self, kinds: &[JobKind]) -> Result<bool, QueueError> {
        let keys = self.keys();
        let kinds: Vec<_> = kinds.iter().map(|kind| kind.as_str().to_owned()).collect();
        once(SUSPECTS, LIMIT, async {
            let mut db = Connection::acquire(&self.pool, SUSPECTS).await?;
            let waits = sqlx::query_scalar!(
                r#"SELECT EXISTS (
                       SELECT FROM live_job
                       WHERE suspect AND head AND worker_id IS NULL AND kind = ANY($1)
                         AND key_id = ANY($2) AND parked_at IS NULL AND due_at <= now()
                         AND spec_version <= $3)
                     AND NOT EXISTS (SELECT FROM live_job WHERE suspect AND worker_id IS NOT NULL)
                     AS "waits!""#,
                &kinds,
                &keys,
                JobSpec::VERSION,
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(SUSPECTS, waits)
        })
        .await
    }

    /// Gives back what this worker holds in the database and doesn't know of: the answer to its claim
    /// was lost. No claim may be under way meanwhile.
    pub async fn release_all_but(
        &self,
        worker_id: &str,
        known: &[(Uuid, i64)],
    ) -> Result<(), QueueError> {
        let fences: Vec<_> = known.iter().map(|(_, fence)| *fence).collect();
        once(RELEASE, LIMIT, async {
            let mut db = Connection::acquire(&self.pool, RELEASE).await?;
            let released = sqlx::query!(
                "WITH held AS (
                     UPDATE live_job
                     SET worker_id = NULL, lease_expires_at = NULL, due_at = now(), last_event = 0
                     WHERE worker_id = $1 AND fence <> ALL($2)
                     RETURNING job_id)
                 UPDATE job SET state = 'queued', reason = 'released', attempt = attempt - 1
                 FROM held WHERE job.id = held.job_id",
                worker_id,
                &fences,
            )
            .execute(&mut *db)
            .await;
            db.answered(RELEASE, released).map(drop)
        })
        .await
    }
}

/// A job as the statement gives it.
struct ClaimedJob {
    row: JobRow,
    fence: i64,
    tried_for: Duration,
    trace_context: Option<String>,
    secrets: Vec<(String, Sealed)>,
}
