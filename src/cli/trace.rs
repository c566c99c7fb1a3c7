//! `clipwright trace`: what a program of an image reads, without a fleet to learn it from.

/// The program, in the image.
pub(super) mod inside;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;

use super::content::ContentArgs;
use super::mount::cache::SpanCacheArgs;
use super::mount::serve::{Signals, block_on, log_settings};
use super::place::ArchivePlace;
use crate::clip::storage_info::{ImageMetadata, StorageInfo};
use crate::mount::{ContentSettings, Ino, Mount, MountHandle, MountOptions};
use crate::telemetry::init;

/// The longest start.
const LONGEST: Duration = Duration::from_hours(1);
/// For images that say nothing of it.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Run a program of an image, and write a trace of what it reads: `clipwright mount --trace` fetches
/// that ahead. Takes root: the program runs in a mount of the archive, read-only but for /tmp and /run.
#[derive(Debug, Args)]
pub(super) struct Trace {
    /// The archive
    archive: PathBuf,
    /// File to write the trace to
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Use the machine's own credentials where none are given: docker's configuration file, the AWS chain
    #[arg(long)]
    ambient_credentials: bool,
    #[command(flatten)]
    cache: SpanCacheArgs,
    #[command(flatten)]
    content: ContentArgs,
    /// The program and its arguments; by default what the image says
    #[arg(last = true)]
    command: Vec<OsString>,
}

/// What is run, and how.
struct Program {
    command: Vec<OsString>,
    environment: Vec<String>,
    directory: String,
}

impl Trace {
    pub(super) fn run(self) -> anyhow::Result<()> {
        init(&log_settings()?);
        if !nix::unistd::geteuid().is_root() {
            bail!("running a program in an image takes root");
        }
        let (handle, ran) = block_on(self.mount_and_run())?;
        let trace = handle.trace();
        let written = crate::clip::atomic::write(&self.output, (trace.to_json() + "\n").as_bytes());
        written.with_context(|| format!("can't write {}", self.output.display()))?;
        eprintln!("trace     {} parts in {:.2} s", trace.len(), trace.length().as_secs_f64());
        match ran.code() {
            Some(0) => Ok(()),
            Some(code) => bail!("the program ended with {code}; what it read is in the trace"),
            None => bail!("the program has died: {ran}; what it read is in the trace"),
        }
    }

    async fn mount_and_run(&self) -> anyhow::Result<(MountHandle, std::process::ExitStatus)> {
        let mut end = Signals::new()?;
        let cache = self.cache.open()?;
        let archive = super::open_to_mount(&self.archive, cache.as_ref())?;
        let mut program = Program::of(&archive.storage);
        if !self.command.is_empty() {
            program.command.clone_from(&self.command);
        }
        if program.command.is_empty() {
            bail!("the image says of no program: give one after --");
        }
        let v1_root = archive.tree.lookup(Ino::ROOT, b"rootfs").is_some();
        let settings = ContentSettings {
            read: self
                .content
                .settings(&ArchivePlace::File(self.archive.clone()), &archive.storage)?,
            ambient: self.ambient_credentials,
            check: true,
            cache,
            trace: None,
            guess: false,
            note: Some(LONGEST),
            fill_rate: None,
        };
        let point = tempfile::tempdir()?;
        let options = MountOptions {
            allow_other: true,
            threads: 4,
            patience: MountOptions::PATIENCE,
            pass_from: None,
        };
        let mounted = Mount::new(&self.archive, archive, point.path(), settings, options).await?;
        let (handle, ending) = (mounted.handle(), mounted.ending());
        let root = if v1_root { point.path().join("rootfs") } else { point.path().to_owned() };
        let mut running = tokio::process::Command::new(std::env::current_exe()?)
            .arg("inside")
            .arg(root)
            .arg(&program.directory)
            .arg("--")
            .args(&program.command)
            .env_clear()
            .envs(program.environment.iter().filter_map(|pair| pair.split_once('=')))
            .kill_on_drop(true)
            .spawn()?;
        let ran = tokio::select! {
            ran = running.wait() => ran,
            () = end.received() => {
                running.start_kill()?;
                running.wait().await
            }
        };
        ending.unmount()?;
        tokio::task::spawn_blocking(move || mounted.join()).await??;
        Ok((handle, ran?))
    }
}

impl Program {
    /// What the image says.
    fn of(storage: &StorageInfo) -> Self {
        let nothing = ImageMetadata::default();
        let image = match storage {
            StorageInfo::Oci(image) => image.image_metadata.as_ref().unwrap_or(&nothing),
            _ => &nothing,
        };
        let mut environment = image.env.clone();
        if !environment.iter().any(|pair| pair.starts_with("PATH=")) {
            environment.push(PATH.to_owned());
        }
        let command = image.entrypoint.iter().chain(&image.cmd).map(OsString::from).collect();
        let directory = if image.working_dir.is_empty() { "/" } else { &image.working_dir };
        Self { command, environment, directory: directory.to_owned() }
    }
}
