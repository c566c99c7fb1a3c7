//! `clipwright index`: an image becomes a v2 archive, without a service.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use super::cache::CacheArgs;
use super::progress::on_stderr;
use super::registry::RegistryArgs;
use super::report::report;
use super::run_async;
use crate::archive::{IndexOptions, LayerPolicy, Summary, index_image};
use crate::config::LimitsArgs;
use crate::fetch::Budget;
use crate::gzip::DEFAULT_SPAN;
use crate::memory::MemoryBudget;
use crate::oci::{ImageSource, Platform, Reference, ReferenceForm, Source};

/// Index an image into a v2 archive, without a service.
#[derive(Debug, Args)]
pub(super) struct Index {
    /// Image reference, or oci:DIR[:TAG] for an OCI image layout
    source: ImageSource,
    /// Where the archive goes
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// os/architecture[/variant]; this machine's by default
    #[arg(long)]
    platform: Option<Platform>,
    /// How the archive names the image: tag-and-digest is for workers older than May 2026
    #[arg(long, value_name = "digest|tag-and-digest", default_value_t)]
    reference_form: ReferenceForm,
    /// For oci:DIR: the reference under which readers will find the image
    #[arg(long, value_name = "REFERENCE")]
    published_as: Option<Reference>,
    /// Layers that beta9's workers can't read, which is all but gzip ones: the image is refused, or
    /// they are indexed as they are
    #[arg(long, value_name = "refuse|as-is", default_value_t)]
    layers: LayerPolicy,
    /// MiB of plain bytes between places in a layer where reading can begin
    #[arg(
        long,
        value_name = "MIB",
        env = "CLIPWRIGHT_SPAN_MIB",
        default_value_t = DEFAULT_SPAN >> 20,
        value_parser = clap::value_parser!(u64).range(1..=32)
    )]
    span_mib: u64,
    /// Layers read at a time; one a core by default
    #[arg(long, value_name = "N")]
    concurrency: Option<NonZeroUsize>,
    #[command(flatten)]
    cache: CacheArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    limits: LimitsArgs,
}

impl Index {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let started = Instant::now();
        let registry = matches!(self.source, ImageSource::Registry(_));
        anyhow::ensure!(
            !(registry && self.published_as.is_some()),
            "--published-as goes with oci:DIR: an image in a registry is published there"
        );
        anyhow::ensure!(
            self.layers != LayerPolicy::Gzip,
            "--layers gzip publishes the image again, which is a job's to do: `clipwright serve`"
        );
        let source = self.source();
        let credentials = self.registry.credentials(&source)?;
        let mut options = IndexOptions {
            reference_form: self.reference_form,
            layers: self.layers,
            limits: self.limits.load()?,
            span: Some(self.span_mib << 20),
            ..IndexOptions::default()
        };
        if let Some(concurrency) = self.concurrency {
            options.budget = Arc::new(Budget::new(concurrency.get()));
        }
        options.cache = self.cache.open().map(Arc::new);
        let platform = self.platform.clone().unwrap_or_else(Platform::host);
        let settings = self.registry.settings();
        let (summary, written) = run_async(async |cancel| {
            let source = Source::open(&source, &settings, credentials).await?;
            let image = source.resolve(&platform, &cancel).await?;
            options.account = MemoryBudget::new(options.limits.memory_bytes).alone().await;
            let indexed = index_image(&source, &image, &options, on_stderr(), &cancel).await?;
            let written = indexed.write(&self.output)?;
            let summary = Summary::of(&image, &indexed);
            // The process ends here, and with it goes all memory at once.
            std::mem::forget(indexed);
            Ok((summary, written))
        })?;
        report(self.json, &summary, &self.output, written, started)
    }

    fn source(&self) -> ImageSource {
        match (self.source.clone(), self.published_as.clone()) {
            (ImageSource::Layout { dir, tag, .. }, published_as) => {
                ImageSource::Layout { dir, tag, published_as }
            }
            (source, _) => source,
        }
    }
}
