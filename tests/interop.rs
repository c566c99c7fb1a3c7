//! Clipwright and upstream's Go library, each reading what the other wrote.
//!
//! Upstream's side is the Go program in `tests/interop`. The comparison with `umoci unpack` goes
//! through upstream's FUSE code; what that code cannot show is listed by name in
//! `tests/interop/differences`. By default pydata and small images; `CLIPWRIGHT_FULL=1` takes the
//! whole corpus.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use clipwright::archive::PackOptions;
use clipwright::image_id::ImageId;
use clipwright::progress::Silent;
use clipwright::publish::Publication;
use clipwright::publish::archives::{ArchiveName, Stores};
use clipwright::store::{Overwrite, StoreSettings};
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::layout::{noise, tar};
use crate::support::pack::Image;
use crate::support::registry::Registry;
use crate::support::s3::S3Server;
use crate::support::service::{Service, Settings};
use crate::support::upstream::{Mount, corpus_image, interop, make_image, run, unpack};

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
        .args(["index", "--no-cache", reference, "--reference-form", "tag-and-digest", "-o"])
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
    for list in differences(name) {
        compare.arg("--allow").arg(list);
    }
    run(compare.arg(root).arg(&mount.point));
}

/// The lists of what may differ in this image.
fn differences(name: &str) -> impl Iterator<Item = PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/differences");
    let lists = ["every-image", name].map(|list| directory.join(format!("{list}.txt")));
    lists.into_iter().filter(|list| list.exists())
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
    if only_in_full && !full(name) {
        return;
    }
    if let (Some(interop), Some(layout)) = (interop(), corpus_image(name)) {
        mounted_equals_unpacked(interop, name, &layout);
    }
}

/// Whether large images are to be compared.
fn full(name: &str) -> bool {
    let full = std::env::var_os("CLIPWRIGHT_FULL").is_some_and(|full| !full.is_empty());
    if !full {
        eprintln!("skipped: {name} is compared with CLIPWRIGHT_FULL=1 only");
    }
    full
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
        let node = nodes.get(&(path, None)).unwrap_or_else(|| panic!("{path} is not listed"));
        assert_eq!(node["type"], kind, "{path}");
        assert_eq!(node["rdev"], rdev, "{path}");
    }
}

/// The image in zstd, which upstream can't read, is re-published in gzip by a job; upstream mounts
/// the archive of that, and shows what `umoci unpack` makes of the original.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_mounts_what_was_published_again() {
    let Some(interop) = interop() else { return };
    let dir = scratch();
    let layout = make_image("opaque", dir.path());
    let registry = Registry::start(dir.path());
    let source = format!("{}/zstd:latest", registry.address);
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--dest-tls-verify=false", "--dest-compress-format", "zstd"])
        .arg(format!("oci:{}:latest", layout.display()))
        .arg(format!("docker://{source}")));
    let settings = Settings::default()
        .argument("reference-form", "tag-and-digest")
        .env("CLIPWRIGHT_BUILD_REGISTRY", &registry.address);
    let service = Service::start(settings).await;
    let id = "961eaef6668e480f";
    let job = serde_json::json!({
        "kind": "pull", "image_id": id, "source": source, "layers": "gzip", "fallback": "none",
    });
    let job = service.finished(&service.submit(job).await).await;
    assert_eq!(job["result"]["clip_version"], 2, "{job:#}");
    assert!(job["result"]["republished_from"].is_string(), "{job:#}");

    let root = unpack(&layout, &dir.path().join("bundle"));
    let mount = Mount::new(interop, &service.archive(id), dir.path());
    let mut compare = Command::new(interop);
    compare.arg("compare");
    for list in differences("opaque") {
        compare.arg("--allow").arg(list);
    }
    run(compare.arg(root).arg(&mount.point));
}

