//! Whole images there and back: what upstream's reader shows stays the same.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::runs::{files_in, migration, settings};
use crate::support::bench::{Bench, IMAGE};
use crate::support::layout::{Blob, tar};
use crate::support::s3::S3Server;
use crate::support::upstream::{Mount, corpus_image, interop, make_image, run, unpack};

/// Upstream's reader shows the same of two archives, each from a directory on. Link counts aside:
/// upstream's v1 archives have those of names that they don't link.
fn shows_the_same(interop: &Path, before: (&Path, &str), after: (&Path, &str), dir: &Path) {
    let dir = tempfile::tempdir_in(dir).unwrap();
    let mount = |name: &str, archive: &Path| {
        let directory = dir.path().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        Mount::new(interop, archive, &directory)
    };
    let (old, new) = (mount("old", before.0), mount("new", after.0));
    let counts = dir.path().join("allowed");
    std::fs::write(&counts, "nlink * # upstream's v1 archives count links that they don't have\n")
        .unwrap();
    run(Command::new(interop)
        .args(["compare", "--allow"])
        .arg(&counts)
        .args([&old.point.join(before.1), &new.point.join(after.1)]));
}

/// Upstream's v1 archive of an image becomes v2, v1 by taking the kept one, and v1 by packing.
async fn there_and_back(name: &str, layout: &Path) {
    let Some(interop) = interop() else { return };
    let bench = Bench::new(settings()).await;
    let root = unpack(layout, &bench.dir.path().join("bundle"));
    run(Command::new("find")
        .arg(&root)
        .args(["(", "-type", "p", "-o", "-type", "b", "-o"])
        .args(["-type", "c", ")", "-delete"]));
    let original = bench.dir.path().join("v1.clip");
    run(Command::new(interop).arg("create").args([root.parent().unwrap(), &original]));
    let archive = bench.service.archive(IMAGE);
    std::fs::create_dir_all(archive.parent().unwrap()).unwrap();
    std::fs::copy(&original, &archive).unwrap();

    let job = bench.migrate(2, false).await;
    let done = migration(&job);
    assert_eq!((&done["from"], &done["to"]), (&1.into(), &2.into()), "{name}: {job:#}");
    let compared = done["compared"].clone();
    assert!(compared["files"].as_u64().unwrap() > 0, "{job:#}");
    assert_eq!(job["result"]["clip_version"], 2);
    let kept = archive.parent().unwrap().join(done["kept"].as_str().unwrap());
    assert!(std::fs::read(&kept).unwrap() == std::fs::read(&original).unwrap());
    shows_the_same(interop, (&original, "rootfs"), (&archive, ""), bench.dir.path());
    let v2 = std::fs::read(&archive).unwrap();

    // Back: what was kept is taken, to the byte.
    let job = bench.migrate(1, false).await;
    let done = migration(&job);
    assert_eq!((&done["restored"], &done["compared"]), (&true.into(), &compared), "{job:#}");
    assert!(std::fs::read(&archive).unwrap() == std::fs::read(&original).unwrap());
    // And forth again.
    assert_eq!(migration(&bench.migrate(2, true).await)["restored"], true);
    assert!(std::fs::read(&archive).unwrap() == v2);
    assert_eq!(files_in(archive.parent().unwrap()).len(), 1, "all that was kept is gone");

    // Back without it: packed from the image's layers.
    let job = bench.migrate(1, true).await;
    let done = migration(&job);
    assert_eq!((&done["restored"], &done["compared"]), (&false.into(), &compared), "{job:#}");
    assert_eq!(job["result"]["clip_version"], 1);
    assert_eq!(files_in(archive.parent().unwrap()).len(), 1);
    shows_the_same(interop, (&original, "rootfs"), (&archive, "rootfs"), bench.dir.path());
    assert_eq!(config(&archive), config(&original), "{name}: config.json");
}

/// What an archive says of how its image is run.
fn config(archive: &Path) -> Value {
    let mut cat = Command::new(env!("CARGO_BIN_EXE_clipwright"));
    serde_json::from_slice(&run(cat.arg("cat").arg(archive).arg("/config.json"))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn odd() {
    let dir = tempfile::tempdir().unwrap();
    there_and_back("odd", &make_image("odd", dir.path())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pydata() {
    if let Some(layout) = corpus_image("pydata") {
        there_and_back("pydata", &layout).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node() {
    if std::env::var_os("CLIPWRIGHT_FULL").is_none_or(|full| full.is_empty()) {
        eprintln!("skipped: node is migrated with CLIPWRIGHT_FULL=1 only");
    } else if let Some(layout) = corpus_image("node") {
        there_and_back("node", &layout).await;
    }
}

/// An image of a user's own registry goes to v1 in S3 and back to where it was; what is kept is
/// removed when that is said, the data of the v1 archive last.
#[tokio::test]
async fn in_s3_the_index_is_switched_and_the_data_stay() {
    let s3 = S3Server::start().await;
    let bench = Bench::new(settings().on_s3(&s3)).await;
    let layer = Blob::gzip(&tar(&[("etc/hello", b"hello\n"), ("etc/empty", b"")]));
    let job = bench.service.pull(IMAGE, &bench.push(&[layer])).await;
    assert_eq!(bench.service.finished(&job).await["state"], "succeeded");
    let index = s3.object_path(&format!("{IMAGE}.rclip"));
    let v2 = std::fs::read(&index).unwrap();
    let names = || -> Vec<String> {
        let files = files_in(index.parent().unwrap());
        files.into_iter().map(|(name, _)| name).collect()
    };

    let job = bench.migrate(1, false).await;
    let done = migration(&job);
    assert_eq!(done["restored"], false, "{job:#}");
    assert_eq!(done["compared"]["files"], 2, "{job:#}");
    let kept = done["kept"].as_str().unwrap().to_owned();
    assert_eq!(names(), [format!("{IMAGE}.clip"), format!("{IMAGE}.rclip"), kept.clone()]);
    assert!(std::fs::read(s3.object_path(&kept)).unwrap() == v2);
    let (status, image) = bench.service.get(&format!("/v1/images/{IMAGE}")).await;
    assert_eq!((status, &image["clip_version"]), (200, &1.into()), "{image:#}");

    let job = bench.migrate(2, false).await;
    let done = migration(&job);
    assert_eq!(done["restored"], true, "{job:#}");
    assert!(job["result"]["reference"].as_str().unwrap().contains("images/source"), "{job:#}");
    assert!(std::fs::read(&index).unwrap() == v2);
    let kept = done["kept"].as_str().unwrap().to_owned();
    assert_eq!(names(), [format!("{IMAGE}.clip"), format!("{IMAGE}.rclip"), kept]);

    let job = bench.migrate(2, true).await;
    let discarded = migration(&job)["discarded"].as_array().unwrap().len();
    assert_eq!((discarded, names()), (2, vec![format!("{IMAGE}.rclip")]), "{job:#}");
}
