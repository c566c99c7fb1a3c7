//! What a tree is made of, as it lies in memory and in the cache's files.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::Kind;
use crate::clip::node::Special;

/// What `stat` says of an inode, and what it is. Times are Unix seconds, negative before 1970, and
/// so many nanoseconds after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
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
    /// Names in the tree; of a directory 2 and one for each directory in it.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device.
    pub rdev: u32,
    /// Index of its set of extended attributes and 1; 0 for none.
    pub(super) xattrs: u32,
    pub(super) body: BodyRecord,
    /// Permission bits (07777).
    pub permissions: u16,
    pub(super) padding: [u8; 6],
}

impl Inode {
    /// Which kind of file it is.
    pub fn kind(&self) -> Kind {
        match self.body.read() {
            Body::Directory { .. } => Kind::Directory,
            Body::Symlink { .. } => Kind::Symlink,
            Body::Empty | Body::Layer { .. } | Body::Block { .. } => Kind::File,
            Body::Special(special) => Kind::Special(special),
        }
    }
}

/// A name in a directory.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Entry {
    pub(super) name: Text,
    /// Index of the inode.
    pub(super) inode: u32,
}

/// A part of the text: of names, of symbolic links' targets, of extended attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Text {
    pub(super) start: u32,
    pub(super) length: u32,
}

/// An extended attribute.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct Xattr {
    pub(super) name: Text,
    pub(super) value: Text,
}

/// Those of an inode, which lie side by side.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct XattrSet {
    pub(super) first: u32,
    pub(super) count: u32,
}

/// What an inode is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    Directory {
        first: u32,
        count: u32,
        parent: u32,
    },
    Symlink {
        target: Text,
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

/// A [`Body`], flat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct BodyRecord {
    code: u32,
    parts: [u32; 3],
}

const DIRECTORY: u32 = 1;
const SYMLINK: u32 = 2;
const LAYER: u32 = 3;
const BLOCK: u32 = 4;
const CHAR_DEVICE: u32 = 5;
const BLOCK_DEVICE: u32 = 6;
const FIFO: u32 = 7;

impl BodyRecord {
    pub(super) fn new(body: Body) -> Self {
        #[expect(clippy::cast_possible_truncation, reason = "the halves of it")]
        let halves = |offset: u64| (offset as u32, (offset >> 32) as u32);
        let (code, parts) = match body {
            Body::Empty => (0, [0; 3]),
            Body::Directory { first, count, parent } => (DIRECTORY, [first, count, parent]),
            Body::Symlink { target } => (SYMLINK, [target.start, target.length, 0]),
            Body::Layer { layer, offset } => {
                let (low, high) = halves(offset);
                (LAYER, [layer, low, high])
            }
            Body::Block { sha256, offset } => {
                let (low, high) = halves(offset);
                (BLOCK, [sha256, low, high])
            }
            Body::Special(Special::CharDevice) => (CHAR_DEVICE, [0; 3]),
            Body::Special(Special::BlockDevice) => (BLOCK_DEVICE, [0; 3]),
            Body::Special(Special::Fifo) => (FIFO, [0; 3]),
        };
        Self { code, parts }
    }

    pub(super) fn read(self) -> Body {
        let [a, b, c] = self.parts;
        let offset = u64::from(b) | u64::from(c) << 32;
        match self.code {
            DIRECTORY => Body::Directory { first: a, count: b, parent: c },
            SYMLINK => Body::Symlink { target: Text { start: a, length: b } },
            LAYER => Body::Layer { layer: a, offset },
            BLOCK => Body::Block { sha256: a, offset },
            CHAR_DEVICE => Body::Special(Special::CharDevice),
            BLOCK_DEVICE => Body::Special(Special::BlockDevice),
            FIFO => Body::Special(Special::Fifo),
            _ => Body::Empty,
        }
    }
}
