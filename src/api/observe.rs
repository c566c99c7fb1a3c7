//! One request id, one span and one log line for each request. Neither query strings nor headers
//! are logged: both may hold secrets.

use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::Response;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};
use uuid::Uuid;

use crate::telemetry::metrics::http_answered;
use crate::telemetry::trace;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const NOSNIFF: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-content-type-options"), HeaderValue::from_static("nosniff"));

/// Names a request in answers and logs: the client's own `x-request-id` if it is a sane one
/// (1 to 64 letters, digits, `.`, `_`, `-`), else a new UUID.
#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let sane = |value: &&HeaderValue| {
            let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
            (1..=64).contains(&value.len()) && value.as_bytes().iter().all(allowed)
        };
        let given = headers.get(X_REQUEST_ID).filter(sane).cloned();
        Self(given.unwrap_or_else(|| {
            let id = Uuid::now_v7().to_string();
            HeaderValue::try_from(id).unwrap_or(HeaderValue::from_static("unknown"))
        }))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or_default()
    }
}

/// The header of W3C Trace Context, whatever it says.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<&str> {
    headers.get(trace::TRACEPARENT)?.to_str().ok()
}

/// Middleware around everything else.
pub(super) async fn observe(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let path = request.extensions().get::<MatchedPath>().cloned();
    let path = path.as_ref().map_or("unmatched", MatchedPath::as_str);
    let method = request.method().clone();
    let is_probe = matches!(path, "/healthz" | "/readyz" | "/metrics");
    let span =
        tracing::info_span!("request", %method, path, request_id = id.as_str(), trace_id = Empty);
    let traced = if is_probe {
        Span::none()
    } else {
        tracing::debug_span!(
            "request", otel.name = %format_args!("{method} {path}"), otel.kind = "server",
            http.request.method = %method, http.route = path, request_id = id.as_str(),
            http.response.status_code = Empty,
        )
    };
    trace::join(&traced, &span, traceparent(request.headers()));
    request.extensions_mut().insert(id.clone());

    let started = Instant::now();
    // The trace's span is the inner one: what the request asks for is a part of it.
    let answering = next.run(request).instrument(traced.clone());
    let mut response = answering.instrument(span.clone()).await;
    let latency_ms = started.elapsed().as_millis();
    let status = response.status();
    traced.record("http.response.status_code", status.as_u16());
    http_answered(method.as_str(), path, status.as_u16(), started.elapsed());
    span.in_scope(|| {
        // Probes come every few seconds and say nothing while all is well.
        if status == StatusCode::OK && is_probe {
            tracing::debug!(status = status.as_u16(), latency_ms, "answered");
        } else {
            tracing::info!(status = status.as_u16(), latency_ms, "answered");
        }
    });
    response.headers_mut().insert(X_REQUEST_ID, id.0);
    response.headers_mut().extend([NOSNIFF]);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sane_ids_are_kept_and_others_replaced() {
        let id = |text: &'static str| {
            let headers = HeaderMap::from_iter([(X_REQUEST_ID, HeaderValue::from_static(text))]);
            RequestId::of(&headers).as_str().to_owned()
        };
        assert_eq!(id("build-7.A_b"), "build-7.A_b");
        let too_long = "a".repeat(65).leak();
        for bad in ["", "a b", "<script>", too_long] {
            assert_eq!(id(bad).parse::<Uuid>().unwrap().get_version_num(), 7, "{bad:?}");
        }
    }
}
