//! What a job writes while it works, such as a build's output: bytes, kept in chunks and read by their
//! offset. They are apart from the events, which tell of the job itself and are few.

use sqlx::types::chrono::{DateTime, Utc};
use uuid::Uuid;

use super::connection::Connection;
use super::lease::Lease;
use super::wake::Topic;
use super::{Queue, QueueError, insist, patiently};

/// Bytes in a chunk at most.
pub const MAX_CHUNK: usize = 64 << 10;

const APPEND: &str = "append to a log";
const READ: &str = "read a log";

/// A part of a job's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogChunk {
    /// Where its first byte is in the log, over all attempts.
    pub offset: i64,
    /// The attempt that wrote it.
    pub attempt: i32,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// 1 to [`MAX_CHUNK`] bytes.
    pub bytes: Vec<u8>,
}

impl Queue {
    /// Appends 1 to [`MAX_CHUNK`] bytes at the log's end, which is at `offset`; returns where it is
    /// afterwards. It is tried until the database answers, however long that takes. The same bytes sent again,
    /// because the answer was lost, are there once.
    pub async fn append_log(
        &self,
        lease: &Lease,
        offset: i64,
        bytes: &[u8],
    ) -> Result<i64, QueueError> {
        let (id, fence) = lease.id();
        let appended = insist(async || {
            let mut db = Connection::acquire(&self.pool, APPEND).await?;
            let held = sqlx::query_scalar!(
                r#"WITH held AS (
                       SELECT job_id FROM live_job
                       WHERE job_id = $1 AND fence = $2 AND worker_id IS NOT NULL FOR UPDATE),
                   added AS (
                       INSERT INTO job_log (job_id, start_offset, attempt, bytes)
                       SELECT job_id, $3, $4, $5 FROM held
                       ON CONFLICT (job_id, start_offset) DO NOTHING)
                   SELECT job_id FROM held"#,
                id,
                fence,
                offset,
                lease.job.attempt,
                bytes,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(APPEND, held)
        });
        appended.await?.ok_or(QueueError::LeaseLost { job: id })?;
        self.hub.tell(Topic::Job(id));
        Ok(offset + i64::try_from(bytes.len()).unwrap_or(i64::MAX))
    }

    /// The chunks of a job's log that hold bytes from `offset` on, in order, at most `limit`.
    pub async fn log(
        &self,
        id: Uuid,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<LogChunk>, QueueError> {
        patiently(READ, async || {
            let mut db = Connection::acquire(&self.pool, READ).await?;
            let chunks = sqlx::query_as!(
                LogChunk,
                r#"SELECT start_offset AS "offset", attempt, at, bytes FROM job_log
                   WHERE job_id = $1 AND start_offset >= coalesce(
                       (SELECT max(start_offset) FROM job_log
                        WHERE job_id = $1 AND start_offset <= $2), 0)
                   ORDER BY start_offset LIMIT $3"#,
                id,
                offset,
                limit,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(READ, chunks)
        })
        .await
    }
}
