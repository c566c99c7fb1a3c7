//! A directory in the making: beside its place, for nobody else to see, and gone unless it is
//! published.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{self, AtFlags, CWD, Dir, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};

use crate::content::ContentError;
use crate::local::io_error;

/// How a directory is opened by name: never through a symlink.
pub(super) const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Removed when dropped, unless it was published.
#[derive(Debug)]
pub(super) struct Staging {
    parent: OwnedFd,
    /// Of the directory in the making.
    name: String,
    /// What it shall be called.
    target: OsString,
    path: PathBuf,
    /// The directory itself.
    pub(super) root: OwnedFd,
    published: AtomicBool,
}

impl Staging {
    /// Begins a directory that is to be at `target`, where nothing but an empty directory may be.
    pub(super) fn new(target: &Path) -> std::result::Result<Self, ContentError> {
        let taken = |detail| Err(ContentError::Target { path: target.to_owned(), detail });
        let failed = || io_error(format!("can't make {}", target.display()));
        let Some(name) = target.file_name() else {
            return taken("the new directory needs a name");
        };
        let parent_path = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if let Ok(there) = std::fs::symlink_metadata(target) {
            if !there.is_dir() {
                return taken("it is there and no directory");
            }
            if std::fs::read_dir(target).map_err(failed())?.next().is_some() {
                return taken("the directory is not empty");
            }
            if std::fs::metadata(parent_path).map_err(failed())?.dev() != there.dev() {
                return taken("it is a mount point: take a new directory below it");
            }
        }
        let open = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let parent = fs::openat(CWD, parent_path, open, Mode::empty());
        let parent = parent.map_err(|error| failed()(error.into()))?;
        let temporary = format!(".tmp-clipwright-{:016x}", rand::random::<u64>());
        fs::mkdirat(&parent, &temporary, Mode::RWXU).map_err(|e| failed()(e.into()))?;
        match fs::openat(&parent, &temporary, DIRECTORY, Mode::empty()) {
            Ok(root) => Ok(Self {
                parent,
                name: temporary,
                target: name.to_owned(),
                path: target.to_owned(),
                root,
                published: AtomicBool::new(false),
            }),
            Err(error) => {
                let _ = fs::unlinkat(&parent, &temporary, AtFlags::REMOVEDIR);
                Err(failed()(error.into()).into())
            }
        }
    }

    /// Puts the directory where it belongs. It replaces an empty directory, and nothing else.
    pub(super) fn publish(&self) -> std::result::Result<(), ContentError> {
        fs::renameat(&self.parent, &self.name, &self.parent, &self.target)
            .map_err(|e| io_error(format!("can't make {}", self.path.display()))(e.into()))?;
        self.published.store(true, Ordering::SeqCst);
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published.load(Ordering::SeqCst) {
            let removed = clear(&self.root);
            let removed =
                removed.and_then(|()| fs::unlinkat(&self.parent, &self.name, AtFlags::REMOVEDIR));
            if let Err(error) = removed {
                tracing::warn!(%error, directory = self.name, "can't remove a temporary directory");
            }
        }
    }
}

/// Removes all that is in a directory of ours, whatever modes were given to what is in it.
fn clear(directory: &OwnedFd) -> Result<()> {
    fs::fchmod(directory, Mode::RWXU)?;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let below = match fs::openat(directory, name, DIRECTORY, Mode::empty()) {
                Err(Errno::ACCESS) => {
                    fs::chmodat(directory, name, Mode::RWXU, AtFlags::empty())?;
                    fs::openat(directory, name, DIRECTORY, Mode::empty())?
                }
                opened => opened?,
            };
            clear(&below)?;
            fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?;
        } else {
            fs::unlinkat(directory, name, AtFlags::empty())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<OsString> {
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn appears_whole_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("new");
        let staging = Staging::new(&target).unwrap();
        fs::mkdirat(&staging.root, "below", Mode::RWXU).unwrap();
        fs::mkdirat(&staging.root, "below/deep", Mode::RWXU).unwrap();
        fs::symlinkat("/", &staging.root, "link").unwrap();
        fs::chmodat(&staging.root, "below", Mode::empty(), AtFlags::empty()).unwrap();
        drop(staging);
        assert_eq!(names(directory.path()), Vec::<OsString>::new());

        std::fs::create_dir(&target).unwrap(); // an empty one may be there
        let staging = Staging::new(&target).unwrap();
        fs::mkdirat(&staging.root, "below", Mode::RWXU).unwrap();
        staging.publish().unwrap();
        drop(staging);
        assert_eq!(names(directory.path()), ["new"]);
        assert_eq!(names(&target), ["below"]);
        assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o7777, 0o700);
    }

    #[test]
    fn nothing_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let taken = |name: &str| Staging::new(&directory.path().join(name));
        std::fs::create_dir_all(directory.path().join("full/x")).unwrap();
        std::fs::write(directory.path().join("file"), "").unwrap();
        symlink("full", directory.path().join("link")).unwrap();
        for name in ["full", "file", "link", ".."] {
            assert!(matches!(taken(name), Err(ContentError::Target { .. })), "{name}");
        }
        assert!(matches!(taken("no/where"), Err(ContentError::Io(_))));

        // What comes there in the meantime stays, and so does what a link there points to.
        let staging = taken("swapped").unwrap();
        symlink("full", directory.path().join("swapped")).unwrap();
        assert!(matches!(staging.publish(), Err(ContentError::Io(_))));
        let other = taken("filled").unwrap();
        std::fs::create_dir_all(directory.path().join("filled/x")).unwrap();
        assert!(matches!(other.publish(), Err(ContentError::Io(_))));
        drop((staging, other));
        assert_eq!(names(&directory.path().join("full")), ["x"]);
        let mut left = names(directory.path());
        left.sort();
        assert_eq!(left, ["file", "filled", "full", "link", "swapped"]);
    }
}
