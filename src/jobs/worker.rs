//! The worker pool: claims jobs, runs a `Handler` on each, and takes back what silent workers
//! left. How jobs are claimed and fenced is the queue's; what work means is the handler's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::job::{Job, JobError, JobResult};
use super::queue::Queue;

/// One attempt at one job.
mod attempt;
/// Events on their way to the database.
mod sink;

pub use sink::EventSink;

use attempt::attempt;

/// After the shutdown the pool ends within this, whatever handlers and database do. More than the
/// handlers' grace and one patient call to the database.
const DRAIN: Duration = Duration::from_secs(20);

/// The work itself.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Does what the job asks for. When `cancel` fires it should return soon, with any error, and
    /// have left nothing half done; ten seconds later it is dropped at its next `await`. Work that
    /// blocks belongs on blocking threads. A panic fails the job.
    async fn run(
        &self,
        job: &Job,
        credentials: Option<SecretString>,
        events: &EventSink,
        cancel: CancellationToken,
    ) -> Result<JobResult, JobError>;
}

/// How a pool works.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Jobs worked on at a time, at least 1.
    pub workers: usize,
    /// How long a worker that fell silent keeps its job.
    pub lease: Duration,
    /// How often to look for jobs that no notification told of, and at least how often to look
    /// whether a running one is to be cancelled.
    pub poll: Duration,
    /// Names this process in leases and events; unique among all that are running.
    pub worker_id: String,
}

/// The worker pool.
#[derive(Debug, Clone, Copy)]
pub struct WorkerPool;

impl WorkerPool {
    /// Starts the pool. When `shutdown` fires, handlers are stopped and their jobs given back; the
    /// returned task ends when that is done, 20 seconds later at the latest.
    pub fn start(
        queue: Queue,
        handler: Arc<dyn Handler>,
        settings: WorkerSettings,
        shutdown: CancellationToken,
    ) -> JoinHandle<()> {
        tokio::spawn(async move {
            tokio::join!(
                reap(&queue, &settings, &shutdown),
                work(&queue, handler, &settings, &shutdown)
            );
        })
    }
}

async fn work(
    queue: &Queue,
    handler: Arc<dyn Handler>,
    settings: &WorkerSettings,
    shutdown: &CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(settings.workers.max(1)));
    let beat = (settings.lease / 3).min(settings.poll).max(Duration::from_millis(1));
    let mut attempts = JoinSet::new();
    let mut wakes = queue.work_wakes();
    loop {
        let slot = tokio::select! {
            slot = slots.clone().acquire_owned() => slot,
            () = shutdown.cancelled() => break,
        };
        while attempts.try_join_next().is_some() {}
        // Never dropped half way, or the job would wait for its lease to expire.
        let lease = match queue.claim(&settings.worker_id, settings.lease).await {
            Ok(Some(lease)) => lease,
            nothing => {
                if let Err(error) = nothing {
                    tracing::warn!(%error, "no job can be claimed; trying on");
                }
                tokio::select! {
                    () = wakes.notified() => {}
                    () = sleep(settings.poll) => {}
                    () = shutdown.cancelled() => break,
                }
                continue;
            }
        };
        let attempt = attempt(queue.clone(), handler.clone(), lease, beat, shutdown.clone());
        attempts.spawn(async move {
            attempt.await;
            drop(slot);
        });
    }
    let drained =
        tokio::time::timeout(DRAIN, async { while attempts.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!("the shutdown left jobs to the reaper: their leases could not be released");
    }
}

async fn reap(queue: &Queue, settings: &WorkerSettings, shutdown: &CancellationToken) {
    loop {
        match queue.reap().await {
            Ok(0) => {}
            Ok(jobs) => tracing::warn!(jobs, "took jobs back from workers that fell silent"),
            Err(error) => tracing::warn!(%error, "expired leases can't be taken back; trying on"),
        }
        tokio::select! {
            () = sleep(settings.lease / 3) => {}
            () = shutdown.cancelled() => return,
        }
    }
}
