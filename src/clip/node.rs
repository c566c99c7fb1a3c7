//! One node of the tree: a path, what it is, and its attributes.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt;

use crate::digest::Digest;

/// An absolute, clean path: `/`, or components joined by single slashes, none of them empty, `.`
/// or `..`, none holding a NUL byte. Bytes, not text: image paths need not be UTF-8.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodePath(Box<[u8]>);

/// Why bytes are not a [`NodePath`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path:?} is not a clean absolute path")]
pub struct InvalidPath {
    /// The bytes, lossily, cut to 200 characters.
    pub path: String,
}

impl InvalidPath {
    fn of(bytes: &[u8]) -> Self {
        Self { path: String::from_utf8_lossy(bytes).chars().take(200).collect() }
    }
}

impl NodePath {
    /// `/`.
    pub fn root() -> Self {
        Self(Box::from(*b"/"))
    }

    /// Accepts a path that is clean already.
    pub fn new(bytes: &[u8]) -> Result<Self, InvalidPath> {
        let clean = bytes == b"/"
            || bytes.strip_prefix(b"/").is_some_and(|rest| {
                rest.split(|b| *b == b'/').all(|c| !matches!(c, b"" | b"." | b".."))
                    && !rest.contains(&0)
            });
        if clean { Ok(Self(Box::from(bytes))) } else { Err(InvalidPath::of(bytes)) }
    }

    /// The bytes, starting with `/`.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is `/`.
    pub fn is_root(&self) -> bool {
        *self.0 == *b"/"
    }

    /// The path one up; `None` for `/`.
    pub fn parent(&self) -> Option<Self> {
        self.parent_bytes().map(|parent| Self(Box::from(parent)))
    }

    /// The bytes of the path one up; `None` for `/`.
    pub(crate) fn parent_bytes(&self) -> Option<&[u8]> {
        match self.0.iter().rposition(|b| *b == b'/') {
            _ if self.is_root() => None,
            slash => slash.map(|at| &self.0[..at.max(1)]),
        }
    }

    /// The last component; empty for `/`.
    pub fn name(&self) -> &[u8] {
        let start = self.0.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        &self.0[start..]
    }

    /// The components from the root down; none for `/`.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0[1..].split(|b| *b == b'/').filter(|c| !c.is_empty())
    }

    /// This path and one more component, which must be a valid one.
    pub fn join(&self, name: &[u8]) -> Result<Self, InvalidPath> {
        let parent = if self.is_root() { &[][..] } else { &self.0 };
        let bytes = [parent, b"/", name].concat();
        if matches!(name, b"" | b"." | b"..") || name.iter().any(|b| matches!(b, b'/' | 0)) {
            return Err(InvalidPath::of(&bytes));
        }
        Ok(Self(bytes.into()))
    }

    /// Whether this path lies below `ancestor` (and is not `ancestor` itself).
    pub fn is_below(&self, ancestor: &Self) -> bool {
        !self.is_root()
            && (ancestor.is_root()
                || self
                    .0
                    .strip_prefix(&*ancestor.0)
                    .is_some_and(|rest| rest.first() == Some(&b'/')))
    }
}

impl Borrow<[u8]> for NodePath {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for NodePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// One node of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it is.
    pub path: NodePath,
    /// What it is.
    pub kind: NodeKind,
    /// What `stat` says of it.
    pub attr: Attr,
    /// Extended attributes by full name (`security.capability`). An extra gob field: upstream's
    /// readers skip it.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Node {
    /// Bytes of a regular file's content; none for everything else.
    pub fn content_length(&self) -> u64 {
        match &self.kind {
            NodeKind::File(content) => content.len(),
            _ => 0,
        }
    }
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink {
        /// The target, verbatim.
        target: Vec<u8>,
    },
    /// A regular file.
    File(FileContent),
    /// A device or fifo. Upstream's format can't show these: the writer keeps them out of the
    /// index and in an extra field of the storage info (CONTRACT A.8).
    Special(Special),
}

/// Which special file; the device number is in [`Attr::rdev`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// In a layer (v2).
    Remote(RemoteRef),
    /// In the archive's own data blocks (v1).
    Embedded {
        /// Offset of the first byte in the local archive.
        offset: u64,
        /// Length in bytes.
        length: u64,
        /// SHA-256 of the bytes, when the archive says it.
        sha256: Option<Digest>,
    },
}

impl FileContent {
    /// Length in bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Remote(remote) => remote.length,
            Self::Embedded { length, .. } => *length,
        }
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A byte range of a layer's uncompressed tar stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RemoteRef {
    /// Digest of the compressed layer.
    pub layer: Digest,
    /// Offset in the uncompressed stream.
    pub offset: u64,
    /// Length in bytes.
    pub length: u64,
}

/// What `stat` says of a node (go-fuse's `Attr`; CONTRACT A.4). Times are Unix seconds, negative
/// before 1970, and so many nanoseconds after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Attr {
    /// Inode number: not 0, 1 only for the root; equal only for hard links of one file.
    pub ino: u64,
    /// Size in bytes: file length, or length of a symlink's target; 0 for the rest.
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
    /// File type (`S_IFMT`) and permission bits (07777).
    pub mode: u32,
    /// Number of links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
}

/// The bits of a mode that hold the file type.
pub const S_IFMT: u32 = 0o170_000;

impl NodeKind {
    /// The `S_IFMT` bits that belong to this kind.
    pub fn type_bits(&self) -> u32 {
        match self {
            Self::Directory => 0o040_000,
            Self::Symlink { .. } => 0o120_000,
            Self::File(_) => 0o100_000,
            Self::Special(Special::CharDevice) => 0o020_000,
            Self::Special(Special::BlockDevice) => 0o060_000,
            Self::Special(Special::Fifo) => 0o010_000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> NodePath {
        NodePath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn accepts_clean_paths_only() {
        for good in ["/", "/a", "/a/b", "/a-b", "/...", "/a/.b"] {
            assert_eq!(path(good).as_bytes(), good.as_bytes());
        }
        for bad in ["", "a", "/a/", "//", "/a//b", "/.", "/a/..", "/../a", "/a\0"] {
            assert!(NodePath::new(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn takes_paths_apart_and_joins_them() {
        assert_eq!(path("/a/b").parent(), Some(path("/a")));
        assert_eq!(path("/a").parent(), Some(NodePath::root()));
        assert_eq!(NodePath::root().parent(), None);
        assert_eq!(path("/a/b").name(), b"b");
        assert_eq!(NodePath::root().name(), b"");
        assert_eq!(path("/a/b").components().collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!(NodePath::root().components().count(), 0);
        assert_eq!(path("/a").join(b"b").unwrap(), path("/a/b"));
        assert_eq!(NodePath::root().join(b"b").unwrap(), path("/b"));
        for bad in [&b""[..], b".", b"..", b"a/b", b"/"] {
            assert!(NodePath::root().join(bad).is_err(), "{bad:?}");
            assert!(path("/a").join(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn below_means_inside_a_directory() {
        assert!(path("/a/b").is_below(&path("/a")));
        assert!(path("/a").is_below(&NodePath::root()));
        assert!(!path("/ab").is_below(&path("/a")));
        assert!(!path("/a").is_below(&path("/a")));
        assert!(!NodePath::root().is_below(&NodePath::root()));
    }
}
