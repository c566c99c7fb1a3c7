//! Any layers' entries: what they make is a tree that readers can walk, or an error.
#![no_main]

use floors::memory::MemoryAccount;
use std::collections::HashMap;

use floors::clip::node::{FileContent, NodeKind, NodePath, Special};
use floors::clip::tree::Tree;
use floors::digest::Digest;
use floors::layer::{Encoding, Entry, EntryKind, LayerIndex, Limits, Meta, merge};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Change {
    what: What,
    path: Path,
    mode: u16,
}

#[derive(Debug, Arbitrary)]
enum What {
    Directory,
    File,
    Symlink(Target),
    HardLink(Path),
    Special,
    Whiteout,
    Opaque,
}

/// Few names, so that changes meet: a byte each.
#[derive(Debug, Arbitrary)]
struct Path(Vec<u8>);

#[derive(Debug, Arbitrary)]
struct Target {
    absolute: bool,
    components: Vec<u8>,
}

impl Path {
    fn new(&self) -> NodePath {
        self.0.iter().take(8).fold(NodePath::root(), |path, byte| {
            let name = [b'a' + byte % 4];
            path.join(&name).unwrap_or(path)
        })
    }
}

impl Target {
    fn new(&self) -> Vec<u8> {
        let names: [&[u8]; 7] = [b"a", b"b", b"c", b"d", b"..", b".", b""];
        let mut target = if self.absolute { b"/".to_vec() } else { Vec::new() };
        for component in self.components.iter().take(8) {
            target.extend_from_slice(names[usize::from(*component) % names.len()]);
            target.push(b'/');
        }
        if target.is_empty() { b".".to_vec() } else { target }
    }
}

impl Change {
    fn new(&self, offset: u64) -> Entry {
        let meta = Meta { mode: u32::from(self.mode) & 0o7777, ..Meta::default() };
        let kind = match &self.what {
            What::Directory => EntryKind::Directory(meta),
            What::File => EntryKind::File { meta, offset, length: 1 },
            What::Symlink(target) => EntryKind::Symlink { meta, target: target.new() },
            What::HardLink(path) => EntryKind::HardLink { target: path.new() },
            What::Special => EntryKind::Special { meta, special: Special::Fifo, rdev: 0 },
            What::Whiteout => EntryKind::Whiteout,
            What::Opaque => EntryKind::Opaque,
        };
        Entry { path: self.path.new(), kind }
    }
}

fuzz_target!(|stack: Vec<Vec<Change>>| {
    let layers: Vec<LayerIndex> = stack
        .iter()
        .take(8)
        .zip(0_u8..)
        .map(|(changes, number)| LayerIndex {
            digest: Digest::of(&[number]),
            encoding: Encoding::Gzip,
            diff_id: Digest::of(&[number]),
            compressed_size: 0,
            plain_size: changes.len() as u64,
            entries: changes.iter().zip(0..).map(|(change, at)| change.new(at)).collect(),
            notes: Vec::new(),
            spans: Vec::new(),
        })
        .collect();
    let limits = Limits { nodes: 1000, path_bytes: 100, path_depth: 20, ..Limits::default() };
    let Ok(nodes) = merge(&layers, &limits, &MemoryAccount::default()) else { return };
    assert!(nodes.len() <= 1000);
    assert!(nodes.iter().all(|node| node.path.as_bytes().len() <= 100));
    // Unique paths, a root, every parent a directory.
    assert!(nodes.is_sorted_by(|a, b| a.path < b.path));
    let tree = Tree::new(nodes).expect("a tree");
    let mut names: HashMap<u64, u32> = HashMap::new();
    for node in tree.iter() {
        *names.entry(node.attr.ino).or_default() += 1;
    }
    for node in tree.iter() {
        match &node.kind {
            NodeKind::Directory => {
                assert_eq!(names[&node.attr.ino], 1, "{}", node.path);
                let below = tree.children(&node.path);
                let directories = below.filter(|node| node.kind == NodeKind::Directory).count();
                assert_eq!(node.attr.nlink as usize, 2 + directories, "{}", node.path);
            }
            NodeKind::File(FileContent::Remote(remote)) => {
                assert_eq!(names[&node.attr.ino], node.attr.nlink, "{}", node.path);
                let layer = layers.iter().find(|layer| layer.digest == remote.layer);
                let entry = layer.map(|layer| &layer.entries[remote.offset as usize].kind);
                assert!(matches!(entry, Some(EntryKind::File { .. })), "{}", node.path);
            }
            NodeKind::File(other) => panic!("{other:?}"),
            NodeKind::Symlink { .. } | NodeKind::Special(_) => {
                assert_eq!(names[&node.attr.ino], node.attr.nlink, "{}", node.path);
            }
        }
    }
});
