//! Content on its way into the archive: which file's content is where, and whether it is wanted.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

use super::Sink;
use super::cover::Cover;
use crate::clip::ClipError;
use crate::clip::node::{FileContent, NodeKind, NodePath, RemoteRef};
use crate::clip::tree::Tree;
use crate::clip::writer::{FinishedArchive, LocalWriter};
use crate::digest::Digest;
use crate::layer::{Contents, Entry};

/// The most that a file of accounts may have, in bytes.
const MAX_ACCOUNTS: u64 = 1 << 20;
/// Bytes of a block beside its content (CONTRACT A.3).
const BLOCK_FRAME: u64 = 9;

/// A file's place in the layers: a layer and an offset in its plain stream.
type Place = (Digest, u64);

/// The archive so far.
pub(super) struct Blocks {
    writer: LocalWriter<Sink>,
    cover: Cover,
    written: HashMap<Place, FileContent>,
    /// Content of accounts, which the runtime spec needs.
    kept: HashMap<Place, Vec<u8>>,
}

/// What is wanted of a layer.
pub(super) enum Pick {
    /// What the layers above don't hide.
    Uncovered,
    /// These files, as an earlier reading left them out.
    Only(Files),
}

/// Files of a layer by their offsets.
#[derive(Debug, Clone, Default)]
pub(super) struct Files {
    /// Those whose content belongs into the archive.
    write: HashSet<u64>,
    /// Those whose content we need ourselves.
    keep: HashSet<u64>,
}

/// Where a file of accounts is, if it is one and of a size that makes sense.
pub(super) fn account(tree: &Tree, path: &[u8]) -> Option<RemoteRef> {
    match &tree.resolve(path).ok()?.kind {
        NodeKind::File(FileContent::Remote(file)) if file.length <= MAX_ACCOUNTS => Some(*file),
        _ => None,
    }
}

impl Blocks {
    pub(super) fn new(out: Sink) -> io::Result<Self> {
        let writer = LocalWriter::new(out)?;
        let (cover, written, kept) = Default::default();
        Ok(Self { writer, cover, written, kept })
    }

    /// Takes the content of one layer.
    pub(super) fn of(&mut self, layer: Digest, pick: Pick) -> LayerContents<'_> {
        LayerContents { blocks: self, layer, pick, file: None }
    }

    /// From here on `entries` hide what is below them.
    pub(super) fn cover(&mut self, entries: &[Entry]) {
        self.cover.add(entries);
    }

    /// What of the tree was not brought yet, by layer.
    pub(super) fn missing(
        &self,
        tree: &Tree,
        accounts: &[Option<RemoteRef>],
    ) -> BTreeMap<Digest, Files> {
        let mut missing: BTreeMap<Digest, Files> = BTreeMap::new();
        for file in remotes(tree).filter(|file| !self.written.contains_key(&place(file))) {
            missing.entry(file.layer).or_default().write.insert(file.offset);
        }
        for file in accounts.iter().flatten().filter(|file| !self.kept.contains_key(&place(file))) {
            missing.entry(file.layer).or_default().keep.insert(file.offset);
        }
        missing
    }

    /// Where a file's content is in the archive.
    pub(super) fn content(&self, file: &RemoteRef) -> Option<FileContent> {
        self.written.get(&place(file)).cloned()
    }

    /// The content of a file of accounts.
    pub(super) fn kept(&mut self, file: RemoteRef) -> Option<Vec<u8>> {
        self.kept.remove(&place(&file))
    }

    /// Bytes that nothing in the tree refers to.
    pub(super) fn waste(&self, tree: &Tree) -> u64 {
        let used: HashSet<Place> = remotes(tree).map(place).collect();
        let unused = self.written.iter().filter(|(place, _)| !used.contains(place));
        unused.map(|(_, content)| content.len() + BLOCK_FRAME).sum()
    }

    /// Adds a file that is in no layer.
    pub(super) fn write(&mut self, content: &[u8]) -> io::Result<FileContent> {
        self.writer.block(content)
    }

    pub(super) fn finish(self, tree: &Tree) -> Result<FinishedArchive<Sink>, ClipError> {
        self.writer.finish(tree)
    }
}

fn remotes(tree: &Tree) -> impl Iterator<Item = &RemoteRef> {
    tree.iter().filter_map(|node| match &node.kind {
        NodeKind::File(FileContent::Remote(file)) => Some(file),
        _ => None,
    })
}

fn place(file: &RemoteRef) -> Place {
    (file.layer, file.offset)
}

/// A layer's content on its way.
pub(super) struct LayerContents<'a> {
    blocks: &'a mut Blocks,
    layer: Digest,
    pick: Pick,
    file: Option<File>,
}

struct File {
    offset: u64,
    write: bool,
    keep: Option<Vec<u8>>,
}

impl Contents for LayerContents<'_> {
    fn begin(&mut self, path: &NodePath, offset: u64, length: u64) -> io::Result<bool> {
        let (write, keep) = match &self.pick {
            Pick::Uncovered => {
                let write = !self.blocks.cover.hides(path);
                let account = super::ACCOUNTS.contains(&path.as_bytes());
                (write, write && account && length <= MAX_ACCOUNTS)
            }
            Pick::Only(files) => (files.write.contains(&offset), files.keep.contains(&offset)),
        };
        if write {
            self.blocks.writer.begin().map_err(|e| unwritten(&e))?;
        }
        self.file = Some(File { offset, write, keep: keep.then(Vec::new) });
        Ok(write || keep)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        if let Some(kept) = &mut file.keep {
            kept.extend_from_slice(bytes);
        }
        if file.write { self.blocks.writer.bytes(bytes).map_err(|e| unwritten(&e)) } else { Ok(()) }
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(File { offset, write, keep }) = self.file.take() else { return Ok(()) };
        let place = (self.layer, offset);
        if let Some(kept) = keep {
            self.blocks.kept.insert(place, kept);
        }
        if write {
            let content = self.blocks.writer.end().map_err(|e| unwritten(&e))?;
            self.blocks.written.insert(place, content);
        }
        Ok(())
    }
}

/// Whoever reads the layer has more to fail with than this.
fn unwritten(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("can't write the archive: {error}"))
}
