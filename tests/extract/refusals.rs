//! What goes wrong is said, and leaves nothing behind.

use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use clipwright::clip::header::Header;
use clipwright::clip::node::{Attr, FileContent, Node, NodeKind, NodePath};
use clipwright::clip::tree::Tree;

use crate::support::layout::{Blob, Layout, noise, tar};
use crate::support::upstream::{interop, make_image, run, skip};
use crate::support::v1::{Place, local_archive, node, open, root};

use super::{clipwright, extract, fails, names, scratch};

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
