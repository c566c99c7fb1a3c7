//! `clipwright verify`, the real binary: good archives pass, and whatever is planted is found.

use std::path::Path;
use std::process::Command;

use clipwright::clip::node::{Attr, FileContent, Node, NodeKind, NodePath, RemoteRef};
use clipwright::clip::reader::Archive;
use clipwright::clip::storage_info::{OciStorageInfo, StorageInfo};
use clipwright::clip::tree::Tree;
use clipwright::clip::writer::index_archive;
use clipwright::digest::Digest;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::layout::{Blob, Layout, noise, tar};
use crate::support::registry::Registry;
use crate::support::upstream::{corpus_image, interop, make_image, run, unpack};
use crate::support::v1::{Place, local_archive, node, open};

fn clipwright() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipwright"));
    command.env_remove("CLIPWRIGHT_CREDENTIALS");
    command
}

fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// What `verify` finds, as `grade check: text`, and whether it succeeded.
fn verify(archive: &Path, arguments: &[&str]) -> (bool, Vec<String>, Value) {
    let output =
        clipwright().args(["verify", "--json"]).args(arguments).arg(archive).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{said}"));
    let mut findings = Vec::new();
    for check in report["checks"].as_array().unwrap() {
        for finding in check["findings"].as_array().unwrap() {
            let [grade, text] = ["grade", "text"].map(|key| finding[key].as_str().unwrap());
            findings.push(format!("{grade} {}: {text}", check["name"].as_str().unwrap()));
        }
    }
    (output.status.success(), findings, report)
}

/// It passes, and has looked at something in every one of these checks.
fn passes(archive: &Path, arguments: &[&str], checks: &[&str]) {
    let (success, findings, report) = verify(archive, arguments);
    assert!(success && findings.is_empty(), "{findings:#?}");
    for name in checks {
        let checks = report["checks"].as_array().unwrap();
        let check = checks.iter().find(|check| check["name"] == **name);
        let checked = check.and_then(|check| check["checked"].as_u64());
        assert!(checked.is_some_and(|checked| checked > 0), "{name}: {report:#}");
    }
}

const DEEP: [&str; 9] = [
    "structure",
    "tree",
    "storage",
    "seek table",
    "ranges",
    "registry",
    "layers",
    "files",
    "merged tree",
];

#[test]
fn archives_of_every_image_pass() {
    let dir = scratch();
    let images = ["odd", "opaque", "tiny"].map(|name| make_image(name, dir.path()));
    for layout in images.into_iter().chain(corpus_image("debian")) {
        let source = format!("oci:{}:latest", layout.display());
        let archive = dir.path().join("image.clip");
        run(clipwright().args(["index", &source, "-o"]).arg(&archive));
        passes(&archive, &["--deep", "--source", &source], &DEEP);
        passes(&archive, &["--source", &source], &DEEP[..6]);
        passes(&archive, &["--offline"], &DEEP[..5]);
    }
}

#[test]
fn a_registry_is_asked_unless_told_otherwise() {
    let dir = scratch();
    let registry = Registry::start(dir.path());
    let blob = Blob::gzip(&tar(&[("a", b"x")]));
    let reference = registry.push(Layout::of(&[blob]).path(), "image");
    let archive = dir.path().join("image.clip");
    run(clipwright().args(["index", &reference, "-o"]).arg(&archive));
    passes(&archive, &["--deep"], &DEEP);
    drop(registry);
    passes(&archive, &["--offline"], &DEEP[..5]);
}

/// Upstream's archives have weaknesses, which are warnings, and no errors.
#[test]
fn upstreams_archives_have_warnings_at_most() {
    let Some(interop) = interop() else { return };
    let dir = scratch();
    let registry = Registry::start(dir.path());
    let layout = make_image("odd", dir.path());
    let reference = registry.push(&layout, "odd");
    let v2 = dir.path().join("v2.clip");
    run(Command::new(interop).args(["index", &reference]).arg(&v2));
    let (success, findings, _) = verify(&v2, &["--deep"]);
    assert!(success, "{findings:#?}");
    assert!(findings.iter().any(|text| text.starts_with("warning merged tree: ")), "{findings:#?}");
    assert!(findings.iter().any(|text| text.contains("checkpoints in upstream's form")));

    let root = unpack(&make_image("tiny", dir.path()), &dir.path().join("bundle"));
    let v1 = dir.path().join("v1.clip");
    run(Command::new(interop).arg("create").args([&root, &v1]));
    let (success, findings, _) = verify(&v1, &["--deep"]);
    assert!(success, "{findings:#?}");
}

