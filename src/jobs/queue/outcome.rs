//! What becomes of a job that a worker has: its events, its end, another attempt. Each is one
//! statement, fenced by the claim's number; whoever comes second changes nothing.

use std::time::Duration;

use uuid::Uuid;

use super::connection::Connection;
use super::json::to_json;
use super::lease::Lease;
use super::wake::Topic;
use super::{Queue, QueueError, patiently};
use crate::error::Fault;
use crate::jobs::job::{EventKind, JobError, JobResult, JobState};
use crate::retry::RetrySettings;

const APPEND: &str = "record an event";
const SUCCEED: &str = "record a success";
const END: &str = "record the end of a job";
const AGAIN: &str = "queue a job again";
const RELEASE: &str = "release a job";

/// When a job that failed is run again.
const RUN_AGAIN: RetrySettings =
    RetrySettings::endless(Duration::from_secs(2), Duration::from_mins(5));
/// The longest that an upstream may ask us to wait.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);
/// A job is given up when its worker has fallen silent so often: it may be what silences them.
const MAX_LOSSES: i32 = 3;

/// How a job ends without a result.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// Or was cancelled, if somebody asked for that.
    Failed(JobError),
    Cancelled,
}

/// Why a job is to be tried again.
struct Again<'a> {
    error: &'a JobError,
    delay: Duration,
    /// Its worker fell silent, and the lease is over.
    lost: bool,
}

/// A job whose lease is over.
#[derive(Debug)]
pub(in crate::jobs) struct LostJob {
    pub(in crate::jobs) id: Uuid,
    pub(in crate::jobs) fence: i64,
    pub(in crate::jobs) attempt: i32,
    pub(in crate::jobs) losses: i32,
}

impl Queue {
    /// Records an event under a number that its sender counts, from 1 in each attempt: one that is
    /// sent again because its answer was lost is recorded once. Final ones are refused: they come with
    /// the state that they tell of.
    pub async fn append(
        &self,
        lease: &Lease,
        number: i64,
        kind: &EventKind,
    ) -> Result<(), QueueError> {
        if kind.is_final() {
            let reason = "a final event is recorded with the end of its job".to_owned();
            return Err(QueueError::Refused { action: APPEND, reason });
        }
        let (id, fence) = lease.id();
        let body = to_json(APPEND, kind)?;
        let phase = match kind {
            EventKind::Phase { name } => Some(name),
            _ => None,
        };
        let held = patiently(APPEND, async || {
            let mut db = Connection::acquire(&self.pool, APPEND).await?;
            let held = sqlx::query_scalar!(
                r#"WITH held AS (
                       SELECT job_id, last_event < $3 AS is_new FROM live_job
                       WHERE job_id = $1 AND fence = $2 AND worker_id IS NOT NULL FOR UPDATE),
                   counted AS (
                       UPDATE live_job SET last_event = $3 FROM held
                       WHERE live_job.job_id = held.job_id AND held.is_new),
                   numbered AS (
                       UPDATE job SET last_seq = last_seq + 1, phase = coalesce($5, phase)
                       FROM held WHERE job.id = held.job_id AND held.is_new
                       RETURNING id, last_seq, attempt),
                   event AS (
                       INSERT INTO job_event (job_id, seq, attempt, body)
                       SELECT id, last_seq, attempt, $4 FROM numbered)
                   SELECT job_id FROM held"#,
                id,
                fence,
                number,
                body,
                phase,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(APPEND, held)
        });
        held.await?.ok_or(QueueError::LeaseLost { job: id })?;
        self.hub.tell(Topic::Job(id));
        Ok(())
    }

    /// Records success: result, image, final event and the end of the secrets at once. A job that was
    /// to be cancelled but was done before has succeeded.
    pub async fn succeed(&self, lease: &Lease, result: &JobResult) -> Result<JobState, QueueError> {
        let (id, fence) = lease.id();
        let result = to_json(SUCCEED, result)?;
        let ended = patiently(SUCCEED, async || {
            let mut db = Connection::acquire(&self.pool, SUCCEED).await?;
            let ended = sqlx::query_scalar!(
                r#"WITH held AS (
                       DELETE FROM live_job
                       WHERE job_id = $1 AND fence = $2 AND worker_id IS NOT NULL
                       RETURNING job_id),
                   ended AS (
                       UPDATE job
                       SET state = 'succeeded', reason = NULL, phase = NULL, result = $3,
                           error = NULL, finished_at = clock_timestamp(), is_kept = true,
                           last_seq = last_seq + 1
                       FROM held WHERE job.id = held.job_id
                       RETURNING id, workspace_id, image_id, attempt, last_seq),
                   former AS (
                       SELECT image.job_id FROM image JOIN ended
                           ON image.workspace_id = ended.workspace_id
                          AND image.image_id = ended.image_id
                       WHERE image.job_id <> ended.id),
                   passed AS (
                       UPDATE job SET is_kept = false FROM former WHERE job.id = former.job_id),
                   image AS (
                       INSERT INTO image (workspace_id, image_id, job_id)
                       SELECT workspace_id, image_id, id FROM ended
                       ON CONFLICT (workspace_id, image_id) DO UPDATE
                       SET job_id = excluded.job_id, created_at = now()),
                   gone AS (DELETE FROM job_secret WHERE job_id IN (SELECT job_id FROM held)),
                   event AS (
                       INSERT INTO job_event (job_id, seq, attempt, body)
                       SELECT id, last_seq, attempt, '{"event": "succeeded"}' FROM ended)
                   SELECT id FROM ended"#,
                id,
                fence,
                result,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(SUCCEED, ended)
        });
        ended.await?.ok_or(QueueError::LeaseLost { job: id })?;
        self.tell_ended(id);
        Ok(JobState::Succeeded)
    }