/// What a build job makes of `opaque` and three more layers, which have several members of gzip each or
/// none but one: upstream mounts our archive of it, and indexes what we have compressed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_reads_what_was_built() {
    let Some(interop) = interop() else { return };
    let dir = scratch();
    let registry = Registry::start(dir.path());
    let base = registry.push(&make_image("opaque", dir.path()), "base");
    let settings = Settings::default()
        .argument("reference-form", "tag-and-digest")
        .argument("build-registry", &registry.address);
    let service = Service::start(settings).await;
    let (id, large) = ("961eaef6668e480f", noise(11, 33 << 20));
    let files = [("large", &large[..]), ("empty", b""), ("d/small", b"small\n")];
    let (status, sent) = service.send_bytes("/v1/contexts", tar(&files)).await;
    assert_eq!(status, 201, "{sent}");
    let job = serde_json::json!({
        "kind": "build", "image_id": id, "context": sent["digest"],
        "dockerfile": format!("FROM {base}\nCOPY large /opt/large\nCOPY d empty /opt/d/\nCOPY large /opt/d/small\n"),
    });
    let job = service.finished(&service.submit(job).await).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");

    let layout = dir.path().join("built");
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--src-tls-verify=false", "--preserve-digests"])
        .arg(format!("docker://{}/beta9-users:{id}", registry.address))
        .arg(format!("oci:{}:latest", layout.display())));
    let root = unpack(&layout, &dir.path().join("bundle"));
    assert!(std::fs::read(root.join("opt/d/small")).unwrap() == large);
    let mount = Mount::new(interop, &service.archive(id), dir.path());
    let mut compare = Command::new(interop);
    compare.arg("compare");
    for list in differences("opaque") {
        compare.arg("--allow").arg(list);
    }
    run(compare.arg(root).arg(&mount.point));
    drop(mount);
    upstream_archives_of(interop, "built", &layout);
}

// ---- our v1 archives, read by upstream ---------------------------------------------------------

/// What umoci made of the image, and what upstream shows of our v1 archive.
fn bundles_are_the_same(interop: &Path, name: &str, bundle: &Path, mount: &Path) {
    let mut compare = Command::new(interop);
    compare.arg("compare");
    for list in differences(name) {
        compare.arg("--allow").arg(list);
    }
    run(compare.arg(bundle.join("rootfs")).arg(mount.join("rootfs")));
    let spec = |directory: &Path, file: &str| {
        let bytes = std::fs::read(directory.join(file)).unwrap();
        serde_json::from_slice::<Value>(&bytes).unwrap()
    };
    let theirs = spec(bundle, "config.json");
    assert_eq!(spec(mount, "config.json"), theirs, "{name}");
    assert_eq!(spec(mount, "initial_config.json"), theirs, "{name}");
}

