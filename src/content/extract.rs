//! An archive, or a directory of it, becomes files.
//!
//! They are made in a directory beside the target, which takes the target's place when all of them
//! are there and found right: each needed layer of a v2 archive is read once, and its digest and diff
//! id hold, or, when little of it is needed, its spans are, and theirs do; each block of a v1 archive has its CRC and SHA-256. A run that fails leaves nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use crate::clip::header::Header;
use crate::clip::node::{FileContent, Node, NodeKind};
use crate::clip::reader::Archive;
use crate::clip::storage_info::{OciStorageInfo, StorageInfo};
use crate::content::ContentError;
use crate::content::blocks::{Block, BlockData, BlockReader, first_overlap};
use crate::content::read::{MISPLACED, ReadSettings, image_source};
use crate::content::spans::{SpanMemory, SpanReader};
use crate::content::stored_layers::StoredLayer;
use crate::digest::Digest;
use crate::fetch::download::with_layer;
use crate::fetch::{Budget, largest_first};
use crate::layer::{LayerError, LayerRead, Limits, read_layer};
use crate::local::blocking;
use crate::memory::MemoryAccount;
use crate::oci::Source;
use crate::progress::{Progress, Step};

/// Files by a layer's spans.
mod by_spans;
/// Files and their content.
mod files;
/// What is to be made.
mod plan;
/// A directory in the making.
mod staging;
/// Nodes on disk.
mod target;

use by_spans::{Split, pieces, runs};
use files::{Failure, Files, LayerFiles};
use plan::{InodeId, Plan, WantedFiles};
use staging::Staging;
use target::{Target, Trail};

/// What to extract and how.
#[derive(Debug, Clone)]
pub struct ExtractOptions {
    /// The directory in the archive that becomes the target; symbolic links are followed.
    pub path: Vec<u8>,
    /// Whether to restore owners, which takes root.
    pub owners: bool,
    /// What a layer may cost.
    pub limits: Limits,
    /// How many layers are read at a time, by all who share it.
    pub budget: Arc<Budget>,
}

impl Default for ExtractOptions {
    fn default() -> Self {
        Self {
            path: b"/".to_vec(),
            owners: nix::unistd::geteuid().is_root(),
            limits: Limits::default(),
            budget: Arc::default(),
        }
    }
}

/// What was extracted.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Extraction {
    /// Directories, the target included.
    pub directories: u64,
    /// Regular files; further names of them are not counted here.
    pub files: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Devices and fifos.
    pub special_files: u64,
    /// Further names of what is counted above.
    pub hard_links: u64,
    /// Content, in bytes.
    pub bytes: u64,
    /// What is not as in the archive, one sentence each.
    pub warnings: Vec<String>,
}

/// Extracts a directory of `archive`, which lies in `file`, to `target`, which must be new or empty.
pub async fn extract(
    file: &Path,
    archive: &Archive,
    target: &Path,
    settings: &ReadSettings,
    options: &ExtractOptions,
    progress: Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<Extraction, ContentError> {
    let start = archive.tree.resolve(&options.path)?;
    if start.kind != NodeKind::Directory {
        let detail = "is not a directory: `cat` reads single files".to_owned();
        return Err(ContentError::NotAFile { path: start.path.to_string(), detail });
    }
    let plan = Arc::new(Plan::new(&archive.tree, start)?);
    refuse_misplaced(&plan, &archive.storage)?;
    let target = Arc::new(Target::new(Staging::new(target)?, options.owners));
    let run = Run {
        file,
        header: &archive.header,
        plan: plan.clone(),
        target: target.clone(),
        options,
        progress,
        cancel,
    };
    run.step(make_directories).await?;
    match &archive.storage {
        StorageInfo::Oci(image) => run.take_layers(image, settings).await?,
        storage => {
            if let Some(data) = BlockData::open(file, storage, &settings.s3).await? {
                run.take_blocks(&data).await?;
            }
        }
    }
    run.step(make_the_rest).await?;
    if cancel.is_cancelled() {
        return Err(ContentError::Cancelled);
    }
    let mut extracted = count(&plan);
    extracted.warnings = target.publish()?;
    if !plan.unreachable.is_empty() {
        let what = "no directory leads there; left out, as readers don't find it either";
        extracted.warnings.push(format!("{}: {what}", plan.unreachable));
    }
    Ok(extracted)
}

/// One extraction.
struct Run<'a> {
    file: &'a Path,
    header: &'a Header,
    plan: Arc<Plan>,
    target: Arc<Target>,
    options: &'a ExtractOptions,
    progress: Arc<dyn Progress>,
    cancel: &'a CancellationToken,
}

