//! What makes a directory big, as `du` tells it: each content is counted once, whatever its number
//! of names.

use std::collections::HashMap;

use foldhash::HashSet;

use super::node::{FileContent, Node, NodeKind, NodePath};
use super::tree::Tree;
use crate::digest::Digest;

/// Bytes and files, and where the bytes are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of content.
    pub bytes: u64,
    /// Regular files, by their names.
    pub files: u64,
    /// How many of the bytes are in which layer; of v2.
    pub layers: HashMap<Digest, u64>,
}

/// A directory and the largest of what is below it.
#[derive(Debug)]
pub struct TreeUsage<'a> {
    /// All that is below the directory.
    pub total: Usage,
    /// The largest directories and files, largest first: a directory comes before what is in it.
    pub largest: Vec<(&'a Node, Usage)>,
}

impl Usage {
    fn add(&mut self, content: Option<&FileContent>) {
        self.files += 1;
        let Some(content) = content else { return };
        self.bytes = self.bytes.saturating_add(content.len());
        if let FileContent::Remote(remote) = content {
            let held = self.layers.entry(remote.layer).or_default();
            *held = held.saturating_add(remote.length);
        }
    }
}

/// Sums up what is below `directory`: `depth` levels of names are told apart, and of all these the
/// `limit` largest are in the answer. The time it takes grows with the nodes below and with `depth`.
pub fn usage<'a>(
    tree: &'a Tree,
    directory: &NodePath,
    depth: usize,
    limit: usize,
) -> TreeUsage<'a> {
    let mut total = Usage::default();
    let mut told: HashMap<&[u8], (&Node, Usage), _> =
        HashMap::with_hasher(foldhash::fast::RandomState::default());
    let mut counted = HashSet::default();
    let above = if directory.is_root() { 1 } else { directory.as_bytes().len() + 1 };
    for node in tree.below(directory) {
        let path = node.path.as_bytes();
        // The ends of the names that are told: "a", "a/b", ... of "a/b/c/d".
        let slashes = path[above..].iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let ends = slashes.map(|(at, _)| above + at).chain([path.len()]).take(depth);
        let content = match &node.kind {
            NodeKind::File(content) => content,
            NodeKind::Directory => {
                if path[above..].split(|byte| *byte == b'/').count() <= depth {
                    told.entry(path).or_insert_with(|| (node, Usage::default()));
                }
                continue;
            }
            _ => continue,
        };
        let is_first = node.attr.nlink < 2 || counted.insert(node.attr.ino);
        let content = Some(content).filter(|_| is_first);
        total.add(content);
        for end in ends {
            let name = &path[..end];
            if end == path.len() {
                told.entry(name).or_insert_with(|| (node, Usage::default())).1.add(content);
            } else if let Some((_, usage)) = told.get_mut(name) {
                // Upstream's archives may lack parents: what is in them is counted above.
                usage.add(content);
            }
        }
    }
    let mut largest: Vec<_> = told.into_values().collect();
    largest.sort_by(|(a, of_a), (b, of_b)| {
        of_b.bytes.cmp(&of_a.bytes).then_with(|| a.path.cmp(&b.path))
    });
    largest.truncate(limit);
    TreeUsage { total, largest }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clip::node::{Attr, RemoteRef};

    fn layer(number: u8) -> Digest {
        Digest::of(&[number])
    }

    fn node(path: &str, kind: NodeKind, ino: u64, nlink: u32) -> Node {
        let path = NodePath::new(path.as_bytes()).unwrap();
        let attr = Attr { ino, nlink, ..Attr::default() };
        Node { path, kind, attr, xattrs: BTreeMap::new() }
    }

    fn directory(path: &str) -> Node {
        node(path, NodeKind::Directory, 1, 2)
    }

    fn file(path: &str, number: u8, length: u64, ino: u64, nlink: u32) -> Node {
        let remote = RemoteRef { layer: layer(number), offset: 0, length };
        node(path, NodeKind::File(FileContent::Remote(remote)), ino, nlink)
    }

    fn tree() -> Tree {
        Tree::new(vec![
            directory("/"),
            directory("/a"),
            directory("/a/b"),
            file("/a/b/c", 1, 100, 2, 1),
            file("/a/b/d", 2, 7, 3, 2),
            file("/a-z", 1, 5, 4, 1),
            directory("/e"),
            file("/e/d", 2, 7, 3, 2),
            node("/e/link", NodeKind::Symlink { target: b"d".to_vec() }, 5, 1),
        ])
        .unwrap()
    }

    fn shown(usage: &TreeUsage<'_>) -> String {
        let one = |(node, usage): &(&Node, Usage)| {
            format!("{}:{}/{}", node.path, usage.bytes, usage.files)
        };
        usage.largest.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn sums_up_and_counts_a_content_of_two_names_once() {
        let tree = tree();
        let all = usage(&tree, &NodePath::root(), 2, 100);
        assert_eq!((all.total.bytes, all.total.files), (112, 4));
        assert_eq!(all.total.layers, HashMap::from([(layer(1), 105), (layer(2), 7)]));
        assert_eq!(shown(&all), "/a:107/2 /a/b:107/2 /a-z:5/1 /e:0/1 /e/d:0/1");
    }

    #[test]
    fn tells_the_largest_and_no_deeper_than_asked() {
        let tree = tree();
        let below = NodePath::new(b"/a").unwrap();
        assert_eq!(shown(&usage(&tree, &below, 1, 100)), "/a/b:107/2");
        assert_eq!(shown(&usage(&tree, &below, 9, 2)), "/a/b:107/2 /a/b/c:100/1");
        assert_eq!(usage(&tree, &NodePath::new(b"/e").unwrap(), 1, 9).total.bytes, 7);
    }
}
