//! A directory of this process's own for what is not finished. It is locked as long as the process lives:
//! what is not locked was left by one that died, in this container or another that shares the volume.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use uuid::Uuid;

const LOCK: &str = "lock";

/// The directory; the lock goes with the process.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
    /// Held as long as the directory is used.
    lock: File,
}

impl Scratch {
    /// Makes one under the data directory, and removes those of processes that died.
    pub(super) fn make(data_dir: &Path) -> anyhow::Result<Self> {
        let all = data_dir.join("tmp");
        let path = all.join(Uuid::now_v7().simple().to_string());
        let failed = || format!("can't make {}", path.display());
        fs::create_dir_all(&all).with_context(failed)?;
        sweep(&all);
        // Under its name only when it is locked, so that nobody takes it for one that was left.
        let draft = all.join(format!(".{}", Uuid::now_v7().simple()));
        fs::create_dir(&draft).with_context(failed)?;
        let lock = File::create(draft.join(LOCK)).with_context(failed)?;
        lock.lock().with_context(failed)?;
        fs::rename(&draft, &path).with_context(failed)?;
        Ok(Self { path, lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays is swept by the next process.
        let _ = fs::remove_dir_all(&self.path);
        let _ = self.lock.unlock();
    }
}

/// Removes the directories that nobody holds. Whatever can't be removed is tried again at the next start.
fn sweep(all: &Path) {
    let Ok(entries) = fs::read_dir(all) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let is_draft =
            path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let is_held = match File::open(path.join(LOCK)) {
            Ok(lock) => matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
            // One that is just being made has no lock yet.
            Err(_) => is_draft,
        };
        if !is_held && let Err(error) = fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "can't remove what a dead process left");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_dead_left_goes_and_what_siblings_use_stays() {
        let data = tempfile::tempdir().unwrap();
        let dead = data.path().join("tmp/0123");
        fs::create_dir_all(&dead).unwrap();
        fs::write(dead.join("archive"), "x").unwrap();
        let crashed = Scratch::make(data.path()).unwrap();
        let (left, lock) = (crashed.path.clone(), crashed.lock.try_clone().unwrap());
        std::mem::forget(crashed);
        let sibling = Scratch::make(data.path()).unwrap();
        assert!(!dead.exists());
        assert!(left.exists(), "its process holds the lock still");
        fs::write(sibling.path().join("archive"), "x").unwrap();
        lock.unlock().unwrap();
        let third = Scratch::make(data.path()).unwrap();
        assert!(!left.exists());
        assert!(sibling.path().join("archive").exists() && third.path().exists());
    }
}
