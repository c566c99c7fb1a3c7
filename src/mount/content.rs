//! Where the bytes of files come from: layers by spans, layers read whole, blocks of v1.

use std::io;
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
use crate::content::span_cache::WholeFile;
use crate::content::stored_layers::StoredLayer;
use crate::content::{ContentError, ReadSettings, SpanCache, SpanMemory, SpanReader, image_source};
use crate::digest::Digest;
use crate::fetch::Budget;
use crate::oci::{Credentials, OciSettings, Source};
use crate::retry::RetrySettings;
use crate::trace::Trace;

/// Somebody waits: what does not come soon is tried again sooner than elsewhere, and given up.
const RETRY: RetrySettings = RetrySettings {
    attempts: 4,
    base_delay: Duration::from_millis(250),
    max_delay: Duration::from_secs(10),
};
/// The longest silence within an answer.
const SILENCE: Duration = Duration::from_secs(15);
/// Plain bytes of a trace within which neighbours are fetched together, whoever was touched first.
const BATCH: u64 = 24 << 20;

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
    /// What earlier starts have touched: it is fetched from the first moment on.
    pub trace: Option<Trace>,
    /// Whether to guess what a start is going to touch, if there is no trace.
    pub guess: bool,
    /// For how long to note what is touched.
    pub note: Option<Duration>,
    /// Bytes a second that filling may take.
    pub fill_rate: Option<u64>,
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
    ) -> Result<Self, MountError> {
        let ContentSettings { mut read, ambient, check, cache, trace, note, fill_rate, .. } =
            settings;
        read.oci = OciSettings { retry: RETRY, idle_timeout: SILENCE, ..read.oci };
        let shared = LazyShared::new(cache);
        if let Some(note) = note {
            shared.note_touches(note);
        }
        let prefetcher = Prefetcher::start(fill_rate);
        let prefetch = |content: &Self| {
            if let Some(trace) = &trace {
                content.prefetch(tree, trace);
            }
        };
        let mut content = Self { layers: Vec::new(), blocks: None, shared, prefetcher };
        match storage {
            StorageInfo::Oci(image) => {
                if !ambient && read.credentials.is_none() {
                    read.credentials = Some(Credentials::Anonymous);
                }
                let source = open_source(image, read).await?;
                content.layers = open_layers(file, header, image, tree, &source, &content.shared)?;
                // The trace does not wait for the answer.
                prefetch(&content);
                if check {
                    content.check(image, tree, &source).await?;
                }
            }
            StorageInfo::S3(_) if !ambient && read.s3.keys.is_none() => {
                return Err(MountError::NoKeys);
            }
            StorageInfo::S3(_) | StorageInfo::Local => {
                let shared = content.shared.clone();
                let end = tree.data_end();
                content.blocks =
                    LazyBlocks::open(file, storage, &read.s3, end, check, shared).await?;
                prefetch(&content);
            }
        }
        Ok(content)
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
            Place::Block { offset, sha256 } => {
                let block = block(tree, ino, offset, sha256)?;
                self.blocks.as_ref()?.at_hand(&block, range)
            }
        }
    }

    /// The bytes of a file in `range`, which is within its size. What is in no cache is fetched and verified.
    pub async fn read(
        &self,
        tree: &FileTree,
        ino: Ino,
        range: Range<u64>,
    ) -> Result<Vec<u8>, ContentError> {
        match (tree.place(ino), &self.blocks) {
            (Some(Place::Empty), _) => Ok(Vec::new()),
            (Some(Place::Layer { layer, offset }), _) if layer < self.layers.len() => {
                let range = shifted(&range, offset);
                match &self.layers[layer] {
                    Layer::Spans(layer) => layer.read(range).await,
                    Layer::Whole(layer) => layer.read(range).await,
                }
            }
            (Some(Place::Block { offset, sha256 }), Some(blocks)) => {
                match block(tree, ino, offset, sha256) {
                    Some(block) => blocks.read(&block, range).await,
                    None => Err(misplaced(tree, ino)),
                }
            }
            _ => Err(misplaced(tree, ino)),
        }
    }

    /// A file's content as a file of the cache, if there is one. Blocks.
    pub(super) fn file(&self, tree: &FileTree, ino: Ino) -> Option<WholeFile> {
        let (layer, range) = self.in_spans(tree, ino)?;
        layer.file(&range)
    }

    /// Makes a file of the cache of a file's content, if all of it is there. Blocks.
    pub(super) fn keep_file(&self, tree: &FileTree, ino: Ino) -> io::Result<()> {
        self.in_spans(tree, ino).map_or(Ok(()), |(layer, range)| layer.keep_file(&range))
    }

    fn in_spans(&self, tree: &FileTree, ino: Ino) -> Option<(&LazyLayer, Range<u64>)> {
        let Place::Layer { layer, offset } = tree.place(ino)? else { return None };
        let Layer::Spans(layer) = self.layers.get(layer)? else { return None };
        Some((layer, shifted(&(0..tree.inode(ino)?.size), offset)))
    }

    /// Says that the bytes of a file in `range` are about to be read.
    pub(super) fn expect(&self, tree: &FileTree, ino: Ino, range: &Range<u64>, priority: Priority) {
        match (tree.place(ino), &self.blocks) {
            (Some(Place::Layer { layer, offset }), _) => {
                if let Some(Layer::Spans(layer)) = self.layers.get(layer)
                    && let Ok(spans) = layer.holding(&shifted(range, offset))
                {
                    self.prefetcher.add_spans(layer, spans, priority);
                }
            }
            (Some(Place::Block { offset, .. }), Some(blocks)) => {
                let range = shifted(range, offset);
                self.prefetcher.add_blocks(blocks, range, priority);
            }
            _ => {}
        }
    }

    /// Fetches all content, when nothing else is to be done.
    pub(super) fn fill(&self) {
        for layer in &self.layers {
            match layer {
                Layer::Spans(layer) => {
                    self.prefetcher.add_spans(layer, 0..layer.spans(), Priority::Fill);
                }
                Layer::Whole(layer) => self.prefetcher.add_whole(layer, Priority::Fill),
            }
        }
        if let Some(blocks) = &self.blocks {
            self.prefetcher.add_blocks(blocks, 0..blocks.size(), Priority::Fill);
        }
    }

    /// Waits until all that is to be fetched ahead is there; gives how much of it failed.
    pub(super) async fn filled(&self) -> usize {
        self.prefetcher.idle().await
    }

    /// Fetches what earlier starts have touched, in the order in which they did, but neighbours that
    /// were touched at about the same time together. What the archive has not is passed over.
    pub(super) fn prefetch(&self, tree: &FileTree, trace: &Trace) {
        let mut batch: Vec<(usize, Range<usize>)> = Vec::new();
        let mut plain = 0;
        for (layer, bytes) in trace.order() {
            match layer {
                None => {
                    if let Some(blocks) = &self.blocks {
                        let range = bytes.start..bytes.end.min(blocks.size());
                        self.prefetcher.add_blocks(blocks, range, Priority::Trace);
                    }
                }
                Some(digest) => {
                    let at = tree.layers().position(|known| known == digest);
                    if let Some((at, Layer::Spans(layer))) =
                        at.and_then(|at| Some((at, self.layers.get(at)?)))
                        && let Ok(spans) = layer.holding(&bytes)
                    {
                        plain += bytes.end - bytes.start;
                        batch.push((at, spans));
                    }
                }
            }
            if plain >= BATCH {
                self.prefetch_batch(std::mem::take(&mut batch));
                plain = 0;
            }
        }
        self.prefetch_batch(batch);
    }

    fn prefetch_batch(&self, mut batch: Vec<(usize, Range<usize>)>) {
        batch.sort_by_key(|(layer, spans)| (*layer, spans.start));
        let mut runs: Vec<(usize, Range<usize>)> = Vec::new();
        for (layer, spans) in batch {
            match runs.last_mut() {
                Some((same, run)) if *same == layer && spans.start <= run.end => {
                    run.end = run.end.max(spans.end);
                }
                _ => runs.push((layer, spans)),
            }
        }
        for (layer, run) in runs {
            if let Some(Layer::Spans(layer)) = self.layers.get(layer) {
                self.prefetcher.add_spans(layer, run, Priority::Trace);
            }
        }
    }

    async fn check(
        &self,
        image: &OciStorageInfo,
        tree: &FileTree,
        source: &Source,
    ) -> Result<(), MountError> {
        let Some(layer) = tree.layers().next() else { return Ok(()) };
        let size = StoredLayer::of(image, layer)?.size;
        self.shared.counters().requested();
        // Whoever drops this future cancels it.
        let never = CancellationToken::new();
        if source.has_blob(&layer, size, &never).await.map_err(ContentError::from)? {
            return Ok(());
        }
        Err(MountError::NoLayer { image: source.name(), layer: layer.to_string() })
    }
}

