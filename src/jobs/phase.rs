//! Phases of attempts: each is an event of its job, measured, and a span in the job's trace.

use tracing::Instrument as _;

use super::job::{EventKind, JobKind};
use super::worker::EventSink;
use crate::telemetry::metrics::RunningPhase;

/// Does the work of a phase. `name` is one of a few words.
pub(super) async fn phase<T>(
    events: &EventSink,
    kind: JobKind,
    name: &'static str,
    work: impl Future<Output = T>,
) -> T {
    events.send(EventKind::Phase { name: name.to_owned() });
    let _running = RunningPhase::begin(kind.as_str(), name);
    work.instrument(tracing::debug_span!("phase", otel.name = name)).await
}