    /// Records that an attempt failed. A transient error leads to another attempt, later each time:
    /// while there are any left, and for a time in any case where it is others who have to mend it.
    /// Gives the state that the job is in now: `queued`, `failed` or `cancelled`.
    pub async fn fail(&self, lease: &Lease, error: &JobError) -> Result<JobState, QueueError> {
        let (id, fence) = lease.id();
        let counted = lease.job.attempt - lease.job.losses;
        let by_time = error.fault != Fault::User && error.code != JobError::WRONG_CONTENT;
        let has_time = by_time && lease.tried_for < self.retry_for;
        if error.transient && (counted < lease.job.max_attempts || has_time) {
            let again = Again { error, delay: delay(error, counted), lost: false };
            if self.again(id, fence, &again).await? {
                return Ok(JobState::Queued);
            }
        }
        self.end(id, fence, &End::Failed(error.clone())).await
    }

    /// Records that a job was cancelled.
    pub async fn cancelled(&self, lease: &Lease) -> Result<JobState, QueueError> {
        let (id, fence) = lease.id();
        self.end(id, fence, &End::Cancelled).await
    }

    /// Gives a job back unfinished, for any worker to take at once; the attempt isn't counted. Gives the
    /// state that the job is in now: `queued`, or `cancelled` if it was to be.
    pub async fn release(&self, lease: &Lease) -> Result<JobState, QueueError> {
        let (id, fence) = lease.id();
        let released = patiently(RELEASE, async || {
            let mut db = Connection::acquire(&self.pool, RELEASE).await?;
            let released = sqlx::query_scalar!(
                r#"WITH held AS (
                       UPDATE live_job
                       SET worker_id = NULL, lease_expires_at = NULL, due_at = now(), last_event = 0
                       WHERE job_id = $1 AND fence = $2 AND worker_id IS NOT NULL
                         AND NOT cancel_requested
                       RETURNING job_id)
                   UPDATE job SET state = 'queued', reason = 'released', phase = NULL,
                                  attempt = attempt - 1
                   FROM held WHERE job.id = held.job_id RETURNING job.id"#,
                id,
                fence,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(RELEASE, released)
        });
        if released.await?.is_some() {
            self.hub.tell(Topic::Work);
            return Ok(JobState::Queued);
        }
        // Was it to be cancelled?
        self.end(id, fence, &End::Cancelled).await
    }

    /// Takes a job from a worker that fell silent: it is queued again to run alone, or ends if it was
    /// to be cancelled or has cost too many workers. `false`: the lease was extended after all.
    pub(in crate::jobs) async fn take_back(&self, lost: &LostJob) -> Result<bool, QueueError> {
        let losses = lost.losses + 1;
        let error = JobError {
            code: "worker_lost".to_owned(),
            message: format!("the worker of attempt {} fell silent", lost.attempt),
            fault: Fault::Ours,
            transient: losses < MAX_LOSSES,
            retry_after: None,
        };
        // The lease was wait enough for the first time.
        let wait = if losses == 1 { Duration::ZERO } else { delay(&error, losses) };
        let again = Again { error: &error, delay: wait, lost: true };
        if error.transient && self.again(lost.id, lost.fence, &again).await? {
            return Ok(true);
        }
        match self.end_lost(lost.id, lost.fence, &End::Failed(error)).await {
            Err(QueueError::LeaseLost { .. }) => Ok(false),
            ended => ended.map(|_| true),
        }
    }

