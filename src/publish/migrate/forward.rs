//! A v1 archive becomes an image in a registry, and a v2 archive that points into it.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::compare::{Comparison, Contents, compare};
use super::push::push;
use super::root::BundledImage;
use super::{MigrateError, V1, contents};
use crate::archive::{IndexOptions, IndexedImage, index_image};
use crate::oci::{
    Credentials, ImageSource, OciSettings, Publisher, Reference, ResolvedImage, Source,
};
use crate::progress::{Progress, Step};

/// Where the image goes.
#[derive(Debug, Clone)]
pub struct Destination<'a> {
    /// `host[:port]`.
    pub registry: &'a str,
    /// The repository there.
    pub repository: &'a str,
    /// The tag.
    pub tag: &'a str,
    /// How to log in; the ambient way when absent.
    pub credentials: Option<Credentials>,
}

/// A v2 archive that holds what the v1 archive holds; it is not in a store yet.
#[derive(Debug)]
pub struct NewV2 {
    /// The image in the registry.
    pub image: ResolvedImage,
    /// The archive to be written.
    pub indexed: IndexedImage,
    /// What was found to be the same.
    pub compared: Comparison,
}

/// Makes the v2 archive, and compares it with what it was made from. The image is read back from
/// the registry for that: what is compared is what workers will see.
pub async fn to_v2(
    v1: &V1,
    destination: &Destination<'_>,
    oci: &OciSettings,
    options: &IndexOptions,
    progress: &Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<NewV2, MigrateError> {
    let Destination { registry, repository, tag, credentials } = destination;
    let bundled = Arc::new(BundledImage::find(&v1.tree)?);
    for path in &bundled.left_out {
        let warning = format!("{path} lies beside the image and is left out");
        progress.step(Step::Warning(warning));
    }
    let publisher = Publisher::open(registry, repository, None, oci, credentials.clone()).await?;
    let pushed = push(v1, &bundled, &publisher, tag, cancel).await?;
    let reference: Reference =
        format!("{registry}/{repository}:{tag}@{}", pushed.manifest).parse()?;
    let source = Source::open(&ImageSource::Registry(reference), oci, credentials.clone()).await?;
    let image = source.resolve(&pushed.platform, cancel).await?;
    let after = contents::of_layers(&source, &image, options, progress, cancel).await?;
    let indexed = index_image(&source, &image, options, progress.clone(), cancel);
    let indexed = indexed.await?;
    let after = contents::of_remote(&indexed.tree, &after)?;
    let before = Contents { tree: &bundled.tree, files: &pushed.layer.files };
    let compared = compare(before, Contents { tree: &indexed.tree, files: &after })?;
    Ok(NewV2 { image, indexed, compared })
}
