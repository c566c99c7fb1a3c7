//! What a mount does, for Prometheus.

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::Context as _;
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::content::lazy::Report;
use crate::mount::MountHandle;

/// The text exposition format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Listens there, before anything is mounted: an address that can't be had is told of early.
pub(super) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listening = TcpListener::bind(address).await;
    listening.with_context(|| format!("can't listen at {address} for --metrics"))
}

/// Answers `/metrics` as long as the process lives.
pub(super) fn serve(listener: TcpListener, handle: MountHandle) {
    let show = get(move || {
        let text = exposition(&handle.report());
        async move { ([(CONTENT_TYPE, TEXT)], text) }
    });
    let router = Router::new().route("/metrics", show);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            tracing::error!(%error, "metrics are served no more");
        }
    });
}

fn exposition(report: &Report) -> String {
    let Report {
        clip_first_exec_ms,
        clip_range_get_bytes_total,
        clip_range_get_count,
        clip_inflate_cpu_seconds_total,
        cache_hits_memory,
        cache_hits_disk,
        spans_fetched,
        reads,
        reads_failed,
    } = report;
    let mut text = String::new();
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(&str, String)]| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let one = |value: &dyn ToString| [("", value.to_string())];
    if let Some(ms) = clip_first_exec_ms {
        let help = "Milliseconds from the beginning of the mount to the first read of a file";
        family("clip_first_exec_ms", "gauge", help, &one(ms));
    }
    let help = "Bytes that came over the link";
    family("clip_range_get_bytes_total", "counter", help, &one(clip_range_get_bytes_total));
    let help = "Requests for ranges";
    family("clip_range_get_count", "counter", help, &one(clip_range_get_count));
    let help = "Processor time for verifying and inflating";
    family("clip_inflate_cpu_seconds_total", "counter", help, &one(clip_inflate_cpu_seconds_total));
    let tiers = [
        (r#"{tier="memory"}"#, cache_hits_memory.to_string()),
        (r#"{tier="disk"}"#, cache_hits_disk.to_string()),
    ];
    family("clip_cache_hits_total", "counter", "Spans that were found in a cache", &tiers);
    family("clip_spans_fetched_total", "counter", "Spans that were fetched", &one(spans_fetched));
    let outcomes = [
        (r#"{outcome="served"}"#, reads.saturating_sub(*reads_failed).to_string()),
        (r#"{outcome="failed"}"#, reads_failed.to_string()),
    ];
    family("clip_reads_total", "counter", "Reads that the kernel asked for", &outcomes);
    text
}
