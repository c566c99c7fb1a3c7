//! `clipwright pack`: an image becomes a v1 archive, without a service.

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;

use super::progress::on_stderr;
use super::registry::RegistryArgs;
use super::report::report;
use super::run_async;
use crate::archive::index::ArchiveFile;
use crate::archive::{PackOptions, Summary, pack_image};
use crate::clip::atomic::Draft;
use crate::config::LimitsArgs;
use crate::memory::MemoryBudget;
use crate::oci::{ImageSource, Platform, Source};

/// Pack an image into a v1 archive, which carries the files' content, without a service.
#[derive(Debug, Args)]
pub(super) struct Pack {
    /// Image reference, or oci:DIR[:TAG] for an OCI image layout
    source: ImageSource,
    /// Where the archive goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// os/architecture[/variant]; this machine's by default
    #[arg(long)]
    platform: Option<Platform>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    limits: LimitsArgs,
}

impl Pack {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let started = Instant::now();
        let credentials = self.registry.credentials(&self.source)?;
        let platform = self.platform.clone().unwrap_or_else(Platform::host);
        let settings = self.registry.settings();
        let limits = self.limits.load()?;
        let (summary, written) = run_async(async |cancel| {
            let source = Source::open(&self.source, &settings, credentials).await?;
            let image = source.resolve(&platform, &cancel).await?;
            let cant_write = || format!("can't write {}", self.output.display());
            let draft = Draft::begin(&self.output).with_context(cant_write)?;
            let sink = Box::new(draft.sink().with_context(cant_write)?);
            let account = MemoryBudget::new(limits.memory_bytes).alone().await;
            let options = PackOptions { limits, account, ..PackOptions::default() };
            let packed = pack_image(&source, &image, &options, sink, on_stderr(), &cancel).await?;
            draft.finish(&packed.head).with_context(cant_write)?;
            let written = ArchiveFile { size: packed.size, digest: packed.digest };
            Ok((Summary::of_packed(&image, &packed), written))
        })?;
        report(self.json, &summary, &self.output, written, started)
    }
}
