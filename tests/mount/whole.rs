//! What is mounted is what `umoci unpack` makes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use clipwright::clip::node::{FileContent, NodeKind};
use clipwright::clip::reader::Archive;
use clipwright::clip::storage_info::{S3StorageInfo, StorageInfo};
use clipwright::clip::writer::index_archive;
use clipwright::digest::Digest;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::{Mounted, clipwright, count, index, scratch};
use crate::support::layout::noise;
use crate::support::registry::Registry;
use crate::support::s3::S3Server;
use crate::support::upstream::{corpus_image, interop, make_image, run, unpack};
use crate::support::v1::{local_archive, open};

/// The trees are the same, but for the differences in these lists.
fn compare(interop: &Path, expected: &Path, mounted: &Path, allow: &[&str]) {
    let mut compare = Command::new(interop);
    compare.arg("compare");
    for list in allow {
        let differences = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/differences");
        compare.arg("--allow").arg(differences.join(list));
    }
    run(compare.arg(expected).arg(mounted));
}

/// All regular files below a directory.
fn files(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut todo) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = todo.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Parts of files, anywhere and of any size, read by several threads at once, and through mappings.
fn read_at_random(expected: &Path, mounted: &Path, reads: usize) {
    let files = files(expected);
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let files = &files;
            scope.spawn(move || {
                let mut random = StdRng::seed_from_u64(seed);
                for _ in 0..reads {
                    let path = &files[random.random_range(0..files.len())];
                    let other = mounted.join(path.strip_prefix(expected).unwrap());
                    let (a, b) = (File::open(path).unwrap(), File::open(&other).unwrap());
                    let size = a.metadata().unwrap().len();
                    let at = random.random_range(0..=size + 10);
                    let length = 1 << random.random_range(0..21);
                    let (mut one, mut two) = (vec![0; length], vec![0; length]);
                    let counts = (a.read_at(&mut one, at).unwrap(), read_all(&b, &mut two, at));
                    assert_eq!(counts.0, counts.1, "{} at {at}", other.display());
                    let shown = other.display();
                    assert!(one == two, "{shown}: {length} bytes at {at} differ");
                }
            });
        }
    });
    let map = "
import mmap, os, random, sys
a, b, reads = sys.argv[1], sys.argv[2], int(sys.argv[3])
random.seed(5)
paths = [os.path.join(d, f) for d, _, fs in os.walk(a) for f in fs]
paths = sorted(p for p in paths if os.path.isfile(p) and not os.path.islink(p) and os.path.getsize(p))
for _ in range(reads):
    path = random.choice(paths)
    other = os.path.join(b, os.path.relpath(path, a))
    with open(path, 'rb') as one, open(other, 'rb') as two:
        m = mmap.mmap(one.fileno(), 0, prot=mmap.PROT_READ)
        n = mmap.mmap(two.fileno(), 0, prot=mmap.PROT_READ)
        at = random.randrange(len(m))
        assert m[at:at + 70000] == n[at:at + 70000], (other, at)
";
    run(Command::new("python3").args(["-c", map]).args([expected, mounted]).arg(reads.to_string()));
}

/// Some file systems give less than was asked for at a time.
fn read_all(file: &File, buffer: &mut [u8], at: u64) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64).unwrap() {
            0 => break,
            count => filled += count,
        }
    }
    filled
}

/// Our v2 archive of an image.
fn v2_equals(name: &str, layout: &Path, allow: &[&str], reads: usize) {
    let (Some(interop), Some(dir)) = (interop(), scratch()) else { return };
    let registry = Registry::start(dir.path());
    let archive = dir.path().join("image.clip");
    index(&registry.push(layout, name), &archive);
    let expected = unpack(layout, &dir.path().join("bundle"));
    // Cold, and then from the cache.
    let mounted = Mounted::new(&archive, dir.path(), &[]);
    read_at_random(&expected, &mounted.point, reads);
    compare(interop, &expected, &mounted.point, allow);
    let report = mounted.end();
    assert!(count(&report, "spans_fetched") > 0 && count(&report, "reads_failed") == 0, "{report}");
    let mounted = Mounted::new(&archive, dir.path(), &[]);
    compare(interop, &expected, &mounted.point, allow);
    let report = mounted.end();
    let counts = ["spans_fetched", "reads_failed"].map(|name| count(&report, name));
    assert!(counts == [0, 0] && count(&report, "cache_hits_disk") > 0, "{report}");
}

#[test]
fn v2_of_tiny() {
    let dir = tempfile::tempdir().unwrap();
    v2_equals("tiny", &make_image("tiny", dir.path()), &[], 300);
}

#[test]
fn v2_of_odd() {
    let dir = tempfile::tempdir().unwrap();
    v2_equals("odd", &make_image("odd", dir.path()), &["odd-extracted.txt"], 200);
}

#[test]
fn v2_of_pydata() {
    if let Some(layout) = corpus_image("pydata") {
        v2_equals("pydata", &layout, &[], 500);
    }
}

