//! What was counted, for Prometheus.

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;

use super::problem::Problem;
use crate::telemetry::metrics::render;

/// Gives the counters of this process
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "metrics",
    tag = "health",
    responses(
        (status = 200, description = "The counters, in Prometheus's text format", body = String, content_type = "text/plain"),
        (status = 403, description = "Without a token only local clients are served", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show() -> impl IntoResponse {
    ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], render())
}
