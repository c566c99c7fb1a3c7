//! Where the server listens: a unix socket in a directory that only its user and root may enter,
//! which is what authenticates us.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::DatabaseError;
use super::account::MemoryAccount;

/// Part of the socket's file name; nothing listens on TCP.
pub(super) const PORT: u16 = 5432;
/// `sun_path` holds 108 bytes with the final zero; `/.s.PGSQL.5432` comes after the directory.
const LIMIT: usize = 107 - 14;

/// The directory of the socket.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// Removes it afterwards, where the data directory is too long and it had to go elsewhere.
    _elsewhere: Option<TempDir>,
}

impl Socket {
    pub(super) fn prepare(data_dir: &Path, account: &MemoryAccount) -> Result<Self, DatabaseError> {
        let path = data_dir.join("postgres-socket");
        if path.as_os_str().len() <= LIMIT {
            fs::create_dir_all(&path).map_err(DatabaseError::io("making it", &path))?;
            account.hand_over(&path)?;
            return Ok(Self { path, _elsewhere: None });
        }
        let root = std::env::temp_dir();
        let directory = tempfile::Builder::new()
            .prefix("clipwright-")
            .tempdir_in(&root)
            .map_err(DatabaseError::io("making a socket directory", &root))?;
        let path = directory.path().to_owned();
        if path.as_os_str().len() > LIMIT {
            return Err(DatabaseError::LongSocketPath { path, limit: LIMIT });
        }
        account.check_reach(&root)?;
        account.hand_over(&path)?;
        Ok(Self { path, _elsewhere: Some(directory) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// As the setting `unix_socket_directories`, which is a list and so wants quotes.
    pub(super) fn setting(&self) -> OsString {
        let mut bytes = b"unix_socket_directories=\"".to_vec();
        for byte in self.path.as_os_str().as_bytes() {
            bytes.push(*byte);
            if *byte == b'"' {
                bytes.push(*byte);
            }
        }
        bytes.push(b'"');
        OsString::from_vec(bytes)
    }
}
