//! What is to be made of a tree, decided before anything is made. No file system here.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::clip::node::{FileContent, Node, NodeKind, NodePath};
use crate::clip::tree::Tree;
use crate::content::ContentError;
use crate::digest::Digest;
use crate::examples::Examples;

/// How deep directories may be: a handle is held for each on the way.
const MAX_DEPTH: usize = 256;

/// An inode that is no directory, by its index among the plan's.
pub(super) type InodeId = usize;

/// The tree below a directory, which is the root here.
#[derive(Debug)]
pub(super) struct Plan {
    /// All that can be reached, in the order of paths, the root first.
    pub(super) nodes: Vec<Node>,
    /// What is no directory: the positions of its names in `nodes`. The first is made, the others
    /// are linked to it.
    pub(super) inodes: Vec<Vec<usize>>,
    /// What no directory leads to.
    pub(super) unreachable: Examples,
}

/// The inodes whose content begins at an offset of a layer.
pub(super) type WantedFiles = BTreeMap<u64, Vec<InodeId>>;

impl Plan {
    /// Plans the tree below `start`, a directory.
    pub(super) fn new(tree: &Tree, start: &Node) -> Result<Self, ContentError> {
        let mut plan =
            Self { nodes: Vec::new(), inodes: Vec::new(), unreachable: Examples::default() };
        let mut directories = HashSet::new();
        // By number: inodes that share it, whatever else they have (only true links should).
        let mut numbers: HashMap<u64, Vec<InodeId>> = HashMap::new();
        for node in std::iter::once(start).chain(tree.below(&start.path)) {
            let parent = node.path.parent().filter(|_| node.path != start.path);
            // Readers find nothing there either: upstream's indexer leaves such nodes behind.
            if parent.is_some_and(|parent| !directories.contains(&parent)) {
                plan.unreachable.push(&node.path);
                continue;
            }
            let path = below(&start.path, &node.path);
            if path.components().count() > MAX_DEPTH {
                let detail = format!("it is over the limit of {MAX_DEPTH} directories deep");
                return Err(ContentError::Claim { path: path.to_string(), detail });
            }
            let at = plan.nodes.len();
            if node.kind == NodeKind::Directory {
                directories.insert(node.path.clone());
            } else {
                let same = numbers.entry(node.attr.ino).or_default();
                let first = |inode: &&InodeId| &plan.nodes[plan.inodes[**inode][0]];
                if let Some(inode) =
                    same.iter().find(|inode| node.attr.ino != 0 && first(inode).kind == node.kind)
                {
                    plan.inodes[*inode].push(at);
                } else {
                    same.push(plan.inodes.len());
                    plan.inodes.push(vec![at]);
                }
            }
            plan.nodes.push(Node { path, ..node.clone() });
        }
        Ok(plan)
    }

    /// The node that is made for an inode.
    pub(super) fn first(&self, inode: InodeId) -> &Node {
        &self.nodes[self.inodes[inode][0]]
    }

    /// Inodes in the order of their first names.
    pub(super) fn firsts(&self) -> impl Iterator<Item = (InodeId, &Node)> {
        self.inodes.iter().enumerate().map(|(inode, names)| (inode, &self.nodes[names[0]]))
    }

    /// Names that are to be linked to their inode's first.
    pub(super) fn links(&self) -> impl Iterator<Item = (&Node, &Node)> {
        self.inodes.iter().flat_map(|names| {
            names[1..].iter().map(|name| (&self.nodes[names[0]], &self.nodes[*name]))
        })
    }

    /// What is to be had of which layer. Empty files are to be had of none.
    pub(super) fn wanted(&self) -> BTreeMap<Digest, WantedFiles> {
        let mut layers: BTreeMap<Digest, WantedFiles> = BTreeMap::new();
        for (inode, node) in self.firsts() {
            if let NodeKind::File(FileContent::Remote(remote)) = &node.kind
                && remote.length > 0
            {
                let layer = layers.entry(remote.layer).or_default();
                layer.entry(remote.offset).or_default().push(inode);
            }
        }
        layers
    }
}

/// A path as seen from one of its ancestors, or from itself.
fn below(start: &NodePath, path: &NodePath) -> NodePath {
    let rest = if start.is_root() { None } else { path.as_bytes().get(start.as_bytes().len()..) };
    match rest {
        None => path.clone(),
        // What is left of a clean path at a slash is one, or nothing.
        Some(rest) => NodePath::new(rest).unwrap_or_else(|_| NodePath::root()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::node::Attr;

    fn node(path: &str, ino: u64, kind: NodeKind) -> Node {
        let path = NodePath::new(path.as_bytes()).unwrap();
        Node { path, kind, attr: Attr { ino, ..Attr::default() }, xattrs: BTreeMap::new() }
    }

    fn file(path: &str, ino: u64, offset: u64) -> Node {
        let content = FileContent::Embedded { offset, length: 1, sha256: None };
        node(path, ino, NodeKind::File(content))
    }

    fn directory(path: &str) -> Node {
        node(path, 7, NodeKind::Directory)
    }

    fn plan(nodes: Vec<Node>, start: &str) -> Result<Plan, ContentError> {
        let tree = Tree::lenient(nodes).unwrap();
        Plan::new(&tree, tree.resolve(start.as_bytes()).unwrap())
    }

    #[test]
    fn names_of_one_inode_are_linked_and_others_are_not() {
        let nodes = vec![
            directory("/"),
            file("/a", 2, 100),
            file("/b", 2, 100),
            file("/other-content", 2, 200),
            file("/c", 2, 200),
            file("/no-number", 0, 100),
            file("/no-number-either", 0, 100),
            node("/symlink", 2, NodeKind::Symlink { target: b"a".to_vec() }),
        ];
        let plan = plan(nodes, "/").unwrap();
        let links: Vec<String> =
            plan.links().map(|(to, name)| format!("{} {}", name.path, to.path)).collect();
        assert_eq!(links, ["/b /a", "/other-content /c"]);
        assert_eq!(plan.inodes.len(), 5);
    }

    #[test]
    fn what_no_directory_leads_to_is_left_out() {
        let nodes = vec![
            directory("/"),
            node("/link", 3, NodeKind::Symlink { target: b"/etc".to_vec() }),
            file("/link/passwd", 4, 100),
            directory("/link/d"),
            file("/link/d/x", 5, 200),
            file("/missing/x", 6, 300),
        ];
        let plan = plan(nodes, "/").unwrap();
        assert_eq!(plan.nodes.len(), 2);
        assert_eq!(plan.unreachable.to_string(), "/link/d, /link/d/x, /link/passwd, /missing/x");
    }

    #[test]
    fn a_directory_of_it_is_a_tree_of_its_own() {
        let nodes = vec![
            directory("/"),
            directory("/a"),
            directory("/a/b"),
            file("/a/b/c", 2, 9),
            file("/x", 3, 1),
        ];
        let plan = plan(nodes, "/a/b").unwrap();
        let paths: Vec<String> = plan.nodes.iter().map(|node| node.path.to_string()).collect();
        assert_eq!(paths, ["/", "/c"]);
    }

    #[test]
    fn depth_is_limited() {
        let deep = |depth: usize| {
            let mut nodes = vec![directory("/")];
            nodes.extend((1..=depth).map(|depth| directory(&"/d".repeat(depth))));
            plan(nodes, "/")
        };
        assert!(deep(MAX_DEPTH).is_ok());
        assert!(matches!(deep(MAX_DEPTH + 1), Err(ContentError::Claim { .. })));
    }
}
