//! What a handler is given: the job, what it brought, and how to speak of it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::sink::EventSink;
use crate::digest::Digest;
use crate::jobs::job::{Job, JobSpec};
use crate::jobs::queue::{Lease, LogChunk, Queue, QueueError, Secrets};

/// One attempt at one job, as its handler sees it.
#[derive(Debug)]
pub struct Attempt {
    /// Where to send what happens; progress too, by which the attempt shows that it gets on.
    pub events: EventSink,
    /// Fires when the handler should stop.
    pub cancel: CancellationToken,
    /// What to ask before what can't be taken back.
    pub fence: Fence,
}

impl Attempt {
    /// The job as it was when it was claimed.
    pub fn job(&self) -> &Job {
        &self.fence.lease.job
    }

    /// What it asks for.
    pub fn spec(&self) -> &JobSpec {
        &self.fence.lease.spec
    }

    /// What it brought.
    pub fn secrets(&self) -> &Secrets {
        &self.fence.lease.secrets
    }
}

/// Stands between a worker and what can't be taken back: each question is answered by the database, as
/// of now.
#[derive(Debug, Clone)]
pub struct Fence {
    pub(super) queue: Queue,
    pub(super) lease: Arc<Lease>,
}

impl Fence {
    /// Fails if the job is not this worker's any more.
    pub async fn check(&self) -> Result<(), QueueError> {
        self.queue.check_fence(&self.lease).await
    }

    /// Keeps what the job's source meant at its first attempt, and says what that was.
    pub async fn pin(&self, resolved: Digest) -> Result<Digest, QueueError> {
        self.queue.pin(&self.lease, resolved).await
    }

    /// Tells whether the registry that the job needs answered: while it doesn't, its jobs wait without a
    /// worker. What can't be told is told by the next one.
    pub async fn registry_answers(&self, registry: &str, answers: bool) {
        let told = if answers {
            self.queue.host_answered(registry).await
        } else {
            self.queue.host_away(registry, self.lease.job.id).await.map(drop)
        };
        if let Err(error) = told {
            tracing::debug!(registry, %error, "whether a registry answers was not told");
        }
    }

    /// Where the log of the job ends, over all attempts, in bytes.
    pub(in crate::jobs) async fn log_end(&self) -> Result<i64, QueueError> {
        let last = self.queue.log(self.lease.job.id, i64::MAX, 1).await?.pop();
        let length = |chunk: &LogChunk| i64::try_from(chunk.bytes.len()).unwrap_or(i64::MAX);
        Ok(last.map_or(0, |chunk| chunk.offset + length(&chunk)))
    }

    /// Appends bytes to the job's log; where it ends then.
    pub(in crate::jobs) async fn append_log(
        &self,
        offset: i64,
        bytes: &[u8],
    ) -> Result<i64, QueueError> {
        self.queue.append_log(&self.lease, offset, bytes).await
    }

    /// Whether the archive under the job's image id is its workspace's to write; fails as
    /// [`check`](Self::check) does.
    pub async fn owns_archive(&self) -> Result<bool, QueueError> {
        self.queue.own_archive(&self.lease).await
    }
}
