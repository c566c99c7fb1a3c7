//! What was merged, as nodes in the order of their paths.

use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;

use foldhash::{HashSet, HashSetExt as _};

use super::{Inode, InodeId, InodeKind, Merger, Name, NameId, ROOT};
use crate::clip::inode;
use crate::clip::node::{Attr, FileContent, Node, NodeKind, NodePath, RemoteRef};
use crate::digest::Digest;
use crate::layer::entry::Meta;

/// The tree.
pub(super) struct MergedNodes {
    pub(super) nodes: Vec<Node>,
    /// The first sparse file in it, and its layer.
    pub(super) sparse: Option<(Digest, NodePath)>,
}

impl Merger<'_> {
    pub(super) fn nodes(&self) -> MergedNodes {
        let mut nodes: Vec<Node> = Vec::with_capacity(self.names.len());
        let mut inodes: Vec<InodeId> = Vec::with_capacity(self.names.len());
        let mut sparse = None;
        let mut numbers = Numbers {
            given: vec![0; self.inodes.len()],
            used: HashSet::with_capacity(self.inodes.len()),
            layers: BTreeMap::new(),
            last: None,
        };
        // Of files the names, of directories the subdirectories.
        let mut links = vec![0_u32; self.inodes.len()];
        let root = self.names[ROOT].inode;
        nodes.push(self.inodes[root].node(NodePath::root(), inode::ROOT));
        inodes.push(root);
        numbers.used.insert(inode::ROOT);
        let mut todo = vec![Listing::new(0, &self.names[ROOT])];
        while let Some(listing) = todo.last_mut() {
            let directory = listing.directory;
            match listing.next() {
                None => drop(todo.pop()),
                Some(Next::Directory(at, name)) => todo.push(Listing::new(at, &self.names[name])),
                Some(Next::Child(component, name)) => {
                    let parent = &nodes[directory].path;
                    // Components come from clean paths and so make clean paths.
                    let Ok(path) = parent.join(component) else { continue };
                    let Name { inode: id, children, .. } = &self.names[name];
                    let inode = &self.inodes[*id];
                    match inode.kind {
                        InodeKind::Directory => links[inodes[directory]] += 1,
                        _ => links[*id] += 1,
                    }
                    if matches!(inode.kind, InodeKind::Sparse { .. }) && sparse.is_none() {
                        sparse = Some((inode.layer, path.clone()));
                    }
                    if !children.is_empty() {
                        listing.open.push((component, nodes.len(), name));
                    }
                    let number = numbers.of(*id, inode.layer, (directory, parent), component);
                    nodes.push(inode.node(path, number));
                    inodes.push(*id);
                }
            }
        }
        for (node, inode) in nodes.iter_mut().zip(inodes) {
            node.attr.nlink = match node.kind {
                NodeKind::Directory => links[inode].saturating_add(2),
                _ => links[inode],
            };
        }
        MergedNodes { nodes, sparse }
    }
}

/// What is below a directory, in the order of whole paths: between `a` and what is below it comes
/// whatever sorts before `a/`, such as `a-b`.
struct Listing<'m, 'a> {
    /// The directory's place among the nodes.
    directory: usize,
    children: Peekable<btree_map::Iter<'m, &'a [u8], NameId>>,
    /// Directories whose own children come later, with their places. Each begins with the name of
    /// the one before, so that the last one's turn comes first.
    open: Vec<(&'a [u8], usize, NameId)>,
}

/// What comes next in a [`Listing`].
enum Next<'a> {
    /// A child, by its name.
    Child(&'a [u8], NameId),
    /// All that is below a child that came before, by its place among the nodes.
    Directory(usize, NameId),
}

impl<'m, 'a> Listing<'m, 'a> {
    fn new(directory: usize, name: &'m Name<'a>) -> Self {
        Self { directory, children: name.children.iter().peekable(), open: Vec::new() }
    }

    fn next(&mut self) -> Option<Next<'a>> {
        let child = self.children.peek().map(|(component, _)| **component);
        let is_due = |(open, ..): &mut (&[u8], usize, NameId)| {
            let rest = child.and_then(|child| child.strip_prefix(*open)).and_then(<[u8]>::first);
            rest.is_none_or(|byte| *byte > b'/')
        };
        if let Some((_, at, name)) = self.open.pop_if(is_due) {
            return Some(Next::Directory(at, name));
        }
        self.children.next().map(|(component, name)| Next::Child(component, *name))
    }
}

/// Inode numbers (CONTRACT A.5): a hash of layer and path, unlike for unlike inodes.
struct Numbers {
    given: Vec<u64>,
    used: HashSet<u64>,
    layers: BTreeMap<Digest, inode::LayerNumbers>,
    /// Those of the layer and the directory that the last one was in: the next one mostly is, too.
    last: Option<(Digest, usize, inode::DirectoryNumbers)>,
}

impl Numbers {
    /// The number of any inode but the root, by its first name; the directory has a place and a
    /// path.
    fn of(
        &mut self,
        id: InodeId,
        layer: Digest,
        (directory, path): (usize, &NodePath),
        name: &[u8],
    ) -> u64 {
        if self.given[id] == 0 {
            let numbers = match self.last {
                Some((of, at, numbers)) if of == layer && at == directory => numbers,
                _ => self.layers.entry(layer).or_insert_with(|| layer.into()).below(path),
            };
            self.last = Some((layer, directory, numbers));
            let mut number = numbers.of(name);
            while !self.used.insert(number) {
                number = inode::next(number);
            }
            self.given[id] = number;
        }
        self.given[id]
    }
}

impl Inode<'_> {
    /// The node at `path`, but for the number of its links.
    fn node(&self, path: NodePath, ino: u64) -> Node {
        let Meta { mode, mtime, atime, ctime, xattrs, .. } = self.meta;
        let (kind, size, rdev) = match &self.kind {
            InodeKind::Directory => (NodeKind::Directory, 0, 0),
            InodeKind::File { offset, length } | InodeKind::Sparse { offset, length } => {
                let remote = RemoteRef { layer: self.layer, offset: *offset, length: *length };
                (NodeKind::File(FileContent::Remote(remote)), *length, 0)
            }
            InodeKind::Symlink { target } => {
                (NodeKind::Symlink { target: target.to_vec() }, target.len() as u64, 0)
            }
            InodeKind::Special { special, rdev } => (NodeKind::Special(*special), 0, *rdev),
        };
        // Linux has no other mode for symlinks, whatever the tar says.
        let mode = if matches!(kind, NodeKind::Symlink { .. }) { 0o777 } else { *mode };
        let attr = Attr {
            ino,
            size,
            blocks: size.div_ceil(512),
            atime: atime.seconds,
            mtime: mtime.seconds,
            ctime: ctime.seconds,
            atime_nsec: atime.nanos,
            mtime_nsec: mtime.nanos,
            ctime_nsec: ctime.nanos,
            mode: kind.type_bits() | mode,
            nlink: 0,
            uid: self.owner.uid,
            gid: self.owner.gid,
            rdev,
        };
        Node { path, kind, attr, xattrs: xattrs.clone() }
    }
}
