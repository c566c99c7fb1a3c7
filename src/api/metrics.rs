//! What was measured, for Prometheus.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use tokio::sync::Mutex;

use super::AppState;
use super::problem::Problem;
use crate::jobs::queue::Queue;
use crate::telemetry::metrics::{CONTENT_TYPE, queue_sampled, queue_unknown, render};

/// For how long a look at the queue is good.
const LASTS: Duration = Duration::from_secs(2);

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
pub(super) async fn show(State(state): State<AppState>) -> impl IntoResponse {
    state.queue_gauge.refresh(&state.queue).await;
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], render())
}

/// How long the queue is, as of the last few seconds: whoever asks more often is told the same.
#[derive(Debug, Clone, Default)]
pub(super) struct QueueGauge(Arc<Mutex<Option<Instant>>>);

impl QueueGauge {
    async fn refresh(&self, queue: &Queue) {
        let mut last = self.0.lock().await;
        if last.is_some_and(|last| last.elapsed() < LASTS) {
            return;
        }
        match queue.depth().await {
            Ok(depth) => queue_sampled(&depth.kinds, depth.resting_registries),
            Err(error) => {
                tracing::debug!(%error, "metrics say nothing of the queue");
                queue_unknown();
            }
        }
        *last = Some(Instant::now());
    }
}
