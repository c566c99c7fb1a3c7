//! Whether two trees hold the same: the same paths, and for each the same kind, attributes,
//! extended attributes, links and bytes.
//!
//! Not compared is what neither belongs to the image nor survives being archived: inode numbers
//! and link counts (but which names are one file is), block counts, and sizes of directories.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::MigrateError;
use crate::clip::node::{Node, NodeKind, NodePath};
use crate::clip::tree::Tree;
use crate::digest::Digest;

/// What was found to be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Comparison {
    /// Nodes of every kind.
    pub nodes: u64,
    /// Regular files, each name counted.
    pub files: u64,
    /// Bytes in them, by their SHA-256.
    pub bytes: u64,
}

/// A tree and the SHA-256 of every regular file in it, in the order of the tree.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// The tree.
    pub tree: &'a Tree,
    /// As many as it has files.
    pub files: &'a [Digest],
}

/// Compares what was made with what it was made from, and names the first difference.
pub fn compare(before: Contents<'_>, after: Contents<'_>) -> Result<Comparison, MigrateError> {
    let mut compared = Comparison { nodes: 0, files: 0, bytes: 0 };
    let (mut before, mut after) = (Walk::new(before), Walk::new(after));
    loop {
        let (old, new) = match (before.next(), after.next()) {
            (None, None) => return Ok(compared),
            (Some(old), Some(new)) => match old.path.cmp(&new.path) {
                Ordering::Equal => (old, new),
                Ordering::Less => return Err(different(&old.path, "it is missing afterwards")),
                Ordering::Greater => return Err(different(&new.path, "it was not there before")),
            },
            (Some(old), None) => return Err(different(&old.path, "it is missing afterwards")),
            (None, Some(new)) => return Err(different(&new.path, "it was not there before")),
        };
        let (old_facts, new_facts) = (before.facts(old), after.facts(new));
        if old_facts != new_facts {
            let told = old_facts.told().into_iter().zip(new_facts.told());
            let details = told
                .filter(|(old, new)| old != new)
                .map(|((what, old), (_, new))| format!("{what} was {old}, is {new}"));
            return Err(different(&old.path, &details.collect::<Vec<_>>().join("; ")));
        }
        compared.nodes += 1;
        if let Some(size) = old_facts.size {
            compared.files += 1;
            compared.bytes += size;
        }
    }
}

fn different(path: &NodePath, detail: &str) -> MigrateError {
    MigrateError::Different { path: path.to_string(), detail: detail.to_owned() }
}

/// Walks a tree, and keeps what a node alone doesn't say.
struct Walk<'a> {
    nodes: Box<dyn Iterator<Item = &'a Node> + 'a>,
    files: std::slice::Iter<'a, Digest>,
    /// The first name of each inode that has content.
    first_names: HashMap<u64, &'a NodePath>,
}

impl<'a> Walk<'a> {
    fn new(contents: Contents<'a>) -> Self {
        let nodes = Box::new(contents.tree.iter());
        Self { nodes, files: contents.files.iter(), first_names: HashMap::new() }
    }

    fn next(&mut self) -> Option<&'a Node> {
        self.nodes.next()
    }

    fn facts(&mut self, node: &'a Node) -> Facts<'a> {
        let (mut size, mut digest, mut first_name, mut target) = (None, None, None, None);
        match &node.kind {
            NodeKind::File(content) => {
                size = Some(content.len());
                digest = self.files.next();
                first_name = Some(*self.first_names.entry(node.attr.ino).or_insert(&node.path));
            }
            NodeKind::Symlink { target: to } => target = Some(to.as_slice()),
            NodeKind::Directory | NodeKind::Special(_) => {}
        }
        let attr = &node.attr;
        // Linux gives every symbolic link all permissions, whatever an archive says.
        let mode = if target.is_some() { node.kind.type_bits() } else { attr.mode };
        Facts {
            mode,
            owner: (attr.uid, attr.gid),
            mtime: (attr.mtime, attr.mtime_nsec),
            atime: (attr.atime, attr.atime_nsec),
            ctime: (attr.ctime, attr.ctime_nsec),
            rdev: attr.rdev,
            xattrs: &node.xattrs,
            size,
            digest,
            target,
            first_name,
        }
    }
}

/// What has to be the same of one path. The kind is a part of the mode.
#[derive(PartialEq)]
struct Facts<'a> {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, u32),
    atime: (i64, u32),
    ctime: (i64, u32),
    rdev: u32,
    xattrs: &'a BTreeMap<Vec<u8>, Vec<u8>>,
    size: Option<u64>,
    digest: Option<&'a Digest>,
    target: Option<&'a [u8]>,
    /// The first of all names of the same file.
    first_name: Option<&'a NodePath>,
}

