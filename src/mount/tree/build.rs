//! From an archive's nodes to the arena: one walk over the nodes, which come sorted by their paths,
//! and one sort of their names by directory.

use foldhash::{HashMap, HashMapExt as _};

use super::record::{Body, BodyRecord, Entry, Text, Xattr, XattrSet};
use super::{FileTree, Inode, permissions};
use crate::clip::node::{Attr, FileContent, Node, NodeKind};
use crate::clip::tree::Tree;
use crate::digest::Digest;

impl FileTree {
    /// The file system of an archive's tree. What no directory leads to is left out: upstream's
    /// indexer leaves such nodes behind, and its reader does not find them either.
    pub fn new(tree: Tree) -> Self {
        let nodes = tree.into_nodes();
        let mut build = Build::new(nodes.len());
        for node in &nodes {
            build.add(node);
        }
        build.finish()
    }
}

struct Build<'a> {
    inodes: Vec<Inode>,
    /// In the order of paths: the directory's index, and the entry.
    entries: Vec<(u32, Entry)>,
    text: Texts<'a>,
    layers: Interned,
    sha256s: Interned,
    xattr_sets: Vec<XattrSet>,
    xattrs: Vec<Xattr>,
    directories: HashMap<&'a [u8], u32>,
    /// The directory that the last node was in: neighbours mostly share it.
    last: (&'a [u8], u32),
    /// By the archive's number, the inodes that have it: links of one file, if they are the same.
    numbers: HashMap<u64, Vec<(u32, &'a Node)>>,
    unreachable: usize,
}

impl<'a> Build<'a> {
    fn new(nodes: usize) -> Self {
        Self {
            inodes: Vec::with_capacity(nodes),
            entries: Vec::with_capacity(nodes),
            text: Texts::default(),
            layers: Interned::default(),
            sha256s: Interned::default(),
            xattr_sets: Vec::new(),
            xattrs: Vec::new(),
            directories: HashMap::new(),
            last: (b"", 0),
            numbers: HashMap::with_capacity(nodes),
            unreachable: 0,
        }
    }

    fn add(&mut self, node: &'a Node) {
        let Some(path) = node.path.parent_bytes() else {
            self.directories.insert(node.path.as_bytes(), 0);
            self.last = (node.path.as_bytes(), 0);
            self.inode(node, 0);
            return;
        };
        if path != self.last.0 {
            let Some(parent) = self.directories.get(path) else {
                self.unreachable += 1;
                return;
            };
            self.last = (path, *parent);
        }
        let parent = self.last.1;
        let inode = match self.linked(node) {
            Some(inode) => inode,
            None => self.inode(node, parent),
        };
        let links = match node.kind {
            NodeKind::Directory => parent,
            _ => inode,
        };
        self.inodes[links as usize].nlink += 1;
        let name = self.text.intern(node.path.name());
        self.entries.push((parent, Entry { name, inode }));
    }

    /// The inode that this node is another name of.
    fn linked(&self, node: &Node) -> Option<u32> {
        let same = self.numbers.get(&node.attr.ino)?;
        same.iter().find(|(_, first)| first.kind == node.kind).map(|(inode, _)| *inode)
    }

    fn inode(&mut self, node: &'a Node, parent: u32) -> u32 {
        let index = count(self.inodes.len());
        let Attr { mut size, blocks, atime, mtime, ctime, uid, gid, .. } = node.attr;
        let mut nlink = 0;
        let body = match &node.kind {
            NodeKind::Directory => {
                self.directories.insert(node.path.as_bytes(), index);
                nlink = 2;
                Body::Directory { first: 0, count: 0, parent }
            }
            NodeKind::Symlink { target } => {
                let target = self.text.intern(target);
                size = target.length.into();
                Body::Symlink { target }
            }
            NodeKind::File(content) => {
                // What can be read is what there is, whatever the archive says beside it.
                size = content.len();
                match *content {
                    _ if size == 0 => Body::Empty,
                    FileContent::Remote(remote) => {
                        let layer = self.layers.intern(remote.layer);
                        Body::Layer { layer, offset: remote.offset }
                    }
                    FileContent::Embedded { offset, sha256, .. } => {
                        let sha256 = sha256.map_or(0, |sha256| self.sha256s.intern(sha256) + 1);
                        Body::Block { sha256, offset }
                    }
                }
            }
            NodeKind::Special(special) => Body::Special(*special),
        };
        // 0 is no number, and links of directories there are none.
        if node.attr.ino != 0 && node.kind != NodeKind::Directory {
            self.numbers.entry(node.attr.ino).or_default().push((index, node));
        }
        let mut xattrs = 0;
        if !node.xattrs.is_empty() {
            let first = count(self.xattrs.len());
            for (name, value) in &node.xattrs {
                let (name, value) = (self.text.intern(name), self.text.intern(value));
                self.xattrs.push(Xattr { name, value });
            }
            self.xattr_sets.push(XattrSet { first, count: count(node.xattrs.len()) });
            xattrs = count(self.xattr_sets.len());
        }
        self.inodes.push(Inode {
            size,
            blocks: if blocks == 0 { size.div_ceil(512) } else { blocks },
            atime,
            mtime,
            ctime,
            atime_nsec: node.attr.atime_nsec,
            mtime_nsec: node.attr.mtime_nsec,
            ctime_nsec: node.attr.ctime_nsec,
            permissions: permissions(node.attr.mode),
            nlink,
            uid,
            gid,
            rdev: node.attr.rdev,
            xattrs,
            body: BodyRecord::new(body),
            padding: [0; 6],
        });
        index
    }

    fn finish(mut self) -> FileTree {
        // Sorted by paths, the children of a directory are in the order of their names already, but
        // its neighbours' children may stand between them: "/a", "/a-b", "/a/c".
        self.entries.sort_by_key(|(parent, _)| *parent);
        let mut start = 0;
        while let Some((parent, _)) = self.entries.get(start) {
            let parent = *parent;
            let rest = &self.entries[start..];
            let children = rest.iter().take_while(|(of, _)| *of == parent).count();
            let body = &mut self.inodes[parent as usize].body;
            if let Body::Directory { parent, .. } = body.read() {
                let (first, count) = (count(start), count(children));
                *body = BodyRecord::new(Body::Directory { first, count, parent });
            }
            start += children;
        }
        FileTree {
            inodes: self.inodes.into(),
            entries: self.entries.into_iter().map(|(_, entry)| entry).collect::<Vec<_>>().into(),
            text: self.text.bytes.into(),
            layers: self.layers.digests.into(),
            sha256s: self.sha256s.digests.into(),
            xattr_sets: self.xattr_sets.into(),
            xattrs: self.xattrs.into(),
            unreachable: self.unreachable,
        }
    }
}

/// A number of things that an index of at most 1 GiB tells of.
fn count(of: usize) -> u32 {
    u32::try_from(of).unwrap_or(u32::MAX)
}

/// Byte strings, each stored once.
#[derive(Default)]
struct Texts<'a> {
    bytes: Vec<u8>,
    known: HashMap<&'a [u8], u32>,
}

impl<'a> Texts<'a> {
    fn intern(&mut self, text: &'a [u8]) -> Text {
        let start = *self.known.entry(text).or_insert_with(|| {
            let start = count(self.bytes.len());
            self.bytes.extend_from_slice(text);
            start
        });
        Text { start, length: count(text.len()) }
    }
}

/// Digests, each stored once.
#[derive(Default)]
struct Interned {
    digests: Vec<[u8; 32]>,
    known: HashMap<Digest, u32>,
}

impl Interned {
    fn intern(&mut self, digest: Digest) -> u32 {
        *self.known.entry(digest).or_insert_with(|| {
            self.digests.push(*digest.as_bytes());
            count(self.digests.len() - 1)
        })
    }
}
