//! The tree: nodes sorted by the bytes of their paths.

use foldhash::HashSet;

use super::error::{ClipError, shown};
use super::node::{Node, NodeKind, NodePath};

/// Symlinks followed in one lookup, as in Linux.
const MAX_HOPS: usize = 40;
/// Bytes of a symlink's target that is followed, as in Linux.
const MAX_TARGET: usize = 4096;

/// Nodes sorted by path, unique, with a root directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Tree {
    /// A tree that readers can walk: unique paths, a root, and every node's parent a directory.
    pub fn new(nodes: Vec<Node>) -> Result<Self, ClipError> {
        let tree = Self::sorted(nodes)?;
        for pair in tree.nodes.windows(2) {
            if pair[0].path == pair[1].path {
                return Err(ClipError::tree(&pair[0].path, "stands twice"));
            }
        }
        let directories: HashSet<&[u8]> = tree
            .iter()
            .filter(|node| matches!(node.kind, NodeKind::Directory))
            .map(|node| node.path.as_bytes())
            .collect();
        let mut known: &[u8] = b""; // neighbours mostly share a parent
        for node in tree.iter() {
            if let Some(parent) = node.path.parent_bytes()
                && parent != known
            {
                if !directories.contains(parent) {
                    return Err(ClipError::tree(&node.path, "its parent is not a directory"));
                }
                known = parent;
            }
        }
        Ok(tree)
    }

    /// A tree as upstream's reader takes it: of two nodes with one path the last one counts, and
    /// parents may be missing (upstream's indexer leaves them out; CONTRACT A.7).
    pub fn lenient(mut nodes: Vec<Node>) -> Result<Self, ClipError> {
        if !nodes.is_sorted_by(|a, b| a.path < b.path) {
            nodes.reverse(); // the sort is stable, and `dedup` keeps the first
            nodes.sort_by(|a, b| a.path.cmp(&b.path));
            nodes.dedup_by(|later, first| later.path == first.path);
        }
        Self::sorted(nodes)
    }

    fn sorted(mut nodes: Vec<Node>) -> Result<Self, ClipError> {
        if !nodes.is_sorted_by(|a, b| a.path <= b.path) {
            nodes.sort_by(|a, b| a.path.cmp(&b.path));
        }
        match nodes.first() {
            Some(root) if root.path.is_root() && root.kind == NodeKind::Directory => {
                Ok(Self { nodes })
            }
            Some(root) if root.path.is_root() => {
                Err(ClipError::tree(&NodePath::root(), "is not a directory"))
            }
            _ => Err(ClipError::tree(&NodePath::root(), "is missing")),
        }
    }

    /// All nodes in the order of their paths, the root first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Node> {
        self.nodes.iter()
    }

    /// All nodes in the order of their paths, the root first.
    pub fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: a tree has a root.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// The node at exactly this path.
    pub fn get(&self, path: &NodePath) -> Option<&Node> {
        self.position(path.as_bytes()).ok().map(|at| &self.nodes[at])
    }

    /// Everything below a directory, in the order of paths.
    pub fn below(&self, directory: &NodePath) -> impl Iterator<Item = &Node> {
        let (start, end) = self.range_below(directory);
        self.nodes[start..end].iter()
    }

    /// The direct children of a directory, in the order of names.
    pub fn children(&self, directory: &NodePath) -> impl Iterator<Item = &Node> {
        let depth = directory.components().count() + 1;
        let (start, end) = self.range_below(directory);
        let mut at = start;
        std::iter::from_fn(move || {
            // A child's own subtree is passed over in one step; only its neighbours by name
            // ("a-b" sorts between "a" and "a/b") come one at a time.
            while at < end {
                let node = &self.nodes[at];
                let components = node.path.components().count();
                if components == depth {
                    at += 1;
                    return Some(node);
                }
                let child: Vec<u8> = node
                    .path
                    .components()
                    .take(depth)
                    .flat_map(|c| std::iter::once(&b'/').chain(c))
                    .copied()
                    .collect();
                at = self.end_below(&child).max(at + 1);
            }
            None
        })
    }

    /// The node that a path leads to, symbolic links followed inside the root, the last one too.
    /// The path may be relative to the root, and need not be clean.
    pub fn resolve(&self, path: &[u8]) -> Result<&Node, ClipError> {
        let lost =
            |detail: &str| ClipError::Lookup { path: shown(path), detail: detail.to_owned() };
        let missing = || lost("no such file or directory in the archive");
        let mut todo: Vec<&[u8]> = path.rsplit(|b| *b == b'/').collect();
        let root = self.nodes.first().ok_or_else(missing)?;
        let mut trail = vec![root];
        let mut hops = 0;
        while let Some(component) = todo.pop() {
            let here = trail[trail.len() - 1];
            if matches!(component, b"" | b".") {
                continue;
            }
            if here.kind != NodeKind::Directory {
                let here = shown(here.path.as_bytes());
                return Err(lost(&format!("{here} is not a directory")));
            }
            if component == b".." {
                if trail.len() > 1 {
                    trail.pop();
                }
                continue;
            }
            let path = here.path.join(component).map_err(|_| missing())?;
            let node = self.get(&path).ok_or_else(missing)?;
            if let NodeKind::Symlink { target } = &node.kind {
                hops += 1;
                if hops > MAX_HOPS {
                    return Err(lost("too many symbolic links"));
                }
                if target.len() > MAX_TARGET {
                    return Err(lost("the target of a symbolic link is too long"));
                }
                if target.first() == Some(&b'/') {
                    trail.truncate(1);
                }
                todo.extend(target.rsplit(|b| *b == b'/'));
            } else {
                trail.push(node);
            }
        }
        Ok(trail[trail.len() - 1])
    }

    fn position(&self, path: &[u8]) -> Result<usize, usize> {
        self.nodes.binary_search_by(|node| node.path.as_bytes().cmp(path))
    }

    fn range_below(&self, directory: &NodePath) -> (usize, usize) {
        if directory.is_root() {
            return (1, self.nodes.len());
        }
        let mut prefix = directory.as_bytes().to_vec();
        prefix.push(b'/');
        let start = self.nodes.partition_point(|node| node.path.as_bytes() < &*prefix);
        (start, self.end_below(directory.as_bytes()))
    }

    /// The end of what sorts as `path/...`: `0` comes right after `/`.
    fn end_below(&self, path: &[u8]) -> usize {
        let mut end = path.to_vec();
        end.push(b'/' + 1);
        self.nodes.partition_point(|node| node.path.as_bytes() < &*end)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::node::{Attr, FileContent};
    use super::*;

    fn node(line: &str) -> Node {
        let (path, kind) = if let Some((path, target)) = line.split_once(" -> ") {
            (path, NodeKind::Symlink { target: target.into() })
        } else if line == "/" {
            (line, NodeKind::Directory)
        } else if let Some(path) = line.strip_suffix('/') {
            (path, NodeKind::Directory)
        } else {
            let content = FileContent::Embedded { offset: 0, length: 0, sha256: None };
            (line, NodeKind::File(content))
        };
        let path = NodePath::new(path.as_bytes()).unwrap();
        Node { path, kind, attr: Attr::default(), xattrs: BTreeMap::new() }
    }

    fn nodes(lines: &str) -> Vec<Node> {
        lines.split(", ").map(node).collect()
    }

    fn shown<'a>(nodes: impl Iterator<Item = &'a Node>) -> String {
        nodes.map(|node| node.path.to_string()).collect::<Vec<_>>().join(" ")
    }

    fn path(text: &str) -> NodePath {
        NodePath::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_tree_is_whole() {
        for (lines, expected) in [
            ("/a", "/: is missing"),
            ("/, /a/b", "/a/b: its parent is not a directory"),
            ("/, /a, /a/b", "/a/b: its parent is not a directory"),
            ("/, /a, /a", "/a: stands twice"),
        ] {
            let error = Tree::new(nodes(lines)).unwrap_err().to_string();
            assert_eq!(error, format!("tree: {expected}"), "{lines}");
        }
        assert_eq!(shown(Tree::new(nodes("/b, /, /a")).unwrap().iter()), "/ /a /b");
    }

    #[test]
    fn a_lenient_tree_takes_what_upstream_takes() {
        let tree = Tree::lenient(nodes("/a/b, /x, /, /x -> y")).unwrap();
        assert_eq!(shown(tree.iter()), "/ /a/b /x");
        assert!(matches!(tree.get(&path("/x")).unwrap().kind, NodeKind::Symlink { .. }));
        assert!(Tree::lenient(nodes("/x")).is_err());
    }

    #[test]
    fn children_are_direct() {
        let tree =
            Tree::new(nodes("/, /a/, /a-b, /a/b/, /a/b/c, /a/b/d/, /a/b-c, /a/x, /b/, /b/y"));
        let tree = tree.unwrap();
        assert_eq!(shown(tree.children(&NodePath::root())), "/a /a-b /b");
        assert_eq!(shown(tree.children(&path("/a"))), "/a/b /a/b-c /a/x");
        assert_eq!(shown(tree.children(&path("/a/b"))), "/a/b/c /a/b/d");
        assert_eq!(shown(tree.children(&path("/a-b"))), "");
        assert_eq!(shown(tree.below(&path("/a"))), "/a/b /a/b-c /a/b/c /a/b/d /a/x");
        assert_eq!(tree.below(&NodePath::root()).count(), tree.len() - 1);
    }

    #[test]
    fn lookups_follow_links_inside_the_root() {
        let tree = Tree::new(nodes(
            "/, /a/, /a/f, /l -> a, /abs -> /a/f, /up -> ../../a, /loop -> loop, /a/back -> ../l/f",
        ))
        .unwrap();
        for (from, to) in [
            ("/", "/"),
            ("", "/"),
            ("a/f", "/a/f"),
            ("/l/f", "/a/f"),
            ("//l/./../l/f", "/a/f"),
            ("/abs", "/a/f"),
            ("up/f", "/a/f"),
            ("/a/back", "/a/f"),
            ("../..", "/"),
        ] {
            assert_eq!(tree.resolve(from.as_bytes()).unwrap().path, path(to), "{from}");
        }
        for (from, expected) in [
            ("/no", "/no: no such file or directory in the archive"),
            ("/a/f/x", "/a/f/x: /a/f is not a directory"),
            ("/loop", "/loop: too many symbolic links"),
        ] {
            assert_eq!(tree.resolve(from.as_bytes()).unwrap_err().to_string(), expected);
        }
        let endless = Tree::new(nodes(&format!("/, /l -> {}", "a/".repeat(2049)))).unwrap();
        let error = endless.resolve(b"/l").unwrap_err().to_string();
        assert_eq!(error, "/l: the target of a symbolic link is too long");
    }
}
