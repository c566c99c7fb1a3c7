//! `clipwright extract`, the real binary, against `umoci unpack`, real servers, and archives that
//! mean harm.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clipwright::clip::header::Header;
use clipwright::clip::node::{Attr, FileContent, Node, NodeKind, NodePath};
use clipwright::clip::reader::Archive;
use clipwright::clip::storage_info::{S3StorageInfo, StorageInfo};
use clipwright::clip::tree::Tree;
use clipwright::clip::writer::index_archive;
use clipwright::digest::Digest;
use tempfile::TempDir;

use crate::support::layout::{Blob, Layout, noise, tar};
use crate::support::registry::Registry;
use crate::support::s3::S3Server;
use crate::support::upstream::{corpus_image, interop, make_image, run, skip, unpack};
use crate::support::v1::{Place, local_archive, node, open, root};

fn clipwright() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipwright"));
    command.env_remove("CLIPWRIGHT_CREDENTIALS");
    command
}

fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn extract(archive: &Path, target: &Path, more: &[&str]) -> Output {
    clipwright().arg("extract").args(more).arg(archive).arg(target).output().unwrap()
}

/// It fails, says why, and leaves nothing beside the archive.
fn fails(archive: &Path, target: &Path, why: &str) {
    let before = names(target.parent().unwrap());
    let output = extract(archive, target, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(why), "{why:?} is not in {said:?}");
    assert_eq!(names(target.parent().unwrap()), before);
}

fn names(directory: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}

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

// ---- what goes wrong ---------------------------------------------------------------------------

/// Whatever is cut or flipped in a v1 archive, it is said, and nothing is left.
#[test]
fn a_damaged_v1_archive_leaves_nothing() {
    let dir = scratch();
    let whole = local_archive(&[("/a", b"first content"), ("/b", b"second")]);
    let index = clipwright::clip::header::Header::decode(&whole, whole.len() as u64).unwrap().index;
    let (index_start, end) = (index.start as usize, whole.len());
    let (archive, target) = (dir.path().join("x.clip"), dir.path().join("out"));
    let try_with = |bytes: &[u8], why: &str| {
        std::fs::write(&archive, bytes).unwrap();
        fails(&archive, &target, why);
    };
    try_with(&whole[..20], "not a CLIP archive");
    try_with(&whole[..54], "does not fit");
    try_with(&whole[..end - 1], "does not fit");
    let flip = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    try_with(&flip(0), "not a CLIP archive");
    try_with(&flip(54), "/a: block at 55: expected type 0, found 64");
    try_with(&flip(55), "/a: block at 55: expected CRC-64");
    try_with(&flip(55 + 13), "/a: block at 55: expected CRC-64");
    // Content and CRC agree, but are not what the index says.
    let other = local_archive(&[("/a", b"other content"), ("/b", b"second")]);
    try_with(
        &[&other[..index_start], &whole[index_start..]].concat(),
        "/a: block at 55: expected SHA-256",
    );
    // Cut data: the index moved to where they end now.
    let mut header = clipwright::clip::header::Header::decode(&whole, end as u64).unwrap();
    header.index = 54..54 + (end - index_start) as u64;
    try_with(&[&header.encode(), &whole[index_start..]].concat(), "/a: block at 55: expected");
    assert!(!target.exists());
}

/// Positions and lengths that can't be are refused before anything is written.
#[test]
fn impossible_places_are_refused() {
    let dir = scratch();
    let (archive, target) = (dir.path().join("x.clip"), dir.path().join("out"));
    let file = |path, ino, offset, length| {
        node(path, ino, NodeKind::File(FileContent::Embedded { offset, length, sha256: None }))
    };
    let local = |nodes: Vec<Node>| Place::Local.archive(&Tree::lenient(nodes).unwrap());
    for (nodes, why) in [
        (vec![root(), file("/a", 2, 10, 5)], "/a: block at 10: expected a place"),
        (vec![root(), file("/a", 2, 60, 1 << 40)], "files claim more than"),
        (
            vec![root(), file("/a", 2, 60, 9), file("/b", 3, 65, 9)],
            "/b: its content overlaps that of /a",
        ),
    ] {
        std::fs::write(&archive, local(nodes)).unwrap();
        fails(&archive, &target, why);
    }
    // One block under very many names that are no links would fill any disk.
    let mut bomb = local_archive(&[("/a", &noise(1, 100_000))]);
    let opened = open(&bomb);
    let first = opened.tree.iter().nth(1).unwrap().clone();
    let copies = (10..30).map(|n| {
        let path = NodePath::new(format!("/copy{n}").as_bytes()).unwrap();
        Node { path, attr: Attr { ino: n, ..first.attr }, ..first.clone() }
    });
    let tree = Tree::lenient(opened.tree.iter().cloned().chain(copies).collect()).unwrap();
    bomb.truncate(opened.header.index.start as usize);
    std::fs::write(&archive, Place::Behind(bomb).archive(&tree)).unwrap();
    fails(&archive, &target, "files claim more than");
}

