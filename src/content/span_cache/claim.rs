//! Who fetches an entry that is not there: one process of the machine, while the others wait for it.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;

/// The right to fetch an entry; it ends when this is dropped, or with the process.
#[derive(Debug)]
pub struct Claim {
    /// Locked. Two who hold the same claim by a race of removal and creation fetch twice, no more.
    _file: Option<File>,
    path: PathBuf,
}

impl Claim {
    /// `None`: another process has it. Where files can't be made, everybody has it.
    pub(super) fn take(directory: &Path, key: &Digest) -> Option<Self> {
        let path = directory.join(key.hex());
        let made = File::options().create(true).truncate(false).write(true).open(&path);
        match made {
            Ok(file) => file.try_lock().is_ok().then(|| Self { _file: Some(file), path }),
            Err(_) => Some(Self { _file: None, path }),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what processes that are no more had locked: claims, and entries in the making.
pub(super) fn sweep(directory: &Path) -> io::Result<()> {
    for found in fs::read_dir(directory)? {
        let path = found?.path();
        if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = fs::remove_file(&path);
        }
    }
    Ok(())
}
