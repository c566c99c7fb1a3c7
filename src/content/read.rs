//! A file's content, wherever the archive says it lives.
//!
//! Through a seek table only the spans that hold the file are fetched. An archive without one gives
//! no way into the middle of a layer: the layer is read from its start, and verified to its end
//! before a byte is handed out.

use std::io::{Read, Seek, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use tempfile::{SpooledTempFile, spooled_tempfile};
use tokio_util::sync::CancellationToken;

use crate::clip::node::{FileContent, Node, NodeKind, RemoteRef};
use crate::clip::reader::Archive;
use crate::clip::storage_info::{OciStorageInfo, StorageInfo};
use crate::content::ContentError;
use crate::content::blocks::{Block, BlockData, BlockReader, S3Override};
use crate::content::spans::{SpanMemory, SpanReader};
use crate::content::stored_layers::StoredLayer;
use crate::fetch::Budget;
use crate::fetch::download::with_layer;
use crate::layer::{LayerError, copy_range};
use crate::local::io_error;
use crate::oci::{
    Credentials, ImageSource, OciError, OciSettings, Platform, Reference, ResolvedImage, Source,
};
use crate::progress::Silent;

/// Content held in memory while it is verified; more goes to a temporary file.
const SPOOL: usize = 8 << 20;

/// How to get at what an archive points to.
#[derive(Debug, Default)]
pub struct ReadSettings {
    /// How to reach registries.
    pub oci: OciSettings,
    /// Credentials for the registry; the ambient ones when absent.
    pub credentials: Option<Credentials>,
    /// Read layers from here rather than from where the archive points.
    pub source: Option<ImageSource>,
    /// What takes the place of the storage info of a v1 archive in S3.
    pub s3: S3Override,
}

/// The content of `node`, which belongs to `archive`, which lies in `file`.
pub async fn open_file(
    file: &Path,
    archive: &Archive,
    node: &Node,
    settings: ReadSettings,
    cancel: &CancellationToken,
) -> Result<Box<dyn Read + Send>, ContentError> {
    let content = match &node.kind {
        NodeKind::File(content) => content,
        other => {
            let detail = match other {
                NodeKind::Directory => "is a directory",
                NodeKind::Symlink { .. } => "is a symbolic link",
                _ => "is a device or fifo",
            };
            return Err(not_a_file(node, detail));
        }
    };
    match (content, &archive.storage) {
        (FileContent::Embedded { length: 0, .. }, _) => Ok(Box::new(std::io::empty())),
        (FileContent::Embedded { .. }, storage) => {
            let data = BlockData::open(file, storage, &settings.s3).await?;
            match data.zip(Block::of(node)) {
                Some((data, block)) => Ok(Box::new(from_block(&data, block, cancel).await?)),
                None => Err(not_a_file(node, MISPLACED)),
            }
        }
        (FileContent::Remote(remote), StorageInfo::Oci(image)) => {
            Ok(Box::new(from_layer(file, archive, image, *remote, settings, cancel).await?))
        }
        _ => Err(not_a_file(node, MISPLACED)),
    }
}

/// The image that a v2 archive points to.
pub fn image_source(image: &OciStorageInfo) -> Result<ImageSource, OciError> {
    let OciStorageInfo { registry_url, repository, reference, .. } = image;
    Ok(ImageSource::Registry(Reference::from_stored(registry_url, repository, reference)?))
}

/// The image that a v2 archive points to, in `source`: the one with the digest that the archive
/// pins, for not every config says what its image is made for.
pub async fn resolve_stored(
    source: &Source,
    image: &OciStorageInfo,
    cancel: &CancellationToken,
) -> Result<ResolvedImage, OciError> {
    let OciStorageInfo { registry_url, repository, reference, image_metadata, .. } = image;
    let said = image_metadata.as_ref();
    let platform = match said {
        Some(said) if !said.os.is_empty() && !said.architecture.is_empty() => {
            Platform::new(&said.os, &said.architecture, Some(&said.variant))
        }
        _ => Platform::host(),
    };
    let pinned = Reference::from_stored(registry_url, repository, reference)?.digest();
    let pinned = pinned.or_else(|| said?.digest.parse().ok());
    source.resolve_pinned(pinned, &platform, cancel).await
}

/// What is wrong with content that no reader could find.
pub(crate) const MISPLACED: &str = "has content where the archive's storage info has none";

fn not_a_file(node: &Node, detail: &str) -> ContentError {
    ContentError::NotAFile { path: node.path.to_string(), detail: detail.to_owned() }
}

pub(super) async fn from_block(
    data: &BlockData,
    block: Block,
    cancel: &CancellationToken,
) -> Result<SpooledTempFile, ContentError> {
    let extent = block.extent(data.size().await?)?;
    let read = move |mut blocks: BlockReader| {
        let mut spool = spooled_tempfile(SPOOL);
        let keep = "can't keep the content";
        blocks.block(&block, &mut |bytes| Ok(spool.write_all(bytes).map_err(io_error(keep))?))?;
        spool.rewind().map_err(io_error(keep))?;
        Ok(spool)
    };
    data.read(&[extent], cancel, read).await
}

async fn from_layer(
    file: &Path,
    archive: &Archive,
    image: &OciStorageInfo,
    remote: RemoteRef,
    settings: ReadSettings,
    cancel: &CancellationToken,
) -> Result<SpooledTempFile, ContentError> {
    let layer = open_layer(file, archive, image, remote, settings).await?;
    layer_content(layer, remote, cancel).await
}

/// The layer that a file's content is in.
pub(super) struct LayerContent {
    source: Source,
    layer: StoredLayer,
    /// The way to the content, if there is one that leads past the rest of the layer.
    pub(super) spans: Option<SpanReader>,
}

/// Opens the layer that `remote` is in.
pub(super) async fn open_layer(
    file: &Path,
    archive: &Archive,
    image: &OciStorageInfo,
    remote: RemoteRef,
    settings: ReadSettings,
) -> Result<LayerContent, ContentError> {
    let layer = StoredLayer::of(image, remote.layer)?;
    let source = match settings.source {
        Some(source) => source,
        None => image_source(image)?,
    };
    let source = Source::open(&source, &settings.oci, settings.credentials).await?;
    let (memory, StoredLayer { digest, size, .. }) = (SpanMemory::default(), layer);
    let spans = SpanReader::open(file, &archive.header, source.clone(), digest, size, memory)?;
    let spans = spans.filter(|spans| spans.is_seekable(&plain_range(remote)));
    Ok(LayerContent { source, layer, spans })
}

fn plain_range(remote: RemoteRef) -> Range<u64> {
    remote.offset..remote.offset.saturating_add(remote.length)
}

/// Copies content out of its layer.
pub(super) async fn layer_content(
    content: LayerContent,
    remote: RemoteRef,
    cancel: &CancellationToken,
) -> Result<SpooledTempFile, ContentError> {
    let LayerContent { source, layer: StoredLayer { digest: layer, size, diff_id }, spans } =
        content;
    if let Some(spans) = spans {
        let mut spool = spooled_tempfile(SPOOL);
        spans.copy(plain_range(remote), &mut spool, cancel).await?;
        spool.rewind().map_err(io_error("can't keep the content"))?;
        return Ok(spool);
    }
    let budget = Budget::new(1);
    let copied =
        with_layer(&source, layer, size, Arc::new(Silent), &budget, cancel, move |compressed| {
            let mut spool = spooled_tempfile(SPOOL);
            copy_range(layer, compressed, diff_id, remote.offset, remote.length, &mut spool)?;
            spool.rewind().map_err(|e| LayerError::Copy { layer, detail: e.to_string() })?;
            Ok(spool)
        })
        .await;
    Ok(copied?)
}
