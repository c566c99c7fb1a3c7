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

#[derive(Debug)]
struct Kept {
    meta: Meta,
    offset: u64,
    length: u64,
    linked: bool,
}

impl PseudoLinks {
    pub(super) fn keep(&mut self, path: NodePath, meta: Meta, offset: u64, length: u64) {
        self.0.insert(path, Kept { meta, offset, length, linked: false });
    }

    /// Those that nothing links to, in the order of their paths.
    pub(super) fn unlinked(&self) -> Vec<&NodePath> {
        let mut paths: Vec<_> =
            self.0.iter().filter(|(_, kept)| !kept.linked).map(|(path, _)| path).collect();
        paths.sort();
        paths
    }

    /// What a hard link to `target` makes if that is kept aside: a file of its own, as docker
    /// makes it, whatever becomes of the others.
    pub(super) fn link(&mut self, target: &NodePath) -> Option<EntryKind> {
        let kept = self.0.get_mut(target)?;
        kept.linked = true;
        let (meta, offset, length) = (kept.meta.clone(), kept.offset, kept.length);
        Some(EntryKind::File { meta, offset, length })
    }
}
