//! v1 archives made of images, as bytes and in stores. `tests/merge.rs` compares their trees with
//! umoci's, `tests/interop.rs` has upstream mount them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clipwright::archive::PackOptions;
use clipwright::clip::node::NodeKind;
use clipwright::error::Classify as _;
use clipwright::image_id::ImageId;
use clipwright::layer::Limits;
use clipwright::progress::Silent;
use clipwright::publish::archives::{ArchiveName, ArchiveStore, Stores};
use clipwright::publish::{Publication, PublishError, PublishedV1};
use clipwright::store::{Overwrite, Put, StoreError, StoreSettings};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::layout::{Blob, Layout, noise, tar};
use crate::support::pack::Image;
use crate::support::s3::S3Server;
use crate::support::upstream::{run, skip};

// ---- what is in it -----------------------------------------------------------------------------

/// The runtime spec is the one that `umoci unpack` makes, for every way to say who runs what.
#[tokio::test]
async fn config_json_is_umocis() {
    let accounts = Blob::gzip(&tar(&[
        ("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nweb:x:33:34::/var/www:/bin/false\n"),
        ("etc/group", b"root:x:0:\nlogs:x:4:root,web\nweb:x:34:\n"),
    ]));
    let nobody = Blob::gzip(&tar(&[("file", b"content")]));
    let everything = json!({
        "created": "2026-01-02T03:04:05.120000000+02:00",
        "author": "somebody",
        "config": {
            "User": "web:logs",
            "Env": ["PATH=/opt/bin", "HOME=/from/env", "EMPTY=", "EQUALS=a=b"],
            "Entrypoint": ["/entry", "-x"],
            "Cmd": ["a b", "c"],
            "WorkingDir": "/srv",
            "Volumes": { "/data": {} },
            "ExposedPorts": { "80/tcp": {}, "443": {} },
            "StopSignal": "SIGINT",
            "Labels": { "key": "value" },
        },
    });
    let mut images = vec![(everything, &accounts)];
    for user in ["", "root", "web", "33", "web:web", "33:4", "1000", "1000:1001", ":logs"] {
        images.push((json!({ "config": { "User": user } }), &accounts));
    }
    for user in ["", "5", "5:6"] {
        images.push((json!({ "config": { "User": user, "Cmd": ["x"] } }), &nobody));
    }
    let bundles = tempfile::tempdir().unwrap();
    for (number, (config, layer)) in images.into_iter().enumerate() {
        let layout = Layout::with_config(std::slice::from_ref(layer), config.clone());
        let v1 = Image::open(layout.path()).await.pack(&PackOptions::default()).await.unwrap();
        let bundle = bundles.path().join(number.to_string());
        run(Command::new("umoci")
            .args(["unpack", "--rootless", "--image"])
            .arg(format!("{}:latest", layout.path().display()))
            .arg(&bundle));
        let theirs = without_rootless(&fs::read(bundle.join("config.json")).unwrap());
        for name in ["/config.json", "/initial_config.json"] {
            let ours: Value = serde_json::from_slice(v1.file(name)).unwrap();
            assert_eq!(comparable(ours), theirs, "{config}");
        }
    }
}

/// What `--rootless`, which lets the test run as anybody, changes is left out on both sides.
fn without_rootless(bytes: &[u8]) -> Value {
    comparable(serde_json::from_slice(bytes).unwrap())
}

fn comparable(mut spec: Value) -> Value {
    for field in ["namespaces", "resources", "uidMappings", "gidMappings"] {
        spec["linux"].as_object_mut().unwrap().remove(field);
    }
    spec["process"]["user"].as_object_mut().unwrap().remove("additionalGids");
    spec["mounts"].as_array_mut().unwrap().retain_mut(|mount| {
        if let Some(options) = mount["options"].as_array_mut() {
            options.retain(|option| option != "gid=5");
        }
        let destination = mount["destination"].as_str().unwrap();
        !destination.starts_with("/sys") && destination != "/etc/resolv.conf"
    });
    spec
}

