//! A collector that keeps what it is sent, decoded from the protobuf.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::Message as _;

/// A span as it arrived.
#[derive(Debug, Clone)]
pub(super) struct ReceivedSpan {
    pub(super) service: String,
    pub(super) name: String,
    pub(super) trace: String,
    pub(super) id: String,
    pub(super) parent: String,
    pub(super) nanos: (u64, u64),
    pub(super) attributes: BTreeMap<String, String>,
}

/// Listens until the test ends.
pub(super) struct Collector {
    pub(super) endpoint: String,
    received: Received,
}

#[derive(Clone, Default)]
struct Received {
    spans: Arc<Mutex<Vec<ReceivedSpan>>>,
    headers: Arc<Mutex<Vec<HeaderMap>>>,
    metrics: Arc<Mutex<Vec<ExportMetricsServiceRequest>>>,
    /// Everything that came of traces, as it came.
    bytes: Arc<Mutex<Vec<u8>>>,
}

fn text(value: Option<&Value>) -> String {
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        other => format!("{other:?}"),
    }
}

fn attributes(all: &[KeyValue]) -> BTreeMap<String, String> {
    let one = |one: &KeyValue| {
        let value = one.value.as_ref().and_then(|value| value.value.as_ref());
        (one.key.clone(), text(value))
    };
    all.iter().map(one).collect()
}

async fn take(State(received): State<Received>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if headers["content-type"] != "application/x-protobuf" {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE;
    }
    received.bytes.lock().unwrap().extend_from_slice(&body);
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    received.headers.lock().unwrap().push(headers);
    for spans in request.resource_spans {
        let resource = attributes(&spans.resource.unwrap_or_default().attributes);
        for span in spans.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            received.spans.lock().unwrap().push(ReceivedSpan {
                service: resource["service.name"].clone(),
                name: span.name,
                trace: hex::encode(span.trace_id),
                id: hex::encode(span.span_id),
                parent: hex::encode(span.parent_span_id),
                nanos: (span.start_time_unix_nano, span.end_time_unix_nano),
                attributes: attributes(&span.attributes),
            });
        }
    }
    StatusCode::OK
}

async fn take_metrics(State(received): State<Received>, body: Bytes) -> StatusCode {
    let Ok(request) = ExportMetricsServiceRequest::decode(body) else {
        return StatusCode::BAD_REQUEST;
    };
    received.metrics.lock().unwrap().push(request);
    StatusCode::OK
}

impl Collector {
    pub(super) async fn start() -> Self {
        let received = Received::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new()
            .route("/v1/traces", post(take))
            .route("/v1/metrics", post(take_metrics))
            .with_state(received.clone());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { endpoint, received }
    }

    pub(super) fn spans(&self) -> Vec<ReceivedSpan> {
        self.received.spans.lock().unwrap().clone()
    }

    pub(super) fn headers(&self) -> Vec<HeaderMap> {
        self.received.headers.lock().unwrap().clone()
    }

    /// The metrics that were sent last.
    pub(super) fn metrics(&self) -> ExportMetricsServiceRequest {
        self.received.metrics.lock().unwrap().last().cloned().expect("metrics were sent")
    }

    /// Whether what was sent contains these bytes.
    pub(super) fn got(&self, needle: &str) -> bool {
        let bytes = self.received.bytes.lock().unwrap();
        bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
    }

    /// The spans, as soon as they have what is looked for.
    pub(super) async fn until(&self, has: impl Fn(&[ReceivedSpan]) -> bool) -> Vec<ReceivedSpan> {
        let started = Instant::now();
        loop {
            let spans = self.spans();
            if has(&spans) {
                return spans;
            }
            assert!(started.elapsed() < Duration::from_mins(1), "{spans:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