    /// `false`: the lease isn't held, or the job is to be cancelled.
    async fn again(&self, id: Uuid, fence: i64, again: &Again<'_>) -> Result<bool, QueueError> {
        let error = to_json(AGAIN, again.error)?;
        let queued = patiently(AGAIN, async || {
            let mut db = Connection::acquire(&self.pool, AGAIN).await?;
            let queued = sqlx::query_scalar!(
                r#"WITH held AS (
                       UPDATE live_job
                       SET worker_id = NULL, lease_expires_at = NULL, last_event = 0,
                           suspect = $6, due_at = now() + make_interval(secs => $4),
                           -- Else each that tried would try again beside the one whose turn it is.
                           parked_at = (SELECT now() FROM resting_host
                                        WHERE host = live_job.host AND rests_until IS NOT NULL)
                       WHERE job_id = $1 AND fence = $2 AND worker_id IS NOT NULL
                         AND NOT cancel_requested AND (NOT $6 OR lease_expires_at <= now())
                       RETURNING job_id, due_at),
                   queued AS (
                       UPDATE job
                       SET state = 'queued', reason = $5, phase = NULL, error = $3,
                           last_seq = last_seq + 1, losses = losses + $6::boolean::integer
                       FROM held WHERE job.id = held.job_id
                       RETURNING id, last_seq, attempt, due_at),
                   event AS (
                       INSERT INTO job_event (job_id, seq, attempt, body)
                       SELECT id, last_seq, attempt,
                              jsonb_build_object('event', 'retrying', 'data',
                                  jsonb_build_object('error', $3::jsonb, 'not_before', due_at))
                       FROM queued)
                   SELECT id FROM queued"#,
                id,
                fence,
                error,
                again.delay.as_secs_f64(),
                again.error.code,
                again.lost,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(AGAIN, queued)
        });
        let queued = queued.await?.is_some();
        if queued {
            self.tell_ended(id);
        }
        Ok(queued)
    }

    pub(super) async fn end(
        &self,
        id: Uuid,
        fence: i64,
        end: &End,
    ) -> Result<JobState, QueueError> {
        self.end_if(id, fence, end, false).await
    }

    async fn end_lost(&self, id: Uuid, fence: i64, end: &End) -> Result<JobState, QueueError> {
        self.end_if(id, fence, end, true).await
    }

    /// With `lost`, only if the lease is over.
    async fn end_if(
        &self,
        id: Uuid,
        fence: i64,
        end: &End,
        lost: bool,
    ) -> Result<JobState, QueueError> {
        let (state, error, event) = match end {
            End::Failed(error) => {
                let event = EventKind::Failed { error: error.clone() };
                (JobState::Failed, Some(to_json(END, error)?), event)
            }
            End::Cancelled => (JobState::Cancelled, None, EventKind::Cancelled),
        };
        let body = to_json(END, &event)?;
        let ended = patiently(END, async || {
            let mut db = Connection::acquire(&self.pool, END).await?;
            // A cancelled job keeps the error of its last attempt.
            let ended = sqlx::query_scalar!(
                r#"WITH held AS (
                       DELETE FROM live_job
                       WHERE job_id = $1 AND fence = $2 AND worker_id IS NOT NULL
                         AND (NOT $6 OR lease_expires_at <= now())
                       RETURNING job_id, cancel_requested),
                   ended AS (
                       UPDATE job
                       SET state = CASE WHEN cancel_requested THEN 'cancelled' ELSE $3 END,
                           reason = CASE WHEN cancel_requested THEN 'cancelled'
                                         ELSE $4::jsonb ->> 'code' END,
                           phase = NULL, error = coalesce($4, error),
                           finished_at = clock_timestamp(), last_seq = last_seq + 1
                       FROM held WHERE job.id = held.job_id
                       RETURNING id, attempt, last_seq, state, cancel_requested),
                   gone AS (DELETE FROM job_secret WHERE job_id IN (SELECT job_id FROM held)),
                   event AS (
                       INSERT INTO job_event (job_id, seq, attempt, body)
                       SELECT id, last_seq, attempt,
                              CASE WHEN cancel_requested THEN '{"event": "cancelled"}'::jsonb
                                   ELSE $5 END
                       FROM ended)
                   SELECT state FROM ended"#,
                id,
                fence,
                state.as_str(),
                error,
                body,
                lost,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(END, ended)
        });
        let state = ended.await?.ok_or(QueueError::LeaseLost { job: id })?;
        self.tell_ended(id);
        Ok(state.into())
    }
}

/// How long to wait after so many failures; no shorter than the other side asked for.
fn delay(error: &JobError, failures: i32) -> Duration {
    let own = RUN_AGAIN.delay(u32::try_from(failures).unwrap_or_default());
    let asked = error.retry_after.map_or(Duration::ZERO, Duration::from_secs);
    own.max(asked.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(retry_after: Option<u64>) -> JobError {
        JobError {
            code: "x".to_owned(),
            message: "x".to_owned(),
            fault: Fault::Upstream,
            transient: true,
            retry_after,
        }
    }

    #[test]
    fn waiting_grows_to_its_limit_and_is_no_shorter_than_asked_for() {
        let within = |failures, seconds: u64| {
            let full = Duration::from_secs(seconds);
            let delay = delay(&error(None), failures);
            assert!((full / 2..=full).contains(&delay), "failure {failures}");
        };
        within(1, 2);
        within(2, 4);
        within(8, 256);
        within(9, 300);
        within(i32::MAX, 300);
        within(i32::MIN + 1, 2);
        assert_eq!(delay(&error(Some(90)), 1), Duration::from_secs(90));
        assert_eq!(delay(&error(Some(u64::MAX)), 1), MAX_RETRY_AFTER);
    }
}
