use std::collections::BTreeMap;
use std::io::BufReader;

use super::super::compare::{Contents, compare};
use super::*;
use crate::clip::node::Attr;
use crate::clip::tree::Tree;
use crate::layer::{LayerRead, Limits, NoContents, merge, read_layer};
use crate::memory::MemoryAccount;

/// A node with nothing special about it.
fn node(path: &str, kind: NodeKind, ino: u64) -> Node {
    let path = NodePath::new(path.as_bytes()).unwrap();
    let attr = Attr {
        ino,
        mode: kind.type_bits() | 0o750,
        nlink: 1,
        mtime: 1_700_000_000,
        atime: 1_700_000_000,
        ctime: 1_700_000_000,
        ..Attr::default()
    };
    Node { path, kind, attr, xattrs: BTreeMap::new() }
}

fn file(path: &str, offset: u64, length: u64) -> Node {
    let content = FileContent::Embedded { offset, length, sha256: None };
    node(path, NodeKind::File(content), offset)
}

/// As many bytes as the node has, told by where they are.
fn bytes(node: &Node) -> Vec<u8> {
    match &node.kind {
        NodeKind::File(FileContent::Embedded { offset, length, .. }) => {
            (0..*length).map(|at| (at * 7 + offset).to_le_bytes()[0]).collect()
        }
        _ => Vec::new(),
    }
}

fn written(nodes: Vec<Node>) -> Result<(WrittenLayer, Vec<u8>, Vec<String>), MigrateError> {
    let tree = Tree::new(nodes).unwrap();
    let (mut out, mut asked) = (Vec::new(), Vec::new());
    let content = |node: &Node, take: &mut Take<'_>| {
        asked.push(node.path.to_string());
        let bytes = bytes(node);
        bytes.chunks(100).try_for_each(&mut *take)?;
        Ok(Digest::of(&bytes))
    };
    let layer = write_layer(&tree, content, &mut out)?;
    Ok((layer, out, asked))
}

fn odd_nodes() -> Vec<Node> {
    let mut root = node("/", NodeKind::Directory, 1);
    root.attr.mode = 0o041_777;
    let mut directory = node("/d", NodeKind::Directory, 2);
    (directory.attr.mtime, directory.attr.mtime_nsec) = (-3, 123_456_789);
    let mut link = node("/l", NodeKind::Symlink { target: vec![b't'; 300] }, 3);
    link.attr.atime = 5;
    let mut late = file("/d/late", 5000, 1025);
    late.xattrs.insert(b"security.capability".into(), b"\x01\n\0=".into());
    late.attr.ctime_nsec = 1;
    let mut early = file("/z", 60, 512);
    (early.attr.uid, early.attr.gid) = (u32::MAX - 1, 2_097_152);
    early.attr.mtime = 1 << 34;
    let long = file(&format!("/{}", "n".repeat(150)), 3000, 0);
    let mut linked = file("/d/other name of z", 60, 512);
    linked.attr = early.attr;
    let odd = Node { path: NodePath::new(b"/\xff\n").unwrap(), ..file("/x", 4000, 3) };
    vec![root, directory, link, late, early, long, linked, odd]
}

/// Our own indexer gives back every attribute that was put in.
#[test]
fn nothing_is_lost_on_the_way_through_a_layer() {
    let nodes = odd_nodes();
    let (layer, compressed, asked) = written(nodes.clone()).unwrap();
    assert_eq!(asked[0], "/d/other name of z", "the first name has the content");
    assert_eq!(asked.len(), 4, "content is asked for once: {asked:?}");
    assert_eq!(asked[3], "/d/late", "in the order of the content: {asked:?}");
    assert_eq!((layer.size, layer.digest), (compressed.len() as u64, Digest::of(&compressed)));

    let read = LayerRead { digest: layer.digest, limits: Limits::default(), span: None };
    let index = read_layer(
        read,
        &MemoryAccount::default(),
        BufReader::new(&compressed[..]),
        &mut NoContents,
    )
    .unwrap();
    assert_eq!((index.diff_id, index.plain_size), (layer.diff_id, layer.plain_size));
    let merged =
        Tree::new(merge([&index], &Limits::default(), &MemoryAccount::default()).unwrap()).unwrap();
    let before = Tree::new(nodes).unwrap();
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&compressed[..]), &mut plain)
        .unwrap();
    let files: Vec<Digest> = merged
        .iter()
        .filter_map(|node| match node.kind {
            NodeKind::File(FileContent::Remote(at)) => {
                let start = usize::try_from(at.offset).unwrap();
                Some(Digest::of(&plain[start..][..usize::try_from(at.length).unwrap()]))
            }
            _ => None,
        })
        .collect();
    let before = Contents { tree: &before, files: &layer.files };
    let same = compare(before, Contents { tree: &merged, files: &files }).unwrap();
    assert_eq!((same.nodes, same.files), (8, 5));
}

#[test]
fn the_same_archive_gives_the_same_bytes() {
    assert_eq!(written(odd_nodes()).unwrap().1, written(odd_nodes()).unwrap().1);
}

#[test]
fn names_of_one_number_that_differ_are_files_of_their_own() {
    let mut other = file("/b", 60, 4);
    other.attr.mode = 0o100_644;
    let (layer, ..) =
        written(vec![node("/", NodeKind::Directory, 1), file("/a", 60, 4), other]).unwrap();
    assert_eq!(layer.files[0], layer.files[1]);
    assert!(layer.plain_size >= 5 * 512, "two entries with content: {layer:?}");
}

#[test]
fn what_a_layer_cannot_say_is_refused() {
    let root = || node("/", NodeKind::Directory, 1);
    let mut attribute = file("/a", 60, 0);
    attribute.xattrs.insert(b"user.a=b".into(), Vec::new());
    let mut empty = file("/e", 60, 0);
    empty.xattrs.insert(b"user.a".into(), Vec::new());
    let remote = crate::clip::node::RemoteRef { layer: Digest::of(b""), offset: 0, length: 0 };
    for (bad, expected) in [
        (file("/.wh.a", 60, 0), "/.wh.a can't become part of an image: a layer takes .wh.a"),
        (empty, "/e can't become part of an image: no layer holds an empty attribute (user.a)"),
        (node("/l", NodeKind::Symlink { target: Vec::new() }, 2), "/l can't"),
        (node("/r", NodeKind::File(FileContent::Remote(remote)), 2), "/r can't"),
        (attribute, "/a can't become part of an image: no layer holds an attribute"),
    ] {
        let error = written(vec![root(), bad]).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn content_of_another_length_is_refused() {
    let tree = Tree::new(vec![node("/", NodeKind::Directory, 1), file("/a", 60, 4)]).unwrap();
    for (bytes, expected) in
        [(&b"abc"[..], "1 bytes of its content are missing"), (b"abcde", "more")]
    {
        let content = |_: &Node, take: &mut Take<'_>| {
            take(bytes)?;
            Ok(Digest::of(bytes))
        };
        let error = write_layer(&tree, content, std::io::sink()).unwrap_err().to_string();
        assert!(error.starts_with("/a ") && error.contains(expected), "{error}");
    }
}
