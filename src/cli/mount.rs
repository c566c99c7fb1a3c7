//! `clipwright mount`: an archive as a file system, in the foreground or as a daemon.

/// Where what is fetched is kept.
mod cache;
/// The process that goes on when the command has ended.
mod daemon;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::content::ContentArgs;
use crate::clip::reader::Archive;
use crate::mount::{ContentSettings, Mount as Mounted, MountOptions};
use crate::telemetry::{LogSettings, init};

use cache::SpanCacheArgs;

/// Mount an archive; what is read is fetched when it is read. Ends when it is unmounted, or on
/// SIGTERM or SIGINT. A mount at MOUNTPOINT that nobody serves any more is taken away first.
#[derive(Debug, Args)]
pub(super) struct Mount {
    /// The archive
    archive: PathBuf,
    /// Directory to mount at
    mountpoint: PathBuf,
    /// Return when it is mounted, and serve it from a process of its own
    #[arg(long)]
    daemon: bool,
    /// With --daemon: where that process writes what it has to say
    #[arg(long, value_name = "FILE", requires = "daemon")]
    log: Option<PathBuf>,
    /// Let other users look in
    #[arg(long)]
    allow_other: bool,
    /// Threads that answer the kernel
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Write what was done, as JSON, when the mount ends and on SIGUSR1
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Mount without asking whether the registry or the bucket answers: what is in the cache can be read
    #[arg(long)]
    offline: bool,
    /// Use the machine's own credentials where none are given: docker's configuration file, the AWS chain
    #[arg(long)]
    ambient_credentials: bool,
    #[command(flatten)]
    cache: SpanCacheArgs,
    #[command(flatten)]
    content: ContentArgs,
    /// This is the process that --daemon starts
    #[arg(long, hide = true)]
    detached: bool,
}

impl Mount {
    pub(super) fn run(mut self) -> anyhow::Result<()> {
        if self.daemon && !self.detached {
            return daemon::start();
        }
        for path in [&mut self.report, &mut self.log].into_iter().flatten() {
            *path = std::path::absolute(&*path)?;
        }
        init(&LogSettings::warnings());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let done = runtime.block_on(self.serve());
        // What is still being fetched nobody waits for.
        runtime.shutdown_background();
        done
    }

    async fn serve(self) -> anyhow::Result<()> {
        let mut end = Signals::new()?;
        let cancel = CancellationToken::new();
        let mounting = self.mount(&cancel);
        let mounted = tokio::select! {
            mounted = mounting => mounted?,
            () = end.received() => anyhow::bail!("cancelled"),
        };
        let ready = format!("mounted {} at {}", self.archive.display(), mounted.point().display());
        if self.detached {
            daemon::ready(&ready, &self.log_file()?)?;
        } else {
            println!("{ready}");
        }
        let ending = mounted.ending();
        let mut report = signal(SignalKind::user_defined1())?;
        let mut asked = 0;
        let (handle, file) = (mounted.reporter(), self.report.clone());
        let joined = tokio::task::spawn_blocking(move || mounted.join());
        tokio::pin!(joined);
        let last = loop {
            tokio::select! {
                ended = &mut joined => break ended??,
                _ = report.recv() => write_report(file.as_deref(), &handle.report())?,
                () = end.received() => {
                    asked += 1;
                    // Whoever asks twice does not want to wait for those who use it.
                    if asked > 1 {
                        std::process::exit(130);
                    }
                    if let Err(error) = ending.unmount() {
                        tracing::error!("can't unmount: {error}");
                    }
                }
            }
        };
        write_report(file.as_deref(), &last)
    }

    async fn mount(&self, cancel: &CancellationToken) -> anyhow::Result<Mounted> {
        let path = self.archive.clone();
        let archive = tokio::task::spawn_blocking(move || Archive::open(&path)).await??;
        let settings = ContentSettings {
            read: self.content.settings(&archive.storage)?,
            ambient: self.ambient_credentials,
            check: !self.offline,
            cache: self.cache.open()?,
        };
        let options = MountOptions { allow_other: self.allow_other, threads: self.threads.into() };
        let runtime = tokio::runtime::Handle::current();
        let (file, point) = (&self.archive, &self.mountpoint);
        Ok(Mounted::new(file, archive, point, settings, options, runtime, cancel).await?)
    }

    fn log_file(&self) -> anyhow::Result<PathBuf> {
        match &self.log {
            Some(log) => Ok(log.clone()),
            None => Ok(self.cache.directory()?.join("mount.log")),
        }
    }
}

fn write_report(file: Option<&Path>, report: &impl serde::Serialize) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string(report)? + "\n";
    crate::clip::atomic::write(file, text.as_bytes())
        .with_context(|| format!("can't write {}", file.display()))
}

/// What ends a mount.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
