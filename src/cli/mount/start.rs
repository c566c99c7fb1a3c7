//! Telling a service how a mount started: once, when what belongs to a start has been read, or when the mount
//! ends before that. A service that can't be told keeps nobody from mounting.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::cli::client::Client;
use crate::cli::service::client_at;
use crate::clip::storage_info::StorageInfo;
use crate::image_id::ImageId;
use crate::mount::MountHandle;

/// How long the end of a mount waits for a service.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whom to tell how a mount started.
#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// Tell the service at this address how the mount started, with the token in `CLIPWRIGHT_TOKEN`
    #[arg(long, value_name = "URL")]
    report_to: Option<String>,
    /// With --report-to: the image's id; by default the archive's name without its ending
    #[arg(long, value_name = "ID", requires = "report_to")]
    image_id: Option<ImageId>,
    /// With --report-to: for how long what is read belongs to the start
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(0..=3600))]
    report_after: u64,
    /// With --report-to: what to call this machine; by default its name
    #[arg(long, value_name = "NAME", requires = "report_to")]
    report_host: Option<String>,
}

impl StartArgs {
    /// What will be told of a mount that begins now; `None` if nobody is to be told.
    pub(super) fn begin(&self, archive: &Path) -> anyhow::Result<Option<Start>> {
        let Some(server) = &self.report_to else { return Ok(None) };
        let named = || archive.file_stem()?.to_str()?.parse().ok();
        let image = self.image_id.clone().or_else(named).with_context(|| {
            format!("{} does not say which image it is: give --image-id", archive.display())
        })?;
        let own_name = || nix::unistd::gethostname().ok()?.into_string().ok();
        Ok(Some(Start {
            client: client_at(server)?,
            path: format!("/v1/images/{image}/starts"),
            host: self.report_host.clone().or_else(own_name),
            wait: Duration::from_secs(self.report_after),
            began: Instant::now(),
            id: Uuid::now_v7(),
        }))
    }
}

/// A start, to be told of.
pub(super) struct Start {
    client: Client,
    path: String,
    host: Option<String>,
    wait: Duration,
    began: Instant,
    id: Uuid,
}

/// A start that is told of in its time.
pub(super) struct Telling {
    now: CancellationToken,
    task: JoinHandle<()>,
}

impl Telling {
    /// Tells of it now, if that was not done.
    pub(super) async fn finish(self) {
        self.now.cancel();
        let _ = self.task.await;
    }
}

impl Start {
    /// The mount is ready.
    pub(super) fn ready(self, version: u8, handle: MountHandle) -> Telling {
        let (ready, now) = (self.began.elapsed(), CancellationToken::new());
        let told = now.clone();
        let task = tokio::spawn(async move {
            told.run_until_cancelled(tokio::time::sleep(self.wait)).await;
            let report = handle.report();
            // What earlier mounts had fetched lies on the disk.
            let temperature = if report.cache_hits_disk > 0 { "warm" } else { "cold" };
            self.tell(json!({
                "id": self.id, "clip_version": version, "temperature": temperature,
                "outcome": "succeeded", "start_seconds": ready.as_secs_f64(),
                "first_exec_ms": report.clip_first_exec_ms,
                "wire_bytes": report.clip_range_get_bytes_total,
                "range_gets": report.clip_range_get_count,
                "cache_hits": report.cache_hits_memory + report.cache_hits_disk,
                "host": self.host,
            }))
            .await;
        });
        Telling { now, task }
    }

    /// It could not be mounted.
    pub(super) async fn failed(self, version: u8) {
        self.tell(json!({
            "id": self.id, "clip_version": version, "temperature": "cold", "outcome": "failed",
            "host": self.host,
        }))
        .await;
    }

    async fn tell(&self, start: Value) {
        let (body, never) = (json!({ "starts": [start] }), CancellationToken::new());
        let key = self.id.to_string();
        let told = self.client.post::<Value>(&self.path, &body, &key, &never);
        match tokio::time::timeout(PATIENCE, told).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the service was not told how this started"),
            Err(_) => tracing::warn!("the service was not told how this started: it was too slow"),
        }
    }
}

/// The version of an archive.
pub(super) fn version(storage: &StorageInfo) -> u8 {
    if matches!(storage, StorageInfo::Oci(_)) { 2 } else { 1 }
}