/// The golden archives: `v2.clip` and `v1-s3.rclip` point to what is nowhere.
#[test]
fn the_golden_archives_pass_as_far_as_they_can() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for (name, arguments) in [
        ("v1-local.clip", &["--deep"][..]),
        ("v1-s3.rclip", &["--offline"]),
        ("v2.clip", &["--offline"]),
    ] {
        let (success, findings, _) = verify(&fixtures.join(name), arguments);
        assert!(success, "{name}: {findings:#?}");
    }
}

// ---- planted defects ---------------------------------------------------------------------------

struct Planted {
    dir: TempDir,
    layout: Layout,
    layer: Blob,
}

impl Planted {
    /// An image of one layer with `/a` and `/b`, and nothing wrong with it.
    fn new() -> Self {
        let layer = Blob::gzip(&tar(&[("a", &noise(1, 3 << 20)), ("b", b"second")]));
        let layout = Layout::of(std::slice::from_ref(&layer));
        let planted = Self { dir: scratch(), layout, layer };
        run(clipwright().args(["index", &planted.source(), "-o"]).arg(planted.archive()));
        planted
    }

    fn archive(&self) -> std::path::PathBuf {
        self.dir.path().join("image.clip")
    }

    fn source(&self) -> String {
        format!("oci:{}:latest", self.layout.path().display())
    }

    /// Some finding is this one, and verifying fails.
    fn finds(&self, arguments: &[&str], expected: &str) {
        let source = self.source();
        let mut all = vec!["--source", &source];
        all.extend(arguments);
        let (success, findings, _) = verify(&self.archive(), &all);
        assert!(!success, "{expected}: {findings:#?}");
        let found = findings.iter().any(|finding| finding.contains(expected));
        assert!(found, "{expected:?} is not in {findings:#?}");
    }

    /// Writes the archive again, with something changed; without a seek table, which no writer
    /// would sign for a lie.
    fn rewrite(&self, change: impl FnOnce(&mut Vec<Node>, &mut OciStorageInfo)) {
        let archive = Archive::open(&self.archive()).unwrap();
        let StorageInfo::Oci(mut image) = archive.storage else { panic!("v2") };
        let mut nodes: Vec<Node> = archive.tree.iter().cloned().collect();
        change(&mut nodes, &mut image);
        let bytes = index_archive(&Tree::lenient(nodes).unwrap(), &StorageInfo::Oci(image));
        std::fs::write(self.archive(), bytes.unwrap()).unwrap();
    }
}

fn remote(layer: Digest, offset: u64, length: u64) -> NodeKind {
    NodeKind::File(FileContent::Remote(RemoteRef { layer, offset, length }))
}

type Change = fn(&mut Vec<Node>, &mut OciStorageInfo);

#[test]
fn every_lie_about_layers_is_found() {
    let cases: [(Change, &[&str], &str); 8] = [
        (
            |nodes, _| nodes[2].kind = remote(Digest::of(b"none"), 0, 6),
            &["--offline"],
            "error tree: /b: is in layer sha256:",
        ),
        (
            |_, image| image.image_metadata.as_mut().unwrap().layers_data[0].size += 1,
            &[],
            "error registry: layer sha256:",
        ),
        (
            |_, image| {
                image.plain_digests.values_mut().for_each(|digest| *digest = Digest::of(b"other"));
            },
            &["--deep"],
            "error layers: layer sha256:",
        ),
        (
            |_, image| image.layers.push(Digest::of(b"more")),
            &[],
            "its 1 layers are not the 2 of the archive",
        ),
        (
            |_, image| image.image_metadata.as_mut().unwrap().digest = Digest::of(b"x").to_string(),
            &[],
            "error registry: manifest: expected sha256:",
        ),
        (
            |nodes, _| {
                let NodeKind::File(FileContent::Remote(remote)) = &mut nodes[2].kind else {
                    return;
                };
                remote.offset += 1;
            },
            &["--deep"],
            "error files: /b: no file begins at ",
        ),
        (
            |nodes, _| nodes[2].attr.uid = 77,
            &["--deep"],
            "error merged tree: /b: the layers say otherwise of its owner",
        ),
        (
            |nodes, _| drop(nodes.remove(1)),
            &["--deep"],
            "error merged tree: /a: is in the layers, but not in the archive",
        ),
    ];
    for (change, arguments, expected) in cases {
        let planted = Planted::new();
        planted.rewrite(change);
        planted.finds(arguments, expected);
    }
}

/// Every byte of the seek table is covered by a digest.
#[test]
fn every_part_of_the_seek_table_is_checked() {
    let planted = Planted::new();
    let whole = std::fs::read(planted.archive()).unwrap();
    let header = open(&whole).header;
    let start = header.storage.unwrap().end as usize;
    let length = whole.len() - start;
    for at in [0, 8, length / 3, length / 2, length - 100, length - 1] {
        let mut bytes = whole.clone();
        bytes[start + at] ^= 1;
        std::fs::write(planted.archive(), bytes).unwrap();
        // Without its last byte's magic it is told by its head.
        planted.finds(&["--offline"], "error seek table: ");
    }
}