/// Upstream's own archive has no seek table: each layer comes whole at its first read, once.
#[test]
fn v2_as_upstream_makes_it() {
    let (Some(interop), Some(dir)) = (interop(), scratch()) else { return };
    let registry = Registry::start(dir.path());
    let layout = make_image("tiny", dir.path());
    let reference = registry.push(&layout, "tiny");
    let archive = dir.path().join("upstream.clip");
    run(Command::new(interop).args(["index", &reference]).arg(&archive));
    let expected = unpack(&layout, &dir.path().join("bundle"));
    for cold in [true, false] {
        let mounted = Mounted::new(&archive, dir.path(), &[]);
        for path in files(&expected) {
            let other = mounted.point.join(path.strip_prefix(&expected).unwrap());
            // Upstream leaves out the parents that no layer mentions: their files can't be seen.
            if let Ok(found) = std::fs::read(&other) {
                assert!(found == std::fs::read(&path).unwrap(), "{other:?}");
            }
        }
        assert_eq!(mounted.read("app/hello.txt").unwrap(), b"Hello from a layer.\n");
        read_at_random(&expected.join("app"), &mounted.path("app"), 100);
        let report = mounted.end();
        // One request to see whether the registry answers, one for each of the three layers.
        assert_eq!(count(&report, "clip_range_get_count"), if cold { 4 } else { 1 }, "{report}");
    }
}

/// The same where nothing can be kept.
#[test]
fn v2_as_upstream_makes_it_without_a_cache() {
    let (Some(interop), Some(dir)) = (interop(), scratch()) else { return };
    let registry = Registry::start(dir.path());
    let layout = make_image("tiny", dir.path());
    let archive = dir.path().join("upstream.clip");
    run(Command::new(interop).args(["index", &registry.push(&layout, "tiny")]).arg(&archive));
    let expected = unpack(&layout, &dir.path().join("bundle"));
    let mounted = Mounted::new(&archive, dir.path(), &["--cache-mib", "0"]);
    read_at_random(&expected.join("app"), &mounted.path("app"), 100);
    mounted.end();
}

/// Our v1 archive holds the same image below `/rootfs`, special files apart.
#[test]
fn v1_of_odd_and_tiny() {
    let (Some(interop), Some(dir)) = (interop(), scratch()) else { return };
    for (name, allow) in
        [("odd", &["every-image.txt", "odd-extracted.txt"][..]), ("tiny", &["every-image.txt"])]
    {
        let layout = make_image(name, dir.path());
        let archive = dir.path().join("v1.clip");
        run(clipwright(dir.path())
            .args(["pack", &format!("oci:{}:latest", layout.display()), "-o"])
            .arg(&archive));
        let expected = unpack(&layout, &dir.path().join("bundle").join(name));
        let mounted = Mounted::new(&archive, dir.path(), &[]);
        read_at_random(&expected, &mounted.path("rootfs"), 200);
        compare(interop, &expected, &mounted.path("rootfs"), allow);
        let report = mounted.end();
        assert_eq!(count(&report, "clip_range_get_count"), 0, "{report}");
    }
}

/// The golden archive that upstream wrote.
#[test]
fn the_golden_v1_archive() {
    let Some(dir) = scratch() else { return };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v1-local.clip");
    let mounted = Mounted::new(&file, dir.path(), &[]);
    let mut files = 0;
    for node in Archive::open(&file).unwrap().tree.iter() {
        let path = mounted.point.join(OsStr::from_bytes(&node.path.as_bytes()[1..]));
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        if let NodeKind::File(FileContent::Embedded { sha256, .. }) = node.kind {
            assert_eq!(sha256, Some(Digest::of(&std::fs::read(&path).unwrap())), "{path:?}");
            files += 1;
        }
        let time = (metadata.mtime(), metadata.mtime_nsec());
        assert_eq!(time, (node.attr.mtime, i64::from(node.attr.mtime_nsec)), "{path:?}");
        assert_eq!((metadata.mode(), metadata.uid()), (node.attr.mode, node.attr.uid), "{path:?}");
    }
    assert!(files > 1);
    mounted.end();
}

/// The upstream archive's tree can be seen though the registry that it names is gone.
#[test]
fn the_golden_v2_archive() {
    let Some(dir) = scratch() else { return };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/v2.clip");
    let mounted = Mounted::new(&file, dir.path(), &["--offline"]);
    let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
    let tree = Archive::open(&file).unwrap().tree;
    for node in tree.iter().filter(|node| matches!(node.kind, NodeKind::File(_))) {
        *numbers.entry(node.attr.ino).or_default() += 1;
    }
    for node in tree.iter() {
        let path = mounted.point.join(OsStr::from_bytes(&node.path.as_bytes()[1..]));
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!(metadata.mode(), node.attr.mode, "{path:?}");
        match &node.kind {
            // Upstream counts one link however many there are.
            NodeKind::File(_) => assert_eq!(metadata.nlink(), numbers[&node.attr.ino], "{path:?}"),
            NodeKind::Symlink { target } => {
                assert_eq!(std::fs::read_link(&path).unwrap().as_os_str().as_bytes(), target);
            }
            _ => {}
        }
    }
    mounted.end();
}

