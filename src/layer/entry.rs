//! What a layer's tar says, entry by entry: names made absolute and clean, whiteouts told apart.

use std::collections::BTreeMap;

use crate::clip::node::{NodePath, Special};

/// One entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it goes, before any symlink is followed. For whiteouts: what they act on.
    pub path: NodePath,
    /// What it does there.
    pub kind: EntryKind,
}

impl Entry {
    /// Bytes of what differs in length: path, link target, extended attributes.
    pub(super) fn variable_bytes(&self) -> u64 {
        let more = match &self.kind {
            EntryKind::Directory(meta)
            | EntryKind::File { meta, .. }
            | EntryKind::Sparse { meta, .. }
            | EntryKind::Special { meta, .. } => meta.variable_bytes(),
            EntryKind::Symlink { meta, target } => meta.variable_bytes() + target.len() as u64,
            EntryKind::HardLink { target } => target.as_bytes().len() as u64,
            EntryKind::Whiteout | EntryKind::Opaque => 0,
        };
        self.path.as_bytes().len() as u64 + more
    }
}

/// What an entry does at its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// Makes a directory, or gives an existing one these attributes.
    Directory(Meta),
    /// Makes a regular file.
    File {
        /// Attributes.
        meta: Meta,
        /// Offset of the first byte in the uncompressed stream.
        offset: u64,
        /// Length in bytes.
        length: u64,
    },
    /// Makes a regular file of which the layer has pieces only: an index can't point to it, but it
    /// reaches [`Contents`](super::Contents) whole.
    Sparse {
        /// Attributes.
        meta: Meta,
        /// Offset of the first piece in the uncompressed stream; no other file has the same.
        offset: u64,
        /// Length of the whole in bytes.
        length: u64,
    },
    /// Makes a symbolic link.
    Symlink {
        /// Attributes.
        meta: Meta,
        /// The target, verbatim.
        target: Vec<u8>,
    },
    /// Makes another name of what `target` names.
    HardLink {
        /// Path of the existing name, before any symlink is followed.
        target: NodePath,
    },
    /// Makes a device node or fifo.
    Special {
        /// Attributes.
        meta: Meta,
        /// Which one.
        special: Special,
        /// Device number, as `makedev` packs it for Linux.
        rdev: u32,
    },
    /// Removes the path that lower layers have.
    Whiteout,
    /// Removes what lower layers have below the path.
    Opaque,
}

/// Attributes of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Meta {
    /// Permission bits (07777).
    pub mode: u32,
    /// Owner. The largest number is none: it stays as it is (root, but for a directory in place).
    pub uid: u32,
    /// Group, likewise.
    pub gid: u32,
    /// Last change of content.
    pub mtime: Time,
    /// Last access; `mtime` where the tar has none.
    pub atime: Time,
    /// Last change of attributes; `mtime` where the tar has none.
    pub ctime: Time,
    /// Extended attributes by full name.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What an extended attribute costs beside its bytes.
const XATTR_COST: u64 = 96;

impl Meta {
    /// What the extended attributes cost in memory: short ones cost more than their bytes.
    pub(super) fn variable_bytes(&self) -> u64 {
        self.xattr_bytes() + self.xattrs.len() as u64 * XATTR_COST
    }

    /// Bytes of the extended attributes, names and values.
    pub(super) fn xattr_bytes(&self) -> u64 {
        self.xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum()
    }
}

/// A point in time: so many nanoseconds after so many seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Unix seconds; negative before 1970.
    pub seconds: i64,
    /// Nanoseconds.
    pub nanos: u32,
}

impl Time {
    /// The beginning of 1970.
    pub const EPOCH: Self = Self { seconds: 0, nanos: 0 };
}

/// What a field of 32 bits keeps of a number: so Linux cuts owners and device numbers.
pub(super) fn low_bits(value: i64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

/// A decimal number as Go's `strconv.ParseInt` takes it: with a sign or without.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// What a tar name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// An ordinary path.
    Path(NodePath),
    /// The path that a whiteout removes.
    Whiteout(NodePath),
    /// The directory that an opaque marker empties.
    Opaque(NodePath),
    /// AUFS bookkeeping, which is no content (CONTRACT B.4, 15).
    Bookkeeping(NodePath),
}

/// Makes a tar name absolute and clean, lexically (CONTRACT A.6): `./x`, `x` and `../x` are `/x`.
pub(super) fn clean(name: &[u8]) -> Result<NodePath, String> {
    let mut components: Vec<&[u8]> = Vec::new();
    for component in name.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => {
                components.pop();
            }
            _ => components.push(component),
        }
    }
    let mut bytes = Vec::with_capacity(name.len() + 1);
    for component in components {
        bytes.push(b'/');
        bytes.extend_from_slice(component);
    }
    if bytes.is_empty() {
        bytes.push(b'/');
    }
    NodePath::new(&bytes).map_err(|e| e.to_string())
}

/// Tells what a cleaned tar name means (image-spec "Whiteouts").
pub(super) fn classify(path: NodePath) -> Result<Name, String> {
    if path.components().any(|c| c.starts_with(WHITEOUT_META) && c != WHITEOUT_OPAQUE) {
        return Ok(Name::Bookkeeping(path));
    }
    let Some(parent) = path.parent() else { return Ok(Name::Path(path)) };
    if path.name() == WHITEOUT_OPAQUE {
        return Ok(Name::Opaque(parent));
    }
    match path.name().strip_prefix(WHITEOUT) {
        None => Ok(Name::Path(path)),
        Some(hidden) => match parent.join(hidden) {
            Ok(target) => Ok(Name::Whiteout(target)),
            Err(_) => Err(format!("{path} is a whiteout of nothing")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(name: &str) -> String {
        clean(name.as_bytes()).unwrap().to_string()
    }

    #[test]
    fn names_become_absolute_and_stay_inside() {
        for (name, path) in [
            ("a", "/a"),
            ("./a", "/a"),
            ("/a", "/a"),
            ("a/", "/a"),
            ("a//b/./c", "/a/b/c"),
            ("../a", "/a"),
            ("a/../../b", "/b"),
            ("./", "/"),
            (".", "/"),
            ("", "/"),
        ] {
            assert_eq!(cleaned(name), path, "{name:?}");
        }
        assert!(clean(b"a\0b").is_err());
    }

    #[test]
    fn whiteouts_are_told_apart() {
        let of = |name: &str| classify(clean(name.as_bytes()).unwrap()).unwrap();
        let path = |text: &str| NodePath::new(text.as_bytes()).unwrap();
        assert_eq!(of("a/b"), Name::Path(path("/a/b")));
        assert_eq!(of("a/.wh.b"), Name::Whiteout(path("/a/b")));
        assert_eq!(of(".wh.b"), Name::Whiteout(path("/b")));
        assert_eq!(of("a/.wh..wh..opq"), Name::Opaque(path("/a")));
        assert_eq!(of(".wh..wh..opq"), Name::Opaque(NodePath::root()));
        assert_eq!(of(".wh..wh.aufs"), Name::Bookkeeping(path("/.wh..wh.aufs")));
        let kept = path("/.wh..wh.plnk/1.2");
        assert_eq!(of(".wh..wh.plnk/1.2"), Name::Bookkeeping(kept));
        assert_eq!(of("./"), Name::Path(NodePath::root()));
        for nothing in [".wh.", "a/.wh..", "a/.wh..."] {
            assert!(classify(clean(nothing.as_bytes()).unwrap()).is_err(), "{nothing}");
        }
    }
}