#[test]
fn a_broken_layer_is_found() {
    let planted = Planted::new();
    let mut broken = planted.layer.bytes.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    std::fs::write(planted.layout.blob(planted.layer.digest), broken).unwrap();
    planted.finds(&["--deep"], "error layers: ");
}

#[test]
fn a_registry_that_is_not_there_is_found() {
    let dir = scratch();
    let registry = Registry::start(dir.path());
    let reference = registry.push(Layout::of(&[Blob::gzip(&tar(&[("a", b"x")]))]).path(), "image");
    let archive = dir.path().join("image.clip");
    run(clipwright().args(["index", &reference, "-o"]).arg(&archive));
    let elsewhere = reference.replace("/image:", "/other:");
    let (success, findings, _) = verify(&archive, &["--source", &elsewhere]);
    assert!(!success && findings[0].starts_with("error registry: "), "{findings:#?}");
}

#[test]
fn what_is_no_archive_is_found() {
    let dir = scratch();
    let archive = dir.path().join("x.clip");
    let whole = local_archive(&[("/a", b"content")]);
    for (bytes, expected) in [
        (&whole[..30], "error structure: not a CLIP archive"),
        (&whole[..whole.len() - 1], "error structure: CLIP header: index"),
        (b"something else entirely, of more than 54 bytes, but no archive", "not a CLIP archive"),
    ] {
        std::fs::write(&archive, bytes).unwrap();
        let (success, findings, report) = verify(&archive, &[]);
        assert!(!success && findings[0].contains(expected), "{findings:#?}");
        assert_eq!(report["clip_version"], Value::Null);
    }
    let output = clipwright().arg("verify").arg(dir.path().join("none")).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
}

#[test]
fn every_defect_of_v1_data_is_found() {
    let dir = scratch();
    let archive = dir.path().join("x.clip");
    let whole = local_archive(&[("/a", b"first"), ("/b", b"second")]);
    std::fs::write(&archive, &whole).unwrap();
    passes(&archive, &["--deep"], &["structure", "tree", "blocks", "content"]);

    let opened = open(&whole);
    let data = whole[..opened.header.index.start as usize].to_vec();
    let with = |offset, length| {
        let content = FileContent::Embedded { offset, length, sha256: None };
        let mut nodes: Vec<Node> = opened.tree.iter().cloned().collect();
        nodes.push(node("/c", 9, NodeKind::File(content)));
        Place::Behind(data.clone()).archive(&Tree::new(nodes).unwrap())
    };
    let flip = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (bytes, deep, expected) in [
        (flip(55), true, "error content: /a: block at 55: expected CRC-64 "),
        (flip(54), true, "error content: /a: block at 55: expected type 0, found 1"),
        (flip(62), true, "error content: /a: block at 55: expected CRC-64 "),
        (flip(70), true, "error content: /b: block at 69: expected CRC-64 "),
        (with(1 << 40, 5), false, "error blocks: /c: block at 1099511627776: expected a place "),
        (with(20, 5), false, "error blocks: /c: block at 20: expected a place "),
        (with(57, 2), false, "error blocks: /c: its block 56..67 overlaps that of /a"),
        (with(data.len() as u64, 9), false, "overlaps the index"),
    ] {
        std::fs::write(&archive, bytes).unwrap();
        let arguments: &[&str] = if deep { &["--deep"] } else { &[] };
        let (success, findings, _) = verify(&archive, arguments);
        assert!(!success, "{expected}");
        let found = findings.iter().any(|finding| finding.contains(expected));
        assert!(found, "{expected:?} is not in {findings:#?}");
    }
    // Both are found, not the first alone.
    let mut both = flip(55);
    both[70] ^= 1;
    std::fs::write(&archive, both).unwrap();
    assert_eq!(verify(&archive, &["--deep"]).1.len(), 2);
}

/// A tree of an archive that names are planted in, as the checks of `clip` test one by one.
#[test]
fn a_broken_tree_is_found() {
    let planted = Planted::new();
    planted.rewrite(|nodes, image| {
        let path = NodePath::new(b"/no/parent").unwrap();
        let attr = Attr { ino: 1, mode: 0o100_644, nlink: 1, ..Attr::default() };
        let kind = remote(image.layers[0], 0, 0);
        nodes.push(Node { path, kind, attr, xattrs: std::collections::BTreeMap::new() });
    });
    planted.finds(&["--offline"], "error tree: /no/parent: its parent is missing");
    planted.finds(&["--offline"], "error tree: /no/parent: inode 1 is the root's");
}
