use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::clip::node::{Attr, FileContent, Node, NodeKind, NodePath, RemoteRef};
use crate::clip::tree::Tree;
use crate::content::SpanCache;

fn node(path: &str, ino: u64, kind: NodeKind) -> Node {
    let path = NodePath::new(path.as_bytes()).unwrap();
    let mode = kind.type_bits() | 0o6755;
    Node { path, kind, attr: Attr { ino, mode, ..Attr::default() }, xattrs: BTreeMap::new() }
}

fn file(path: &str, ino: u64, offset: u64) -> Node {
    let layer = Digest::of(b"layer");
    let content = FileContent::Remote(RemoteRef { layer, offset, length: 10 });
    node(path, ino, NodeKind::File(content))
}

fn directory(path: &str) -> Node {
    node(path, 7, NodeKind::Directory)
}

fn tree(nodes: Vec<Node>) -> FileTree {
    FileTree::new(Tree::lenient(nodes).unwrap())
}

fn find(tree: &FileTree, path: &str) -> Option<Ino> {
    let names = path.split('/').filter(|name| !name.is_empty());
    names.into_iter().try_fold(Ino::ROOT, |at, name| tree.lookup(at, name.as_bytes()))
}

fn names(tree: &FileTree, directory: Ino) -> Vec<String> {
    let entries = tree.entries(directory, 0).unwrap();
    entries.map(|(name, _)| String::from_utf8(name.to_vec()).unwrap()).collect()
}

#[test]
fn a_node_is_small() {
    assert_eq!(size_of::<Inode>() + size_of::<Entry>(), 108);
}

#[test]
fn siblings_lie_side_by_side_though_their_paths_do_not() {
    let tree = tree(vec![
        directory("/"),
        directory("/a"),
        directory("/a-b"),
        file("/a/x", 3, 0),
        file("/a-b/y", 4, 10),
        file("/a.c", 5, 20),
    ]);
    assert_eq!(names(&tree, Ino::ROOT), ["a", "a-b", "a.c"]);
    assert_eq!(names(&tree, find(&tree, "/a").unwrap()), ["x"]);
    assert_eq!(names(&tree, find(&tree, "/a-b").unwrap()), ["y"]);
    assert_eq!(tree.parent(find(&tree, "/a").unwrap()), Some(Ino::ROOT));
    assert_eq!(tree.parent(Ino::ROOT), Some(Ino::ROOT));
    assert_eq!(tree.inode(Ino::ROOT).unwrap().nlink, 4);
    assert_eq!(tree.path(find(&tree, "/a-b/y").unwrap()), "/a-b/y");
    assert_eq!(tree.entries(Ino::ROOT, 2).unwrap().len(), 1);
    assert_eq!(tree.entries(Ino::ROOT, 9).unwrap().len(), 0);
    assert!(tree.entries(find(&tree, "/a.c").unwrap(), 0).is_none());
}

#[test]
fn links_are_one_inode_and_others_with_its_number_are_not() {
    let tree = tree(vec![
        directory("/"),
        file("/a", 2, 100),
        file("/b", 2, 100),
        file("/other-content", 2, 200),
        file("/no-number", 0, 100),
        file("/no-number-either", 0, 100),
        node("/symlink", 2, NodeKind::Symlink { target: b"a".to_vec() }),
        // Only the file that is a directory's namesake in number is a link of nothing.
        file("/seven", 7, 300),
    ]);
    let ino = |path| find(&tree, path).unwrap();
    let nlink = |path| tree.inode(ino(path)).unwrap().nlink;
    assert_eq!(ino("/a"), ino("/b"));
    assert_eq!([nlink("/a"), nlink("/other-content"), nlink("/no-number")], [2, 1, 1]);
    let distinct: BTreeSet<Ino> =
        ["/a", "/other-content", "/no-number", "/no-number-either", "/symlink", "/seven"]
            .map(ino)
            .into();
    assert_eq!(distinct.len(), 6);
    assert_eq!(tree.target(ino("/symlink")), Some(&b"a"[..]));
    assert_eq!(tree.inode(ino("/symlink")).unwrap().size, 1);
}

