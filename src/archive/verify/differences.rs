//! How two nodes, or two archives, differ.

use crate::clip::node::{FileContent, Node, NodeKind};

/// The attributes in which two nodes of one path differ. Inode numbers are each writer's own, and no
/// attributes.
pub(super) fn differences(a: &Node, b: &Node) -> Vec<&'static str> {
    let mut names = Vec::new();
    let mut compare = |name, equal: bool| {
        if !equal {
            names.push(name);
        }
    };
    match (&a.kind, &b.kind) {
        (NodeKind::Symlink { target: one }, NodeKind::Symlink { target: other }) => {
            compare("target", one == other);
        }
        (NodeKind::File(FileContent::Remote(one)), NodeKind::File(FileContent::Remote(other))) => {
            compare("place in its layer", one == other);
        }
        (NodeKind::File(_), NodeKind::File(_)) => {}
        (one, other) => compare("type", one == other),
    }
    let (one, other) = (&a.attr, &b.attr);
    compare("size", one.size == other.size);
    compare("mode", one.mode == other.mode);
    compare("owner", (one.uid, one.gid) == (other.uid, other.gid));
    compare("mtime", (one.mtime, one.mtime_nsec) == (other.mtime, other.mtime_nsec));
    compare("atime", (one.atime, one.atime_nsec) == (other.atime, other.atime_nsec));
    compare("ctime", (one.ctime, one.ctime_nsec) == (other.ctime, other.ctime_nsec));
    compare("number of links", one.nlink == other.nlink);
    compare("blocks", one.blocks == other.blocks);
    compare("device number", one.rdev == other.rdev);
    compare("extended attributes", a.xattrs == b.xattrs);
    names
}