/// The image, packed by us and mounted by upstream, is the bundle that `umoci unpack` makes of it; the
/// same image gives the same bytes twice, and in S3 as on disk. `s3_too`: it is mounted from there too,
/// a small request for every read.
async fn packed_equals_unpacked(interop: &Path, name: &str, layout: &Path, s3_too: bool) {
    let dir = scratch();
    let bundle = dir.path().join("bundle");
    unpack(layout, &bundle);

    let (archive, again) = (dir.path().join("image.clip"), dir.path().join("again.clip"));
    for file in [&archive, &again] {
        let image = format!("oci:{}", layout.display());
        run(clipwright().args(["pack", &image, "-o"]).arg(file));
    }
    let same = Command::new("cmp").args([&archive, &again]).status().unwrap().success();
    assert!(same, "{name}: packing twice gave different bytes");
    std::fs::remove_file(again).unwrap();
    let local = dir.path().join("local");
    let mount = Mount::new(interop, &archive, &local);
    bundles_are_the_same(interop, name, &bundle, &mount.point);
    drop(mount);

    let server = S3Server::start().await;
    let settings = StoreSettings::S3(server.settings());
    let archives = &*Stores::open(&settings, |objects| objects).await.unwrap().archives;
    let Image { source, image } = &Image::open(layout).await;
    let id: ImageId = "961eaef6668e480f".parse().unwrap();
    let (options, overwrite) = (&PackOptions::default(), Overwrite::Never);
    Publication {
        source,
        image,
        options,
        archives,
        name: &ArchiveName::Image(id.clone()),
        overwrite,
    }
    .publish(Arc::new(Silent), &CancellationToken::new())
    .await
    .unwrap();
    let [data, index] = ["clip", "rclip"].map(|ext| server.object_path(&format!("{id}.{ext}")));
    let same = Command::new("cmp").args([&archive, &data]).status().unwrap().success();
    assert!(same, "{name}: the data in S3 are not those of the local archive");
    if !s3_too {
        return;
    }
    let keys = [
        ("AWS_ACCESS_KEY_ID", server.access_key.as_str()),
        ("AWS_SECRET_ACCESS_KEY", server.secret_key.as_str()),
    ];
    let mount = Mount::with(interop, &index, dir.path(), &keys);
    bundles_are_the_same(interop, name, &bundle, &mount.point);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_mounts_our_v1_archives_of_small_images() {
    if let Some(interop) = interop() {
        for name in ["odd", "opaque"] {
            let dir = scratch();
            packed_equals_unpacked(interop, name, &make_image(name, dir.path()), true).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_mounts_our_v1_archives_of_pydata() {
    if let (Some(interop), Some(layout)) = (interop(), corpus_image("pydata")) {
        packed_equals_unpacked(interop, "pydata", &layout, full("pydata in S3")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstream_mounts_our_v1_archives_of_the_whole_corpus() {
    for name in ["debian", "node", "torch"] {
        if full(name)
            && let (Some(interop), Some(layout)) = (interop(), corpus_image(name))
        {
            packed_equals_unpacked(interop, name, &layout, false).await;
        }
    }
}

// ---- upstream's archives, read by us -----------------------------------------------------------

/// JSON values, one after the other.
fn json(output: &[u8]) -> Vec<Value> {
    serde_json::Deserializer::from_slice(output).into_iter().map(Result::unwrap).collect()
}

fn our_listing(archive: &Path) -> Vec<Value> {
    json(&run(clipwright().args(["ls", "--json", "--recursive"]).arg(archive)))
}

/// A path, and its bytes in base64 when they are no UTF-8.
type PathKey<'a> = (&'a str, Option<&'a str>);

fn nodes(lines: &[Value]) -> BTreeMap<PathKey<'_>, &Value> {
    lines
        .iter()
        .map(|node| ((node["path"].as_str().unwrap(), node["path_base64"].as_str()), node))
        .collect()
}

/// Asserts that we say whatever upstream says; we may say more. Absent, null and empty are one:
/// which of them is used is a matter of style.
fn says_the_same(what: &str, ours: &Value, theirs: &Value) {
    let empty = |value: &Value| match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(values) => values.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    match (ours, theirs) {
        (ours, theirs) if empty(theirs) => assert!(empty(ours), "{what}: {ours}, not {theirs}"),
        (ours, Value::Object(fields)) => {
            for (name, their) in fields {
                says_the_same(&format!("{what}: {name}"), &ours[name], their);
            }
        }
        (Value::Array(ours), Value::Array(theirs)) => {
            assert_eq!(ours.len(), theirs.len(), "{what}: length");
            for (at, (our, their)) in ours.iter().zip(theirs).enumerate() {
                says_the_same(&format!("{what}[{at}]"), our, their);
            }
        }
        (ours, theirs) => assert_eq!(ours, theirs, "{what}"),
    }
}

/// Asserts that we read an archive as `dump` says upstream does.
fn read_the_same(archive: &Path, dump: &[u8]) {
    let dumped = json(dump);
    let (their_storage, their_nodes) = dumped.split_first().unwrap();
    let name = archive.display();

    let inspected = json(&run(clipwright().args(["inspect", "--json"]).arg(archive)));
    says_the_same(&format!("{name}: storage"), &inspected[0]["storage"], their_storage);

    let listing = our_listing(archive);
    let (ours, theirs) = (nodes(&listing), nodes(their_nodes));
    assert!(ours.keys().eq(theirs.keys()), "{name}: {:?} != {:?}", ours.keys(), theirs.keys());
    for (path, their) in theirs {
        says_the_same(&format!("{name}: {path:?}"), ours[&path], their);
    }
}

/// Our reader says of an archive of upstream's what upstream's reader says.
fn listed_the_same(interop: &Path, archive: &Path) {
    read_the_same(archive, &run(Command::new(interop).arg("dump").arg(archive)));
}

/// The golden archives, which need no Go: see `tests/fixtures/README.md`.
#[test]
fn we_list_the_golden_archives() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    for name in ["v1-local.clip", "v1-s3.rclip", "v2.clip"] {
        let dump = std::fs::read(fixtures.join(format!("{name}.jsonl"))).unwrap();
        read_the_same(&fixtures.join(name), &dump);
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
