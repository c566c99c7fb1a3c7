//! What goes when the cache is full: the least recently opened entries, but none that is open
//! anywhere on the machine.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

struct Found {
    opened: SystemTime,
    size: u64,
    path: PathBuf,
}

/// Removes entries until `wanted` bytes, and a tenth of the limit beside, are free below `limit`.
/// Gives the bytes that are left then; that there are too few, as all is in use, is an error.
pub(super) fn evict(places: &[PathBuf], limit: u64, wanted: u64) -> io::Result<u64> {
    let mut found = Vec::new();
    for place in places {
        add_all(place, &mut found)?;
    }
    let mut used: u64 = found.iter().map(|entry| entry.size).sum();
    if used.saturating_add(wanted) > limit {
        let goal = limit.saturating_sub(limit / 10).saturating_sub(wanted);
        found.sort_by_key(|entry| entry.opened);
        for entry in found {
            if used <= goal {
                break;
            }
            if is_idle(&entry.path) && fs::remove_file(&entry.path).is_ok() {
                used -= entry.size;
            }
        }
    }
    limit.checked_sub(used.saturating_add(wanted)).ok_or_else(|| {
        let detail = format!("all of its {used} bytes are in use, the limit is {limit}");
        io::Error::new(io::ErrorKind::StorageFull, detail)
    })
}

/// Whether nobody has it open. A reader that comes now finds it locked, and takes it for gone.
fn is_idle(path: &Path) -> bool {
    File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

fn add_all(entries: &Path, found: &mut Vec<Found>) -> io::Result<()> {
    for directory in fs::read_dir(entries)? {
        let directory = directory?.path();
        let Ok(files) = fs::read_dir(&directory) else { continue };
        for file in files {
            let file = file?;
            // Others evict as well.
            let Ok(metadata) = file.metadata() else { continue };
            let opened = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push(Found { opened, size: metadata.len(), path: file.path() });
        }
    }
    Ok(())
}
