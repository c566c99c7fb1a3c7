//! A start, from the beginning of a mount until its program is ready: what earlier ones touched is fetched
//! ahead, and who wants to learn of this one is told once. A service that can't be asked or told keeps nobody
//! from mounting.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ready::ReadyWhen;
use crate::cli::client::{Client, ClientError};
use crate::cli::place::ArchivePlace;
use crate::cli::service::client_at;
use crate::clip::atomic;
use crate::clip::storage_info::StorageInfo;
use crate::image_id::ImageId;
use crate::mount::MountHandle;
use crate::trace::{Trace, TraceDocument};

/// How long a mount waits for a trace before it goes on without; the trace may come later.
const SOON: Duration = Duration::from_millis(250);
/// How long anything waits for a service.
const PATIENCE: Duration = Duration::from_secs(10);
/// Who has touched nothing new for so long has started.
const QUIET: Duration = Duration::from_secs(5);

/// What a start is, and who learns from it.
#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// Ask the service at this address what earlier starts touched, and tell it how this one went; the token is in
    /// `CLIPWRIGHT_TOKEN`
    #[arg(long, value_name = "URL")]
    service: Option<String>,
    /// With --service: the image's id; by default the archive's name without its ending
    #[arg(long, value_name = "ID", requires = "service")]
    image_id: Option<ImageId>,
    /// With --service: what to call this machine; by default its name
    #[arg(long, value_name = "NAME", requires = "service")]
    host_name: Option<String>,
    /// Keep what starts touch beside the archive, in a file that ends in `.trace`; one that is there is used in any case
    #[arg(long)]
    learn: bool,
    /// When the program is ready: `port:8080` or `port:10.0.0.7:8080` takes connections, `file:PATH` is there,
    /// `seconds:N` have passed; by default when nothing new has been read for 5 seconds
    #[arg(long, value_name = "WHEN")]
    ready_when: Option<ReadyWhen>,
    /// How long a start may take
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=3600))]
    start_seconds: u64,
}

impl StartArgs {
    /// Begins the start of an archive that is in `file`, or has a copy there.
    pub(super) fn begin(&self, archive: &ArchivePlace, file: &Path) -> anyhow::Result<Start> {
        let mut beside = std::path::absolute(file)?.into_os_string();
        beside.push(".trace");
        let service = self.service.as_ref().map(|server| self.service(server, archive));
        let service = service.transpose()?;
        let earlier =
            service.clone().map(|service| tokio::spawn(async move { service.ask().await }));
        Ok(Start {
            began: Instant::now(),
            limit: Duration::from_secs(self.start_seconds),
            ready_when: self.ready_when.clone(),
            beside: beside.into(),
            learn: self.learn,
            service,
            earlier,
        })
    }

    fn service(&self, server: &str, archive: &ArchivePlace) -> anyhow::Result<Service> {
        let named = || archive.stem()?.parse().ok();
        let image = self.image_id.clone().or_else(named).with_context(|| {
            format!("{archive} does not say which image it is: give --image-id")
        })?;
        let own_name = || nix::unistd::gethostname().ok()?.into_string().ok();
        Ok(Service {
            client: client_at(server)?,
            image,
            host: self.host_name.clone().or_else(own_name),
            id: Uuid::now_v7(),
        })
    }
}

/// A start.
pub(super) struct Start {
    began: Instant,
    limit: Duration,
    ready_when: Option<ReadyWhen>,
    /// Where the trace beside the archive is.
    beside: PathBuf,
    learn: bool,
    service: Option<Service>,
    /// What the service is asked for.
    earlier: Option<JoinHandle<Option<Trace>>>,
}

/// A start that goes on beside the mount.
pub(super) struct Watch {
    mount_ends: CancellationToken,
    task: JoinHandle<()>,
}

impl Watch {
    /// The mount has ended: who is to be told is told now.
    pub(super) async fn finish(self) {
        self.mount_ends.cancel();
        let _ = self.task.await;
    }
}

impl Start {
    /// For how long to note what is touched; `None`: nobody wants to know.
    pub(super) fn note(&self) -> Option<Duration> {
        (self.learn || self.service.is_some()).then_some(self.limit)
    }

    /// The longest that a start may take.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// What earlier starts touched, as far as that is known soon.
    pub(super) async fn known(&mut self) -> Option<Trace> {
        let asked = match &mut self.earlier {
            Some(earlier) => timeout(SOON, earlier).await.ok(),
            None => None,
        };
        let beside = read_beside(&self.beside);
        let Some(asked) = asked else { return beside };
        self.earlier = None;
        merged(beside, asked.ok().flatten())
    }

    /// Nothing is to be fetched ahead, whatever the service answers.
    pub(super) fn forget_earlier(&mut self) {
        self.earlier = None;
    }

