//! Everything after the last `RUN`: an image of a builder's storage goes to a registry and becomes an
//! archive. `bench/build.sh` makes storage, registry and image, and holds it against the reference.
//!
//! Arguments: storage, digest of the image's config, registry, repository, reference of the base, directory
//! that it may keep what it learns in, gzip's level. Prints one JSON object.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use clipwright::archive::{IndexOptions, LayerCache, index_image};
use clipwright::build::export::{
    Base, DEFAULT_LEVEL, Export, ExportStyle, ExportedLayers, MANIFEST, Origin, StoredImage,
};
use clipwright::oci::{ImageSource, OciSettings, Platform, Publisher, Reference, Source};
use clipwright::progress::Silent;
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|text| text != "--bench").collect();
    let [storage, config, registry, repository, base, learnt, level] = &arguments[..] else {
        println!("no storage: bench/build.sh makes one");
        return Ok(());
    };
    let (never, oci, learnt) =
        (CancellationToken::new(), OciSettings::default(), PathBuf::from(learnt));
    let base_source = Source::open(&ImageSource::Registry(base.parse()?), &oci, None).await?;
    let base_image = base_source.resolve(&Platform::host(), &never).await?;
    let base_repository: Reference = base.parse()?;
    let cache = LayerCache::default().with_local(learnt.join("indexes"), 1 << 30);
    let options = IndexOptions { cache: Some(Arc::new(cache)), ..IndexOptions::default() };
    let written = written_bytes()?;

    let started = Instant::now();
    let mounted = Some(base_repository.repository());
    let publisher = Publisher::open(registry, repository, mounted, &oci, None).await?;
    let image = StoredImage::open(storage.as_ref(), "overlay", config.parse()?)?;
    let exported = Export {
        image: &image,
        bases: &[Base { image: &base_image, source: &base_source }],
        publisher: &publisher,
        options: &options,
        style: ExportStyle {
            level: if level == "default" { DEFAULT_LEVEL } else { level.parse()? },
            epoch: None,
        },
        known: Some(&ExportedLayers::new(learnt.join("exported"))),
        progress: Arc::new(Silent),
    }
    .push(&never)
    .await?;
    publisher.manifest(&exported.manifest, MANIFEST, Some("bench"), &never).await?;
    let pushed = started.elapsed();
    let reference: Reference = format!("{registry}/{repository}:bench").parse()?;
    let source = Source::open(&ImageSource::Registry(reference), &oci, None).await?;
    let resolved = source.resolve(&Platform::host(), &never).await?;
    let indexed = index_image(&source, &resolved, &options, Arc::new(Silent), &never).await?;
    let archive = indexed.write(&learnt.join("image.clip"))?;
    let took = started.elapsed();

    let new = exported.layers.iter().filter(|layer| matches!(layer.origin, Origin::New(_)));
    println!(
        "{}",
        json!({
            "seconds": took.as_secs_f64(),
            "push_seconds": pushed.as_secs_f64(),
            "written_bytes": written_bytes()? - written,
            "new_layers": new.clone().count(),
            "new_bytes": new.map(|layer| layer.size).sum::<u64>(),
            "archive_bytes": archive.size,
        })
    );
    Ok(())
}

/// Bytes that this process has given to disks so far.
fn written_bytes() -> anyhow::Result<u64> {
    let counts = std::fs::read_to_string("/proc/self/io")?;
    let written = counts.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(written.context("the kernel counts no bytes")?.parse()?)
}
