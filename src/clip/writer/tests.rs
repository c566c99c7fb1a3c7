use std::collections::BTreeMap;
use std::io::Cursor;

use proptest::prelude::*;

use super::super::gob::golden;
use super::super::node::{Attr, NodePath, RemoteRef, Special};
use super::super::reader::Archive;
use super::super::storage_info::{OciStorageInfo, S3StorageInfo};
use super::*;

fn node(path: &[u8], kind: NodeKind, attr: Attr) -> Node {
    let mode = attr.mode | kind.type_bits();
    let path = NodePath::new(path).unwrap();
    Node { path, attr: Attr { mode, ..attr }, kind, xattrs: BTreeMap::new() }
}

fn root() -> Node {
    node(b"/", NodeKind::Directory, Attr { ino: 1, mode: 0o755, nlink: 2, ..Attr::default() })
}

fn remote(offset: u64, length: u64) -> NodeKind {
    NodeKind::File(FileContent::Remote(RemoteRef { layer: golden::layer(), offset, length }))
}

fn oci() -> StorageInfo {
    StorageInfo::Oci(Box::new(OciStorageInfo {
        layers: vec![golden::layer()],
        ..OciStorageInfo::default()
    }))
}

fn encoded<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<u8> {
    index_codec::encode(Vec::new(), &nodes.collect::<Vec<_>>())
}

fn reopened(bytes: &[u8]) -> Archive {
    Archive::read(&mut Cursor::new(bytes)).unwrap()
}

#[test]
fn go_index_decodes() {
    let index = golden::lengthened(&golden::bytes(golden::G1));
    let nodes = index_codec::decode(&index).unwrap();
    let file = Attr {
        ino: 300,
        size: 5,
        blocks: 1,
        mtime: 1,
        mode: 0o644,
        nlink: 1,
        uid: 1000,
        gid: 1000,
        ..Attr::default()
    };
    let link = Attr { ino: 2, size: 1, mode: 0o777, nlink: 1, ..Attr::default() };
    let expected = [
        root(),
        node(b"/a", remote(512, 5), file),
        node(b"/b", NodeKind::Symlink { target: b"a".to_vec() }, link),
    ];
    assert_eq!(nodes, expected);
    assert_eq!(index_codec::decode(&encoded(nodes.iter())).unwrap(), expected);
    // As Go made it, the index names a digest that is none.
    let error = index_codec::decode(&golden::bytes(golden::G1)).unwrap_err().to_string();
    assert_eq!(error, "index: /a: its layer \"sha256:aa\" is no digest");
}

#[test]
fn our_types_are_those_of_go() {
    let index = encoded([root()].iter());
    golden::assert_go_takes(&index, golden::G1, &["Xattrs"], &[]);
}

/// Upstream writes Go's zero time where a tar header has none (CONTRACT A.5).
#[test]
fn times_before_1970_are_kept_but_for_gos_zero() {
    let zero = 18_446_744_011_573_954_816_u64.cast_signed();
    let attr = Attr { atime: zero, mtime: 7, ctime: -7, ..Attr::default() };
    let index = encoded([node(b"/", NodeKind::Directory, attr)].iter());
    let attr = index_codec::decode(&index).unwrap()[0].attr;
    assert_eq!((attr.atime, attr.mtime, attr.ctime), (0, 7, -7));
}

#[test]
fn devices_travel_beside_the_index() {
    let special = NodeKind::Special(Special::CharDevice);
    let device = node(b"/dev", special, Attr { ino: 9, rdev: 0x0105, ..Attr::default() });
    let tree = Tree::new(vec![root(), device.clone()]).unwrap();
    let bytes = index_archive(&tree, &oci()).unwrap();
    let archive = reopened(&bytes);
    assert_eq!(archive.tree, tree);
    let [start, end] = [archive.header.index.start, archive.header.index.end]
        .map(|at| usize::try_from(at).unwrap());
    assert_eq!(index_codec::decode(&bytes[start..end]).unwrap(), [root()]);
    let error = index_archive(&tree, &StorageInfo::S3(S3StorageInfo::default())).unwrap_err();
    assert!(error.to_string().contains("no place for devices"), "{error}");
}

#[test]
fn content_must_be_where_the_storage_info_says() {
    let tree = Tree::new(vec![root(), node(b"/f", remote(0, 1), Attr::default())]).unwrap();
    assert!(index_archive(&tree, &oci()).is_ok());
    assert!(index_archive(&tree, &StorageInfo::S3(S3StorageInfo::default())).is_err());
}

#[test]
fn a_local_archive_holds_its_content() {
    let mut writer = LocalWriter::new(Vec::new()).unwrap();
    let contents = [&b"hello"[..], b"", b"123456789"];
    let mut nodes = vec![root()];
    for (name, content) in [b"/a", b"/b", b"/c"].into_iter().zip(contents) {
        let content = NodeKind::File(writer.block(content).unwrap());
        nodes.push(node(name, content, Attr::default()));
    }
    let tree = Tree::new(nodes).unwrap();
    let FinishedArchive { out: mut bytes, head, size, digest } = writer.finish(&tree).unwrap();
    bytes[..head.len()].copy_from_slice(&head);
    assert_eq!(bytes.len() as u64, size);
    assert_eq!(digest, Digest::of(&[&head, &bytes[95..]].concat()));
    let archive = reopened(&bytes);
    assert_eq!(archive.tree, tree);
    assert_eq!(archive.storage, StorageInfo::Local);
    // CONTRACT A.3: type, content, CRC-64/GO-ISO; the next block follows at once.
    assert_eq!(bytes[54..60], *b"\0hello");
    assert_eq!(hex::encode(&bytes[60..68]), "3c3eeee2d8100000");
    assert_eq!(hex::encode(&bytes[68..77]), "000000000000000000");
    assert_eq!(hex::encode(&bytes[87..95]), "b90956c775a41001");
    let NodeKind::File(FileContent::Embedded { offset, length, sha256 }) =
        &tree.iter().last().unwrap().kind
    else {
        panic!()
    };
    assert_eq!((*offset, *length, *sha256), (78, 9, Some(Digest::of(b"123456789"))));
}

