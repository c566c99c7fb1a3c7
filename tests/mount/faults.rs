//! Registries that lie, break and fall silent, and caches that are harmed: right bytes or an error,
//! in bounded time.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clipwright::digest::Digest;
use tempfile::TempDir;

use super::{Mounted, count, index, scratch};
use crate::support::layout::{Blob, Layout, noise, tar};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;

const EIO: Option<i32> = Some(5);

/// An image of one layer with several spans: the first and the last file are in different ones.
struct Image {
    layout: Layout,
    layer: Digest,
    first: Vec<u8>,
    last: Vec<u8>,
}

fn image() -> Image {
    let (first, last) = (noise(1, 300_000), noise(2, 300_000));
    let between = noise(3, 20 << 20);
    let blob = Blob::gzip(&tar(&[("first", &first), ("between", &between), ("last", &last)]));
    Image { layer: blob.digest, layout: Layout::of(&[blob]), first, last }
}

/// An image in a registry, and an archive of it.
struct Indexed {
    dir: TempDir,
    registry: Registry,
    image: Image,
    archive: PathBuf,
}

impl Indexed {
    fn new() -> Option<Self> {
        let dir = scratch()?;
        let registry = Registry::start(dir.path());
        let address = registry.address.clone();
        Some(Self::through(&address, dir, registry))
    }

    /// The archive leads to what listens at `address`.
    fn through(address: &str, dir: TempDir, registry: Registry) -> Self {
        let (image, archive) = (image(), dir.path().join("image.clip"));
        let reference = registry.push(image.layout.path(), "image");
        index(&reference.replace(&registry.address, address), &archive);
        Self { dir, registry, image, archive }
    }
}

/// A registry that lies, always: what can't be verified is not served; what can is.
#[test]
fn wrong_bytes_are_never_served() {
    let Some(Indexed { dir, registry, image, archive }) = Indexed::new() else { return };
    let blob = registry.blob(image.layer);
    let right = std::fs::read(&blob).unwrap();
    let mut wrong = right.clone();
    wrong[1000] ^= 1;
    std::fs::write(&blob, &wrong).unwrap();
    let mounted = Mounted::new(&archive, dir.path(), &[]);
    assert_eq!(mounted.read("first").unwrap_err().raw_os_error(), EIO);
    assert!(mounted.read("last").unwrap() == image.last);
    // One line, with all that one has to know.
    let said = mounted.said();
    let lines: Vec<_> = said.lines().filter(|line| line.contains("ERROR")).collect();
    let layer = image.layer.to_string();
    for part in ["image.clip: /first: can't read bytes 0..", &layer, "span 0: expected digest"] {
        assert!(lines[0].contains(part), "{part} in {said}");
    }
    std::fs::write(&blob, &right).unwrap();
    assert!(mounted.read("first").unwrap() == image.first);
    assert!(count(&mounted.end(), "reads_failed") > 0);
}

/// One byte on the way is changed, or the connection breaks in the middle: nobody notices.
#[tokio::test(flavor = "multi_thread")]
async fn a_fault_on_the_way_is_got_over() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    tokio::task::spawn_blocking(move || {
        let Indexed { dir, registry, image, archive } =
            Indexed::through(&proxy.address.to_string(), dir, registry);
        let mounted = Mounted::new(&archive, dir.path(), &[]);
        proxy.garble_after(100_000);
        assert!(mounted.read("first").unwrap() == image.first);
        proxy.cut_after(100_000);
        assert!(mounted.read("last").unwrap() == image.last);
        let report = mounted.end();
        assert_eq!(count(&report, "reads_failed"), 0, "{report}");
        drop(registry);
    })
    .await
    .unwrap();
}

/// The registry goes away: what is cached can be read, what is not fails soon, and can be read when
/// the registry is there again.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_costs_what_is_not_cached() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    tokio::task::spawn_blocking(move || {
        let Indexed { dir, registry, image, archive } =
            Indexed::through(&proxy.address.to_string(), dir, registry);
        let mounted = Mounted::new(&archive, dir.path(), &["--read-timeout", "30"]);
        assert!(mounted.read("first").unwrap() == image.first);
        proxy.fall_silent();
        proxy.cut_open_connections();
        // The page cache may be dropped: the disk has it.
        std::fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
        assert!(mounted.read("first").unwrap() == image.first);
        drop(mounted);
        let mounted = Mounted::new(&archive, dir.path(), &["--offline", "--read-timeout", "1"]);
        let began = Instant::now();
        let mut byte = [0];
        let last = File::open(mounted.path("last")).unwrap();
        assert_eq!(last.read_at(&mut byte, 0).unwrap_err().raw_os_error(), EIO);
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert!(mounted.said().contains("nothing came for 1 s"), "{}", mounted.said());
        proxy.speak();
        proxy.cut_open_connections();
        let late = Instant::now() + Duration::from_secs(40);
        while mounted.read("last").map_err(|error| error.raw_os_error()) == Err(EIO) {
            assert!(Instant::now() < late, "{}", mounted.said());
        }
        assert!(mounted.read("last").unwrap() == image.last);
        drop(registry);
    })
    .await
    .unwrap();
}

