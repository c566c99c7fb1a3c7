//! One trace from a request through the queue to whoever did the work, as a collector gets it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::collector::{Collector, ReceivedSpan};
use crate::support::layout::{Blob, Layout, noise};
use crate::support::registry::Registry;
use crate::support::s3::S3Server;
use crate::support::service::{Service, Settings};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const LOGIN: &str = "clipper:correct horse";

fn settings(collector: &Collector) -> Settings {
    Settings::default()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
}

#[tokio::test]
async fn one_trace_leads_from_the_request_to_registry_and_store() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::with_password(dir.path());
    let layers = [Blob::file("f", &noise(0, 5 << 20)), Blob::file("g", b"upper")];
    let source = registry.push_as(Layout::of(&layers).path(), "secret/image", LOGIN);
    let (collector, s3) = (Collector::start().await, S3Server::start().await);
    let of = |role: &str| {
        settings(&collector)
            .argument("role", role)
            .argument("log-format", "json")
            .env("OTEL_SERVICE_NAME", &format!("clipwright-{role}"))
            .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer otlp-token")
            .on_s3(&s3)
    };
    // Two processes: what one accepted the other works on.
    let mut api = Service::start(of("api")).await;
    let mut worker = Service::start(of("worker").beside(&api)).await;
    let body = json!({
        "kind": "pull", "image_id": "961eaef6668e480f", "source": source, "credentials": LOGIN,
    });
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/jobs", api.url))
        .header("content-type", "application/json")
        .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
        .header("x-request-id", "asked-1")
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    let job: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    let id = job["id"].as_str().unwrap();
    assert_eq!(api.finished(id).await["state"], "succeeded");

    let all = collector
        .until(|spans| spans.iter().any(|span| span.name == "attempt pull" && span.trace == TRACE))
        .await;
    let spans: Vec<_> = all.iter().filter(|span| span.trace == TRACE).collect();
    let named = |name: &str| -> &ReceivedSpan {
        let found = spans.iter().find(|span| span.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {spans:#?}"))
    };
    let request = named("POST /v1/jobs");
    assert_eq!((&*request.service, &*request.parent), ("clipwright-api", "00f067aa0ba902b7"));
    assert_eq!(request.attributes["http.response.status_code"], "202");
    assert_eq!(request.attributes["request_id"], "asked-1");
    let attempt = named("attempt pull");
    assert_eq!((&*attempt.service, &attempt.parent), ("clipwright-worker", &request.id));
    assert_eq!(
        (&*attempt.attributes["job.id"], &*attempt.attributes["job.outcome"]),
        (id, "succeeded")
    );
    let queue = named("queue");
    assert_eq!(queue.parent, request.id);
    assert!(request.nanos.0 <= queue.nanos.0 && queue.nanos.0 <= queue.nanos.1);
    for phase in ["resolve", "index", "write", "publish"] {
        assert_eq!(named(phase).parent, attempt.id, "{phase}");
    }
    assert_eq!(named("submit a job").parent, request.id);

    // Every span has its place in the tree.
    let by_id: BTreeMap<&str, &ReceivedSpan> =
        spans.iter().map(|span| (&*span.id, *span)).collect();
    let phase_of = |span: &ReceivedSpan| {
        let mut at = span;
        while at.parent != attempt.id {
            at = by_id.get(&*at.parent)?;
        }
        Some(at.name.clone())
    };
    let below = |name: &str, key: &str| -> BTreeSet<(String, String)> {
        let those = spans.iter().filter(|span| span.name == name);
        those
            .map(|span| {
                (phase_of(span).expect("it is a part of the attempt"), span.attributes[key].clone())
            })
            .collect()
    };
    let asked = below("registry request", "registry.operation");
    for (phase, operation) in [("resolve", "token"), ("resolve", "manifest"), ("index", "blob")] {
        assert!(asked.contains(&(phase.to_owned(), operation.to_owned())), "{asked:?}");
    }
    let stored = below("store request", "store.operation");
    assert!(stored.contains(&("publish".to_owned(), "put".to_owned())), "{stored:?}");
    let blob = spans.iter().find(|span| {
        span.name == "registry request" && span.attributes["registry.operation"] == "blob"
    });
    assert_eq!(blob.unwrap().attributes["server.address"], registry.address);

    // Nothing that opens a door.
    assert!(
        collector.headers().iter().all(|headers| headers["authorization"] == "Bearer otlp-token")
    );
    for secret in
        ["correct horse", "clipper:", "otlp-token", "Y2xpcHBlcj", &*s3.secret_key, "X-Amz"]
    {
        assert!(!collector.got(secret), "{secret} was sent");
    }
    assert!(collector.got("secret/image"), "the search finds what is there");
    // Nobody traces probes.
    assert_eq!(api.get("/readyz").await.0, 200);

    // The log lines of both say whose they are.
    let ids = |log: &str, span: &str, message: &str| -> Vec<Value> {
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .filter(|line| line["fields"]["message"] == message && line["span"]["name"] == span)
            .map(|line| line["span"].clone())
            .collect()
    };
    let (log, _) = worker.stop();
    let ended = ids(&log, "job", "the attempt ended");
    assert_eq!(ended.len(), 1, "{log}");
    assert_eq!(
        (&ended[0]["job"], &ended[0]["request_id"], &ended[0]["trace_id"]),
        (&json!(id), &json!("asked-1"), &json!(TRACE))
    );
    let (log, _) = api.stop();
    let answered = ids(&log, "request", "answered");
    let asked = answered.iter().find(|span| span["request_id"] == "asked-1").unwrap();
    assert_eq!(asked["trace_id"], TRACE);
    assert!(collector.spans().iter().all(|span| !span.name.contains("/readyz")));
}

/// What a client says of its trace is in the log lines of its job even where nobody collects traces.
#[tokio::test]
async fn without_a_collector_the_clients_trace_is_handed_on() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let source = registry.push(Layout::of(&[Blob::file("f", b"content")]).path(), "image");
    let mut service = Service::start(Settings::default()).await;
    let body = json!({"kind": "pull", "image_id": "961eaef6668e480f", "source": source});
    let answer = reqwest::Client::new()
        .post(format!("{}/v1/jobs", service.url))
        .header("content-type", "application/json")
        .header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"))
        .body(body.to_string())
        .send()
        .await
        .unwrap();
    let job: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
    service.finished(job["id"].as_str().unwrap()).await;
    let (log, _) = service.stop();
    let line = log.lines().find(|line| line.contains("the attempt ended")).unwrap();
    assert!(line.contains(TRACE) && line.contains(job["id"].as_str().unwrap()), "{line}");
}

