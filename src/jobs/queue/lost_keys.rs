//! Jobs whose secrets nobody can open: the key that they were sealed with is gone. Nobody claims them, and
//! whoever waits for them would wait for ever.

use std::time::Duration;

use super::connection::Connection;
use super::json::to_json;
use super::{Queue, QueueError, patiently};
use crate::error::Fault;
use crate::jobs::job::{EventKind, JobError};

const ACTION: &str = "end jobs whose secrets nobody can open";
/// A replica that has the key would have taken them by then; keys are not away for longer by mistake.
const PATIENCE: Duration = Duration::from_hours(7 * 24);
/// Jobs in one statement.
const BATCH: i64 = 100;

impl Queue {
    /// Ends jobs that are sealed with a key that is not here, and that nobody has taken for a week. How many
    /// there were.
    pub(in crate::jobs) async fn end_unreadable(&self) -> Result<u64, QueueError> {
        let days = PATIENCE.as_secs() / 86_400;
        let error = JobError {
            code: "credentials_undecipherable".to_owned(),
            message: format!(
                "no worker has had the key of the job's credentials for {days} days: submit it again"
            ),
            fault: Fault::Ours,
            transient: false,
            retry_after: None,
        };
        let event = to_json(ACTION, &EventKind::Failed { error: error.clone() })?;
        let failure = to_json(ACTION, &error)?;
        let ended = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let ended = sqlx::query_scalar!(
                r#"WITH RECURSIVE sealed (key_id) AS (
                       (SELECT key_id FROM live_job WHERE key_id <> '' AND worker_id IS NULL
                        ORDER BY key_id LIMIT 1)
                       UNION ALL
                       SELECT (SELECT following.key_id FROM live_job AS following
                               WHERE following.key_id <> '' AND worker_id IS NULL
                                 AND following.key_id > sealed.key_id
                               ORDER BY following.key_id LIMIT 1)
                       FROM sealed WHERE sealed.key_id IS NOT NULL),
                   lost AS MATERIALIZED (
                       SELECT waiting.job_id FROM sealed CROSS JOIN LATERAL (
                           SELECT job_id FROM live_job
                           WHERE live_job.key_id = sealed.key_id AND live_job.key_id <> ''
                             AND worker_id IS NULL AND due_at < now() - make_interval(secs => $2)
                           LIMIT $3 FOR UPDATE SKIP LOCKED) AS waiting
                       WHERE sealed.key_id <> ALL($1)
                       LIMIT $3)
                   SELECT ended AS "id!" FROM end_waiting(
                       ARRAY(SELECT job_id FROM lost), 'failed', $6, $4, $5) AS ended"#,
                &self.keys(),
                PATIENCE.as_secs_f64(),
                BATCH,
                failure,
                event,
                error.code,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(ACTION, ended)
        });
        let ended = ended.await?;
        for id in &ended {
            self.tell_ended(*id);
        }
        Ok(ended.len() as u64)
    }
}