// ---- v1, in S3 ---------------------------------------------------------------------------------

/// A v1 archive whose data are in S3: files small and large, one of them across several chunks.
#[tokio::test(flavor = "multi_thread")]
async fn v1_in_s3() {
    let Some(dir) = scratch() else { return };
    let server = S3Server::start().await;
    let (large, medium) = (noise(7, 20 << 20), noise(8, 3 << 20));
    let mut contents = vec![
        ("/large".to_owned(), large.clone()),
        ("/medium".to_owned(), medium.clone()),
        ("/small".to_owned(), b"small".to_vec()),
        ("/empty".to_owned(), Vec::new()),
    ];
    contents.extend((0..40).map(|at| (format!("/few{at}"), noise(at, 9000))));
    let files: Vec<_> = contents.iter().map(|(name, content)| (&name[..], &content[..])).collect();
    let local = local_archive(&files);
    std::fs::write(server.object_path("x.clip"), &local).unwrap();
    let object = S3StorageInfo {
        bucket: server.bucket.clone(),
        region: "us-east-1".into(),
        key: "x.clip".into(),
        endpoint: server.endpoint.clone(),
        force_path_style: true,
    };
    let archive = dir.path().join("x.rclip");
    let rclip = index_archive(&open(&local).tree, &StorageInfo::S3(object)).unwrap();
    std::fs::write(&archive, rclip).unwrap();

    let command = {
        let (server, dir) =
            ((server.access_key.clone(), server.secret_key.clone()), dir.path().to_owned());
        move || {
            let mut command = clipwright(&dir);
            command.env("CLIPWRIGHT_S3_ACCESS_KEY", &server.0);
            command.env("CLIPWRIGHT_S3_SECRET_KEY", &server.1);
            command
        }
    };
    let path = server.object_path("x.clip");
    let (endpoint, index_path) = (server.endpoint.clone(), server.object_path("x.rclip"));
    let address = format!("s3://{}/x.rclip", server.bucket);
    let work = move || {
        for cold in [true, false] {
            let mounted = Mounted::with(command(), &archive, dir.path(), &[]);
            let mut part = vec![0; 100_000];
            let file = File::open(mounted.path("large")).unwrap();
            assert_eq!(read_all(&file, &mut part, 10_000_000), part.len());
            assert!(part == large[10_000_000..10_100_000]);
            drop(file);
            for (name, content) in &contents {
                assert!(mounted.read(name).unwrap() == *content, "{name}");
            }
            let report = mounted.end();
            let bytes = count(&report, "clip_range_get_bytes_total");
            if cold {
                // The small ones come with their neighbours.
                assert!(count(&report, "clip_range_get_count") < 30, "{report}");
                assert!(bytes <= local.len() as u64 + (1 << 20), "{report}");
            } else {
                assert_eq!(bytes, 0, "{report}");
            }
        }
        // The archive may lie in the bucket as well; it is copied once.
        std::fs::copy(&archive, &index_path).unwrap();
        for _ in 0..2 {
            let arguments = ["--s3-endpoint", &endpoint, "--s3-force-path-style", "true"];
            let mounted = Mounted::with(command(), Path::new(&address), dir.path(), &arguments);
            assert_eq!(mounted.read("small").unwrap(), b"small");
            mounted.end();
        }
        let copies = std::fs::read_dir(dir.path().join("cache/archives")).unwrap();
        assert_eq!(copies.count(), 1);
        let missing = Mounted::begin(command(), Path::new("s3://none/x"), dir.path(), &[]);
        assert!(missing.is_err());
        // Without keys nobody is asked, least of all with the machine's own.
        let refused = Mounted::begin(clipwright(dir.path()), &archive, dir.path(), &[]);
        assert!(refused.is_err_and(|said| said.contains("it takes an access key")));

        // A bit is flipped where nothing was cached: that file can't be read, the others can.
        let mut flipped = local.clone();
        let start = local.windows(64).position(|window| window == &medium[..64]).unwrap();
        flipped[start + 1_000_000] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        std::fs::remove_dir_all(dir.path().join("cache")).unwrap();
        let mounted = Mounted::with(command(), &archive, dir.path(), &[]);
        assert_eq!(mounted.read("medium").unwrap_err().raw_os_error(), Some(5));
        assert_eq!(mounted.read("small").unwrap(), b"small");
        let said = mounted.said();
        assert!(said.contains("/medium") && said.contains("CRC-64"), "{said}");
        // And can be again when it is right.
        std::fs::write(&path, &local).unwrap();
        assert!(mounted.read("medium").unwrap() == medium);
        mounted.end();
    };
    tokio::task::spawn_blocking(work).await.unwrap();
}
