//! v1 archives of a few files, and of whatever else a test wants to claim.

use std::collections::BTreeMap;
use std::io::Cursor;

use clipwright::clip::header::{self, Header};
use clipwright::clip::node::{Attr, FileContent, Node, NodeKind, NodePath};
use clipwright::clip::storage_info::{S3StorageInfo, StorageInfo};
use clipwright::clip::tree::Tree;
use clipwright::clip::writer::{LocalWriter, index_archive};
use clipwright::digest::Digest;

/// A node with the attributes that it needs.
pub(crate) fn node(path: &str, ino: u64, kind: NodeKind) -> Node {
    let mode = kind.type_bits() | 0o755;
    let size = match &kind {
        NodeKind::File(content) => content.len(),
        NodeKind::Symlink { target } => target.len() as u64,
        _ => 0,
    };
    let nlink = if kind == NodeKind::Directory { 2 } else { 1 };
    let uid = nix::unistd::geteuid().as_raw();
    let gid = nix::unistd::getegid().as_raw();
    let attr = Attr { ino, mode, size, nlink, uid, gid, ..Attr::default() };
    let path = NodePath::new(path.as_bytes()).unwrap();
    Node { path, kind, attr, xattrs: BTreeMap::new() }
}

pub(crate) fn root() -> Node {
    node("/", 1, NodeKind::Directory)
}

/// Where the index of a local archive goes.
pub(crate) enum Place {
    /// Right behind the header: there are no data.
    Local,
    /// Behind these bytes, the header's among them.
    Behind(Vec<u8>),
}

impl Place {
    /// A local archive with this tree, whatever its blocks are.
    pub(crate) fn archive(self, tree: &Tree) -> Vec<u8> {
        // The index is the same in every archive of v1.
        let remote = index_archive(tree, &StorageInfo::S3(S3StorageInfo::default())).unwrap();
        let at = Header::decode(&remote, remote.len() as u64).unwrap().index;
        let index = &remote[at.start as usize..at.end as usize];
        let mut bytes = match self {
            Self::Local => vec![0; header::LENGTH],
            Self::Behind(bytes) => bytes,
        };
        let start = bytes.len() as u64;
        bytes.extend_from_slice(index);
        let index = start..bytes.len() as u64;
        let header = Header { index, storage: None, storage_type: "" }.encode();
        bytes[..header.len()].copy_from_slice(&header);
        bytes
    }
}

/// A local archive of these files in the root, written block by block as CONTRACT A.3 says.
pub(crate) fn local_archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; header::LENGTH];
    let mut nodes = vec![root()];
    for (ino, (path, content)) in (2..).zip(files) {
        let offset = bytes.len() as u64 + 1;
        bytes.push(0);
        bytes.extend_from_slice(content);
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64GoIso, content);
        bytes.extend_from_slice(&crc.to_be_bytes());
        let (length, sha256) = (content.len() as u64, Some(Digest::of(content)));
        let content = FileContent::Embedded { offset, length, sha256 };
        nodes.push(node(path, ino, NodeKind::File(content)));
    }
    Place::Behind(bytes).archive(&Tree::new(nodes).unwrap())
}

/// The runtime configuration of an image that runs `sh`.
const CONFIG: &[u8] = br#"{"ociVersion":"1.0.0","process":{"user":{"uid":0,"gid":0},
    "args":["sh"],"env":["A=b"],"cwd":"/"},"root":{"path":"rootfs"}}"#;

/// A bundle with these files below its `rootfs`, as a local v1 archive.
pub(crate) fn bundle_archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = LocalWriter::new(Vec::new()).unwrap();
    let mut nodes = BTreeMap::new();
    for directory in ["/", "/rootfs"] {
        nodes.insert(directory.to_owned(), NodeKind::Directory);
    }
    nodes.insert("/config.json".into(), NodeKind::File(writer.block(CONFIG).unwrap()));
    for (name, content) in files {
        let path = format!("/rootfs/{name}");
        for (at, _) in path.match_indices('/').skip(1) {
            nodes.entry(path[..at].to_owned()).or_insert(NodeKind::Directory);
        }
        nodes.insert(path, NodeKind::File(writer.block(content).unwrap()));
    }
    let nodes = (1..).zip(nodes).map(|(ino, (path, kind))| {
        let size = if let NodeKind::File(content) = &kind { content.len() } else { 0 };
        let attr = Attr {
            ino,
            size,
            mode: kind.type_bits() | 0o755,
            nlink: 1,
            mtime: 1_600_000_000,
            mtime_nsec: 5,
            atime: 1_600_000_001,
            ctime: 1_600_000_002,
            ..Attr::default()
        };
        let path = NodePath::new(path.as_bytes()).unwrap();
        Node { path, kind, attr, xattrs: BTreeMap::new() }
    });
    let tree = Tree::new(nodes.collect()).unwrap();
    let finished = writer.finish(&tree).unwrap();
    let mut bytes = finished.out;
    bytes[..finished.head.len()].copy_from_slice(&finished.head);
    bytes
}

/// Reads it back.
pub(crate) fn open(archive: &[u8]) -> clipwright::clip::reader::Archive {
    clipwright::clip::reader::Archive::read(&mut Cursor::new(archive)).unwrap()
}
