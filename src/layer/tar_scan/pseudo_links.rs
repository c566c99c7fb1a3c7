//! Files that AUFS keeps aside as the common target of hard links (`.wh..wh.plnk`): the directory is
//! no content, but what links to its files is. Docker resolves them so when it unpacks a layer.

use std::collections::HashMap;

use crate::clip::node::NodePath;
use crate::layer::entry::{EntryKind, Meta};

const DIRECTORY: &[u8] = b"/.wh..wh.plnk/";

/// Whether a cleaned path is that of a file kept aside.
pub(super) fn is_pseudo_link(path: &NodePath) -> bool {
    path.as_bytes().starts_with(DIRECTORY)
}

/// The files kept aside, by their paths.
#[derive(Debug, Default)]
pub(super) struct PseudoLinks(HashMap<NodePath, Kept>);

/// A file that has no name in the tree yet, or the first one that it got.
#[derive(Debug)]
enum Kept {
    File { meta: Meta, offset: u64, length: u64 },
    Linked(NodePath),
}

impl PseudoLinks {
    pub(super) fn keep(&mut self, path: NodePath, meta: Meta, offset: u64, length: u64) {
        self.0.insert(path, Kept::File { meta, offset, length });
    }

    /// Those that nothing links to, in the order of their paths.
    pub(super) fn unlinked(&self) -> Vec<&NodePath> {
        let files = self.0.iter().filter(|(_, kept)| matches!(kept, Kept::File { .. }));
        let mut paths: Vec<_> = files.map(|(path, _)| path).collect();
        paths.sort();
        paths
    }

    /// What a hard link at `path` to `target` makes there: the first one to a file kept aside makes
    /// the file, further ones are links to that.
    pub(super) fn link(&mut self, path: &NodePath, target: NodePath) -> EntryKind {
        let Some(kept) = self.0.get_mut(&target) else { return EntryKind::HardLink { target } };
        match std::mem::replace(kept, Kept::Linked(path.clone())) {
            Kept::File { meta, offset, length } => EntryKind::File { meta, offset, length },
            Kept::Linked(first) => {
                *kept = Kept::Linked(first.clone());
                EntryKind::HardLink { target: first }
            }
        }
    }
}
