//! Where the bytes of files come from: layers by spans, layers read whole, blocks of v1.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::error::MountError;
use super::tree::{FileTree, Ino, Place};
use crate::clip::header::Header;
use crate::clip::storage_info::{OciStorageInfo, StorageInfo};
use crate::content::blocks::Block;
use crate::content::lazy::{LazyBlocks, LazyLayer, LazyShared, Prefetcher, Priority, WholeLayer};
use crate::content::read::MISPLACED;
use crate::content::stored_layers::StoredLayer;
use crate::content::{ContentError, ReadSettings, SpanCache, SpanMemory, SpanReader, image_source};
use crate::fetch::Budget;
use crate::oci::{Credentials, OciSettings, Source};
use crate::retry::RetrySettings;

/// Somebody waits: what does not come soon is tried again sooner than elsewhere, and given up.
const RETRY: RetrySettings = RetrySettings {
    attempts: 4,
    base_delay: Duration::from_millis(250),
    max_delay: Duration::from_secs(10),
};
/// The longest silence within an answer.
const SILENCE: Duration = Duration::from_secs(15);

/// How content is read.
#[derive(Debug)]
pub struct ContentSettings {
    /// How to get at what the archive points to.
    pub read: ReadSettings,
    /// Whether credentials of the surroundings may be used: docker's configuration file, the AWS
    /// chain.
    pub ambient: bool,
    /// Whether to ask the registry or the bucket before anything is read.
    pub check: bool,
    /// Where to keep what was fetched.
    pub cache: Option<SpanCache>,
}

/// The bytes of an archive's files.
#[derive(Debug)]
pub struct MountContent {
    layers: Vec<Layer>,
    blocks: Option<LazyBlocks>,
    shared: LazyShared,
    prefetcher: Prefetcher,
}

#[derive(Debug)]
enum Layer {
    Spans(LazyLayer),
    Whole(WholeLayer),
}

impl MountContent {
    /// Prepares to read the files of `tree`, which is that of the archive in `file` with these parts.
    /// If asked to, makes sure that whoever has the content answers: with one small request.
    pub async fn open(
        file: &Path,
        header: &Header,
        storage: &StorageInfo,
        tree: &FileTree,
        settings: ContentSettings,
        cancel: &CancellationToken,
    ) -> Result<Self, MountError> {
        let ContentSettings { mut read, ambient, check, cache } = settings;
        read.oci = OciSettings { retry: RETRY, idle_timeout: SILENCE, ..read.oci };
        let shared = LazyShared::new(cache);
        let (mut layers, mut blocks) = (Vec::new(), None);
        match storage {
            StorageInfo::Oci(image) => {
                if !ambient && read.credentials.is_none() {
                    read.credentials = Some(Credentials::Anonymous);
                }
                layers =
                    open_layers(file, header, image, tree, read, check, &shared, cancel).await?;
            }
            StorageInfo::S3(_) if !ambient && read.s3.keys.is_none() => {
                return Err(MountError::NoKeys);
            }
            StorageInfo::S3(_) | StorageInfo::Local => {
                blocks = LazyBlocks::open(file, storage, &read.s3, shared.clone()).await?;
            }
        }
        Ok(Self { layers, blocks, shared, prefetcher: Prefetcher::start() })
    }

    /// What all its layers share.
    pub fn shared(&self) -> &LazyShared {
        &self.shared
    }

    /// The bytes of a file in `range`, if nobody has to be asked or waited for. Blocks: reads files.
    pub(super) fn at_hand(&self, tree: &FileTree, ino: Ino, range: &Range<u64>) -> Option<Vec<u8>> {
        match tree.place(ino)? {
            Place::Empty => Some(Vec::new()),
            Place::Layer { layer, offset } => {
                let range = shifted(range, offset);
                match self.layers.get(layer)? {
                    Layer::Spans(layer) => layer.at_hand(&range),
                    Layer::Whole(layer) => layer.at_hand(&range),
                }
            }
            place @ Place::Block { .. } => {
                self.blocks.as_ref()?.at_hand(&block(tree, ino, place)?, range)
            }
        }
    }

