//! The tree that the kernel is shown: an arena of inodes, and of entries that name them. The entries
//! of a directory lie side by side, sorted by name, so that a lookup is a binary search and a
//! listing one walk. Names and digests are stored once however many use them.
//!
//! It takes 96 bytes an inode and 12 an entry, beside the names (`tests::a_node_is_small`), in this process or
//! mapped from the cache.

use std::ops::Range;

use crate::clip::node::{S_IFMT, Special};
use crate::digest::Digest;

/// From an archive's nodes to the arena.
mod build;
/// The arena in a file of the cache.
mod compact;
/// What the arena is made of.
mod record;

pub use record::Inode;

use compact::Records;
use record::{Body, Entry, Text, Xattr, XattrSet};

/// The number of an inode: 1 is the root, and there are no gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(u32);

impl Ino {
    /// The root.
    pub const ROOT: Self = Self(1);

    /// The inode of that number, if a tree can have it.
    pub fn new(number: u64) -> Option<Self> {
        u32::try_from(number).ok().filter(|number| *number > 0).map(Self)
    }

    /// The number.
    pub fn number(self) -> u64 {
        self.0.into()
    }

    fn of_index(index: u32) -> Self {
        Self(index + 1)
    }

    fn index(self) -> usize {
        self.0 as usize - 1
    }
}

/// An archive's files as a file system has them.
#[derive(Debug)]
pub struct FileTree {
    inodes: Records<Inode>,
    entries: Records<Entry>,
    xattr_sets: Records<XattrSet>,
    xattrs: Records<Xattr>,
    layers: Records<[u8; 32]>,
    sha256s: Records<[u8; 32]>,
    /// The bytes of names, of symbolic links' targets and of extended attributes.
    text: Records<u8>,
    /// Nodes of the archive that no directory leads to.
    unreachable: usize,
}

/// Which kind of file an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A regular file.
    File,
    /// A device or fifo.
    Special(Special),
}

/// Where a regular file's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Nowhere: there is none.
    Empty,
    /// In the plain stream of a layer (v2).
    Layer {
        /// Index in [`FileTree::layers`].
        layer: usize,
        /// Of the first byte.
        offset: u64,
    },
    /// In the archive's data (v1).
    Block {
        /// Of the first byte.
        offset: u64,
        /// Of the content, if the archive says it.
        sha256: Option<Digest>,
    },
}

impl FileTree {
    /// The inode of that number.
    pub fn inode(&self, ino: Ino) -> Option<&Inode> {
        self.inodes.get(ino.index())
    }

    /// The inode that `name` is in the directory `parent`.
    pub fn lookup(&self, parent: Ino, name: &[u8]) -> Option<Ino> {
        let entries = &self.entries[self.range(parent)?];
        let found = entries.binary_search_by(|entry| self.name(*entry).cmp(name)).ok()?;
        Some(Ino::of_index(entries[found].inode))
    }

    /// The entries of a directory from the `skip`th on, ascending by name; `None` for what is none.
    pub fn entries(
        &self,
        directory: Ino,
        skip: usize,
    ) -> Option<impl ExactSizeIterator<Item = (&[u8], Ino)>> {
        let entries = &self.entries[self.range(directory)?];
        let rest = entries.get(skip..).unwrap_or_default();
        Some(rest.iter().map(|entry| (self.name(*entry), Ino::of_index(entry.inode))))
    }

    /// The directory that a directory is in; the root is in itself.
    pub fn parent(&self, directory: Ino) -> Option<Ino> {
        match self.inode(directory)?.body.read() {
            Body::Directory { parent, .. } => Some(Ino::of_index(parent)),
            _ => None,
        }
    }

    /// A symbolic link's target.
    pub fn target(&self, ino: Ino) -> Option<&[u8]> {
        match self.inode(ino)?.body.read() {
            Body::Symlink { target } => Some(self.text(target)),
            _ => None,
        }
    }

