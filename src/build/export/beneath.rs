//! Opening what is in a directory that builds can write to: no link in it leads anywhere, since whoever broke
//! out of a build into its builder could have put one there, to have the service read what it may not.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::path::Arg;

const RESOLVE: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Opens the directory itself, whose path is trusted but for its last name.
pub(in crate::build) fn open_root(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, DIRECTORY, Mode::empty())?)
}

/// Opens a directory in it.
pub(in crate::build) fn open_directory(root: impl AsFd, path: impl Arg) -> io::Result<OwnedFd> {
    Ok(openat2(root, path, DIRECTORY, Mode::empty(), RESOLVE)?)
}

/// Opens a file in it for reading, without waiting for anybody: what it is, the caller looks at.
pub(in crate::build) fn open_file(root: impl AsFd, path: impl Arg) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(openat2(root, path, flags, Mode::empty(), RESOLVE)?.into())
}
