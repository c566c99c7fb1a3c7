//! The tree that the kernel is shown: an arena of inodes, and of entries that name them. The entries
//! of a directory lie side by side, sorted by name, so that a lookup is a binary search and a
//! listing one walk. Names and digests are stored once however many use them.
//!
//! It takes 112 bytes an inode at most and 12 an entry, beside the names (`tests::a_node_is_small`).

use std::ops::Range;

use crate::clip::node::{S_IFMT, Special};
use crate::digest::Digest;

/// From an archive's nodes to the arena.
mod build;

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
    inodes: Box<[Inode]>,
    entries: Box<[Entry]>,
    /// The bytes of names and of symbolic links' targets.
    text: Box<[u8]>,
    layers: Box<[Digest]>,
    sha256s: Box<[Digest]>,
    xattrs: Box<[Xattrs]>,
    /// Nodes of the archive that no directory leads to.
    unreachable: usize,
}

type Xattrs = Box<[Xattr]>;

/// The name and the value of an extended attribute.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
struct Entry {
    name: u32,
    length: u32,
    /// Index of the inode.
    inode: u32,
}

/// What `stat` says of an inode, and what it is. Times are Unix seconds, negative before 1970, and
/// so many nanoseconds after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inode {
    /// Bytes of a file's content or of a symbolic link's target.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Last access, seconds.
    pub atime: i64,
    /// Last change of content, seconds.
    pub mtime: i64,
    /// Last change of attributes, seconds.
    pub ctime: i64,
    /// Last access, nanoseconds.
    pub atime_nsec: u32,
    /// Last change of content, nanoseconds.
    pub mtime_nsec: u32,
    /// Last change of attributes, nanoseconds.
    pub ctime_nsec: u32,
    /// Permission bits (07777).
    pub permissions: u16,
    /// Names in the tree; of a directory 2 and one for each directory in it.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u32,
    /// Index of its extended attributes and 1; 0 for none.
    xattrs: u32,
    body: Body,
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Body {
    Directory {
        first: u32,
        count: u32,
        parent: u32,
    },
    Symlink {
        target: u32,
        length: u32,
    },
    Empty,
    Layer {
        layer: u32,
        offset: u64,
    },
    /// `sha256`: its index and 1; 0 for none.
    Block {
        sha256: u32,
        offset: u64,
    },
    Special(Special),
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

impl Inode {
    /// Which kind of file it is.
    pub fn kind(&self) -> Kind {
        match self.body {
            Body::Directory { .. } => Kind::Directory,
            Body::Symlink { .. } => Kind::Symlink,
            Body::Empty | Body::Layer { .. } | Body::Block { .. } => Kind::File,
            Body::Special(special) => Kind::Special(special),
        }
    }
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
        match self.inode(directory)?.body {
            Body::Directory { parent, .. } => Some(Ino::of_index(parent)),
            _ => None,
        }
    }

    /// A symbolic link's target.
    pub fn target(&self, ino: Ino) -> Option<&[u8]> {
        match self.inode(ino)?.body {
            Body::Symlink { target, length } => Some(self.text(target, length)),
            _ => None,
        }
    }

    /// Where a regular file's content is.
    pub fn place(&self, ino: Ino) -> Option<Place> {
        match self.inode(ino)?.body {
            Body::Empty => Some(Place::Empty),
            Body::Layer { layer, offset } => Some(Place::Layer { layer: layer as usize, offset }),
            Body::Block { sha256, offset } => {
                let sha256 = sha256.checked_sub(1).map(|index| self.sha256s[index as usize]);
                Some(Place::Block { offset, sha256 })
            }
            _ => None,
        }
    }

    /// The extended attributes of an inode, ascending by name.
    pub fn xattrs(&self, ino: Ino) -> &[Xattr] {
        let index = self.inode(ino).and_then(|inode| inode.xattrs.checked_sub(1));
        index.map_or(&[], |index| &self.xattrs[index as usize])
    }

    /// Whether any inode has extended attributes.
    pub fn has_xattrs(&self) -> bool {
        !self.xattrs.is_empty()
    }

    /// The layers that content is in.
    pub fn layers(&self) -> &[Digest] {
        &self.layers
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
        let end = |inode: &Inode| match inode.body {
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
        let holds = |inode: &Inode| match inode.body {
            Body::Directory { first, count, .. } => {
                (first as usize..first as usize + count as usize).contains(&at)
            }
            _ => false,
        };
        let directory = u32::try_from(self.inodes.iter().position(holds)?).ok()?;
        Some((Ino::of_index(directory), self.name(self.entries[at])))
    }

    fn range(&self, directory: Ino) -> Option<Range<usize>> {
        match self.inode(directory)?.body {
            Body::Directory { first, count, .. } => {
                Some(first as usize..first as usize + count as usize)
            }
            _ => None,
        }
    }

    fn name(&self, entry: Entry) -> &[u8] {
        self.text(entry.name, entry.length)
    }

    fn text(&self, start: u32, length: u32) -> &[u8] {
        &self.text[start as usize..start as usize + length as usize]
    }
}

/// The permission bits of a mode.
fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & !S_IFMT & 0o7777).unwrap_or(0)
}

#[cfg(test)]
mod tests;
