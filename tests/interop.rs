//! Clipwright and upstream's Go library, each reading what the other wrote.
//!
//! Upstream's side is the Go program in `tests/interop`. The comparison with `umoci unpack` goes
//! through upstream's FUSE code; what that code cannot show is listed by name in
//! `tests/interop/differences`. By default pydata and small images; `CLIPWRIGHT_FULL=1` takes the
//! whole corpus.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

#[path = "support/registry.rs"]
mod registry;
#[path = "support/upstream.rs"]
mod upstream;

use registry::Registry;
use upstream::{Mount, corpus_image, interop, make_image, run, unpack};

/// A directory on the disk that the build is on: whole images don't belong in memory.
fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn clipwright() -> Command {
    Command::new(env!("CARGO_BIN_EXE_clipwright"))
}

/// Indexes an image of a registry so that readers of January 2026 can mount it too (CONTRACT K).
fn index(reference: &str, archive: &Path) {
    run(clipwright()
        .args(["index", reference, "--reference-form", "tag-and-digest", "-o"])
        .arg(archive));
}

// ---- our archives, read by upstream ------------------------------------------------------------

/// The image, indexed by us and mounted by upstream, is what `umoci unpack` makes of it; and the
/// same image gives the same bytes twice.
fn mounted_equals_unpacked(interop: &Path, name: &str, layout: &Path) {
    let dir = scratch();
    let registry = Registry::start(dir.path());
    let reference = registry.push(layout, name);

    let archive = dir.path().join("image.clip");
    let again = dir.path().join("again.clip");
    index(&reference, &archive);
    index(&reference, &again);
    assert!(
        std::fs::read(&archive).unwrap() == std::fs::read(&again).unwrap(),
        "{name}: indexing twice gave different bytes"
    );

    let root = unpack(layout, &dir.path().join("bundle"));
    let mount = Mount::new(interop, &archive, dir.path());
    let mut compare = Command::new(interop);
    compare.arg("compare");
    for list in ["every-image", name] {
        let differences = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/interop/differences/{list}.txt"));
        if differences.exists() {
            compare.arg("--allow").arg(differences);
        }
    }
    run(compare.arg(root).arg(&mount.point));
}

/// A test for one image that `scripts/make_image.py` makes.
fn made_image(name: &str) {
    if let Some(interop) = interop() {
        let dir = scratch();
        mounted_equals_unpacked(interop, name, &make_image(name, dir.path()));
    }
}

/// A test for one image of the corpus; the large ones only when asked for.
fn real_image(name: &str, only_in_full: bool) {
    if only_in_full && std::env::var_os("CLIPWRIGHT_FULL").is_none() {
        eprintln!("skipped: {name} is compared with CLIPWRIGHT_FULL=1 only");
    } else if let (Some(interop), Some(layout)) = (interop(), corpus_image(name)) {
        mounted_equals_unpacked(interop, name, &layout);
    }
}

#[test]
fn upstream_mounts_our_archive_of_odd() {
    made_image("odd");
}

#[test]
fn upstream_mounts_our_archive_of_opaque() {
    made_image("opaque");
}

#[test]
fn upstream_mounts_our_archive_of_pydata() {
    real_image("pydata", false);
}

#[test]
fn upstream_mounts_our_archive_of_debian() {
    real_image("debian", true);
}

#[test]
fn upstream_mounts_our_archive_of_node() {
    real_image("node", true);
}

#[test]
fn upstream_mounts_our_archive_of_torch() {
    real_image("torch", true);
}

/// Upstream's reader can't show special files, so nothing above looks at them: ours lists them.
#[test]
fn we_list_the_special_files_that_upstream_cannot_show() {
    if interop().is_none() {
        return;
    }
    let dir = scratch();
    let registry = Registry::start(dir.path());
    let archive = dir.path().join("odd.clip");
    index(&registry.push(&make_image("odd", dir.path()), "odd"), &archive);
    let listing = our_listing(&archive);
    let nodes = nodes(&listing);
    for (path, kind, rdev) in
        [("/attr/fifo", "fifo", 0), ("/attr/null", "char", 0x103), ("/attr/loop0", "block", 0x700)]
    {
        let node = nodes.get(path).unwrap_or_else(|| panic!("{path} is not listed"));
        assert_eq!(node["type"], kind, "{path}");
        assert_eq!(node["rdev"].as_u64().unwrap_or(0), rdev, "{path}");
    }
}

// ---- upstream's archives, read by us -----------------------------------------------------------