/// What Prometheus reads is sent as well, if it is to be, and for the last time when the process ends.
#[tokio::test]
async fn metrics_are_sent_to_the_collector() {
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let source = registry.push(Layout::of(&[Blob::file("f", b"content")]).path(), "image");
    let collector = Collector::start().await;
    let mut service = Service::start(settings(&collector).argument("otlp-metrics", "true")).await;
    let job = service.pull("961eaef6668e480f", &source).await;
    service.finished(&job).await;
    tokio::task::spawn_blocking(move || drop(service.stop())).await.unwrap();
    let sent = collector.metrics();
    let metrics = &sent.resource_metrics[0].scope_metrics[0].metrics;
    let named = |name: &str| metrics.iter().find(|metric| metric.name == name).expect("is sent");
    let bytes = named("clip_index_bytes_total");
    assert_eq!(bytes.unit, "By");
    let Some(Data::Sum(sum)) = &bytes.data else { panic!("{bytes:?}") };
    assert!(sum.is_monotonic && sum.data_points.len() == 1, "{bytes:?}");
    let Some(Data::Histogram(built)) = &named("clip_index_build_seconds").data else {
        panic!("{metrics:?}")
    };
    assert_eq!(built.data_points[0].count, 1);
    let Some(Data::Gauge(_)) = &named("clipwright_workers").data else { panic!("{metrics:?}") };
}

/// A collector that is away, or refuses, costs traces and nothing else.
#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let source = registry.push(Layout::of(&[Blob::file("f", b"content")]).path(), "image");
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let settings = Settings::default()
        .argument("otlp-endpoint", &format!("http://{nowhere}"))
        .env("OTEL_BSP_SCHEDULE_DELAY", "50");
    let mut service = Service::start(settings).await;
    let job = service.pull("961eaef6668e480f", &source).await;
    assert_eq!(service.finished(&job).await["state"], "succeeded");
    let started = std::time::Instant::now();
    service.stop();
    assert!(started.elapsed() < std::time::Duration::from_secs(15), "{:?}", started.elapsed());
}
