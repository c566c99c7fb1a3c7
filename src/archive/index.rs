//! An image becomes a v2 archive: every layer is read once, straight from where it lives, several
//! at a time, unless its index is known; their indexes are merged; nothing is unpacked and nothing kept but the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use crate::archive::layers::verify_diff_id;
use crate::archive::metadata::image_metadata;
use crate::archive::{ArchiveError, ImageLayer, IndexOptions, KnownLayer, resolved, warnings};
use crate::clip::atomic;
use crate::clip::seek_table::LayerSpans;
use crate::clip::storage_info::{OciStorageInfo, StorageInfo};
use crate::clip::tree::Tree;
use crate::clip::writer::seekable_archive;
use crate::digest::Digest;
use crate::fetch::largest_first;
use crate::layer::{LayerIndex, merge};
use crate::local::{blocking, both, io_error};
use crate::oci::{LayerDescriptor, ResolvedImage, Source};
use crate::progress::{Progress, Step};

/// An image whose layers have all been read and verified.
#[derive(Debug)]
pub struct IndexedImage {
    /// The file tree.
    pub tree: Tree,
    /// Where the tree's content lives.
    pub storage: StorageInfo,
    /// Bottom to top; a layer used twice stands here twice.
    pub layers: Vec<Arc<LayerIndex>>,
    /// Plain bytes from one place to begin reading at to the next, as asked for; with `None` the
    /// archive gets no seek table.
    pub span: Option<u64>,
    /// Layers whose indexes were known, so that they were not downloaded.
    pub cached: BTreeSet<Digest>,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// A finished archive file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveFile {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the file.
    pub digest: Digest,
}

impl IndexedImage {
    /// Writes the archive to `file`, which appears whole or not at all. The same image gives the
    /// same bytes.
    pub fn write(&self, file: &Path) -> Result<ArchiveFile, ArchiveError> {
        let seekable: Vec<LayerSpans<'_>> = self
            .layers
            .iter()
            .filter(|layer| self.span.is_some() && !layer.spans.is_empty())
            .map(|layer| LayerSpans {
                digest: layer.digest,
                encoding: layer.encoding,
                plain_size: layer.plain_size,
                compressed_size: layer.compressed_size,
                span: self.span.unwrap_or_default(),
                spans: &layer.spans,
            })
            .collect();
        let bytes = seekable_archive(&self.tree, &self.storage, &seekable)?;
        let what = || format!("can't write {}", file.display());
        let (digest, written) = both(|| Digest::of(&bytes), || atomic::write(file, &bytes));
        written.map_err(|e| io_error(what())(e))?;
        Ok(ArchiveFile { size: bytes.len() as u64, digest })
    }
}

/// Reads every layer of `image` that isn't known yet and puts the tree together.
pub async fn index_image(
    source: &Source,
    image: &ResolvedImage,
    options: &IndexOptions,
    progress: Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<IndexedImage, ArchiveError> {
    if image.layers.is_empty() {
        return Err(ArchiveError::NoLayers { reference: image.reference.to_string() });
    }
    options.layers.check(source, &image.layers, cancel).await?;
    progress.step(resolved(image));

    // The first failure stops the downloads of the others.
    let stop = cancel.child_token();
    let _stop = stop.clone().drop_guard();
    let distinct: BTreeMap<Digest, (&LayerDescriptor, Digest)> = image
        .layers
        .iter()
        .zip(&image.diff_ids)
        .map(|(layer, diff_id)| (layer.digest, (layer, *diff_id)))
        .collect();
    let mut distinct: Vec<_> = distinct.into_values().collect();
    largest_first(&mut distinct, |(layer, _)| layer.size);
    let reads = distinct.into_iter().map(|(descriptor, diff_id)| {
        let (progress, stop) = (&progress, &stop);
        async move {
            let layer = ImageLayer { source, descriptor, diff_id };
            let known = layer.index(options, progress, stop).await?;
            options.layers.check_read(descriptor, &known.index)?;
            Ok::<_, ArchiveError>((descriptor.digest, known))
        }
    });
    let known: BTreeMap<Digest, KnownLayer> = stream::iter(reads.collect::<Vec<_>>())
        .buffer_unordered(options.budget.begun())
        .try_collect()
        .await?;
    let layers: Vec<Arc<LayerIndex>> = image
        .layers
        .iter()
        .filter_map(|layer| known.get(&layer.digest).map(|known| known.index.clone()))
        .collect();
    let cached = known.iter().filter(|(_, layer)| layer.cached).map(|(digest, _)| *digest);
    // A digest that stands twice in the manifest must have one diff id.
    for (index, diff_id) in layers.iter().zip(&image.diff_ids) {
        verify_diff_id(index, *diff_id)?;
    }

    let (stack, limits, account) = (layers.clone(), options.limits, options.account.clone());
    let mut warnings = image.warnings.clone();
    let (tree, warnings) = blocking(move || {
        let tree = Tree::new(merge(stack.iter().map(AsRef::as_ref), &limits, &account)?)?;
        warnings.extend(warnings::of(&tree, &stack));
        Ok::<_, ArchiveError>((tree, warnings))
    })
    .await??;
    for warning in &warnings {
        progress.step(Step::Warning(warning.clone()));
    }
    let storage = StorageInfo::Oci(Box::new(OciStorageInfo {
        registry_url: image.reference.registry.clone(),
        repository: image.reference.repository.clone(),
        reference: image.reference.stored(options.reference_form),
        layers: image.layers.iter().map(|layer| layer.digest).collect(),
        gzip_checkpoints: BTreeMap::new(),
        plain_digests: known.iter().map(|(digest, layer)| (*digest, layer.index.diff_id)).collect(),
        image_metadata: Some(image_metadata(image)),
    }));
    let cached = cached.collect();
    Ok(IndexedImage { tree, storage, layers, span: options.span, cached, warnings })
}