/// All entries of the cache.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let spans = std::fs::read_dir(directory.join("cache/v1/spans")).unwrap();
    let mut found: Vec<PathBuf> = spans
        .flat_map(|directory| std::fs::read_dir(directory.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
}

/// Does something to a file of so many bytes.
type Harm<'a> = &'a dyn Fn(&File, u64);

/// What a power cut does to the cache is found, and fetched again.
#[test]
fn a_harmed_cache_is_mended() {
    let Some(Indexed { dir, registry: _registry, image, archive }) = Indexed::new() else { return };
    let read_both = |mounted: &Mounted| {
        assert!(mounted.read("first").unwrap() == image.first);
        assert!(mounted.read("last").unwrap() == image.last);
    };
    let mounted = Mounted::new(&archive, dir.path(), &[]);
    read_both(&mounted);
    mounted.end();
    let cut = |file: &File, size: u64| file.set_len(size / 2).unwrap();
    let stale = |file: &File, size: u64| file.write_all_at(&[0xaa; 4096], size / 2).unwrap();
    let harms: [Harm<'_>; 2] = [&cut, &stale];
    for harm in harms {
        let entries = entries(dir.path());
        for path in &entries {
            let file = File::options().write(true).open(path).unwrap();
            harm(&file, file.metadata().unwrap().len());
        }
        let mounted = Mounted::new(&archive, dir.path(), &[]);
        read_both(&mounted);
        let report = mounted.end();
        assert_eq!(count(&report, "spans_fetched"), entries.len() as u64, "{report}");
        assert_eq!(count(&report, "reads_failed"), 0, "{report}");
    }
}

/// A cache that can't be written, and one that is too small, fail no read.
#[test]
fn a_cache_that_keeps_nothing_fails_no_read() {
    let Some(Indexed { dir, registry: _registry, image, archive }) = Indexed::new() else { return };
    let file = dir.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let in_file = ["--cache-dir", file.to_str().unwrap()];
    for arguments in [&in_file[..], &["--cache-mib", "1"], &["--cache-mib", "0"]] {
        let mounted = Mounted::new(&archive, dir.path(), arguments);
        assert!(mounted.read("first").unwrap() == image.first, "{arguments:?}");
        assert!(mounted.read("last").unwrap() == image.last, "{arguments:?}");
        // What was fetched last is still in memory.
        let again = File::open(mounted.path("last")).unwrap();
        let mut part = [0; 1000];
        again.read_exact_at(&mut part, 5000).unwrap();
        assert!(part == image.last[5000..6000]);
        drop(again); // the end waits for whoever has something open
        assert_eq!(count(&mounted.end(), "reads_failed"), 0);
    }
}

/// Readers of one cache in two processes, which each evicts what the other has fetched.
#[test]
fn processes_share_a_cache_that_is_too_small() {
    let Some(Indexed { dir, registry: _registry, archive, .. }) = Indexed::new() else { return };
    let cache = dir.path().join("cache");
    let arguments = ["--cache-mib", "9", "--cache-dir", cache.to_str().unwrap()];
    let others = dir.path().join("other");
    std::fs::create_dir(&others).unwrap();
    let mounts = [dir.path(), &others].map(|at| Mounted::new(&archive, at, &arguments));
    std::thread::scope(|scope| {
        for mounted in &mounts {
            scope.spawn(|| {
                let between = noise(3, 20 << 20);
                let file = File::open(mounted.path("between")).unwrap();
                let mut part = vec![0; 64 << 10];
                for step in 0..60_u64 {
                    let at = step * 7_919_113 % (19 << 20);
                    file.read_exact_at(&mut part, at).unwrap();
                    let at = usize::try_from(at).unwrap();
                    assert!(part == between[at..at + part.len()]);
                }
            });
        }
    });
    for mounted in mounts {
        assert_eq!(count(&mounted.end(), "reads_failed"), 0);
    }
    let used: u64 =
        entries(dir.path()).iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
    assert!(used <= 18 << 20, "{used}");
}

/// Two processes that start the same image at once fetch each span once, the one or the other.
#[test]
fn processes_fetch_for_each_other() {
    let Some(Indexed { dir, registry: _registry, image, archive }) = Indexed::new() else { return };
    let cache = dir.path().join("cache");
    let arguments = ["--cache-dir", cache.to_str().unwrap()];
    let others = dir.path().join("other");
    std::fs::create_dir(&others).unwrap();
    let mounts = [dir.path(), &others].map(|at| Mounted::new(&archive, at, &arguments));
    std::thread::scope(|scope| {
        for mounted in &mounts {
            scope.spawn(|| {
                assert!(mounted.read("between").unwrap() == noise(3, 20 << 20));
                assert!(mounted.read("last").unwrap() == image.last);
            });
        }
    });
    let fetched = mounts.map(|mounted| count(&mounted.end(), "spans_fetched"));
    let there = entries(dir.path()).len() as u64;
    assert_eq!(fetched.iter().sum::<u64>(), there, "{fetched:?}");
}

/// A layer that the registry has lost.
#[test]
fn a_layer_that_is_gone_is_told_before_anything_is_mounted() {
    let Some(Indexed { dir, registry, image, archive }) = Indexed::new() else { return };
    std::fs::remove_file(registry.blob(image.layer)).unwrap();
    let refused =
        Mounted::begin(super::clipwright(dir.path()), &archive, dir.path(), &[]).err().unwrap();
    assert!(refused.contains(&format!("has no layer {}", image.layer)), "{refused}");
    let mounted = Mounted::new(&archive, dir.path(), &["--offline"]);
    assert_eq!(mounted.read("first").unwrap_err().raw_os_error(), EIO);
    let other = mounted.read("absent").unwrap_err();
    assert_eq!(other.kind(), ErrorKind::NotFound);
    mounted.end();
}