/// A file whose content is where the archive has none is not passed over.
#[test]
fn content_that_is_nowhere_is_refused() {
    let dir = scratch();
    let (archive, target) = (dir.path().join("x.clip"), dir.path().join("out"));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let v1 = local_archive(&[("/a", b"content")]);
    let v2 = std::fs::read(fixtures.join("v2.clip")).unwrap();
    let part = |archive: &[u8], range: std::ops::Range<u64>| {
        archive[range.start as usize..range.end as usize].to_vec()
    };
    let (one, two) = (open(&v1).header, open(&v2).header);

    // Our writer refuses both: blocks with an image beside them, layers without one.
    let (index, storage) = (part(&v1, one.index), part(&v2, two.storage.unwrap()));
    let at = clipwright::clip::header::LENGTH as u64;
    let middle = at + index.len() as u64;
    let end = middle + storage.len() as u64;
    let header = Header { index: at..middle, storage: Some(middle..end), storage_type: "oci" };
    std::fs::write(&archive, [header.encode(), index, storage].concat()).unwrap();
    fails(&archive, &target, "/a: has content where the archive's storage info has none");

    let index = part(&v2, two.index);
    let header = Header { index: at..at + index.len() as u64, storage: None, storage_type: "" };
    std::fs::write(&archive, [header.encode(), index].concat()).unwrap();
    fails(&archive, &target, "has content where the archive's storage info has none");
}

/// Nothing that an archive says leads out of the target.
#[test]
fn an_archive_cannot_reach_out() {
    let dir = scratch();
    let outside = dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("passwd"), "mine").unwrap();
    let link = |path, ino, target: &Path| {
        let target = target.as_os_str().as_encoded_bytes().to_vec();
        node(path, ino, NodeKind::Symlink { target })
    };
    let empty = |path, ino| {
        node(
            path,
            ino,
            NodeKind::File(FileContent::Embedded { offset: 0, length: 0, sha256: None }),
        )
    };
    let directory = |path, ino| node(path, ino, NodeKind::Directory);
    let nodes = vec![
        root(),
        link("/link", 2, &outside),
        empty("/link/passwd", 3),
        empty("/link/planted", 4),
        directory("/link/directory", 5),
        empty("/link/directory/planted", 6),
        link("/up", 7, Path::new("../outside")),
        empty("/up/planted", 8),
        directory("/fine", 9),
        // The first name of this one is the link itself: linked, never followed.
        link("/fine/again", 2, &outside),
    ];
    let archive = dir.path().join("x.clip");
    std::fs::write(&archive, Place::Local.archive(&Tree::lenient(nodes).unwrap())).unwrap();
    let target = dir.path().join("out");
    let output = extract(&archive, &target, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("no directory leads there"), "{said}");
    assert_eq!(names(&outside), [outside.join("passwd")]);
    assert_eq!(std::fs::read_to_string(outside.join("passwd")).unwrap(), "mine");
    assert_eq!(names(&target), ["fine", "link", "up"].map(|name| target.join(name)));
    assert_eq!(std::fs::read_link(target.join("fine/again")).unwrap(), outside);

    // `..` and the like are no paths at all.
    let mut bytes = std::fs::read(&archive).unwrap();
    let at = bytes.windows(5).position(|w| w == b"/fine").unwrap();
    bytes[at..at + 5].copy_from_slice(b"/../x");
    std::fs::write(&archive, bytes).unwrap();
    fails(&archive, &dir.path().join("other"), "is not a clean absolute path");
}

#[test]
fn a_target_that_is_taken_is_left_alone() {
    let dir = scratch();
    let archive = dir.path().join("x.clip");
    std::fs::write(&archive, local_archive(&[("/a", b"x")])).unwrap();
    let full = dir.path().join("full");
    std::fs::create_dir(&full).unwrap();
    std::fs::write(full.join("mine"), "mine").unwrap();
    fails(&archive, &full, "is not empty");
    std::os::unix::fs::symlink(&full, dir.path().join("link")).unwrap();
    fails(&archive, &dir.path().join("link"), "it is there and no directory");
    assert_eq!(names(&full), [full.join("mine")]);
    let empty = dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert!(extract(&archive, &empty, &[]).status.success());
    assert_eq!(std::fs::read(empty.join("a")).unwrap(), b"x");
}