/// A file of accounts behind a symlink is not known for one when it goes by: its layer is read
/// again, once, however often it stands in the image.
#[tokio::test]
async fn accounts_behind_a_symlink_are_found() {
    let mut builder = ::tar::Builder::new(tar(&[("usr/share/accounts", b"web:x:7:8::/w:\n")]));
    builder.get_mut().truncate(1024); // without the end
    let mut link = ::tar::Header::new_ustar();
    link.set_entry_type(::tar::EntryType::Symlink);
    link.set_size(0);
    builder.append_link(&mut link, "etc/passwd", "../usr/share/accounts").unwrap();
    let layer = Blob::gzip(&builder.into_inner().unwrap());
    for layers in [vec![layer.clone()], vec![layer.clone(), layer]] {
        let layout = Layout::with_config(&layers, json!({ "config": { "User": "web" } }));
        let v1 = Image::open(layout.path()).await.pack(&PackOptions::default()).await.unwrap();
        let spec: Value = serde_json::from_slice(v1.file("/config.json")).unwrap();
        assert_eq!(spec["process"]["user"], json!({ "uid": 7, "gid": 8 }));
        assert_eq!((v1.packed.read_again, v1.packed.waste), (1, 0));
    }
}

#[tokio::test]
async fn the_same_image_gives_the_same_bytes() {
    let lower = Blob::gzip(&tar(&[("a", b"lower"), ("b", b""), ("c", &noise(1, 100_000))]));
    let upper = Blob::gzip(&tar(&[("a", b"upper"), ("twice", b"first"), ("twice", b"second")]));
    let layout = Layout::of(&[lower.clone(), upper, lower]);
    let image = Image::open(layout.path()).await;
    let v1 = image.pack(&PackOptions::default()).await.unwrap();
    assert!(v1.bytes == image.pack(&PackOptions::default()).await.unwrap().bytes);
    assert_eq!(v1.file("/rootfs/a"), b"lower", "the topmost layer is the lowest once more");
    assert_eq!(v1.file("/rootfs/twice"), b"second");
    assert_eq!((v1.packed.waste, v1.packed.read_again), (5 + 9, 0), "the first of two");

    let archive = v1.archive();
    let numbers: HashSet<u64> = archive.tree.iter().map(|node| node.attr.ino).collect();
    assert_eq!(numbers.len(), archive.tree.len());
    assert!(numbers.iter().all(|number| (1..u64::MAX).contains(number)));
    assert_eq!(archive.tree.iter().next().unwrap().attr.ino, 1);
    let blocks = archive.tree.iter().filter(|node| matches!(node.kind, NodeKind::File(_)));
    assert_eq!(blocks.count(), 6);
}

/// Neither what a symlink leads to nor a file's other names are seen before the layers are merged.
#[tokio::test]
async fn what_literal_paths_do_not_tell_comes_right_all_the_same() {
    let link = |builder: &mut ::tar::Builder<Vec<u8>>, kind, path, target| {
        let mut header = ::tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(0);
        builder.append_link(&mut header, path, target).unwrap();
    };
    let mut lower =
        ::tar::Builder::new(tar(&[("one", b"kept by its other name"), ("usr/x", b"old")]));
    lower.get_mut().truncate(4 * 512); // without the end
    link(&mut lower, ::tar::EntryType::Link, "other", "one");
    link(&mut lower, ::tar::EntryType::Symlink, "lib", "usr");
    let lower = Blob::gzip(&lower.into_inner().unwrap());
    let upper = Blob::gzip(&tar(&[("one", b"new"), ("lib/x", b"through the symlink")]));
    let layout = Layout::of(&[lower, upper]);
    let v1 = Image::open(layout.path()).await.pack(&PackOptions::default()).await.unwrap();
    assert_eq!(v1.file("/rootfs/one"), b"new");
    assert_eq!(v1.file("/rootfs/other"), b"kept by its other name");
    assert_eq!(v1.file("/rootfs/usr/x"), b"through the symlink");
    assert_eq!((v1.packed.waste, v1.packed.read_again), (3 + 9, 1));
}