impl Facts<'_> {
    fn told(&self) -> [(&'static str, String); 11] {
        let time = |(seconds, nanos): (i64, u32)| format!("{seconds}.{nanos:09}");
        let names = self
            .xattrs
            .iter()
            .map(|(name, value)| format!("{}={}", name.escape_ascii(), value.escape_ascii()));
        [
            ("mode", format!("{:o}", self.mode)),
            ("owner", format!("{}:{}", self.owner.0, self.owner.1)),
            ("mtime", time(self.mtime)),
            ("atime", time(self.atime)),
            ("ctime", time(self.ctime)),
            ("device", self.rdev.to_string()),
            ("extended attributes", format!("[{}]", names.collect::<Vec<_>>().join(" "))),
            ("size", self.size.map_or_else(|| "none".into(), |size| size.to_string())),
            ("content", self.digest.map_or_else(|| "none".into(), ToString::to_string)),
            ("target", self.target.map_or_else(|| "none".into(), |t| t.escape_ascii().to_string())),
            ("first name", self.first_name.map_or_else(|| "none".into(), ToString::to_string)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Node);
    use crate::clip::node::{Attr, FileContent};

    /// Lines of `path` or `path inode`; one byte of content in each file, the path's last.
    fn tree(lines: &str) -> (Tree, Vec<Digest>) {
        let (mut nodes, mut digests) = (Vec::new(), Vec::new());
        for line in lines.split(", ") {
            let (path, ino) = line.split_once(' ').unwrap_or((line, "7"));
            let kind = if path == "/" {
                NodeKind::Directory
            } else {
                digests.push(Digest::of(&path.as_bytes()[path.len() - 1..]));
                NodeKind::File(FileContent::Embedded { offset: 55, length: 1, sha256: None })
            };
            let path = NodePath::new(path.as_bytes()).unwrap();
            let attr =
                Attr { ino: ino.parse().unwrap(), mode: kind.type_bits(), ..Attr::default() };
            nodes.push(Node { path, kind, attr, xattrs: BTreeMap::new() });
        }
        (Tree::new(nodes).unwrap(), digests)
    }

    fn outcome(before: &(Tree, Vec<Digest>), after: &(Tree, Vec<Digest>)) -> String {
        let before = Contents { tree: &before.0, files: &before.1 };
        let after = Contents { tree: &after.0, files: &after.1 };
        match compare(before, after) {
            Ok(same) => format!("{} {} {}", same.nodes, same.files, same.bytes),
            Err(MigrateError::Different { path, detail }) => format!("{path}: {detail}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_same_is_the_same_and_counted() {
        assert_eq!(outcome(&tree("/, /a 2, /b 3"), &tree("/, /a 9, /b 8")), "3 2 2");
    }

    #[test]
    fn every_difference_is_found() {
        let before = tree("/, /a 2, /b 3");
        assert_eq!(outcome(&before, &tree("/, /a 2")), "/b: it is missing afterwards");
        assert_eq!(outcome(&before, &tree("/, /b 2")), "/a: it is missing afterwards");
        assert_eq!(outcome(&tree("/, /b 2"), &before), "/a: it was not there before");
        assert_eq!(outcome(&tree("/"), &before), "/a: it was not there before");
        let linked = outcome(&before, &tree("/, /a 2, /b 2"));
        assert_eq!(linked, "/b: first name was /b, is /a");

        let changes: [(&str, Change); 9] = [
            ("mode was 100000, is 104000", |n| n.attr.mode |= 0o4000),
            ("owner was 0:0, is 1:0", |n| n.attr.uid = 1),
            ("owner was 0:0, is 0:1", |n| n.attr.gid = 1),
            ("mtime was 0.000000000, is 0.000000001", |n| n.attr.mtime_nsec = 1),
            ("atime was 0.000000000, is 1.000000000", |n| n.attr.atime = 1),
            ("ctime was 0.000000000, is 1.000000000", |n| n.attr.ctime = 1),
            ("extended attributes was [], is [a=b]", |n| {
                n.xattrs.insert(b"a".into(), b"b".into());
            }),
            ("size was 1, is 2", |n| {
                n.kind =
                    NodeKind::File(FileContent::Embedded { offset: 55, length: 2, sha256: None });
            }),
            ("mode was 100000, is 120000; size was 1, is none; content was sha256:", |n| {
                n.kind = NodeKind::Symlink { target: b"t".into() };
            }),
        ];
        for (expected, change) in changes {
            let mut nodes: Vec<Node> = before.0.iter().cloned().collect();
            change(&mut nodes[2]);
            let after = (Tree::new(nodes).unwrap(), before.1.clone());
            let found = outcome(&before, &after);
            assert!(found.starts_with(&format!("/b: {expected}")), "{found}");
        }
        let mut after = before.clone();
        after.1[1] = Digest::of(b"other");
        assert!(outcome(&before, &after).starts_with("/b: content was sha256:"));
    }
}
