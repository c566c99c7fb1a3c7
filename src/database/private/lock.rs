//! One process a data directory.

use std::fs::{File, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use super::DatabaseError;

/// Held while a private server runs. The kernel releases it when the process dies.
#[derive(Debug)]
pub(super) struct Lock(File);

impl Lock {
    pub(super) fn take(data_dir: &Path) -> Result<Self, DatabaseError> {
        let path = data_dir.join("postgres.lock");
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(DatabaseError::io("opening it", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // Only for the message: the holder may not have written it yet.
                let _ = file.take(20).read_to_string(&mut pid);
                let holder = match pid.trim() {
                    "" => String::new(),
                    pid => format!(" (pid {pid})"),
                };
                return Err(DatabaseError::Busy { path: data_dir.to_owned(), holder });
            }
            Err(TryLockError::Error(e)) => return Err(DatabaseError::io("locking it", &path)(e)),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(DatabaseError::io("writing to it", &path))?;
        Ok(Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would do, but not while a child that is just being started still has a copy.
        let _ = self.0.unlock();
    }
}