fn shifted(range: &Range<u64>, by: u64) -> Range<u64> {
    range.start.saturating_add(by)..range.end.saturating_add(by)
}

fn block(tree: &FileTree, ino: Ino, offset: u64, sha256: Option<Digest>) -> Option<Block> {
    let length = tree.inode(ino)?.size;
    // Whoever reports it knows the path.
    Some(Block { path: "content".to_owned(), offset, length, sha256 })
}

fn misplaced(tree: &FileTree, ino: Ino) -> ContentError {
    ContentError::NotAFile { path: tree.path(ino), detail: MISPLACED.to_owned() }
}

async fn open_source(image: &OciStorageInfo, read: ReadSettings) -> Result<Source, ContentError> {
    let source = match read.source {
        Some(source) => source,
        None => image_source(image)?,
    };
    Ok(Source::open(&source, &read.oci, read.credentials).await?)
}

fn open_layers(
    file: &Path,
    header: &Header,
    image: &OciStorageInfo,
    tree: &FileTree,
    source: &Source,
    shared: &LazyShared,
) -> Result<Vec<Layer>, ContentError> {
    let memory = SpanMemory::default();
    let budget = Arc::new(Budget::new(2));
    let open = |digest: Digest| {
        let stored = StoredLayer::of(image, digest)?;
        let (source, memory) = (source.clone(), memory.clone());
        let spans = SpanReader::open(file, header, source.clone(), digest, stored.size, memory)?;
        Ok(match spans.filter(SpanReader::is_seekable_throughout) {
            Some(spans) => Layer::Spans(LazyLayer::new(spans, shared.clone())),
            None => Layer::Whole(WholeLayer::new(source, stored, shared.clone(), budget.clone())),
        })
    };
    tree.layers().map(open).collect()
}
