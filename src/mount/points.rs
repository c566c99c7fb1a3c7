//! Mount points of this machine: which are ours, which of those nobody serves any more, and how they
//! are ended.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

use super::error::MountError;
use crate::local::io_error;

/// What the source of our mounts begins with, in `/proc/self/mountinfo`.
const PREFIX: &str = "clipwright:";

/// A mount of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// Where it is.
    pub path: PathBuf,
    /// The archive.
    pub archive: PathBuf,
    /// Whether somebody serves it.
    pub served: bool,
}

/// What a mount of this archive calls its source.
pub(super) fn source(archive: &Path) -> String {
    format!("{PREFIX}{}", archive.display())
}

/// All mounts of ours that this process can see.
pub fn mounts() -> Result<Vec<MountPoint>, MountError> {
    let mounts = table()?.into_iter();
    Ok(mounts
        .map(|(path, archive)| MountPoint { served: is_served(&path), path, archive })
        .collect())
}

/// The mount points of ours, and the archives. Nobody is asked whether he serves.
fn table() -> Result<Vec<(PathBuf, PathBuf)>, MountError> {
    let what = "can't read the mounts of this machine";
    let table = std::fs::read("/proc/self/mountinfo").map_err(io_error(what))?;
    Ok(table.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// A line of `mountinfo`, if it is a mount of ours: the mount point and the archive.
fn parse(line: &[u8]) -> Option<(PathBuf, PathBuf)> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let end = fields.iter().position(|field| *field == b"-")?;
    let (kind, source) = (fields.get(end + 1)?, fields.get(end + 2)?);
    let archive = unescape(source).strip_prefix(PREFIX.as_bytes())?.to_vec();
    kind.starts_with(b"fuse").then(|| (path(unescape(fields[4])), path(archive)))
}

fn path(bytes: Vec<u8>) -> PathBuf {
    OsString::from_vec(bytes).into()
}

/// Takes the octal escapes of the kernel's tables back.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        let octal = rest.get(1..4).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(escaped) if *byte == b'\\' => {
                out.push(escaped);
                rest = &rest[4..];
            }
            _ => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    out
}

/// Whether somebody answers there.
fn is_served(path: &Path) -> bool {
    match nix::sys::statfs::statfs(path) {
        Ok(_) => true,
        Err(error) => error != Errno::ENOTCONN,
    }
}

/// Makes `path` ready to be mounted on: what nobody serves any more is taken away. A directory that
/// somebody serves, or that is none, is an error.
pub(super) fn clear(path: &Path) -> Result<PathBuf, MountError> {
    let bad = |detail: String| MountError::Point { path: path.to_owned(), detail };
    let real = real(path).map_err(|error| bad(error.to_string()))?;
    // One may lie over the other.
    while let Some((_, archive)) = table()?.into_iter().find(|(point, _)| *point == real) {
        if is_served(&real) {
            return Err(bad(format!("{} is mounted there", archive.display())));
        }
        umount2(&real, MntFlags::MNT_DETACH).map_err(|error| {
            bad(format!("a mount that nobody serves can't be removed: {error}"))
        })?;
        tracing::warn!("{}: a mount that nobody served was removed", real.display());
    }
    if real.is_dir() { Ok(real) } else { Err(bad("is not a directory".to_owned())) }
}

/// The path without symbolic links. A mount that nobody serves can't be looked at: its parent can.
fn real(path: &Path) -> io::Result<PathBuf> {
    path.canonicalize().or_else(|error| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) if error.raw_os_error() == Some(Errno::ENOTCONN as i32) => {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            Ok(parent.canonicalize()?.join(name))
        }
        _ => Err(error),
    })
}

/// Ends a mount of ours. With `lazy`, whoever uses it may finish.
pub fn unmount(path: &Path, lazy: bool) -> Result<(), MountError> {
    let bad = |detail: &str| MountError::Point { path: path.to_owned(), detail: detail.to_owned() };
    let real = real(path).map_err(|error| bad(&error.to_string()))?;
    if !table()?.iter().any(|(point, _)| *point == real) {
        return Err(bad("no archive is mounted there"));
    }
    let lazy = lazy || !is_served(&real);
    let flags = if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(&real, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EBUSY) => Err(bad("is in use")),
        Err(error) => Err(bad(&format!("can't be unmounted: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let line = b"52 29 0:46 / /mnt/with\\040space rw,nosuid - fuse clipwright:/a\\134b.clip ro";
        let found = parse(line).unwrap();
        assert_eq!(found, (PathBuf::from("/mnt/with space"), PathBuf::from("/a\\b.clip")));
        let others: [&[u8]; 4] = [
            b"",
            b"52 29 0:46 / /mnt rw shared:1 - fuse sshfs ro",
            b"52 29 0:46 / /mnt rw shared:1 - ext4 clipwright:/a ro",
            b"52 29 0:46 / /mnt rw -",
        ];
        for line in others {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn escapes() {
        for (escaped, plain) in
            [("a\\040b", "a b"), ("\\", "\\"), ("\\04", "\\04"), ("\\999", "\\999"), ("", "")]
        {
            assert_eq!(unescape(escaped.as_bytes()), plain.as_bytes());
        }
    }
}
