//! The layers of a v2 archive, each read whole and once: digest, diff id, every span, every file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::VerifyOptions;
use super::differences::differences;
use super::restarts::{self, Tee};
use crate::archive::ArchiveError;
use crate::clip::check::{Check, known_weakness};
use crate::clip::node::{FileContent, Node, NodeKind, NodePath};
use crate::clip::reader::Parts;
use crate::clip::seek_table::SeekTable;
use crate::clip::storage_info::OciStorageInfo;
use crate::content::read::{ReadSettings, image_source};
use crate::content::stored_layers::StoredLayer;
use crate::digest::Digest;
use crate::error::Classify as _;
use crate::fetch::download::with_layer;
use crate::fetch::{FetchError, largest_first};
use crate::layer::{
    EntryKind, LayerError, LayerIndex, LayerRead, Limits, NoContents, merge, read_layer,
};
use crate::local::io_error;
use crate::memory::MemoryAccount;
use crate::oci::Source;
use crate::progress::{Progress, Step};

/// One deep verification.
pub(super) struct Run<'a> {
    pub(super) file: &'a Path,
    pub(super) parts: &'a Arc<Parts>,
    pub(super) settings: &'a ReadSettings,
    pub(super) options: &'a VerifyOptions,
    pub(super) progress: Arc<dyn Progress>,
    pub(super) cancel: &'a CancellationToken,
}

/// What reading a layer told.
struct Read {
    index: LayerIndex,
    restarts: Check,
}

impl Run<'_> {
    pub(super) async fn check(&self, image: &OciStorageInfo) -> Result<Vec<Check>, ArchiveError> {
        let mut layers = Check::new("layers", "layers");
        let mut restarts = Check::new("restarts", "spans");
        let source = match &self.settings.source {
            Some(source) => Ok(source.clone()),
            None => image_source(image),
        };
        let source = match source {
            Ok(source) => source,
            Err(error) => {
                layers.error(error.to_string());
                return Ok(vec![layers]);
            }
        };
        let credentials = self.settings.credentials.clone();
        let source = Source::open(&source, &self.settings.oci, credentials).await?;
        let distinct: BTreeSet<Digest> = image.layers.iter().copied().collect();
        let mut stored: Vec<StoredLayer> =
            distinct.iter().filter_map(|layer| StoredLayer::of(image, *layer).ok()).collect();
        largest_first(&mut stored, |layer| layer.size);
        if let Some(manifest) = image.image_metadata.as_ref().and_then(|m| m.digest.parse().ok()) {
            let compressed_bytes =
                stored.iter().fold(0, |sum: u64, layer| sum.saturating_add(layer.size));
            let layers = stored.len();
            self.progress.step(Step::Resolved { manifest, layers, compressed_bytes });
        }
        let stop = self.cancel.child_token();
        let _stop = stop.clone().drop_guard();
        let reads = stored.iter().map(|layer| self.layer(&source, *layer, &stop));
        let reads: Vec<(Digest, Result<Read, FetchError>)> =
            stream::iter(reads.collect::<Vec<_>>())
                .buffer_unordered(self.options.budget.begun())
                .try_collect()
                .await?;
        let mut read: BTreeMap<Digest, LayerIndex> = BTreeMap::new();
        for (layer, outcome) in reads.into_iter().collect::<BTreeMap<_, _>>() {
            match outcome {
                Ok(Read { index, restarts: found }) => {
                    layers.checked += 1;
                    restarts.absorb(found);
                    if let Ok(stored) = StoredLayer::of(image, layer)
                        && stored.diff_id != index.diff_id
                    {
                        let (expected, found) = (stored.diff_id, index.diff_id);
                        layers.error(LayerError::DiffId { layer, expected, found }.to_string());
                    }
                    read.insert(layer, index);
                }
                Err(error) => layers.error(error.to_string()),
            }
        }
        let mut checks = vec![layers, restarts, files(self.parts, &read)];
        if distinct.iter().all(|layer| read.contains_key(layer)) {
            checks.push(tree(self.parts, image, &read, &self.options.limits));
        }
        Ok(checks)
    }

    /// Reads a layer; the outer error is what keeps us from going on.
    async fn layer(
        &self,
        source: &Source,
        layer: StoredLayer,
        cancel: &CancellationToken,
    ) -> Result<(Digest, Result<Read, FetchError>), ArchiveError> {
        let StoredLayer { digest, size, .. } = layer;
        let mut archive = File::open(self.file)
            .map_err(io_error(format!("can't read {}", self.file.display())))?;
        // A table that is broken was found before.
        let spans = SeekTable::open(&mut archive, &self.parts.header)
            .ok()
            .flatten()
            .and_then(|table| table.layer(&digest)?.spans(&mut archive).ok());
        let limits = self.options.limits;
        let work = move |bytes| {
            let how = LayerRead { digest, limits, span: None };
            let Some(spans) = spans else {
                let index = read_layer(how, &MemoryAccount::default(), bytes, &mut NoContents)?;
                return Ok(Read { index, restarts: Check::new("restarts", "spans") });
            };
            std::thread::scope(|scope| {
                let (tee, heard) = Tee::new(bytes);
                let restarts =
                    scope.spawn(move || restarts::check(digest, &spans, &mut archive, &heard));
                let index = read_layer(how, &MemoryAccount::default(), tee, &mut NoContents)?;
                let restarts = restarts.join().map_err(|_| LayerError::Thread {
                    layer: digest,
                    detail: "the thread that checks its spans panicked".into(),
                })?;
                Ok(Read { index, restarts })
            })
        };
        let (progress, budget) = (self.progress.clone(), &self.options.budget);
        match with_layer(source, digest, size, progress, budget, cancel, work).await {
            Err(error) if error.code() == "cancelled" => Err(error.into()),
            read => {
                if let Ok(Read { index, .. }) = &read {
                    self.progress.step(Step::LayerDone {
                        layer: digest,
                        compressed_bytes: index.compressed_size,
                        plain_bytes: index.plain_size,
                        entries: index.entries.len(),
                        cached: false,
                    });
                }
                Ok((digest, read))
            }
        }
    }
}