    /// The mount is there: watches the start to its end.
    pub(super) fn watch(mut self, version: u8, handle: MountHandle) -> Watch {
        let (mounted, mount_ends) = (self.began.elapsed(), CancellationToken::new());
        if let Some(earlier) = self.earlier.take() {
            let handle = handle.clone();
            tokio::spawn(async move {
                if let Ok(Some(trace)) = earlier.await {
                    handle.prefetch(&trace);
                }
            });
        }
        let ends = mount_ends.clone();
        let task = tokio::spawn(async move {
            let ready = ends.run_until_cancelled(self.ready(&handle)).await;
            let elapsed = self.began.elapsed();
            handle.stop_noting();
            let (is_ready, start) = match (&self.ready_when, ready) {
                (None, _) => (true, mounted),
                (Some(_), Some(true)) => (true, elapsed),
                (Some(_), Some(false)) => (false, elapsed),
                // It was taken away before it could be told.
                (Some(_), None) => return,
            };
            let trace = handle.trace();
            if is_ready && self.learn && !trace.is_empty() {
                self.keep(&trace);
            }
            if let Some(service) = &self.service {
                service.tell_of(version, is_ready, start, &handle).await;
                if is_ready && !trace.is_empty() {
                    service.tell("traces", &json!(TraceDocument::from(&trace))).await;
                }
            }
        });
        Watch { mount_ends, task }
    }

    /// Waits for the end of the start: whether the program is ready.
    async fn ready(&self, handle: &MountHandle) -> bool {
        let left = self.limit.saturating_sub(self.began.elapsed());
        let ready = async {
            match &self.ready_when {
                Some(ready) => ready.wait().await,
                None => {
                    while handle.quiet_for().is_none_or(|quiet| quiet < QUIET) {
                        sleep(QUIET / 10).await;
                    }
                }
            }
        };
        timeout(left, ready).await.is_ok()
    }

    /// Merges a trace into the one beside the archive.
    fn keep(&self, trace: &Trace) {
        let Some(merged) = merged(read_beside(&self.beside), Some(trace.clone())) else { return };
        let file = &self.beside;
        if let Err(error) = atomic::write(file, (merged.to_json() + "\n").as_bytes()) {
            tracing::warn!("can't write {}: {error}", file.display());
        }
    }

    /// It could not be mounted.
    pub(super) async fn failed(self, version: u8) {
        if let Some(service) = self.service {
            let start = json!({
                "id": service.id, "clip_version": version, "temperature": "cold",
                "outcome": "failed", "host": service.host,
            });
            service.tell("starts", &json!({ "starts": [start] })).await;
        }
    }
}

/// The trace beside an archive, if there is one.
fn read_beside(file: &Path) -> Option<Trace> {
    let read = std::fs::read(file).ok()?;
    let trace = Trace::parse(&read);
    trace.inspect_err(|error| tracing::warn!("{}: {error}", file.display())).ok()
}

/// What two traces tell.
pub(super) fn merged(one: Option<Trace>, other: Option<Trace>) -> Option<Trace> {
    match (one, other) {
        (Some(mut one), Some(other)) => {
            one.merge(&other);
            Some(one)
        }
        (one, other) => one.or(other),
    }
}

/// The service, of one image.
#[derive(Debug, Clone)]
struct Service {
    client: Client,
    image: ImageId,
    host: Option<String>,
    /// Of this start.
    id: Uuid,
}

impl Service {
    async fn ask(&self) -> Option<Trace> {
        let (path, never) = (self.path("traces"), CancellationToken::new());
        let asked = async {
            let asked = self.client.get::<TraceDocument>(&path, &never).await;
            asked
                .map_err(|error| error.to_string())?
                .try_into()
                .map_err(|no: crate::trace::InvalidTrace| no.to_string())
        };
        let asked = timeout(PATIENCE, asked).await;
        let asked = asked.unwrap_or_else(|_| Err("it was too slow".to_owned()));
        asked
            .inspect_err(|error| tracing::warn!(%error, "what earlier starts touched is not known"))
            .ok()
            .filter(|trace: &Trace| !trace.is_empty())
    }

    async fn tell_of(&self, version: u8, is_ready: bool, start: Duration, handle: &MountHandle) {
        let report = handle.report();
        // What earlier mounts had fetched lies on the disk.
        let temperature = if report.cache_hits_disk > 0 { "warm" } else { "cold" };
        let start = json!({
            "id": self.id, "clip_version": version, "temperature": temperature,
            "outcome": if is_ready { "succeeded" } else { "failed" },
            "start_seconds": start.as_secs_f64(),
            "first_exec_ms": report.clip_first_exec_ms,
            "wire_bytes": report.clip_range_get_bytes_total,
            "range_gets": report.clip_range_get_count,
            "cache_hits": report.cache_hits_memory + report.cache_hits_disk,
            "host": self.host,
        });
        self.tell("starts", &json!({ "starts": [start] })).await;
    }

    async fn tell(&self, what: &str, body: &Value) {
        let (path, key, never) = (self.path(what), self.id.to_string(), CancellationToken::new());
        let told = self.client.post::<Value>(&path, body, &key, &never);
        let told: Result<_, ClientError> = match timeout(PATIENCE, told).await {
            Ok(told) => told,
            Err(_) => {
                return tracing::warn!("the service was not told of this start: it was too slow");
            }
        };
        if let Err(error) = told {
            tracing::warn!(%error, "the service was not told of this start");
        }
    }

    fn path(&self, what: &str) -> String {
        format!("/v1/images/{}/{what}", self.image)
    }
}

/// The version of an archive.
pub(super) fn version(storage: &StorageInfo) -> u8 {
    if matches!(storage, StorageInfo::Oci(_)) { 2 } else { 1 }
}