#[test]
fn what_no_directory_leads_to_is_left_out() {
    let tree = tree(vec![
        directory("/"),
        node("/link", 3, NodeKind::Symlink { target: b"/etc".to_vec() }),
        file("/link/passwd", 4, 100),
        directory("/link/d"),
        file("/link/d/x", 5, 200),
        file("/missing/x", 6, 300),
    ]);
    assert_eq!((tree.len(), tree.unreachable()), (2, 4));
    assert_eq!(names(&tree, Ino::ROOT), ["link"]);
}

#[test]
fn attributes_are_the_archives() {
    let mut device = node("/null", 9, NodeKind::Special(Special::CharDevice));
    device.attr.rdev = 0x103;
    device.xattrs.insert(b"user.b".to_vec(), b"2".to_vec());
    device.xattrs.insert(b"user.a".to_vec(), Vec::new());
    let attr = &mut device.attr;
    (attr.mtime, attr.mtime_nsec, attr.uid, attr.gid) = (-5, 7, 1, 2);
    let block = FileContent::Embedded { offset: 60, length: 3, sha256: Some(Digest::of(b"abc")) };
    let dir = tempfile::tempdir().unwrap();
    let tree = tree(vec![
        directory("/"),
        device,
        node("/v1", 3, NodeKind::File(block)),
        node("/v1-unknown", 4, {
            NodeKind::File(FileContent::Embedded { offset: 90, length: 1, sha256: None })
        }),
        node("/empty", 5, {
            NodeKind::File(FileContent::Embedded { offset: 0, length: 0, sha256: None })
        }),
    ]);
    attributes_are(&tree);
    attributes_are(&kept(&tree, dir.path()));
}

fn attributes_are(tree: &FileTree) {
    let ino = |path| find(tree, path).unwrap();
    let inode = tree.inode(ino("/null")).unwrap();
    assert_eq!(inode.kind(), Kind::Special(Special::CharDevice));
    assert_eq!((inode.permissions, inode.rdev, inode.nlink), (0o6755, 0x103, 1));
    assert_eq!((inode.mtime, inode.mtime_nsec, inode.uid, inode.gid), (-5, 7, 1, 2));
    let xattrs: Vec<_> = tree.xattrs(ino("/null")).collect();
    assert_eq!(xattrs, [(&b"user.a"[..], &b""[..]), (b"user.b", b"2")]);
    assert_eq!(tree.xattrs(ino("/v1")).count(), 0);
    let block = Place::Block { offset: 60, sha256: Some(Digest::of(b"abc")) };
    assert_eq!(tree.place(ino("/v1")), Some(block));
    assert_eq!(tree.place(ino("/v1-unknown")), Some(Place::Block { offset: 90, sha256: None }));
    assert_eq!(tree.place(ino("/empty")), Some(Place::Empty));
    assert_eq!(tree.place(Ino::ROOT), None);
    let file = tree.inode(ino("/v1")).unwrap();
    assert_eq!((file.size, file.blocks, tree.content_length()), (3, 1, 4));
}

#[test]
fn numbers_that_no_inode_has_lead_nowhere() {
    let tree = tree(vec![directory("/")]);
    assert_eq!(Ino::new(0), None);
    assert_eq!(Ino::new(u64::MAX), None);
    let beyond = Ino::new(2).unwrap();
    assert!(tree.inode(beyond).is_none() && tree.lookup(beyond, b"x").is_none());
    assert!(tree.place(beyond).is_none() && tree.xattrs(beyond).count() == 0);
}

/// The tree as somebody finds it who mounts its archive again.
fn kept(tree: &FileTree, directory: &std::path::Path) -> FileTree {
    let (cache, key) = (SpanCache::open(directory, 1 << 20), Digest::of(b"tree"));
    assert!(cache.put_tree(&key, tree.written_length(), |out| tree.write(out)));
    FileTree::read(cache.tree(&key).unwrap()).unwrap()
}