/// Every file's content is that of a regular file in its layer.
fn files(parts: &Parts, layers: &BTreeMap<Digest, LayerIndex>) -> Check {
    let mut check = Check::new("files", "files");
    let lengths: BTreeMap<Digest, HashMap<u64, u64>> = layers
        .iter()
        .map(|(layer, index)| {
            let files = index.entries.iter().filter_map(|entry| match entry.kind {
                EntryKind::File { offset, length, .. } => Some((offset, length)),
                _ => None,
            });
            (*layer, files.collect())
        })
        .collect();
    for node in &parts.nodes {
        let NodeKind::File(FileContent::Remote(remote)) = &node.kind else { continue };
        let Some(files) = lengths.get(&remote.layer) else { continue };
        check.checked += 1;
        match files.get(&remote.offset) {
            Some(length) if *length == remote.length => {}
            Some(length) => check.error(format!(
                "{}: the file at {} of layer {} has {length} bytes, not {}",
                node.path, remote.offset, remote.layer, remote.length
            )),
            None => check.error(format!(
                "{}: no file begins at {} of layer {}",
                node.path, remote.offset, remote.layer
            )),
        }
    }
    check
}

/// The tree is what the layers make by the rules.
fn tree(
    parts: &Parts,
    image: &OciStorageInfo,
    layers: &BTreeMap<Digest, LayerIndex>,
    limits: &Limits,
) -> Check {
    let mut check = Check::new("merged tree", "nodes");
    let stack = image.layers.iter().filter_map(|layer| layers.get(layer));
    let merged = match merge(stack, limits, &MemoryAccount::default()) {
        Ok(merged) => merged,
        Err(error) => {
            check.error(error.to_string());
            return check;
        }
    };
    check.checked = merged.len() as u64;
    let grade = known_weakness(&parts.storage);
    let ours: BTreeMap<&NodePath, &Node> =
        parts.nodes.iter().chain(&parts.special).map(|node| (&node.path, node)).collect();
    let theirs: BTreeMap<&NodePath, &Node> = merged.iter().map(|node| (&node.path, node)).collect();
    for (path, node) in &theirs {
        match ours.get(path) {
            None => check.find(grade, format!("{path}: is in the layers, but not in the archive")),
            Some(found) => {
                // Inode numbers are each writer's own.
                let differs = differences(found, node);
                if !differs.is_empty() {
                    let text =
                        format!("{path}: the layers say otherwise of its {}", differs.join(", "));
                    check.find(grade, text);
                }
            }
        }
    }
    for path in ours.keys().filter(|path| !theirs.contains_key(*path)) {
        check.find(grade, format!("{path}: is in the archive, but not in the layers"));
    }
    check
}