/// GNU tar's four ways to store a file with holes: all come out whole.
#[tokio::test]
async fn sparse_files_are_made_whole() {
    let dir = tempfile::tempdir().unwrap();
    // More pieces than fit into one header, or one block of a map.
    let pieces: Vec<u64> = (0..60).map(|number| number * 20_000 + 5_000).collect();
    for (name, pieces, size) in [
        ("pieces", &pieces[..], 1_300_001),
        ("ends", &[0, 299_000][..], 300_000),
        ("hole", &[][..], 200_000),
    ] {
        let file = fs::File::create(dir.path().join(name)).unwrap();
        file.set_len(size).unwrap();
        for (seed, offset) in (1..).zip(pieces) {
            file.write_all_at(&noise(seed, 1000), *offset).unwrap();
        }
    }
    fs::write(dir.path().join("plain"), b"no holes").unwrap();
    for form in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let tar = run(Command::new("tar")
            .args(["--create", "--sparse", "--directory"])
            .arg(dir.path())
            .args(form)
            .args(["pieces", "ends", "hole", "plain"]));
        assert!(tar.len() < 500_000, "{form:?} stored the holes");
        let layout = Layout::of(&[Blob::gzip(&tar)]);
        let image = Image::open(layout.path()).await;
        let v1 = image.pack(&PackOptions::default()).await.unwrap();
        for name in ["pieces", "ends", "hole", "plain"] {
            let whole = fs::read(dir.path().join(name)).unwrap();
            assert!(v1.file(&format!("/rootfs/{name}")) == whole, "{form:?} {name}");
        }
        // An index can't point to them.
        let indexed = Command::new(env!("CARGO_BIN_EXE_clipwright"))
            .args(["index", &format!("oci:{}", layout.path().display()), "-o"])
            .arg(dir.path().join("v2.clip"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&indexed.stderr);
        assert!(said.contains("is a sparse file"), "{said}");
        // The limit counts the holes.
        let limits = Limits { plain_bytes: 1 << 20, ..Limits::default() };
        let error =
            image.pack(&PackOptions { limits, ..PackOptions::default() }).await.err().unwrap();
        assert_eq!(error.code(), "limit_plain_bytes", "{error}");
    }
}

// ---- in stores ---------------------------------------------------------------------------------

fn id() -> ImageId {
    "961eaef6668e480f".parse().unwrap()
}

async fn publish(
    image: &Image,
    archives: &dyn ArchiveStore,
    overwrite: Overwrite,
) -> Result<PublishedV1, PublishError> {
    publish_until(image, archives, overwrite, &CancellationToken::new()).await
}

async fn publish_until(
    image: &Image,
    archives: &dyn ArchiveStore,
    overwrite: Overwrite,
    cancel: &CancellationToken,
) -> Result<PublishedV1, PublishError> {
    let Image { source, image } = image;
    let (options, name) = (&PackOptions::default(), &ArchiveName::Image(id()));
    Publication { source, image, options, archives, name, overwrite }
        .publish(Arc::new(Silent), cancel)
        .await
}

async fn archives(settings: StoreSettings) -> Arc<dyn ArchiveStore> {
    Stores::open(&settings, |objects| objects).await.unwrap().archives
}

async fn s3(server: &S3Server) -> Arc<dyn ArchiveStore> {
    archives(StoreSettings::S3(server.settings())).await
}

/// An image of a few parts; another one for another seed.
fn large(seed: u64) -> Layout {
    Layout::of(&[Blob::gzip(&tar(&[("large", &noise(seed, 12 << 20)), ("small", b"content")]))])
}

