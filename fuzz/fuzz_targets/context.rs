//! Any bytes as a context, a tar or a zip: what is unpacked stays in its directory and within its limits, and
//! nothing is there that is no file, directory or link.
#![no_main]

use std::fs;
use std::path::Path;

use floors::build::context::{ContextLimits, unpack};
use libfuzzer_sys::fuzz_target;

const LIMITS: ContextLimits =
    ContextLimits { bytes: 1 << 16, entries: 64, path: 512, depth: 16, fields: 1 << 16 };

fuzz_target!(|archive: &[u8]| {
    let dir = tempfile::tempdir().unwrap();
    let (file, into) = (dir.path().join("archive"), dir.path().join("context"));
    fs::write(&file, archive).unwrap();
    fs::create_dir(&into).unwrap();
    let _ = unpack(&file, &into, LIMITS);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "something is beside the context");
    let (mut entries, mut bytes) = (0, 0);
    walk(&into, &mut entries, &mut bytes);
    assert!(entries <= LIMITS.entries && bytes <= LIMITS.bytes, "{entries} {bytes}");
});

fn walk(directory: &Path, entries: &mut u64, bytes: &mut u64) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap();
        *entries += 1;
        assert!(found.is_file() || found.is_dir() || found.is_symlink(), "{}", path.display());
        if found.is_dir() {
            walk(&path, entries, bytes);
        } else if found.is_file() {
            // Further names of a file hold nothing of their own.
            *bytes += found.len() / std::os::unix::fs::MetadataExt::nlink(&found);
        }
    }
}
