//! The SHA-256 of every file, found by reading all of them: out of a v1 archive's blocks, or out of
//! an image's layers.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::MigrateError;
use crate::archive::{ImageLayer, IndexOptions};
use crate::clip::node::{FileContent, Node, NodeKind, NodePath, RemoteRef};
use crate::clip::tree::Tree;
use crate::content::ContentError;
use crate::content::blocks::{Block, BlockData, BlockReader};
use crate::digest::Digest;
use crate::layer::Contents;
use crate::oci::{ResolvedImage, Source};
use crate::progress::Progress;

/// Of a v1 archive's files, in the order of the tree. Every block is verified.
pub(super) async fn of_blocks(
    tree: &Tree,
    data: &BlockData,
    cancel: &CancellationToken,
) -> Result<Vec<Digest>, MigrateError> {
    let size = data.size().await?;
    let blocks = Block::all(tree.iter());
    let wanted = blocks.iter().map(|block| block.extent(size)).collect::<Result<Vec<_>, _>>()?;
    let hash_all = move |mut reader: BlockReader| {
        let hash = |block: Block| {
            let digest = reader.block(&block, &mut |_| Ok(()))?;
            Ok::<_, ContentError>(((block.offset, block.length), digest))
        };
        blocks.into_iter().map(hash).collect::<Result<HashMap<_, _>, _>>()
    };
    let found = data.read(&wanted, cancel, hash_all).await?;
    in_order(tree, |node| match Block::of(node) {
        Some(block) => found.get(&(block.offset, block.length)).copied(),
        None => Some(Digest::of(b"")),
    })
}

/// The files of an image's layers, by where they are.
pub(super) type LayerFiles = HashMap<RemoteRef, Digest>;

/// Of every file in the layers of an image, also of those that no path leads to. Each layer is read
/// to its end and verified; its index goes into the cache, if there is one.
pub(super) async fn of_layers(
    source: &Source,
    image: &ResolvedImage,
    options: &IndexOptions,
    progress: &Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<LayerFiles, MigrateError> {
    let mut found = LayerFiles::new();
    let mut read = HashSet::new();
    for (descriptor, diff_id) in image.layers.iter().zip(&image.diff_ids) {
        // A layer that stands twice in the image is read once.
        if !read.insert(descriptor.digest) {
            continue;
        }
        let layer = ImageLayer { source, descriptor, diff_id: *diff_id };
        let hashes = Hashes::default();
        let (_, hashes) = layer.index_and_contents(options, hashes, progress, cancel).await?;
        found.extend(hashes.found.into_iter().map(|((offset, length), digest)| {
            (RemoteRef { layer: descriptor.digest, offset, length }, digest)
        }));
    }
    Ok(found)
}

/// Of the files of a v2 archive's tree, in the order of the tree.
pub(super) fn of_remote(tree: &Tree, files: &LayerFiles) -> Result<Vec<Digest>, MigrateError> {
    in_order(tree, |node| match &node.kind {
        NodeKind::File(FileContent::Remote(at)) => files.get(at).copied(),
        _ => None,
    })
}

fn in_order(
    tree: &Tree,
    digest: impl Fn(&Node) -> Option<Digest>,
) -> Result<Vec<Digest>, MigrateError> {
    let files = tree.iter().filter(|node| matches!(node.kind, NodeKind::File(_)));
    files
        .map(|node| {
            digest(node).ok_or_else(|| MigrateError::Different {
                path: node.path.to_string(),
                detail: "its content is not where the archive says".to_owned(),
            })
        })
        .collect()
}

/// Hashes every file of a layer, by where it is.
#[derive(Default)]
struct Hashes {
    current: (u64, u64),
    sha256: Sha256,
    found: HashMap<(u64, u64), Digest>,
}

impl Contents for Hashes {
    fn begin(&mut self, _path: &NodePath, offset: u64, length: u64) -> io::Result<bool> {
        self.current = (offset, length);
        if length == 0 {
            self.found.insert(self.current, Digest::of(b""));
        }
        Ok(length > 0)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sha256.update(bytes);
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        let digest = Digest::from_hasher(std::mem::take(&mut self.sha256));
        self.found.insert(self.current, digest);
        Ok(())
    }
}