fn is_conflict(result: &Result<PublishedV1, PublishError>) -> bool {
    matches!(result, Err(PublishError::Store(StoreError::Conflict { .. })))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_directory_nothing_is_replaced_unasked() {
    let root = tempfile::tempdir().unwrap();
    let store = archives(StoreSettings::Directory(root.path().to_owned())).await;
    let (layout, other) = (large(1), large(2));
    let (image, other) = (Image::open(layout.path()).await, Image::open(other.path()).await);
    let file = root.path().join("961eaef6668e480f.clip");

    let published = publish(&image, &*store, Overwrite::Never).await.unwrap();
    assert_eq!((published.put, published.key.as_str()), (Put::Written, "961eaef6668e480f.clip"));
    let bytes = fs::read(&file).unwrap();
    assert_eq!(published.archive.size, bytes.len() as u64);
    assert!(bytes == image.pack(&PackOptions::default()).await.unwrap().bytes);

    let again = publish(&image, &*store, Overwrite::Never).await.unwrap();
    assert_eq!((again.put, again.archive), (Put::Unchanged, published.archive));
    assert!(is_conflict(&publish(&other, &*store, Overwrite::Never).await));
    assert!(fs::read(&file).unwrap() == bytes);
    assert_eq!(publish(&other, &*store, Overwrite::Replace).await.unwrap().put, Put::Written);
    assert!(is_conflict(&publish(&image, &*store, Overwrite::Never).await));

    // What is no archive at all is not replaced either.
    fs::write(&file, b"something").unwrap();
    assert!(is_conflict(&publish(&image, &*store, Overwrite::Never).await));
    let names = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let (mut names, lock) = (names.collect::<Vec<_>>(), ".lock");
    names.retain(|name| name != lock);
    assert_eq!(names, ["961eaef6668e480f.clip"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_s3_the_index_comes_last_and_nothing_is_replaced_unasked() {
    let server = S3Server::start().await;
    let store = s3(&server).await;
    let (layout, other) = (large(1), large(2));
    let (image, other) = (Image::open(layout.path()).await, Image::open(other.path()).await);
    let v1 = image.pack(&PackOptions::default()).await.unwrap().bytes;
    let data = || fs::read(server.object_path("961eaef6668e480f.clip")).unwrap();

    // Data without an index are left over from a crash.
    fs::write(server.object_path("961eaef6668e480f.clip"), b"half of some").unwrap();
    let published = publish(&image, &*store, Overwrite::Never).await.unwrap();
    assert_eq!((published.put, published.key.as_str()), (Put::Written, "961eaef6668e480f.rclip"));
    assert_eq!(server.objects(), ["961eaef6668e480f.clip", "961eaef6668e480f.rclip"]);
    assert!(data() == v1, "the data in S3 are the local archive");
    let index = fs::read(server.object_path("961eaef6668e480f.rclip")).unwrap();
    assert_eq!(published.archive.size, index.len() as u64);

    let again = publish(&image, &*store, Overwrite::Never).await.unwrap();
    assert_eq!((again.put, again.archive), (Put::Unchanged, published.archive));
    assert!(is_conflict(&publish(&other, &*store, Overwrite::Never).await));
    assert!(data() == v1);

    // Lost data come back.
    fs::remove_file(server.object_path("961eaef6668e480f.clip")).unwrap();
    publish(&image, &*store, Overwrite::Never).await.unwrap();
    assert!(data() == v1);

    assert_eq!(publish(&other, &*store, Overwrite::Replace).await.unwrap().put, Put::Written);
    assert!(data() == other.pack(&PackOptions::default()).await.unwrap().bytes);
    assert_eq!((server.objects().len(), server.pending_uploads()), (2, 0));
}

/// The parts go up by their numbers 2, 3, 1: any of them may fail.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s3_failing_at_any_part_leaves_nothing() {
    let server = S3Server::start().await;
    let store = s3(&server).await;
    let layout = large(3);
    let image = Image::open(layout.path()).await;
    for part in [1, 2, 3] {
        server.faults.fail_parts_from.store(part, Ordering::SeqCst);
        let error = publish(&image, &*store, Overwrite::Never).await.unwrap_err();
        assert!(matches!(error, PublishError::Store(StoreError::Unavailable { .. })), "{error}");
        assert!(error.is_transient() && error.to_string().contains("961eaef6668e480f.clip"));
        assert_eq!((server.objects().len(), server.pending_uploads()), (0, 0), "part {part}");
    }
    server.faults.fail_parts_from.store(0, Ordering::SeqCst);
    assert_eq!(publish(&image, &*store, Overwrite::Never).await.unwrap().put, Put::Written);
}

/// What a forced publication was to replace is there when it fails, of either version.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_s3_a_failed_replacement_leaves_the_old_archive() {
    let server = S3Server::start().await;
    let store = s3(&server).await;
    let (layout, other) = (large(1), large(2));
    let (image, other) = (Image::open(layout.path()).await, Image::open(other.path()).await);
    let data = || fs::read(server.object_path("961eaef6668e480f.clip")).unwrap();
    let index = || fs::read(server.object_path("961eaef6668e480f.rclip")).unwrap();
    let fails = async || {
        server.faults.fail_completions.store(true, Ordering::SeqCst);
        let error = publish(&other, &*store, Overwrite::Replace).await.unwrap_err();
        assert!(matches!(error, PublishError::Store(StoreError::Unavailable { .. })), "{error}");
        assert_eq!(server.pending_uploads(), 0);
        server.faults.fail_completions.store(false, Ordering::SeqCst);
    };

    publish(&image, &*store, Overwrite::Never).await.unwrap();
    let old = (data(), index());
    fails().await;
    assert!((data(), index()) == old);

    let v2 = server.object_path("961eaef6668e480f.rclip");
    run(Command::new(env!("CARGO_BIN_EXE_clipwright"))
        .args(["index", "--no-cache", &format!("oci:{}", layout.path().display()), "-o"])
        .arg(&v2));
    let old = index();
    fails().await;
    assert!(index() == old);
    assert_eq!(publish(&other, &*store, Overwrite::Replace).await.unwrap().put, Put::Written);
    assert!(index() != old);
}

/// Once the data are there the index follows, cancelled or not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_that_comes_after_the_data_is_too_late() {
    let server = S3Server::start().await;
    let store = s3(&server).await;
    let layout = large(6);
    let image = Image::open(layout.path()).await;
    let cancel = CancellationToken::new();
    *server.faults.cancel_at_completion.lock().unwrap() = cancel.clone();
    let published = publish_until(&image, &*store, Overwrite::Never, &cancel).await.unwrap();
    assert!(cancel.is_cancelled() && published.put == Put::Written);
    assert_eq!(server.objects(), ["961eaef6668e480f.clip", "961eaef6668e480f.rclip"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelling_a_publication_leaves_nothing() {
    let server = S3Server::start().await;
    let store = s3(&server).await;
    server.faults.hold_parts_from.store(2, Ordering::SeqCst);
    let layout = large(4);
    let image = Image::open(layout.path()).await;
    let cancel = CancellationToken::new();
    let (result, ()) =
        tokio::join!(publish_until(&image, &*store, Overwrite::Never, &cancel), async {
            server.faults.held.notified().await;
            cancel.cancel();
        });
    assert!(result.is_err());
    assert_eq!((server.objects().len(), server.pending_uploads()), (0, 0));

    let cancelled = CancellationToken::new();
    cancelled.cancel();
    let root = tempfile::tempdir().unwrap();
    let store = archives(StoreSettings::Directory(root.path().to_owned())).await;
    assert!(publish_until(&image, &*store, Overwrite::Never, &cancelled).await.is_err());
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}

/// A file system of 4 MiB, unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            skip("not root, which mounting needs");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(dir.path()));
        Some(Self(dir))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_said_and_leaves_nothing() {
    let Some(disk) = SmallDisk::mount() else { return };
    let store = archives(StoreSettings::Directory(disk.0.path().to_owned())).await;
    let layout = large(5);
    let image = Image::open(layout.path()).await;
    let error = publish(&image, &*store, Overwrite::Never).await.unwrap_err();
    assert!(matches!(error, PublishError::Store(StoreError::Full { .. })), "{error}");
    assert!(is_empty(disk.0.path()));

    let output = Command::new(env!("CARGO_BIN_EXE_clipwright"))
        .args(["pack", &format!("oci:{}", layout.path().display()), "-o"])
        .arg(disk.0.path().join("image.clip"))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("No space left on device"), "{said}");
    assert!(is_empty(disk.0.path()));
}