    /// Where a regular file's content is.
    pub fn place(&self, ino: Ino) -> Option<Place> {
        match self.inode(ino)?.body.read() {
            Body::Empty => Some(Place::Empty),
            Body::Layer { layer, offset } => Some(Place::Layer { layer: layer as usize, offset }),
            Body::Block { sha256, offset } => {
                let sha256 = sha256
                    .checked_sub(1)
                    .map(|index| Digest::from_bytes(self.sha256s[index as usize]));
                Some(Place::Block { offset, sha256 })
            }
            _ => None,
        }
    }

    /// The extended attributes of an inode, ascending by name: names and values.
    pub fn xattrs(&self, ino: Ino) -> impl Iterator<Item = (&[u8], &[u8])> {
        let set = self.inode(ino).and_then(|inode| inode.xattrs.checked_sub(1));
        let set = set.map(|index| self.xattr_sets[index as usize]);
        let pairs = set.map_or(&[][..], |XattrSet { first, count }| {
            &self.xattrs[first as usize..first as usize + count as usize]
        });
        pairs.iter().map(|pair| (self.text(pair.name), self.text(pair.value)))
    }

    /// Whether any inode has extended attributes.
    pub fn has_xattrs(&self) -> bool {
        !self.xattrs.is_empty()
    }

    /// The layers that content is in.
    pub fn layers(&self) -> impl ExactSizeIterator<Item = Digest> {
        self.layers.iter().copied().map(Digest::from_bytes)
    }

    /// How many inodes there are.
    pub fn len(&self) -> usize {
        self.inodes.len()
    }

    /// Never: a tree has a root.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
    }

    /// How many nodes of the archive no directory leads to: they are left out.
    pub fn unreachable(&self) -> usize {
        self.unreachable
    }

    /// Bytes of all files' content.
    pub fn content_length(&self) -> u64 {
        let files = self.inodes.iter().filter(|inode| inode.kind() == Kind::File);
        files.fold(0, |sum, inode| sum.saturating_add(inode.size))
    }

    /// Where the data of a v1 archive end: behind the checksum of the last file.
    pub fn data_end(&self) -> u64 {
        let end = |inode: &Inode| match inode.body.read() {
            Body::Block { offset, .. } => offset.saturating_add(inode.size).saturating_add(8),
            _ => 0,
        };
        self.inodes.iter().map(end).max().unwrap_or(0)
    }

    /// A path to an inode, for people.
    pub fn path(&self, ino: Ino) -> String {
        // Names know their inode and not the other way round: this is for messages alone.
        let mut names = Vec::new();
        let mut wanted = ino;
        let mut directory = self.holding(wanted);
        while let Some((parent, name)) = directory {
            names.push(String::from_utf8_lossy(name).into_owned());
            wanted = parent;
            directory = if wanted == Ino::ROOT { None } else { self.holding(wanted) };
        }
        names.reverse();
        format!("/{}", names.join("/"))
    }

    /// A directory that names an inode, and the name.
    fn holding(&self, ino: Ino) -> Option<(Ino, &[u8])> {
        let at = self.entries.iter().position(|entry| Ino::of_index(entry.inode) == ino)?;
        let holds = |inode: &Inode| match inode.body.read() {
            Body::Directory { first, count, .. } => {
                (first as usize..first as usize + count as usize).contains(&at)
            }
            _ => false,
        };
        let directory = u32::try_from(self.inodes.iter().position(holds)?).ok()?;
        Some((Ino::of_index(directory), self.name(self.entries[at])))
    }

    fn range(&self, directory: Ino) -> Option<Range<usize>> {
        match self.inode(directory)?.body.read() {
            Body::Directory { first, count, .. } => {
                Some(first as usize..first as usize + count as usize)
            }
            _ => None,
        }
    }

    fn name(&self, entry: Entry) -> &[u8] {
        self.text(entry.name)
    }

    fn text(&self, Text { start, length }: Text) -> &[u8] {
        &self.text[start as usize..start as usize + length as usize]
    }
}

/// The permission bits of a mode.
fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & !S_IFMT & 0o7777).unwrap_or(0)
}

#[cfg(test)]
mod tests;