#[test]
fn upstreams_liberties_are_taken() {
    // Unsorted, one path twice, a parent missing.
    let nodes = [
        node(b"/x/y", remote(1, 2), Attr::default()),
        node(b"/z", remote(1, 2), Attr::default()),
        root(),
        node(b"/z", remote(3, 4), Attr::default()),
    ];
    let index = encoded(nodes.iter());
    let header =
        Header { index: START..START + index.len() as u64, storage: None, storage_type: "" };
    let archive = reopened(&[header.encode(), index].concat());
    let paths: Vec<_> = archive.tree.iter().map(|node| node.path.to_string()).collect();
    assert_eq!(paths, ["/", "/x/y", "/z"]);
    assert_eq!(archive.tree.get(&NodePath::new(b"/z").unwrap()).unwrap().kind, remote(3, 4));
}

#[test]
fn damage_is_refused_not_suffered() {
    let tree = Tree::new(vec![
        root(),
        node(b"/a", remote(7, 8), Attr { mtime: 5, ..Attr::default() }),
        node(b"/b", NodeKind::Symlink { target: b"a".to_vec() }, Attr::default()),
    ])
    .unwrap();
    let whole = index_archive(&tree, &oci()).unwrap();
    for cut in 0..whole.len() {
        assert!(Archive::read(&mut Cursor::new(&whole[..cut])).is_err(), "cut at {cut}");
    }
    for at in 0..whole.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            let _ = Archive::read(&mut Cursor::new(bytes)); // must not panic
        }
    }
}

#[test]
fn nodes_that_make_no_sense_are_named() {
    let index = |nodes: &[Node]| encoded(nodes.iter());
    let mut overflow = index(&[root(), node(b"/f", remote(i64::MAX as u64, 1), Attr::default())]);
    let error = index_codec::decode(&overflow).unwrap_err().to_string();
    assert_eq!(error, "index: /f: its content range 9223372036854775807+1 is none");
    overflow = index(&[node(b"/directory", NodeKind::Directory, Attr::default())]);
    let at = overflow.windows(3).rposition(|w| w == b"dir").unwrap();
    let name = overflow.windows(10).position(|w| w == b"/directory").unwrap();
    let mut bytes = overflow.clone();
    bytes[name + 1] = b'/';
    let error = index_codec::decode(&bytes).unwrap_err().to_string();
    assert_eq!(error, "index: \"//irectory\" is not a clean absolute path");
    let at =
        if at == name + 1 { overflow.windows(3).position(|w| w == b"dir").unwrap() } else { at };
    overflow[at] = b'x';
    let error = index_codec::decode(&overflow).unwrap_err().to_string();
    assert!(error.contains("node type \"xir\" is unknown"), "{error}");
}

fn any_node() -> impl Strategy<Value = Node> {
    let name =
        proptest::collection::vec(any::<u8>().prop_filter("a name", |b| !b"/\0".contains(b)), 3..9);
    let kind = prop_oneof![
        Just(NodeKind::Directory),
        (0..1_u64 << 40, 0..1_u64 << 40).prop_map(|(offset, length)| remote(offset, length)),
        proptest::collection::vec(1_u8.., 1..20).prop_map(|target| NodeKind::Symlink { target }),
        Just(NodeKind::Special(Special::Fifo)),
    ];
    let numbers = (any::<[u64; 6]>(), any::<[u32; 8]>());
    let xattrs = proptest::collection::btree_map(
        proptest::collection::vec(any::<u8>(), 1..9),
        proptest::collection::vec(any::<u8>(), 0..9),
        0..3,
    );
    (name, kind, numbers, xattrs).prop_map(|(name, kind, (long, short), xattrs)| {
        let attr = Attr {
            ino: long[0],
            size: long[1],
            blocks: long[2],
            atime: long[3].cast_signed(),
            mtime: long[4].cast_signed(),
            ctime: long[5].cast_signed(),
            atime_nsec: short[0],
            mtime_nsec: short[1],
            ctime_nsec: short[2],
            mode: short[3],
            nlink: short[4],
            uid: short[5],
            gid: short[6],
            rdev: short[7],
        };
        let path = NodePath::new(&[b"/", &*name].concat()).unwrap();
        Node { path, kind, attr, xattrs }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_tree_survives(nodes in proptest::collection::vec(any_node(), 0..20)) {
        let mut nodes = nodes;
        nodes.push(root());
        let tree = Tree::lenient(nodes).unwrap();
        let bytes = index_archive(&tree, &oci()).unwrap();
        prop_assert_eq!(&bytes, &index_archive(&tree, &oci()).unwrap());
        let archive = reopened(&bytes);
        prop_assert_eq!(&archive.tree, &tree);
        prop_assert_eq!(archive.storage, oci());
        prop_assert_eq!(archive.header.storage_type, "oci");
    }
}
