//! One attempt at one job: the handler runs, the lease is kept alive beside it, what came of it is
//! recorded.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Handler;
use super::sink::{EventSink, write};
use crate::error::{Classify as _, Fault};
use crate::jobs::job::{JobError, JobResult};
use crate::jobs::queue::{Heartbeat, Lease, Queue, QueueError, insist};
use crate::telemetry::metrics::attempt_ended;

/// How long a handler has to come to its end once it was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// Why a handler was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    Cancelled,
    Lost,
    Shutdown,
}

/// Tells the handler to stop, and remembers the first reason.
#[derive(Debug, Clone, Default)]
struct Brake {
    reason: Arc<OnceLock<Stop>>,
    token: CancellationToken,
}

impl Brake {
    fn pull(&self, stop: Stop) {
        self.reason.get_or_init(|| stop);
        self.token.cancel();
    }
}

/// Works on the job of `lease` until its outcome is recorded or the lease lost.
pub(super) async fn attempt(
    queue: Queue,
    handler: Arc<dyn Handler>,
    mut lease: Lease,
    beat: Duration,
    shutdown: CancellationToken,
) {
    let credentials = lease.credentials.take();
    let lease = Arc::new(lease);
    let job = lease.job.id;
    let (sink, brake) = (EventSink::default(), Brake::default());
    let heart = spawn(keep_alive(queue.clone(), lease.clone(), beat, brake.clone()));
    let writer = spawn(write(sink.clone(), queue.clone(), lease.clone()));
    let stopper = spawn({
        let brake = brake.clone();
        async move {
            shutdown.cancelled().await;
            brake.pull(Stop::Shutdown);
        }
    });

    let run = handler.run(&lease.job, credentials, &sink, brake.token.clone());
    let run = AssertUnwindSafe(run).catch_unwind();
    let outcome = tokio::select! {
        outcome = run => Some(outcome.unwrap_or_else(|_| Err(panicked()))),
        () = async { brake.token.cancelled().await; tokio::time::sleep(GRACE).await } => {
            tracing::warn!(%job, "the handler did not stop in time and was dropped");
            None
        }
    };
    sink.close();
    let recorded = record(&queue, &lease, outcome, brake.reason.get().copied(), writer).await;
    // Beats go on until here: a database that comes back late must still find the lease alive.
    drop((heart, stopper));
    match recorded {
        Ok(outcome) => attempt_ended(lease.job.spec.kind(), outcome),
        Err(error) => tracing::warn!(%job, %error, "the outcome of an attempt was not recorded"),
    }
}

/// Records what came of an attempt; gives a word for it.
async fn record(
    queue: &Queue,
    lease: &Lease,
    outcome: Option<Result<JobResult, JobError>>,
    stop: Option<Stop>,
    writer: AbortOnDropHandle<Result<(), QueueError>>,
) -> Result<&'static str, QueueError> {
    // Events come before the end. A writer that died of anything but a lost lease costs events only.
    if let Ok(Err(error)) = writer.await {
        tracing::warn!(job = %lease.job.id, %error, "events were not recorded");
    }
    match (outcome, stop) {
        // Done is done, even if somebody wanted it to stop: the archive is in the store.
        (Some(Ok(result)), _) => {
            insist(|| queue.succeed(lease, &result)).await?;
            Ok("succeeded")
        }
        (_, Some(Stop::Cancelled)) => {
            insist(|| queue.cancelled(lease)).await?;
            Ok("cancelled")
        }
        (Some(Err(error)), None) => {
            insist(|| queue.fail(lease, &error)).await?;
            let again = error.transient && lease.job.attempt < lease.job.max_attempts;
            Ok(if again { "retried" } else { "failed" })
        }
        // What seemed lost may still be ours, if nobody could take it while the database was away.
        (_, Some(Stop::Shutdown | Stop::Lost)) | (None, None) => {
            insist(|| queue.release(lease)).await?;
            Ok("released")
        }
    }
}

/// A task that ends with the attempt at the latest.
fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> AbortOnDropHandle<T> {
    AbortOnDropHandle::new(tokio::spawn(task))
}

/// The text of the panic went to the log by the panic hook; it may hold anything.
fn panicked() -> JobError {
    JobError {
        code: "internal".to_owned(),
        message: "a defect in the service ended the attempt; its log has the details".to_owned(),
        fault: Fault::Ours,
        transient: false,
    }
}

/// Extends the lease every `beat`; stops the handler when the job is to be cancelled or the lease
/// may be gone.
async fn keep_alive(queue: Queue, lease: Arc<Lease>, beat: Duration, brake: Brake) {
    // Counted from before the question was sent, so that it ends here no later than there.
    let mut ends = Instant::now() + lease.lasts;
    let mut ticks = interval_at(Instant::now() + beat, beat);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        match timeout_at(ends, queue.heartbeat(&lease)).await {
            Ok(Ok(Heartbeat::Held)) => ends = asked + lease.lasts,
            Ok(Ok(Heartbeat::CancelRequested)) => {
                ends = asked + lease.lasts;
                brake.pull(Stop::Cancelled);
            }
            Ok(Ok(Heartbeat::Lost)) => return brake.pull(Stop::Lost),
            Ok(Err(error)) if error.is_transient() && Instant::now() < ends => {
                tracing::debug!(job = %lease.job.id, %error, "a heartbeat failed");
            }
            Ok(Err(_)) | Err(_) => {
                // It may still be ours if nobody could take it: beats go on, the handler doesn't.
                brake.pull(Stop::Lost);
                ends = asked + lease.lasts;
            }
        }
    }
}
