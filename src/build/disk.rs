//! What a build takes of the disk, measured while it runs: a file system that counts for it (quotas) is
//! not to be had everywhere. A look at the file system's free space is cheap and taken often; the build's
//! own files are counted when it may have used up what it has left, and now and then.
//!
//! Counted are the layers that the build has made, what it mounts and its temporary files, and files that
//! its processes hold open although they are deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::storage::{Site, size_of};
use crate::local::{IoError, blocking};

/// How often the free space is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Counting takes no more than this part of the time, unless much is written.
const SHARE: u32 = 20;
/// Bytes of a block that files are counted in.
const BLOCK: u64 = 512;
/// Open files that are looked at, at most.
const MAX_OPEN: usize = 1 << 16;

/// Watches one build.
#[derive(Debug)]
pub(super) struct DiskWatch {
    site: Site,
    most: u64,
    /// Files that list the build's processes.
    processes: Vec<PathBuf>,
    /// Layers that were there before it.
    before: BTreeSet<String>,
    /// Those that it made: their sizes, once nothing is written there any more.
    made: BTreeMap<String, Option<u64>>,
    /// Bytes of the build's own directory at the beginning.
    own: u64,
    taken: u64,
    used: u64,
    next: Instant,
}

impl DiskWatch {
    /// Before the build begins. It may take `most` bytes.
    pub(super) fn new(site: &Site, most: u64, processes: Vec<PathBuf>) -> Self {
        let before = site.layer_parents().into_keys().collect();
        Self {
            site: site.clone(),
            most,
            processes,
            before,
            made: BTreeMap::new(),
            own: size_of(site.scratch_root()),
            taken: 0,
            used: used(site.scratch_root()),
            next: Instant::now(),
        }
    }

    /// Ends when the build has taken more than it may.
    pub(super) async fn exceeded(mut self) -> Result<(), IoError> {
        while self.taken <= self.most {
            tokio::time::sleep(LOOK).await;
            let used = used(self.site.scratch_root());
            // Half of what it has left: there may be others that free as much as it writes.
            let is_close = used.saturating_sub(self.used) >= (self.most - self.taken) / 2;
            if is_close || Instant::now() >= self.next {
                let began = Instant::now();
                self = blocking(move || {
                    self.taken = self.count();
                    self
                })
                .await?;
                self.used = used;
                self.next = Instant::now() + began.elapsed() * SHARE;
            }
        }
        Ok(())
    }

    /// Bytes on disk of all that is the build's.
    fn count(&mut self) -> u64 {
        let parents = self.site.layer_parents();
        let mounted = self.site.mounted_layers();
        for layer in &mounted {
            let mut next = Some(layer);
            while let Some(layer) = next.filter(|layer| !self.before.contains(*layer)) {
                self.made.entry(layer.clone()).or_default();
                next = parents.get(layer);
            }
        }
        let mut sum = 0;
        for (layer, size) in &mut self.made {
            let is_mounted = mounted.contains(layer);
            sum += match size {
                Some(size) if !is_mounted => *size,
                _ => {
                    let found = size_of(&self.site.layer_directory(layer));
                    // What is being made is nobody's yet.
                    *size = (!is_mounted && parents.contains_key(layer)).then_some(found);
                    found
                }
            };
        }
        // All of it: a build can write into its context too, and whoever breaks out of one anywhere.
        let own = size_of(self.site.scratch_root()).saturating_sub(self.own);
        sum + own + deleted(&self.processes)
    }
}

/// Bytes of the file system that are in use.
fn used(path: &Path) -> u64 {
    nix::sys::statvfs::statvfs(path)
        .map_or(0, |found| (found.blocks() - found.blocks_free()) * found.fragment_size())
}

/// Bytes on disk of deleted files that these processes hold open, each file once.
fn deleted(lists: &[PathBuf]) -> u64 {
    let text = lists.first().and_then(|list| fs::read_to_string(list).ok()).unwrap_or_default();
    let open = text.lines().flat_map(|process| {
        fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten()
    });
    let files = open.take(MAX_OPEN).filter_map(|entry| fs::metadata(entry.path()).ok());
    let files = files.filter(|file| file.is_file() && file.nlink() == 0);
    let sizes: BTreeMap<(u64, u64), u64> =
        files.map(|file| ((file.dev(), file.ino()), file.blocks() * BLOCK)).collect();
    sizes.values().sum()
}