impl Run<'_> {
    async fn step(
        &self,
        work: fn(&Arc<Plan>, &Arc<Target>) -> Result<(), ContentError>,
    ) -> Result<(), ContentError> {
        let (plan, target) = (self.plan.clone(), self.target.clone());
        blocking(move || work(&plan, &target)).await?
    }

    fn files(&self) -> Files {
        Files::new(self.plan.clone(), self.target.clone())
    }

    /// Reads each layer that has something for us once, several at a time.
    async fn take_layers(
        &self,
        image: &OciStorageInfo,
        settings: &ReadSettings,
    ) -> Result<(), ContentError> {
        let mut layers = self
            .plan
            .wanted()
            .into_iter()
            .map(|(layer, wanted)| {
                self.plausible(image, layer, &wanted)?;
                Ok((StoredLayer::of(image, layer)?, wanted))
            })
            .collect::<Result<Vec<_>, ContentError>>()?;
        if layers.is_empty() {
            return Ok(());
        }
        largest_first(&mut layers, |(layer, _)| layer.size);
        let source = match &settings.source {
            Some(source) => source.clone(),
            None => image_source(image)?,
        };
        let source = Source::open(&source, &settings.oci, settings.credentials.clone()).await?;
        if let Some(manifest) = manifest_digest(image) {
            let compressed_bytes =
                layers.iter().fold(0, |sum: u64, (layer, _)| sum.saturating_add(layer.size));
            let layers = layers.len();
            self.progress.step(Step::Resolved { manifest, layers, compressed_bytes });
        }
        // The first failure stops the others, which are waited for: they write to the target.
        let stop = self.cancel.child_token();
        let reads = layers.into_iter().map(|(layer, wanted)| {
            let (source, stop) = (&source, &stop);
            async move {
                let read = self.take_layer(source, layer, wanted, stop).await;
                if read.is_err() {
                    stop.cancel();
                }
                read
            }
        });
        let outcomes: Vec<_> = stream::iter(reads.collect::<Vec<_>>())
            .buffer_unordered(self.options.budget.begun())
            .collect()
            .await;
        outcomes.into_iter().collect()
    }

    /// A layer makes a file at an offset once each time that it is applied: an archive can't have
    /// more of one than that, however many it claims.
    fn plausible(
        &self,
        image: &OciStorageInfo,
        layer: Digest,
        wanted: &WantedFiles,
    ) -> Result<(), ContentError> {
        let applied = image.layers.iter().filter(|digest| **digest == layer).count();
        match wanted.iter().find(|(_, inodes)| inodes.len() > applied) {
            None => Ok(()),
            Some((offset, inodes)) => {
                let path = self.plan.first(inodes[0]).path.to_string();
                let detail = format!(
                    "{} files have their content at {offset} of layer {layer}, which the image has \
                     {applied} times",
                    inodes.len()
                );
                Err(ContentError::Claim { path, detail })
            }
        }
    }

    async fn take_layer(
        &self,
        source: &Source,
        layer: StoredLayer,
        wanted: WantedFiles,
        cancel: &CancellationToken,
    ) -> Result<(), ContentError> {
        let StoredLayer { digest, size, diff_id } = layer;
        if self.take_spans(source, layer, &wanted, cancel).await? {
            return Ok(());
        }
        let limits = self.options.limits;
        let failure = Failure::default();
        let mut files =
            LayerFiles { files: self.files(), layer: digest, wanted, failure: failure.clone() };
        let work = move |bytes| {
            let read = LayerRead { digest, limits, span: None };
            let found = read_layer(read, &MemoryAccount::default(), bytes, &mut files)?;
            Ok((found.diff_id, files))
        };
        let (progress, budget) = (self.progress.clone(), &self.options.budget);
        let read = with_layer(source, digest, size, progress, budget, cancel, work).await;
        let (found, files) = read.map_err(|error| failure.take().unwrap_or(error.into()))?;
        if found != diff_id {
            return Err(LayerError::DiffId { layer: digest, expected: diff_id, found }.into());
        }
        files.complete()
    }

    /// Reads what is wanted by the layer's spans, if that takes much less than all of it.
    async fn take_spans(
        &self,
        source: &Source,
        layer: StoredLayer,
        wanted: &WantedFiles,
        cancel: &CancellationToken,
    ) -> Result<bool, ContentError> {
        let StoredLayer { digest, size, .. } = layer;
        let pieces = pieces(&self.plan, wanted)?;
        let memory = SpanMemory::default();
        let reader =
            SpanReader::open(self.file, self.header, source.clone(), digest, size, memory)?;
        let Some(reader) = reader else { return Ok(false) };
        let seekable = pieces.iter().all(|piece| reader.is_seekable(&piece.range));
        let Some(runs) = runs(pieces, reader.spans(), size).filter(|_| seekable) else {
            return Ok(false);
        };
        let (mut files, failure) = (self.files(), Failure::default());
        for run in runs {
            let (range, mut split) = Split::new(&mut files, run, failure.clone());
            let copied = reader.copy(range, &mut split, cancel).await;
            copied.map_err(|error| failure.take().unwrap_or(error))?;
        }
        Ok(true)
    }

    /// Reads the blocks that are needed in the order of the data.
    async fn take_blocks(&self, data: &BlockData) -> Result<(), ContentError> {
        let size = data.size().await?;
        let blocks = blocks(&self.plan, size)?;
        let extents =
            blocks.iter().map(|(block, _)| block.extent(size)).collect::<Result<Vec<_>, _>>()?;
        let mut files = self.files();
        let read = move |mut reader: BlockReader| {
            for (block, inodes) in blocks {
                files.begin(inodes)?;
                reader.block(&block, &mut |bytes| files.write(bytes))?;
                files.end()?;
            }
            Ok(())
        };
        data.read(&extents, self.cancel, read).await
    }
}

