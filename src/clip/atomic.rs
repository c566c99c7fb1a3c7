//! Files that appear whole or not at all: written beside their place, synced, renamed.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::write_behind::WriteBehind;

/// Writes `bytes` to `file`, replacing what was there. On failure nothing is left behind.
pub fn write(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = Draft::begin(file)?;
    draft.temporary.as_file().write_all(bytes)?;
    draft.finish(&[])
}

/// A file that takes its place when it is finished; dropped before, it leaves nothing behind.
#[derive(Debug)]
pub struct Draft {
    temporary: NamedTempFile,
    directory: PathBuf,
    target: PathBuf,
}

impl Draft {
    /// Begins the file that is to become `target`.
    pub fn begin(target: &Path) -> io::Result<Self> {
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Renaming over a device, or over a link to one, would take it away from the whole machine.
        if std::fs::symlink_metadata(target).is_ok_and(|there| !there.is_file()) {
            let detail = "it is there and no regular file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, detail));
        }
        let temporary = tempfile::Builder::new().prefix(".tmp-").tempfile_in(directory)?;
        temporary.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        Ok(Self { temporary, directory: directory.to_owned(), target: target.to_owned() })
    }

    /// Takes its bytes, from the first on.
    pub fn sink(&self) -> io::Result<WriteBehind> {
        Ok(WriteBehind::new(self.temporary.as_file().try_clone()?))
    }

    /// Puts `head` in place of its first bytes, and the file in its place.
    pub fn finish(self, head: &[u8]) -> io::Result<()> {
        self.temporary.as_file().write_all_at(head, 0)?;
        self.temporary.as_file().sync_all()?;
        self.temporary.persist(&self.target)?;
        File::open(&self.directory)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_files_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a");
        write(&file, b"one").unwrap();
        write(&file, b"two").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        // A directory can't be replaced by a file.
        let taken = directory.path().join("taken");
        std::fs::create_dir(&taken).unwrap();
        assert!(write(&taken, b"x").is_err());
        // Neither must a device, nor a link to one, as `/dev/stdout` is.
        let link = directory.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert!(write(&link, b"x").is_err());
        assert_eq!(std::fs::read_link(&link).unwrap(), Path::new("/dev/null"));
        // What isn't finished isn't there.
        let draft = Draft::begin(&file).unwrap();
        let mut sink = draft.sink().unwrap();
        sink.write_all(b"....draft").unwrap();
        sink.flush().unwrap();
        draft.finish(b"head").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"headdraft");
        drop(Draft::begin(&file).unwrap());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 3);
        assert!(write(&directory.path().join("no/where"), b"x").is_err());
    }
}
