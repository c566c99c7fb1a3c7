//! What is extracted is what the image or the archive holds.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clipwright::clip::node::{FileContent, NodeKind};
use clipwright::clip::reader::Archive;
use clipwright::clip::storage_info::{S3StorageInfo, StorageInfo};
use clipwright::clip::writer::index_archive;
use clipwright::digest::Digest;

use crate::support::layout::noise;
use crate::support::registry::Registry;
use crate::support::s3::S3Server;
use crate::support::upstream::{corpus_image, interop, make_image, run, unpack};
use crate::support::v1::{local_archive, open};

use super::{clipwright, names, scratch};

/// Extracting gives what `umoci unpack` gives.
fn equals_unpacked(interop: &Path, name: &str, layout: &Path, allow: Option<&str>) {
    let dir = scratch();
    let registry = Registry::start(dir.path());
    let reference = registry.push(layout, name);
    let (archive, target) = (dir.path().join("image.clip"), dir.path().join("extracted"));
    run(clipwright().args(["index", &reference, "-o"]).arg(&archive));
    run(clipwright().arg("extract").arg(&archive).arg(&target));
    let mut compare = Command::new(interop);
    compare.arg("compare");
    if let Some(list) = allow {
        let list = format!("tests/interop/differences/{list}");
        compare.arg("--allow").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(list));
    }
    run(compare.arg(unpack(layout, &dir.path().join("bundle"))).arg(&target));
}

#[test]
fn extracting_odd_gives_what_umoci_gives() {
    if let Some(interop) = interop() {
        let dir = scratch();
        equals_unpacked(interop, "odd", &make_image("odd", dir.path()), Some("odd-extracted.txt"));
    }
}

#[test]
fn extracting_pydata_gives_what_umoci_gives() {
    if let (Some(interop), Some(layout)) = (interop(), corpus_image("pydata")) {
        equals_unpacked(interop, "pydata", &layout, None);
    }
}

/// A v1 archive of ours holds the same image below `/rootfs`, special files apart.
#[test]
fn our_v1_archive_of_odd_holds_what_umoci_makes() {
    let Some(interop) = interop() else { return };
    let dir = scratch();
    let layout = make_image("odd", dir.path());
    let (archive, target) = (dir.path().join("v1.clip"), dir.path().join("extracted"));
    let source = format!("oci:{}:latest", layout.display());
    run(clipwright().args(["pack", &source, "-o"]).arg(&archive));
    run(clipwright().args(["verify", "--deep"]).arg(&archive));
    run(clipwright().args(["extract", "--path", "/rootfs"]).arg(&archive).arg(&target));
    let differences = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/differences");
    let mut compare = Command::new(interop);
    compare.arg("compare");
    for list in ["every-image.txt", "odd-extracted.txt"] {
        compare.arg("--allow").arg(differences.join(list));
    }
    run(compare.arg(unpack(&layout, &dir.path().join("bundle"))).arg(&target));
}

/// Upstream's v1 archive of a directory is that directory, but for what upstream leaves out.
#[test]
fn upstreams_v1_archive_becomes_the_directory_again() {
    let Some(interop) = interop() else { return };
    let dir = scratch();
    let source = unpack(&make_image("tiny", dir.path()), &dir.path().join("bundle"));
    let (archive, target) = (dir.path().join("v1.clip"), dir.path().join("extracted"));
    run(Command::new(interop).arg("create").args([&source, &archive]));
    run(clipwright().arg("extract").arg(&archive).arg(&target));
    for (path, metadata) in walk(&source) {
        let ours = target.join(path.strip_prefix(&source).unwrap());
        let extracted = std::fs::symlink_metadata(&ours).unwrap();
        let attributes = |m: &std::fs::Metadata| {
            (m.file_type(), m.mode() & 0o777, m.uid(), m.gid(), m.mtime(), m.mtime_nsec())
        };
        assert_eq!(attributes(&extracted), attributes(&metadata), "{}", ours.display());
        if metadata.is_file() {
            assert!(std::fs::read(&ours).unwrap() == std::fs::read(&path).unwrap(), "{path:?}");
        } else if metadata.is_symlink() {
            assert_eq!(std::fs::read_link(&ours).unwrap(), std::fs::read_link(&path).unwrap());
        }
    }
    assert_eq!(walk(&source).len(), walk(&target).len());
}