/// Content is in the layers of an image, or in blocks: where the archive has none of them, nobody
/// would make the file.
fn refuse_misplaced(plan: &Plan, storage: &StorageInfo) -> Result<(), ContentError> {
    let layers = matches!(storage, StorageInfo::Oci(_));
    let misplaced = plan.firsts().find(|(_, node)| match &node.kind {
        NodeKind::File(content) if content.is_empty() => false,
        NodeKind::File(FileContent::Embedded { .. }) => layers,
        NodeKind::File(FileContent::Remote(_)) => !layers,
        _ => false,
    });
    match misplaced {
        None => Ok(()),
        Some((_, Node { path, .. })) => {
            Err(ContentError::Claim { path: path.to_string(), detail: MISPLACED.to_owned() })
        }
    }
}

/// The blocks to read, each with the inodes that have it as their content.
fn blocks(plan: &Plan, size: u64) -> Result<Vec<(Block, Vec<InodeId>)>, ContentError> {
    let mut blocks: BTreeMap<(u64, u64), (Block, Vec<InodeId>)> = BTreeMap::new();
    let mut claimed = 0_u64;
    for (inode, node) in plan.firsts() {
        let Some(block) = Block::of(node).filter(|block| block.length > 0) else { continue };
        claimed = claimed.saturating_add(block.length);
        if claimed > size {
            let detail = format!("with it, files claim more than the {size} bytes of data");
            return Err(ContentError::Claim { path: block.path, detail });
        }
        let place = (block.offset, block.length);
        blocks.entry(place).or_insert_with(|| (block, Vec::new())).1.push(inode);
    }
    if let Some((one, other)) = first_overlap(blocks.values().map(|(block, _)| block)) {
        let detail = format!("its content overlaps that of {}", one.path);
        return Err(ContentError::Claim { path: other.path.clone(), detail });
    }
    Ok(blocks.into_values().collect())
}

fn make_directories(plan: &Arc<Plan>, target: &Arc<Target>) -> Result<(), ContentError> {
    let mut trail = Trail::new(target.clone());
    let mut directories = plan.nodes.iter().filter(|node| node.kind == NodeKind::Directory);
    directories.try_for_each(|node| trail.directory(node))
}

/// Everything that has no content, then links, and directories' attributes last: whatever is made in
/// a directory changes its time, and its mode may not let us in.
fn make_the_rest(plan: &Arc<Plan>, target: &Arc<Target>) -> Result<(), ContentError> {
    let mut files = Files::new(plan.clone(), target.clone());
    let (mut trail, mut there) = (Trail::new(target.clone()), Trail::new(target.clone()));
    for (inode, node) in plan.firsts() {
        match &node.kind {
            NodeKind::File(content) if content.is_empty() => files.empty(inode)?,
            _ => trail.other(node)?,
        }
    }
    for (first, node) in plan.links() {
        trail.link(node, &mut there, first)?;
    }
    let mut directories = plan.nodes.iter().rev().filter(|node| node.kind == NodeKind::Directory);
    directories.try_for_each(|node| trail.finish_directory(node))
}

fn count(plan: &Plan) -> Extraction {
    let mut extracted = Extraction::default();
    let directories = plan.nodes.iter().filter(|node| node.kind == NodeKind::Directory);
    extracted.directories = directories.count() as u64;
    extracted.hard_links = plan.links().count() as u64;
    for (_, node) in plan.firsts() {
        match &node.kind {
            NodeKind::File(content) => {
                extracted.files += 1;
                extracted.bytes = extracted.bytes.saturating_add(content.len());
            }
            NodeKind::Symlink { .. } => extracted.symlinks += 1,
            NodeKind::Special(_) => extracted.special_files += 1,
            NodeKind::Directory => {}
        }
    }
    extracted
}

/// The manifest's digest, if the archive tells it.
fn manifest_digest(image: &OciStorageInfo) -> Option<Digest> {
    image.image_metadata.as_ref()?.digest.parse().ok()
}
