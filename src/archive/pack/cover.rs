//! What layers hide of those below, as far as literal paths tell: symlinks on the way to a path and
//! further names of a file are not seen here. A guess, then, but one that is hardly ever wrong.

use std::collections::HashMap;

use crate::clip::node::NodePath;
use crate::layer::{Entry, EntryKind};

/// The paths that the layers so far, from the top down, speak of.
#[derive(Debug, Default)]
pub(super) struct Cover {
    paths: HashMap<NodePath, Hides>,
}

/// What is hidden at and below a path.
#[derive(Debug, Clone, Copy, Default)]
struct Hides {
    itself: bool,
    below: bool,
}

impl Cover {
    /// Adds a layer; it hides nothing of its own.
    pub(super) fn add(&mut self, entries: &[Entry]) {
        for Entry { path, kind } in entries {
            let (itself, below) = match kind {
                EntryKind::Directory(_) => (true, false),
                EntryKind::Opaque => (false, true),
                _ => (true, true),
            };
            let hides = self.paths.entry(path.clone()).or_default();
            hides.itself |= itself;
            hides.below |= below;
        }
    }

    /// Whether a file at `path` in the next layer is hidden.
    pub(super) fn hides(&self, path: &NodePath) -> bool {
        let bytes = path.as_bytes();
        let hides = |path: &[u8]| self.paths.get(path).copied().unwrap_or_default();
        let slashes = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        hides(bytes).itself
            || slashes.map(|(at, _)| &bytes[..at.max(1)]).any(|above| hides(above).below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::Meta;

    #[test]
    fn whatever_stands_at_or_above_a_path_hides_it() {
        let path = |text: &str| NodePath::new(text.as_bytes()).unwrap();
        let file = EntryKind::File { meta: Meta::default(), offset: 0, length: 0 };
        let mut cover = Cover::default();
        cover.add(&[
            Entry { path: path("/dir"), kind: EntryKind::Directory(Meta::default()) },
            Entry { path: path("/dir/file"), kind: file },
            Entry { path: path("/gone"), kind: EntryKind::Whiteout },
            Entry { path: path("/empty"), kind: EntryKind::Opaque },
        ]);
        for hidden in ["/dir", "/dir/file", "/dir/file/below", "/gone", "/gone/a/b", "/empty/a"] {
            assert!(cover.hides(&path(hidden)), "{hidden}");
        }
        for seen in ["/dir/other", "/empty", "/gone-not", "/other", "/a/gone"] {
            assert!(!cover.hides(&path(seen)), "{seen}");
        }
        cover.add(&[Entry { path: path("/"), kind: EntryKind::Opaque }]);
        assert!(cover.hides(&path("/other")));
    }
}