fn walk(root: &Path) -> Vec<(PathBuf, std::fs::Metadata)> {
    let mut found = vec![(root.to_owned(), std::fs::symlink_metadata(root).unwrap())];
    let mut at = 0;
    while at < found.len() {
        if found[at].1.is_dir() {
            for path in names(&found[at].0.clone()) {
                let metadata = std::fs::symlink_metadata(&path).unwrap();
                found.push((path, metadata));
            }
        }
        at += 1;
    }
    found
}

/// The golden archive that upstream wrote holds what the test image holds.
#[test]
fn the_golden_v1_archive_extracts() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let dir = scratch();
    let target = dir.path().join("out");
    run(clipwright().arg("extract").arg(fixtures.join("v1-local.clip")).arg(&target));
    let archive = Archive::open(&fixtures.join("v1-local.clip")).unwrap();
    let mut files = 0;
    for node in archive.tree.iter() {
        let path = target.join(OsStr::from_bytes(&node.path.as_bytes()[1..]));
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if let NodeKind::File(FileContent::Embedded { sha256, .. }) = node.kind {
            assert_eq!(sha256, Some(Digest::of(&std::fs::read(&path).unwrap())), "{path:?}");
            files += 1;
        }
        assert_eq!(metadata.mode(), node.attr.mode, "{path:?}");
        let mtime = node.attr.mtime;
        let time = (metadata.mtime(), metadata.mtime_nsec());
        assert_eq!(time, (mtime, i64::from(node.attr.mtime_nsec)), "{path:?}");
    }
    assert!(files > 1);
}

// ---- v1, in S3 ---------------------------------------------------------------------------------

/// Data in a bucket are read by range, with the bucket and the address of the settings instead of
/// the archive's own.
#[tokio::test(flavor = "multi_thread")]
async fn a_v1_archive_in_s3_is_read_like_a_local_one() {
    let server = S3Server::start().await;
    let dir = scratch();
    let content = noise(7, 20 << 20); // more than two parts
    let local = local_archive(&[("/large", &content), ("/small", b"small"), ("/empty", b"")]);
    std::fs::write(server.object_path("x.clip"), &local).unwrap();
    let archive = open(&local);
    let object = S3StorageInfo {
        bucket: "the-archives-own".into(),
        region: "us-east-1".into(),
        key: "x.clip".into(),
        endpoint: "http://127.0.0.1:9".into(),
        force_path_style: false,
    };
    let rclip = dir.path().join("x.rclip");
    std::fs::write(&rclip, index_archive(&archive.tree, &StorageInfo::S3(object)).unwrap())
        .unwrap();

    let settings = [
        ("CLIPWRIGHT_S3_BUCKET", &server.bucket),
        ("CLIPWRIGHT_S3_ENDPOINT", &server.endpoint),
        ("CLIPWRIGHT_S3_ACCESS_KEY", &server.access_key),
        ("CLIPWRIGHT_S3_SECRET_KEY", &server.secret_key),
    ];
    let with_s3 = |arguments: Vec<&str>, last: Option<&Path>| {
        let mut command = clipwright();
        command.envs(settings).args(arguments).arg(&rclip).args(last);
        command.env("CLIPWRIGHT_S3_FORCE_PATH_STYLE", "true");
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    let target = dir.path().join("out");
    let output = with_s3(vec!["extract"], Some(&target)).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read(target.join("large")).unwrap() == content);
    assert_eq!(std::fs::read(target.join("small")).unwrap(), b"small");
    assert_eq!(std::fs::read(target.join("empty")).unwrap(), b"");
    let output = with_s3(vec!["cat"], Some(Path::new("/small"))).await.unwrap();
    assert_eq!(output.stdout, b"small");
    let output = with_s3(vec!["verify", "--deep"], None).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));

    // A bit of the data is flipped: the file is named, and nothing of it comes out.
    let mut flipped = local.clone();
    flipped[60 + (10 << 20)] ^= 1;
    std::fs::write(server.object_path("x.clip"), &flipped).unwrap();
    let again = dir.path().join("again");
    for (command, last) in [("extract", again.as_path()), ("cat", Path::new("/large"))] {
        let output = with_s3(vec![command], Some(last)).await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("/large: block at 55: expected CRC-64 "), "{said}");
        assert!(!output.status.success() && output.stdout.is_empty());
    }
    assert!(!again.exists());
    let output = with_s3(vec!["verify", "--deep"], None).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("error: /large: block at 55"), "{said}");
}
