use std::collections::BTreeMap;

use super::*;
use crate::clip::header::Header;
use crate::clip::node::{Attr, FileContent, Node, NodeKind, NodePath, RemoteRef, Special};
use crate::clip::reader::Parts;
use crate::clip::storage_info::{
    GzipCheckpoint, ImageMetadata, LayerMetadata, OciStorageInfo, S3StorageInfo,
};
use crate::digest::Digest;

fn layer() -> Digest {
    Digest::of(b"layer")
}

fn node(path: &str, ino: u64, kind: NodeKind, size: u64) -> Node {
    let mode = kind.type_bits() | 0o755;
    let nlink = if kind == NodeKind::Directory { 2 } else { 1 };
    let path = NodePath::new(path.as_bytes()).unwrap();
    let attr = Attr { ino, size, mode, nlink, ..Attr::default() };
    Node { path, kind, attr, xattrs: BTreeMap::new() }
}

fn remote(offset: u64) -> NodeKind {
    NodeKind::File(FileContent::Remote(RemoteRef { layer: layer(), offset, length: 5 }))
}

/// `/`, `/d`, `/d/f` and `/d/g`, one file, and `/d/l`, a symlink.
fn good() -> Parts {
    let mut nodes = vec![
        node("/", 1, NodeKind::Directory, 0),
        node("/d", 2, NodeKind::Directory, 0),
        node("/d/f", 3, remote(512), 5),
        node("/d/g", 3, remote(512), 5),
        node("/d/l", 4, NodeKind::Symlink { target: b"f".to_vec() }, 1),
    ];
    nodes[2].attr.nlink = 2;
    nodes[3].attr.nlink = 2;
    let text = layer().to_string();
    let image = OciStorageInfo {
        registry_url: "localhost:5000".into(),
        repository: "r".into(),
        reference: text.clone(),
        layers: vec![layer()],
        plain_digests: BTreeMap::from([(layer(), layer())]),
        image_metadata: Some(ImageMetadata {
            layers: vec![text.clone()],
            layers_data: vec![LayerMetadata { digest: text, size: 9, ..Default::default() }],
            ..ImageMetadata::default()
        }),
        ..OciStorageInfo::default()
    };
    Parts {
        size: 2000,
        header: Header { index: 54..1000, storage: Some(1000..2000), storage_type: "oci" },
        nodes,
        special: vec![node("/d/fifo", 5, NodeKind::Special(Special::Fifo), 0)],
        storage: StorageInfo::Oci(Box::new(image)),
    }
}

fn image(parts: &mut Parts) -> &mut OciStorageInfo {
    match &mut parts.storage {
        StorageInfo::Oci(image) => image,
        other => panic!("{other:?}"),
    }
}

fn found(check: &Check) -> Vec<String> {
    let shown = |finding: &Finding| format!("{:?} {}", finding.grade, finding.text);
    check.findings.iter().map(shown).collect()
}

#[test]
fn a_good_archive_has_no_findings() {
    let parts = good();
    assert_eq!((tree(&parts).checked, found(&tree(&parts))), (6, vec![]));
    assert_eq!((storage(&parts).checked, found(&storage(&parts))), (1, vec![]));
}

type Plant = fn(&mut Parts);

#[test]
fn every_defect_of_a_tree_is_found() {
    let defects: [(Plant, &str); 20] = [
        (|p| p.nodes.swap(1, 4), "Warning /d/l: stands before /d/f"),
        (|p| p.nodes.push(p.nodes[1].clone()), "Error /d: stands there twice"),
        (|p| drop(p.nodes.remove(0)), "Error /: is missing"),
        (|p| p.nodes[0].kind = remote(1), "Error /: is no directory"),
        (|p| drop(p.nodes.remove(1)), "Error /d/f: its parent is missing: readers never find it"),
        (
            |p| p.nodes[1].kind = NodeKind::Symlink { target: b"/etc".to_vec() },
            "Error /d/f: its parent is no directory: readers never find it",
        ),
        (|p| p.nodes[4].attr.ino = 0, "Error /d/l: inode 0 is reserved"),
        (|p| p.nodes[4].attr.ino = u64::MAX, "Error /d/l: inode 18446744073709551615 is reserved"),
        (|p| p.nodes[4].attr.ino = 1, "Error /d/l: inode 1 is the root's"),
        (|p| p.nodes[0].attr.ino = 9, "Warning /: expected inode 1, found 9"),
        (
            |p| p.nodes[3].kind = remote(1024),
            "Error /d/g: shares inode 3 with /d/f, but is another file",
        ),
        (|p| p.nodes[4].attr.ino = 2, "Error /d/l: shares inode 2 with /d, but is another file"),
        (|p| p.nodes[3].attr.uid = 7, "Error /d/g: is /d/f by inode 3, but has other attributes"),
        (|p| p.nodes[4].attr.nlink = 3, "Warning /d/l: has 1 names, but says 3"),
        (
            |p| p.nodes[1].attr.mode = 0o100_755,
            "Error /d: expected type 40000 in its mode, found 100000",
        ),
        (
            |p| p.nodes[4].attr.mtime_nsec = 1_000_000_000,
            "Error /d/l: a time has more than a second of nanoseconds",
        ),
        (|p| p.nodes[4].attr.size = 2, "Error /d/l: its size is 2, its content has 1 bytes"),
        (
            |p| p.nodes[4].kind = NodeKind::Symlink { target: vec![] },
            "Error /d/l: a symbolic link whose target is no path",
        ),
        (
            |p| {
                let content = FileContent::Embedded { offset: 0, length: 0, sha256: None };
                p.nodes.push(node("/e", 8, NodeKind::File(content), 0));
            },
            "Error /e: is in no layer: readers find it empty",
        ),
        (
            |p| p.nodes.push(node("/null", 9, NodeKind::Special(Special::CharDevice), 0)),
            "Error /null: a device or fifo, which the index has no type for",
        ),
    ];
    for (plant, expected) in defects {
        let mut parts = good();
        plant(&mut parts);
        let found = found(&tree(&parts));
        assert!(found.iter().any(|text| text == expected), "{expected}: {found:#?}");
    }
    let mut parts = good();
    image(&mut parts).layers.clear();
    assert_eq!(found(&tree(&parts)).len(), 2, "both names of the file");
}

