//! One attempt at one job: the handler runs, the lease is kept alive beside it, what came of it is
//! recorded.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures_util::FutureExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::Handler;
use super::hand::{Attempt, Fence};
use super::liveness::{self, Liveness};
use super::pulse::{Brake, KeptLease, Pulse, Stop, margin};
use super::sink::{EventSink, write};
use crate::error::Fault;
use crate::jobs::job::{JobError, JobResult, JobState};
use crate::jobs::queue::{Lease, Queue, QueueError, insist};
use crate::telemetry::metrics::{BusyWorker, EndedAttempt, attempt_ended, job_waited};
use crate::telemetry::trace;

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
    let _busy = BusyWorker::begin();
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
    let kind = lease.spec.kind().as_str();
    let (logged, traced) = spans(&lease);
    let started = Instant::now();
    let run = AssertUnwindSafe(handler.run(&attempt).instrument(traced.clone())).catch_unwind();
    let run = run.instrument(logged.clone());
    let outcome = tokio::select! {
        outcome = run => Some(outcome.unwrap_or_else(|_| Err(panicked()))),
        () = async { brake.token.cancelled().await; tokio::time::sleep(grace(&brake, &lease)).await } => {
            tracing::warn!(%job, "the handler did not stop in time and was dropped");
            None
        }
    };
    drop((attempt, watch, listener));
    sink.close();
    let version = outcome.as_ref().and_then(|outcome| outcome.as_ref().ok()).map(version_of);
    let recorded = record(&queue, &lease, outcome, brake.reason(), writer);
    let recorded = recorded.instrument(traced.clone()).instrument(logged.clone()).await;
    // Beats go on until here: a database that comes back late must still find the lease alive.
    drop((kept, stopper));
    match recorded {
        Ok(outcome) => {
            traced.record("job.outcome", outcome);
            let (workspace, took) = (lease.job.workspace.as_str(), started.elapsed());
            attempt_ended(EndedAttempt { kind, outcome, version, workspace, took });
            logged.in_scope(|| tracing::info!(outcome, "the attempt ended"));
        }
        Err(error) => tracing::warn!(%job, %error, "the outcome of an attempt was not recorded"),
    }
}

/// What log lines say of the attempt, and its span in the trace that the job is a part of.
fn spans(lease: &Lease) -> (Span, Span) {
    let Lease { job, spec, trace_context, .. } = lease;
    let (kind, request_id) = (spec.kind().as_str(), job.request_id.as_deref());
    let logged = tracing::info_span!(
        "job", job = %job.id, attempt = job.attempt, request_id, trace_id = Empty
    );
    let traced = tracing::debug_span!(
        "attempt", otel.name = %format_args!("attempt {kind}"), otel.kind = "consumer",
        job.id = %job.id, job.kind = kind, job.attempt = job.attempt, request_id,
        job.outcome = Empty,
    );
    trace::join(&traced, &logged, trace_context.as_deref());
    if job.attempt == 1 && job.losses == 0 {
        let (from, until) = (job.created_at, Utc::now());
        job_waited(kind, (until - from).to_std().unwrap_or_default());
        if let Some(traceparent) = trace_context {
            trace::waited(traceparent, kind, from.into(), until.into());
        }
    }
    (logged, traced)
}

/// The version of the archive that a job made.
fn version_of(result: &JobResult) -> u8 {
    match (&result.version, &result.migration) {
        (Some(version), _) => version.produced,
        (None, Some(migration)) => migration.to,
        (None, None) => result.summary.clip_version,
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
