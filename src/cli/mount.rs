//! `clipwright mount`: an archive as a file system, in the foreground or as a daemon.

/// Where what is fetched is kept.
pub(super) mod cache;
/// The process that goes on when the command has ended.
mod daemon;
/// For Prometheus.
mod metrics;
/// When a program is ready.
mod ready;
/// What a mount writes of itself.
mod record;
/// From a mount's beginning to its end.
pub(super) mod serve;
/// What is learnt from starts, and told of this one.
mod start;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use clap::{Args, ValueEnum};

use super::content::ContentArgs;
use super::place::ArchivePlace;
use crate::content::SpanCache;
use crate::mount::{ContentSettings, Mount as Mounted, MountArchive, MountOptions};
use crate::telemetry::init;
use tokio_util::sync::CancellationToken;

use cache::SpanCacheArgs;
use record::RecordArgs;
use serve::{Signals, block_on, serve};
use start::{Start, StartArgs};

/// Mount an archive; what is read is fetched when it is read. Ends when it is unmounted, or on
/// SIGTERM or SIGINT. A mount at MOUNTPOINT that nobody serves any more is taken away first.
#[derive(Debug, Args)]
pub(super) struct Mount {
    /// The archive: a file, `s3://BUCKET/KEY`, or `docker://REFERENCE` of an archive or of an image that has one
    #[arg(value_parser = OsStringValueParser::new().try_map(ArchivePlace::parse))]
    archive: ArchivePlace,
    /// Directory to mount at
    mountpoint: PathBuf,
    /// Return when it is mounted, and serve it from a process of its own
    #[arg(long)]
    daemon: bool,
    /// With --daemon: where that process writes what it has to say; by default `mount.log` in the cache's directory
    #[arg(long, value_name = "FILE", requires = "daemon")]
    log: Option<PathBuf>,
    /// Let other users look in
    #[arg(long)]
    allow_other: bool,
    /// Threads that answer the kernel
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// MiB from which on a file that is wholly in the cache is read by the kernel itself (FUSE passthrough, Linux
    /// 6.9, as root); 0 for none
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32))]
    passthrough_mib: u32,
    /// How long a read waits for its bytes before it fails with EIO
    #[arg(long, value_name = "SECONDS", default_value_t = MountOptions::PATIENCE.as_secs())]
    read_timeout: u64,
    /// Fetch all content in the background, or, with `wait`, before it is mounted
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true, default_missing_value = "background")]
    fill: Option<Fill>,
    /// MiB a second that --fill may take of the link
    #[arg(long, value_name = "MIB", requires = "fill", value_parser = clap::value_parser!(u64).range(1..=1_048_576))]
    fill_rate: Option<u64>,
    /// Fetch nothing ahead of its readers that they don't go towards: neither what traces tell nor what the image's
    /// program is going to need
    #[arg(long)]
    no_prefetch: bool,
    /// Mount without asking whether the registry or the bucket answers: what is in the cache can be read
    #[arg(long)]
    offline: bool,
    /// Use the machine's own credentials where none are given: docker's configuration file, the AWS chain
    #[arg(long)]
    ambient_credentials: bool,
    /// Show what the mount does at `http://ADDRESS/metrics`, for Prometheus
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
    #[command(flatten)]
    record: RecordArgs,
    #[command(flatten)]
    start: StartArgs,
    #[command(flatten)]
    cache: SpanCacheArgs,
    #[command(flatten)]
    content: ContentArgs,
    /// This is the process that --daemon starts
    #[arg(long, hide = true)]
    detached: bool,
}

/// When all content is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Fill {
    /// When nothing else is to be done.
    Background,
    /// Before it is mounted.
    Wait,
}

impl Mount {
    pub(super) fn run(mut self) -> anyhow::Result<()> {
        if self.daemon && !self.detached {
            return daemon::start();
        }
        init(&serve::log_settings()?);
        // The daemon leaves the directory that it was started in.
        self.record.make_absolute()?;
        if let Some(log) = &mut self.log {
            *log = std::path::absolute(&*log)?;
        }
        block_on(self.mount_and_serve())
    }

    async fn mount_and_serve(self) -> anyhow::Result<()> {
        let mut end = Signals::new()?;
        let metrics = match self.metrics {
            Some(address) => Some(metrics::listen(address).await?),
            None => None,
        };
        let s3 = self.content.bucket()?;
        let (ambient, cancel) = (self.ambient_credentials, CancellationToken::new());
        let registry = self.content.registry();
        let directory = || self.cache.directory();
        let file = self.archive.file(&s3, registry, ambient, directory, &cancel);
        let file = tokio::select! {
            file = file => file?,
            () = end.received() => anyhow::bail!("cancelled"),
        };
        let mut start = self.start.begin(&self.archive, &file)?;
        let path = file.clone();
        let cache = self.cache.open()?;
        let known = cache.clone();
        let opened = move || super::open_to_mount(&path, known.as_ref());
        let archive = tokio::task::spawn_blocking(opened).await??;
        let version = start::version(&archive.storage);
        let mounted = tokio::select! {
            mounted = self.mount(&file, archive, cache, &mut start) => mounted,
            () = end.received() => anyhow::bail!("cancelled"),
        };
        let mounted = match mounted {
            Ok(mounted) => mounted,
            Err(error) => {
                start.failed(version).await;
                return Err(error);
            }
        };
        let handle = mounted.handle();
        if let Some(listener) = metrics {
            metrics::serve(listener, handle.clone(), version);
        }
        if self.fill.is_some() {
            handle.fill();
        }
        if self.fill == Some(Fill::Wait) {
            let missing = tokio::select! {
                missing = handle.filled() => missing,
                () = end.received() => anyhow::bail!("cancelled"),
            };
            anyhow::ensure!(missing == 0, "{missing} parts of the content could not be fetched");
        }
        let ready = format!("mounted {} at {}", self.archive, mounted.point().display());
        if self.detached {
            let log = match &self.log {
                Some(log) => log.clone(),
                None => self.cache.directory()?.join("mount.log"),
            };
            daemon::ready(&ready, &log)?;
        } else {
            println!("{ready}");
        }
        let watch = start.watch(version, handle);
        let served = serve(mounted, &mut end, &self.record).await;
        watch.finish().await;
        served
    }

    async fn mount(
        &self,
        file: &Path,
        archive: MountArchive,
        cache: Option<SpanCache>,
        start: &mut Start,
    ) -> anyhow::Result<Mounted> {
        let noted = self.record.notes().then_some(start.limit());
        if self.no_prefetch {
            start.forget_earlier();
        }
        let settings = ContentSettings {
            read: self.content.settings(&self.archive, &archive.storage)?,
            ambient: self.ambient_credentials,
            check: !self.offline,
            cache,
            trace: start::merged(self.record.trace()?, start.known().await)
                .filter(|_| !self.no_prefetch),
            guess: !self.no_prefetch,
            note: start.note().or(noted),
            fill_rate: self.fill_rate.map(|rate| rate << 20),
        };
        let options = MountOptions {
            allow_other: self.allow_other,
            threads: self.threads.into(),
            patience: Duration::from_secs(self.read_timeout),
            pass_from: Some(u64::from(self.passthrough_mib) << 20).filter(|least| *least > 0),
        };
        Ok(Mounted::new(file, archive, &self.mountpoint, settings, options).await?)
    }
}