    /// The bytes of a file in `range`, which is within its size.
    pub(super) async fn read(
        &self,
        tree: &FileTree,
        ino: Ino,
        range: Range<u64>,
    ) -> Result<Vec<u8>, ContentError> {
        let place = tree.place(ino);
        match (place, &self.blocks) {
            (Some(Place::Empty), _) => Ok(Vec::new()),
            (Some(Place::Layer { layer, offset }), _) if layer < self.layers.len() => {
                let range = shifted(&range, offset);
                match &self.layers[layer] {
                    Layer::Spans(layer) => layer.read(range).await,
                    Layer::Whole(layer) => layer.read(range).await,
                }
            }
            (Some(place @ Place::Block { .. }), Some(blocks)) => match block(tree, ino, place) {
                Some(block) => blocks.read(&block, range).await,
                None => Err(misplaced(tree, ino)),
            },
            _ => Err(misplaced(tree, ino)),
        }
    }

    /// Says that the bytes of a file in `range` are about to be read.
    pub(super) fn expect(&self, tree: &FileTree, ino: Ino, range: &Range<u64>) {
        if let Some(Place::Layer { layer, offset }) = tree.place(ino)
            && let Some(Layer::Spans(layer)) = self.layers.get(layer)
            && let Ok(spans) = layer.holding(&shifted(range, offset))
        {
            self.prefetcher.add(layer, spans, Priority::ReadAhead);
        }
    }
}

fn shifted(range: &Range<u64>, by: u64) -> Range<u64> {
    range.start.saturating_add(by)..range.end.saturating_add(by)
}

fn block(tree: &FileTree, ino: Ino, place: Place) -> Option<Block> {
    let Place::Block { offset, sha256 } = place else { return None };
    let length = tree.inode(ino)?.size;
    Some(Block { path: format!("file at {offset}"), offset, length, sha256 })
}

fn misplaced(tree: &FileTree, ino: Ino) -> ContentError {
    ContentError::NotAFile { path: tree.path(ino), detail: MISPLACED.to_owned() }
}

#[expect(clippy::too_many_arguments, reason = "they are what the archive consists of")]
async fn open_layers(
    file: &Path,
    header: &Header,
    image: &OciStorageInfo,
    tree: &FileTree,
    read: ReadSettings,
    check: bool,
    shared: &LazyShared,
    cancel: &CancellationToken,
) -> Result<Vec<Layer>, MountError> {
    let source = match read.source {
        Some(source) => source,
        None => image_source(image).map_err(ContentError::from)?,
    };
    let opened = Source::open(&source, &read.oci, read.credentials).await;
    let source = opened.map_err(ContentError::from)?;
    let memory = SpanMemory::default();
    let budget = Arc::new(Budget::new(2));
    let mut layers = Vec::new();
    for digest in tree.layers() {
        let stored = StoredLayer::of(image, *digest)?;
        let (source, memory) = (source.clone(), memory.clone());
        let spans = SpanReader::open(file, header, source.clone(), *digest, stored.size, memory)?;
        layers.push(match spans.filter(SpanReader::is_seekable_throughout) {
            Some(spans) => Layer::Spans(LazyLayer::new(spans, shared.clone())),
            None => {
                let budget = budget.clone();
                Layer::Whole(WholeLayer::new(source, stored, shared.clone(), budget))
            }
        });
    }
    if check && let Some(first) = tree.layers().first() {
        let size = StoredLayer::of(image, *first)?.size;
        shared.counters().requested();
        if !source.has_blob(first, size, cancel).await.map_err(ContentError::from)? {
            return Err(MountError::NoLayer { image: source.name(), layer: first.to_string() });
        }
    }
    Ok(layers)
}
