//! Large files that the kernel reads past the mount.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Mounted, count, index, scratch};
use crate::support::layout::{Blob, Layout, noise, tar};
use crate::support::registry::Registry;
use crate::support::upstream::{run, skip};

const PASSING: [&str; 2] = ["--passthrough-mib", "1"];

/// Since Linux 6.9.
fn kernel_passes() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map_while(|part| part.parse::<u32>().ok());
    let is_new = (numbers.next(), numbers.next()) >= (Some(6), Some(9));
    if !is_new {
        skip("this kernel passes no files through");
    }
    is_new
}

/// The cache's files, once there are any.
fn kept_files(directory: &Path) -> Vec<PathBuf> {
    let all =
        |path: PathBuf| fs::read_dir(path).into_iter().flatten().map(|entry| entry.unwrap().path());
    all(directory.join("cache/v1/files")).flat_map(all).collect()
}

fn wait_for_file(directory: &Path) -> PathBuf {
    let late = Instant::now() + Duration::from_secs(20);
    loop {
        if let [file] = &kept_files(directory)[..] {
            return file.clone();
        }
        assert!(Instant::now() < late, "no file was kept");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_was_read_whole_is_read_past_the_mount_from_then_on() {
    let Some(dir) = scratch().filter(|_| kernel_passes()) else { return };
    let registry = Registry::start(dir.path());
    let archive = dir.path().join("image.clip");
    let large = noise(5, (3 << 20) + 777);
    let layer =
        Blob::gzip(&tar(&[("before", &noise(6, 70_000)), ("large", &large), ("small", b"s")]));
    index(&registry.push(Layout::of(&[layer]).path(), "image"), &archive);

    // A handle from before the file is kept, and one from after, are of one kind.
    let mounted = Mounted::new(&archive, dir.path(), &PASSING);
    let path = mounted.point.join("large");
    assert!(fs::read(&path).unwrap() == large);
    let kept = wait_for_file(dir.path());
    assert!(fs::read(&kept).unwrap() == large);
    let (one, two) = (File::open(&path).unwrap(), File::open(&path).unwrap());
    drop(one);
    let mut part = vec![0; 5000];
    two.read_exact_at(&mut part, 1_000_000).unwrap();
    assert!(part == large[1_000_000..1_005_000]);
    drop(two); // the end waits for whoever has something open
    assert_eq!(fs::read(mounted.point.join("small")).unwrap(), b"s");
    assert_eq!(count(&mounted.end(), "opens_passed_through"), 2);

    // Another mount asks nobody, whoever reads how.
    let mounted = Mounted::new(&archive, dir.path(), &PASSING);
    let path = mounted.point.join("large");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert!(fs::read(&path).unwrap() == large));
        }
    });
    let map = "
import mmap, sys
with open(sys.argv[1], 'rb') as one, open(sys.argv[2], 'rb') as two:
    a = mmap.mmap(one.fileno(), 0, prot=mmap.PROT_READ)
    assert a[:] == two.read() and one.read() == a[:] and one.seek(0, 2) == len(a)
";
    run(Command::new("python3").args(["-c", map]).args([&path, &kept]));
    let report = mounted.end();
    assert_eq!(
        (count(&report, "reads"), count(&report, "opens_passed_through")),
        (0, 5),
        "{report}"
    );

    // What a power cut leaves, or somebody else, is found, and made anew.
    let torn: [fn(&File, u64); 3] = [
        |file, length| file.set_len(length - 1).unwrap(),
        |file, length| file.write_all_at(&[0; 4096], length / 2).unwrap(),
        |file, length| file.set_len(length + 1).unwrap(),
    ];
    for tear in torn {
        let file = OpenOptions::new().write(true).open(wait_for_file(dir.path())).unwrap();
        tear(&file, large.len() as u64);
        drop(file);
        let mounted = Mounted::new(&archive, dir.path(), &PASSING);
        assert!(fs::read(mounted.point.join("large")).unwrap() == large);
        assert!(fs::read(wait_for_file(dir.path())).unwrap() == large);
        assert_eq!(count(&mounted.end(), "opens_passed_through"), 0);
    }
}

/// Nothing is opened where nothing could be passed through.
#[test]
fn archives_without_large_files_are_asked_for_no_opening() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let archive = dir.path().join("image.clip");
    let layer = Blob::gzip(&tar(&[("a", &noise(7, 2 << 20))]));
    index(&registry.push(Layout::of(&[layer]).path(), "image"), &archive);
    for _ in 0..2 {
        let mounted = Mounted::new(&archive, dir.path(), &["--passthrough-mib", "3"]);
        assert!(fs::read(mounted.point.join("a")).unwrap() == noise(7, 2 << 20));
        let report = mounted.end();
        assert!(count(&report, "reads") > 0 && count(&report, "opens_passed_through") == 0);
    }
    assert_eq!(kept_files(dir.path()), [] as [PathBuf; 0]);
}
