//! One attempt at one job: the handler runs, the lease is kept alive beside it, what came of it is
//! recorded.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::Handler;
use super::hand::{Attempt, Fence};
use super::liveness::{self, Liveness};
use super::pulse::{Brake, KeptLease, Pulse, Stop, margin};
use super::sink::{EventSink, write};
use crate::error::Fault;
use crate::jobs::job::{JobError, JobResult, JobState};
use crate::jobs::queue::{Lease, Queue, QueueError, insist};
use crate::telemetry::metrics::attempt_ended;

/// How long a handler has to come to its end once it was told to stop.
const GRACE: Duration = Duration::from_secs(10);

/// A lease that is kept alive, and the brake that is pulled when it can't be.
pub(super) struct ClaimedLease {
    pub(super) lease: Arc<Lease>,
    brake: Brake,
    kept: KeptLease,
}

impl ClaimedLease {
    /// `asked` is when the claim was sent.
    pub(super) fn keep(lease: Lease, pulse: &Arc<Pulse>, asked: Instant) -> Self {
        let (lease, brake) = (Arc::new(lease), Brake::default());
        let kept = pulse.keep(lease.clone(), brake.clone(), asked);
        Self { lease, brake, kept }
    }
}

/// Works on the job of `claim` until its outcome is recorded or the lease lost.
pub(super) async fn attempt(
    queue: Queue,
    handler: Arc<dyn Handler>,
    claim: ClaimedLease,
    pulse: Arc<Pulse>,
    liveness: Liveness,
    shutdown: CancellationToken,
) {
    let ClaimedLease { lease, brake, kept } = claim;
    let (job, sink) = (lease.job.id, EventSink::default());
    let writer = spawn(write(sink.clone(), queue.clone(), lease.clone()));
    let watch = spawn(liveness::watch(liveness, sink.clone(), brake.clone()));
    let stopper = spawn({
        let brake = brake.clone();
        async move {
            shutdown.cancelled().await;
            brake.pull(Stop::Shutdown);
        }
    });
    let mut cancels = queue.cancel_wakes(job);
    let listener = spawn(async move {
        loop {
            cancels.notified().await;
            pulse.nudge();
        }
    });

    let attempt = Attempt {
        events: sink.clone(),
        cancel: brake.token.clone(),
        fence: Fence { queue: queue.clone(), lease: lease.clone() },
    };
    let run = AssertUnwindSafe(handler.run(&attempt)).catch_unwind();
    let outcome = tokio::select! {
        outcome = run => Some(outcome.unwrap_or_else(|_| Err(panicked()))),
        () = async { brake.token.cancelled().await; tokio::time::sleep(grace(&brake, &lease)).await } => {
            tracing::warn!(%job, "the handler did not stop in time and was dropped");
            None
        }
    };
    drop((attempt, watch, listener));
    sink.close();
    let recorded = record(&queue, &lease, outcome, brake.reason(), writer).await;
    // Beats go on until here: a database that comes back late must still find the lease alive.
    drop((kept, stopper));
    match recorded {
        Ok(outcome) => attempt_ended(lease.spec.kind().as_str(), outcome),
        Err(error) => tracing::warn!(%job, %error, "the outcome of an attempt was not recorded"),
    }
}

/// How long the handler has from now. When the lease can't be extended that is what is left of it.
fn grace(brake: &Brake, lease: &Lease) -> Duration {
    match brake.reason() {
        Some(Stop::Lost) => GRACE.min(margin(lease)),
        _ => GRACE,
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
        (Some(Ok(result)), _) => match insist(|| queue.succeed(lease, &result)).await {
            // Trying again would bring the same.
            Err(error @ QueueError::Refused { .. }) => {
                let error = JobError::of(&error);
                Ok(failed(&insist(|| queue.fail(lease, &error)).await?))
            }
            recorded => recorded.map(|_| "succeeded"),
        },
        (_, Some(Stop::Cancelled)) => {
            insist(|| queue.cancelled(lease)).await?;
            Ok("cancelled")
        }
        (Some(Err(error)), None) => Ok(failed(&insist(|| queue.fail(lease, &error)).await?)),
        (_, Some(stop @ (Stop::Stalled | Stop::TimedOut))) => {
            let error = given_up(stop);
            Ok(failed(&insist(|| queue.fail(lease, &error)).await?))
        }
        // What seemed lost may still be ours, if nobody could take it while the database was away.
        (_, Some(Stop::Shutdown | Stop::Lost)) | (None, None) => {
            Ok(match insist(|| queue.release(lease)).await? {
                JobState::Cancelled => "cancelled",
                _ => "released",
            })
        }
    }
}

/// The word for an attempt that failed, by the state that its job is in afterwards: the last one is not
/// tried again, however transient its error.
fn failed(state: &JobState) -> &'static str {
    match state {
        JobState::Queued => "retried",
        JobState::Cancelled => "cancelled",
        _ => "failed",
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
        retry_after: None,
    }
}

fn given_up(stop: Stop) -> JobError {
    let (code, message) = match stop {
        Stop::Stalled => ("stalled", "the attempt did not get on and was given up"),
        _ => ("timed_out", "the attempt took longer than any may"),
    };
    JobError {
        code: code.to_owned(),
        message: message.to_owned(),
        fault: Fault::Upstream,
        transient: stop == Stop::Stalled,
        retry_after: None,
    }
}