/// A layer that is not what the archive says leaves nothing, even if it breaks at its very end.
#[test]
fn a_wrong_layer_leaves_nothing() {
    let dir = scratch();
    let content = noise(3, 1 << 20);
    let blob = Blob::gzip(&tar(&[("a", &content), ("b", b"end")]));
    let layout = Layout::of(std::slice::from_ref(&blob));
    let (archive, target) = (dir.path().join("x.clip"), dir.path().join("out"));
    let source = format!("oci:{}:latest", layout.path().display());
    run(clipwright().args(["index", &source, "-o"]).arg(&archive));
    let mut broken = blob.bytes.clone();
    let last = broken.len() - 1;
    broken[last] ^= 1;
    std::fs::write(layout.blob(blob.digest), &broken).unwrap();
    let output = extract(&archive, &target, &["--source", &source]);
    assert!(!output.status.success());
    assert_eq!(names(dir.path()), std::slice::from_ref(&archive));
    std::fs::write(layout.blob(blob.digest), &blob.bytes).unwrap();
    let output = extract(&archive, &target, &["--source", &source]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(std::fs::read(target.join("a")).unwrap() == content);
}

/// A directory of the image alone, with only the spans that hold it.
#[test]
fn a_directory_of_it_takes_only_its_spans() {
    let dir = scratch();
    let large = noise(5, 24 << 20);
    let blob = Blob::gzip(&tar(&[("big/x", &large), ("d/a", b"one"), ("d/e/b", b"two")]));
    let layout = Layout::of(std::slice::from_ref(&blob));
    let archive = dir.path().join("x.clip");
    let source = format!("oci:{}:latest", layout.path().display());
    run(clipwright().args(["index", &source, "-o"]).arg(&archive));
    // What is not needed may as well be broken.
    let mut broken = blob.bytes.clone();
    broken[1000] ^= 1;
    std::fs::write(layout.blob(blob.digest), &broken).unwrap();
    let target = dir.path().join("out");
    let output = extract(&archive, &target, &["--source", &source, "--path", "/d"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read(target.join("a")).unwrap(), b"one");
    assert_eq!(std::fs::read(target.join("e/b")).unwrap(), b"two");
    let output =
        extract(&archive, &dir.path().join("file"), &["--source", &source, "--path", "/d/a"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("is not a directory"));
    assert_eq!(names(dir.path()), [target, archive]);
}

/// Without root, and with --no-owner, files are ours, and nothing is setuid.
#[test]
fn without_owners_nothing_is_setuid() {
    if interop().is_none() {
        return; // as root only
    }
    let dir = scratch();
    let layout = make_image("odd", dir.path());
    let archive = dir.path().join("odd.clip");
    let source = format!("oci:{}:latest", layout.display());
    run(clipwright().args(["index", &source, "-o"]).arg(&archive));
    let target = dir.path().join("out");
    let output = extract(&archive, &target, &["--source", &source, "--no-owner"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        output.status.success() && said.contains("setuid and setgid bits were left out"),
        "{said}"
    );
    let setuid = std::fs::metadata(target.join("usr/bin/setuid")).unwrap();
    assert_eq!((setuid.mode() & 0o7777, setuid.uid()), (0o755, 0));
    assert_eq!(std::fs::metadata(target.join("attr/owned")).unwrap().uid(), 0);
    assert!(std::fs::metadata(target.join("attr/fifo")).unwrap().file_type().is_fifo());
}

/// A disk that fills up halfway is left as it was.
#[test]
fn a_full_disk_leaves_nothing() {
    if !nix::unistd::geteuid().is_root() {
        return skip("not root, which mounting takes");
    }
    let dir = scratch();
    let disk = dir.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&disk));
    let unmount = Unmount(disk.clone());
    let archive = dir.path().join("x.clip");
    let (a, b) = (noise(1, 700_000), noise(2, 700_000));
    std::fs::write(&archive, local_archive(&[("/a", &a), ("/b", &b)])).unwrap();
    fails(&archive, &disk.join("out"), "can't write /b: No space left on device");
    fails(&archive, &disk, "it is a mount point");
    drop(unmount);
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
