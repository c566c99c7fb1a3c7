//! What a mount does, for Prometheus.

use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::http::header;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::content::lazy::Report;
use crate::mount::MountHandle;
use crate::telemetry::catalogue::Place;
use crate::telemetry::metrics::{self, MountTotals};

/// Listens there, before anything is mounted: an address that can't be had is told of early.
pub(super) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listening = TcpListener::bind(address).await;
    listening.with_context(|| format!("can't listen at {address} for --metrics"))
}

/// Answers `/metrics` as long as the process lives.
pub(super) fn serve(listener: TcpListener, handle: MountHandle, version: u8) {
    metrics::start(Place::Mount, false);
    let show = get(move || {
        metrics::mount_sampled(&totals(&handle.report(), version));
        async move { ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics::render()) }
    });
    let router = Router::new().route("/metrics", show);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics are served no more");
        }
    });
}

/// The counts of a mount, as metrics have them.
fn totals(report: &Report, version: u8) -> MountTotals {
    MountTotals {
        version,
        first_exec_ms: report.clip_first_exec_ms,
        range_get_bytes: report.clip_range_get_bytes_total,
        range_gets: report.clip_range_get_count,
        inflate_seconds: report.clip_inflate_cpu_seconds_total,
        hits_in_memory: report.cache_hits_memory,
        hits_on_disk: report.cache_hits_disk,
        fetched: report.spans_fetched,
        reads: [report.reads.saturating_sub(report.reads_failed), report.reads_failed],
    }
}
