//! The trace that something belongs to, as it goes from a request through the queue to whoever does the
//! work (W3C Trace Context, version 00). Without a collector there are no traces of our own: then what a
//! client said is handed on, and that is all.

use std::sync::OnceLock;
use std::time::SystemTime;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Span as _, SpanKind, TraceContextExt as _, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header, and the key of a carrier.
pub const TRACEPARENT: &str = "traceparent";

/// What makes spans that are sent; nothing, if none are.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

pub(super) fn install(tracer: SdkTracer) {
    let _ = TRACER.set(tracer);
}

/// A text that is a `traceparent`; another is as good as none.
pub fn parse(text: &str) -> Option<&str> {
    let hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    let parts: Vec<_> = text.split('-').collect();
    let [version, trace, parent, flags] = parts[..] else { return None };
    let lengths = [version, trace, parent, flags].map(str::len) == [2, 32, 16, 2];
    let sound = parts.iter().all(|part| hex(part)) && version != "ff";
    (lengths && sound && some(trace) && some(parent)).then_some(text)
}

/// Makes the span `traced` a part of the trace that `traceparent` names, if it does, and has the log lines
/// of `logged` say which trace that is: its field `trace_id` has to be declared.
pub fn join(traced: &Span, logged: &Span, traceparent: Option<&str>) {
    let traceparent = traceparent.and_then(parse);
    if let Some(traceparent) = traceparent {
        // Fails where no traces are made, and for spans that nobody looks at.
        let _ = traced.set_parent(context(traceparent));
    }
    let made = traced.context();
    let made = made.span();
    if made.span_context().is_valid() {
        logged.record("trace_id", made.span_context().trace_id().to_string());
    } else if let Some(id) = traceparent.and_then(|text| text.split('-').nth(1)) {
        logged.record("trace_id", id);
    }
}

/// The `traceparent` for what comes of the work that is being done; what the client said, if no traces are
/// made here.
pub fn current(from_client: Option<&str>) -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return from_client.and_then(parse).map(str::to_owned);
    }
    let (trace, parent, flags) = (span.trace_id(), span.span_id(), span.trace_flags().to_u8());
    Some(format!("00-{trace}-{parent}-{flags:02x}"))
}

/// Adds to a trace that a job waited in the queue.
pub fn waited(traceparent: &str, kind: &'static str, from: SystemTime, until: SystemTime) {
    if let (Some(tracer), Some(traceparent)) = (TRACER.get(), parse(traceparent)) {
        let span = tracer
            .span_builder("queue")
            .with_kind(SpanKind::Internal)
            .with_start_time(from)
            .with_attributes([KeyValue::new("job.kind", kind)]);
        let mut span = tracer.build_with_context(span, &context(traceparent));
        span.end_with_timestamp(until);
    }
}

fn context(traceparent: &str) -> Context {
    let carrier =
        std::collections::HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_standard_calls_a_traceparent_is_one() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(parse(good), Some(good));
        for bad in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn without_a_collector_what_the_client_said_is_handed_on() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(current(Some(good)).as_deref(), Some(good));
        assert_eq!(current(Some("nonsense")), None);
        assert_eq!(current(None), None);
    }
}
