//! Who runs the server: ourselves, or an unprivileged user when we are root, as whom Postgres
//! refuses to run.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use nix::unistd::{Uid, User};
use tokio::process::Command;

use super::DatabaseError;

/// The unprivileged user of a root process; `None` when we are not root.
#[derive(Debug, Clone)]
pub(super) struct MemoryAccount(Option<User>);

impl MemoryAccount {
    /// Who owns `data` already; else `postgres` where there is one, else `nobody`.
    pub(super) fn choose(data: &Path) -> Result<Self, DatabaseError> {
        let us = Uid::effective();
        let owner = match fs::metadata(data) {
            Ok(metadata) => Some(metadata.uid()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(DatabaseError::io("looking at it", data)(e)),
        };
        if !us.is_root() {
            return match owner {
                Some(found) if found != us.as_raw() => Err(DatabaseError::Foreign {
                    path: data.to_owned(),
                    expected: us.as_raw(),
                    found,
                }),
                _ => Ok(Self(None)),
            };
        }
        let found = match owner {
            Some(uid) => User::from_uid(uid.into()),
            None => match User::from_name("postgres") {
                Ok(None) => User::from_name("nobody"),
                found => found,
            },
        };
        match found {
            Ok(Some(user)) if !user.uid.is_root() => Ok(Self(Some(user))),
            Ok(_) => Err(DatabaseError::io("finding an unprivileged user for it", data)(
                io::ErrorKind::NotFound.into(),
            )),
            Err(errno) => Err(DatabaseError::io("looking up its user", data)(errno.into())),
        }
    }

    /// Makes `command` run as this user, without root's supplementary groups (the standard
    /// library clears them together with the uid), and without our environment: it may hold
    /// secrets, and whoever is this user may read a process's environment.
    pub(super) fn lower(&self, command: &mut Command) {
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
        if let Some(user) = &self.0 {
            command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
        }
    }

    /// Gives an empty directory to this user and nobody else.
    pub(super) fn hand_over(&self, directory: &Path) -> Result<(), DatabaseError> {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
            .and_then(|()| match &self.0 {
                Some(user) => chown(directory, Some(user.uid.as_raw()), Some(user.gid.as_raw())),
                None => Ok(()),
            })
            .map_err(DatabaseError::io("handing it to the server's user", directory))
    }

    /// Whether this user can reach things in `directory`, by the modes of it and all above.
    pub(super) fn check_reach(&self, directory: &Path) -> Result<(), DatabaseError> {
        let Some(user) = &self.0 else { return Ok(()) };
        for path in directory.ancestors() {
            let metadata = fs::metadata(path).map_err(DatabaseError::io("looking at it", path))?;
            let search = if metadata.uid() == user.uid.as_raw() {
                0o100
            } else if metadata.gid() == user.gid.as_raw() {
                0o010
            } else {
                0o001
            };
            if metadata.mode() & search == 0 {
                return Err(DatabaseError::NotTraversable {
                    path: path.to_owned(),
                    user: user.name.clone(),
                });
            }
        }
        Ok(())
    }
}
