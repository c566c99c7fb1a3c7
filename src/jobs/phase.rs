//! Phases of attempts: each is measured, and a span in the trace of its job.

use tracing::Instrument as _;

use super::job::JobKind;
use crate::telemetry::metrics::RunningPhase;

/// Does the work of a phase. `name` is one of a few words.
pub(super) async fn phase<T>(
    kind: JobKind,
    name: &'static str,
    work: impl Future<Output = T>,
) -> T {
    let _running = RunningPhase::begin(kind.as_str(), name);
    work.instrument(tracing::debug_span!("phase", otel.name = name)).await
}
