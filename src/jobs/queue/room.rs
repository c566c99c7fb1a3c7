//! How many jobs may wait, of all workspaces together. They are counted once a second at most, so that
//! between two counts each process may let a second's worth of jobs too many in.

use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::connection::Connection;
use super::{Queue, QueueError, patiently};

const ACTION: &str = "count the jobs that wait";
/// For how long a count is good.
const LASTS: Duration = Duration::from_secs(1);

/// The limit, and whether there was room when it was asked last.
#[derive(Debug)]
pub(super) struct Room {
    max_queued: u32,
    last: Mutex<Option<(Instant, bool)>>,
}

impl Room {
    pub(super) fn new(max_queued: u32) -> Self {
        Self { max_queued, last: Mutex::default() }
    }

    /// Fails if there is none.
    pub(super) async fn check(&self, queue: &Queue) -> Result<(), QueueError> {
        let mut last = self.last.lock().await;
        let known = last.filter(|(at, _)| at.elapsed() < LASTS);
        let is_left = if let Some((_, is_left)) = known {
            is_left
        } else {
            let is_left = self.count(queue).await? < i64::from(self.max_queued);
            *last = Some((Instant::now(), is_left));
            is_left
        };
        if is_left { Ok(()) } else { Err(QueueError::ServiceFull) }
    }

    async fn count(&self, queue: &Queue) -> Result<i64, QueueError> {
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&queue.pool, ACTION).await?;
            let waiting = sqlx::query_scalar!(
                r#"SELECT count(*) AS "waiting!" FROM (
                       SELECT FROM live_job WHERE worker_id IS NULL LIMIT $1) AS waiting"#,
                i64::from(self.max_queued),
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(ACTION, waiting)
        })
        .await
    }
}