#[test]
fn what_was_written_in_another_way_is_no_tree() {
    let dir = tempfile::tempdir().unwrap();
    let cache = SpanCache::open(dir.path(), 1 << 20);
    let mut bytes = Vec::new();
    tree(vec![directory("/"), file("/a", 2, 0)]).write(&mut bytes).unwrap();
    let read = |name: &str, bytes: &[u8]| {
        let key = Digest::of(name.as_bytes());
        assert!(cache.put_tree(&key, bytes.len() as u64, |out| out.write_all(bytes)));
        FileTree::read(cache.tree(&key).unwrap())
    };
    assert!(read("whole", &bytes).is_some());
    assert!(read("cut", &bytes[..bytes.len() - 1]).is_none());
    assert!(read("longer", &[&bytes[..], b"x"].concat()).is_none());
    assert!(read("head", &bytes[..20]).is_none());
    for (at, value) in [(7, b'2'), (8, 0xff), (15, 0xff), (16, 0x7f)] {
        let mut other = bytes.clone();
        other[at] = value;
        assert!(read(&format!("{at}"), &other).is_none(), "{at}");
    }
}

/// Nodes with names that sort awkwardly, some of them without their directories.
fn some_nodes() -> impl Strategy<Value = Vec<Node>> {
    let name = prop::sample::select(vec!["a", "a-b", "a.b", "b", "\u{e9}", "0"]);
    let path = prop::collection::vec(name, 1..4).prop_map(|names| format!("/{}", names.join("/")));
    let kind = 0..3_u8;
    prop::collection::vec((path, kind, 1..6_u64, 0..3_u64), 0..40).prop_map(|nodes| {
        let mut all = vec![directory("/")];
        all.extend(nodes.into_iter().map(|(path, kind, ino, offset)| match kind {
            0 => directory(&path),
            1 => node(&path, ino, NodeKind::Symlink { target: path.clone().into_bytes() }),
            _ => file(&path, ino, offset),
        }));
        all
    })
}

proptest! {
    /// The arena says of every path what the archive's tree says, and nothing of any other.
    #[test]
    fn says_what_the_archive_says(nodes in some_nodes(), is_kept: bool) {
        let archive = Tree::lenient(nodes).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let tree = FileTree::new(archive.clone());
        let tree = if is_kept { kept(&tree, dir.path()) } else { tree };
        let mut reachable = BTreeMap::new();
        for node in archive.iter() {
            let leads = |parent: NodePath| {
                matches!(reachable.get(&parent), Some(NodeKind::Directory))
            };
            let found = find(&tree, &node.path.to_string());
            if !node.path.parent().is_none_or(leads) {
                prop_assert_eq!(found, None);
                continue;
            }
            reachable.insert(node.path.clone(), node.kind.clone());
            let ino = found.unwrap();
            let kind = match &node.kind {
                NodeKind::Directory => Kind::Directory,
                NodeKind::Symlink { .. } => Kind::Symlink,
                NodeKind::File(_) => Kind::File,
                NodeKind::Special(special) => Kind::Special(*special),
            };
            prop_assert_eq!(tree.inode(ino).unwrap().kind(), kind);
            if let NodeKind::Symlink { target } = &node.kind {
                prop_assert_eq!(tree.target(ino), Some(&target[..]));
            }
            if let NodeKind::File(FileContent::Remote(remote)) = &node.kind {
                let place = Some(Place::Layer { layer: 0, offset: remote.offset });
                prop_assert_eq!(tree.place(ino), place);
            }
            if node.kind == NodeKind::Directory {
                prop_assert!(names(&tree, ino).is_sorted_by(|a, b| a < b));
            }
        }
        let entries: usize =
            reachable.iter().filter(|(_, kind)| **kind == NodeKind::Directory).map(|(path, _)| {
                tree.entries(find(&tree, &path.to_string()).unwrap(), 0).unwrap().len()
            }).sum();
        prop_assert_eq!(entries + 1, reachable.len());
        prop_assert_eq!(tree.unreachable() + reachable.len(), archive.len());
    }
}