#[test]
fn every_defect_of_a_storage_info_is_found() {
    let defects: [(Plant, &str); 12] = [
        (|p| image(p).registry_url.clear(), "Error RegistryURL is empty"),
        (|p| image(p).repository.clear(), "Error Repository is empty"),
        (|p| image(p).reference.clear(), "Error Reference is empty"),
        (|p| image(p).reference = "v1".into(), "Warning Reference \"v1\" is a tag, which may move"),
        (|p| image(p).layers.clear(), "Error Layers is empty: workers refuse that"),
        (|p| image(p).plain_digests.clear(), "has no DecompressedHashByLayer"),
        (|p| image(p).image_metadata = None, "Error ImageMetadata is missing: workers refuse that"),
        (|p| image(p).image_metadata.as_mut().unwrap().layers_data.clear(), "is not in LayersData"),
        (
            |p| image(p).image_metadata.as_mut().unwrap().layers.clear(),
            "Warning ImageMetadata has other Layers than the storage info",
        ),
        (|p| p.size = 129 << 20, "Error the archive has 135266304 bytes: workers take 134217728"),
        (
            |p| p.nodes.push(node("/rootfs", 9, NodeKind::Directory, 0)),
            "Warning /rootfs: workers misread the image as v1",
        ),
        (
            |p| p.header.storage_type = "s3",
            "Warning header: expected storage type \"oci\", found \"s3\"",
        ),
    ];
    for (plant, expected) in defects {
        let mut parts = good();
        plant(&mut parts);
        let found = found(&storage(&parts));
        assert!(found.iter().any(|text| text.ends_with(expected)), "{expected}: {found:#?}");
    }
    let mut parts = good();
    parts.storage = StorageInfo::S3(S3StorageInfo::default());
    parts.header.storage_type = "s3";
    assert_eq!(found(&storage(&parts)), ["Error Bucket is empty", "Error Key is empty"]);
}

/// What upstream's indexer is known to do is no error in its archives.
#[test]
fn known_weaknesses_are_warnings() {
    let mut parts = good();
    let checkpoint = GzipCheckpoint { compressed_offset: 1, plain_offset: 2 };
    image(&mut parts).gzip_checkpoints.insert(layer(), vec![checkpoint]);
    parts.nodes.remove(1);
    let content = FileContent::Embedded { offset: 0, length: 0, sha256: None };
    let mut linked = node("/linked-symlink", 4, NodeKind::File(content), 1);
    linked.attr.mode = 0o120_777;
    parts.nodes.push(linked);
    let (tree, storage) = (tree(&parts), storage(&parts));
    assert_eq!((tree.errors, storage.errors), (0, 0), "{tree:#?} {storage:#?}");
    assert!(tree.warnings > 4 && storage.warnings == 1, "{tree:#?} {storage:#?}");
}

#[test]
fn many_findings_are_counted() {
    let mut check = Check::new("x", "y");
    (0..100).for_each(|n| check.error(n.to_string()));
    check.warning("w");
    assert_eq!((check.errors, check.warnings, check.findings.len()), (100, 1, KEPT + 1));
}

#[test]
fn what_is_absorbed_counts_though_it_was_not_kept() {
    let mut other = Check::new("restarts", "spans");
    (0..KEPT + 5).for_each(|n| other.error(n.to_string()));
    other.warning("one");
    other.checked = 30;
    let mut check = Check::new("restarts", "spans");
    check.error("ours");
    check.absorb(other);
    assert_eq!((check.checked, check.errors, check.warnings), (30, KEPT as u64 + 6, 1));
    assert_eq!(check.findings.len(), KEPT + 1);
}
