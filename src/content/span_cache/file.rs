//! The whole content of a file, as a file that holds nothing else: what the kernel can read past us.
//!
//! What the trailer of an entry says is in an extended attribute here, as the kernel knows of no end but
//! the file's own. Another says since when the machine runs that has looked at every byte, and when the
//! file was last changed by then: who finds both as they were need not look again, and after a power cut,
//! or a change by somebody else, everybody does.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::OnceLock;

use rustix::fs::{XattrFlags, fgetxattr, fsetxattr};
use rustix::io::Errno;

use super::entry::{Draft, TRAILER, check_bytes, touch};
use crate::digest::Digest;

const SUM: &str = "user.clipwright.sum";
const CHECKED: &str = "user.clipwright.checked";

/// A file whose bytes were found to be what was kept.
#[derive(Debug)]
pub struct WholeFile(
    /// Locked, shared, for as long as it is open.
    File,
);

impl WholeFile {
    /// Opens a file of `length` bytes. `None`: it is not there. What is no such file is an error.
    pub(super) fn open(path: &Path, key: &Digest, length: u64) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Whoever has it exclusively is about to remove it.
        if file.try_lock_shared().is_err() {
            return Ok(None);
        }
        let size = file.metadata()?.len();
        if size != length {
            let detail = format!("expected {length} bytes, found {size}");
            return Err(io::Error::new(ErrorKind::InvalidData, detail));
        }
        let mut sum = [0; TRAILER];
        let found = match fgetxattr(&file, SUM, &mut sum) {
            Err(Errno::NODATA | Errno::RANGE) => 0,
            found => found?,
        };
        if found != TRAILER {
            return Err(io::Error::new(ErrorKind::InvalidData, "it has no checksum"));
        }
        let mut checked = [0; 128];
        let said = fgetxattr(&file, CHECKED, &mut checked).map_or(0, |length| length);
        if checked[..said] != *mark(&file)?.as_bytes() {
            check_bytes(&file, key, length, &sum)?;
        }
        touch(&file);
        // A cache that can only be read is looked at by each process anew.
        let _ = fsetxattr(&file, CHECKED, mark(&file)?.as_bytes(), XattrFlags::empty());
        Ok(Some(Self(file)))
    }

    /// What was written appears at `path`.
    pub(super) fn finish(mut draft: Draft, path: &Path) -> io::Result<()> {
        let trailer = draft.trailer();
        let file = draft.file()?;
        fsetxattr(file, SUM, &trailer, XattrFlags::empty())?;
        fsetxattr(file, CHECKED, mark(file)?.as_bytes(), XattrFlags::empty())?;
        draft.appear(path)
    }
}

impl AsFd for WholeFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Names this run of the machine, and the file's last change.
fn mark(file: &File) -> io::Result<String> {
    static BOOT: OnceLock<String> = OnceLock::new();
    let boot = match BOOT.get() {
        Some(boot) => boot,
        None => {
            let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
            BOOT.get_or_init(|| boot.trim().to_owned())
        }
    };
    let metadata = file.metadata()?;
    Ok(format!("{boot} {}.{:09}", metadata.mtime(), metadata.mtime_nsec()))
}