/// Fields of a node that both list.
const NODE_FIELDS: [&str; 14] = [
    "type",
    "target",
    "mode",
    "uid",
    "gid",
    "size",
    "blocks",
    "ino",
    "nlink",
    "mtime",
    "mtime_nsec",
    "layer",
    "offset",
    "length",
];

/// Fields of the storage info that both show.
const STORAGE_FIELDS: [&str; 10] = [
    "type",
    "bucket",
    "region",
    "key",
    "endpoint",
    "registry_url",
    "repository",
    "reference",
    "layers",
    "plain_digests",
];

/// JSON values, one after the other or in an array.
fn json(output: &[u8]) -> Vec<Value> {
    let values = serde_json::Deserializer::from_slice(output).into_iter::<Value>();
    values
        .flat_map(|value| match value.unwrap() {
            Value::Array(values) => values,
            value => vec![value],
        })
        .collect()
}

fn our_listing(archive: &Path) -> Vec<Value> {
    json(&run(clipwright().args(["ls", "--json", "--recursive"]).arg(archive)))
}

/// Nodes by path.
fn nodes(lines: &[Value]) -> BTreeMap<String, &Value> {
    lines.iter().map(|node| (path_of(node), node)).collect()
}

/// Paths that are no UTF-8 are told apart by their bytes.
fn path_of(node: &Value) -> String {
    let text = node["path"].as_str().unwrap();
    node["path_hex"].as_str().map_or_else(|| text.to_owned(), |hex| format!("{text} ({hex})"))
}

/// What is not there, null, and empty are one: which is used is a matter of style.
fn comparable(value: &Value) -> Value {
    match value {
        Value::String(text) if text.is_empty() => Value::Null,
        value => value.clone(),
    }
}

/// Our reader says of an archive of upstream's what upstream's reader says.
fn listed_the_same(interop: &Path, archive: &Path) {
    let theirs = json(&run(Command::new(interop).arg("dump").arg(archive)));
    let (their_storage, their_nodes) = theirs.split_first().unwrap();
    let inspected = json(&run(clipwright().args(["inspect", "--json"]).arg(archive)));
    let our_storage = &inspected[0]["storage"];
    for field in STORAGE_FIELDS {
        assert_eq!(
            comparable(&our_storage[field]),
            comparable(&their_storage[field]),
            "{}: storage info: {field}",
            archive.display()
        );
    }

    let listing = our_listing(archive);
    let (ours, theirs) = (nodes(&listing), nodes(their_nodes));
    assert_eq!(
        ours.keys().collect::<Vec<_>>(),
        theirs.keys().collect::<Vec<_>>(),
        "{}: paths",
        archive.display()
    );
    for (path, their) in theirs {
        for field in NODE_FIELDS {
            assert_eq!(
                comparable(&ours[&path][field]),
                comparable(&their[field]),
                "{}: {path}: {field}",
                archive.display()
            );
        }
    }
}

/// All three kinds of archive that upstream writes, of one image.
fn upstream_archives_of(interop: &Path, name: &str, layout: &Path) {
    let dir = scratch();
    let registry = Registry::start(dir.path());
    let reference = registry.push(layout, name);
    let v2 = dir.path().join("v2.clip");
    run(Command::new(interop).args(["index", &reference]).arg(&v2));
    listed_the_same(interop, &v2);

    let root = unpack(layout, &dir.path().join("bundle"));
    // Upstream's v1 writer waits for ever at a fifo (CONTRACT A.8).
    run(Command::new("find").arg(&root).args(["-type", "p", "-delete"]));
    let (local, s3) = (dir.path().join("v1.clip"), dir.path().join("v1.rclip"));
    run(Command::new(interop).arg("create").args([&root, &local]));
    listed_the_same(interop, &local);
    run(Command::new(interop)
        .args(["create-remote", "--bucket", "images", "--region", "eu-west-1"])
        .args(["--key", "v1.clip", "--endpoint", "https://s3.example", "--path-style"])
        .args([&root, &s3]));
    listed_the_same(interop, &s3);
}

#[test]
fn we_list_upstreams_archives_of_odd() {
    if let Some(interop) = interop() {
        let dir = scratch();
        upstream_archives_of(interop, "odd", &make_image("odd", dir.path()));
    }
}

#[test]
fn we_list_upstreams_archives_of_pydata() {
    if let (Some(interop), Some(layout)) = (interop(), corpus_image("pydata")) {
        upstream_archives_of(interop, "pydata", &layout);
    }
}
