//! Nodes on disk. Every object is made and changed through a handle of the directory it is in, and
//! nothing is ever followed or replaced: what an archive holds can't lead out of the target.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{
    self, AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

use super::staging::{DIRECTORY, Staging};
use crate::clip::node::{Attr, Node, NodeKind, NodePath, Special};
use crate::content::ContentError;
use crate::examples::Examples;
use crate::local::io_error;

/// Bits that make a program run as its owner or group.
const SET_ID: u32 = 0o6000;

/// A directory in the making, and what of the archive it does not get.
#[derive(Debug)]
pub(super) struct Target {
    staging: Staging,
    /// Whether owners are restored.
    owners: bool,
    left: Mutex<BTreeMap<String, Examples>>,
}

impl Target {
    pub(super) fn new(staging: Staging, owners: bool) -> Self {
        Self { staging, owners, left: Mutex::default() }
    }

    /// Puts the directory where it belongs; says what it did not get.
    pub(super) fn publish(&self) -> std::result::Result<Vec<String>, ContentError> {
        self.staging.publish()?;
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(left.iter().map(|(why, paths)| format!("{paths}: {why}")).collect())
    }

    /// Notes what the platform does not let us restore.
    fn leave(&self, node: &Node, why: impl Into<String>) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.entry(why.into()).or_default().push(&node.path);
    }

    /// The permission bits that a node gets.
    fn mode(&self, node: &Node) -> Mode {
        let mut mode = node.attr.mode & 0o7777;
        if !self.owners && mode & SET_ID != 0 && node.kind != NodeKind::Directory {
            self.leave(node, "setuid and setgid bits were left out, for want of the owner");
            mode &= !SET_ID;
        }
        Mode::from_raw_mode(mode)
    }

    fn owner(&self, attr: &Attr) -> Option<(Option<Uid>, Option<Gid>)> {
        // The largest number is none: the kernel takes it for "as it is".
        let [uid, gid] = [attr.uid, attr.gid].map(|id| Some(id).filter(|id| *id != u32::MAX));
        self.owners.then(|| (uid.map(Uid::from_raw), gid.map(Gid::from_raw)))
    }

    /// Gives an open file or directory its attributes. The mode comes after the owner, which takes
    /// set-id bits away; times come last.
    fn finish_open(&self, open: BorrowedFd<'_>, node: &Node) -> Result<()> {
        if let Some((uid, gid)) = self.owner(&node.attr) {
            fs::fchown(open, uid, gid)?;
        }
        self.xattrs(node, |name, value| fs::fsetxattr(open, name, value, XattrFlags::empty()))?;
        fs::fchmod(open, self.mode(node))?;
        fs::futimens(open, &times(&node.attr))
    }

    /// Gives what can't be opened, a symlink or special file, its attributes.
    fn finish_named(&self, directory: BorrowedFd<'_>, node: &Node) -> Result<()> {
        let name = node.path.name();
        if let Some((uid, gid)) = self.owner(&node.attr) {
            fs::chownat(directory, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        self.xattrs(node, |attribute, value| {
            let handle = format!("/proc/self/fd/{}/", directory.as_raw_fd());
            let path = [handle.as_bytes(), name].concat();
            fs::lsetxattr(path, attribute, value, XattrFlags::empty())
        })?;
        if !matches!(node.kind, NodeKind::Symlink { .. }) {
            fs::chmodat(directory, name, self.mode(node), AtFlags::empty())?;
        }
        fs::utimensat(directory, name, &times(&node.attr), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn xattrs(&self, node: &Node, set: impl Fn(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        for (name, value) in &node.xattrs {
            match set(name, value) {
                Ok(()) => {}
                // Whatever is no matter of space: the file system, or the kernel, has no such
                // attribute for this, or not for us.
                Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => return Err(error),
                Err(error) => {
                    let name = String::from_utf8_lossy(name);
                    self.leave(node, format!("extended attribute {name} was left out: {error}"));
                }
            }
        }
        Ok(())
    }
}

fn times(attr: &Attr) -> Timestamps {
    let time = |seconds: i64, nanos: u32| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(nanos.min(999_999_999)),
    };
    Timestamps {
        last_access: time(attr.atime, attr.atime_nsec),
        last_modification: time(attr.mtime, attr.mtime_nsec),
    }
}

/// A way through the target: the handles from the root to the directory that was last needed.
pub(super) struct Trail {
    target: Arc<Target>,
    steps: Vec<(Box<[u8]>, OwnedFd)>,
}

impl Trail {
    pub(super) fn new(target: Arc<Target>) -> Self {
        Self { target, steps: Vec::new() }
    }

    /// Makes a directory that only we may enter; [`Self::finish_directory`] follows.
    pub(super) fn directory(&mut self, node: &Node) -> std::result::Result<(), ContentError> {
        if node.path.is_root() {
            return Ok(()); // there already
        }
        let parent = self.parent(node)?;
        fs::mkdirat(parent, node.path.name(), Mode::RWXU).map_err(cant("make", node))
    }

    /// Gives a directory its attributes, when nothing will be made in it any more.
    pub(super) fn finish_directory(
        &mut self,
        node: &Node,
    ) -> std::result::Result<(), ContentError> {
        let target = self.target.clone();
        let directory = if node.path.is_root() {
            fs::openat(&target.staging.root, ".", DIRECTORY, Mode::empty())
        } else {
            fs::openat(self.parent(node)?, node.path.name(), DIRECTORY, Mode::empty())
        };
        directory
            .and_then(|open| target.finish_open(open.as_fd(), node))
            .map_err(cant("set the attributes of", node))
    }

    /// Makes an empty file, for us alone until [`Self::finish_file`].
    pub(super) fn file(&mut self, node: &Node) -> std::result::Result<File, ContentError> {
        let how = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let parent = self.parent(node)?;
        fs::openat(parent, node.path.name(), how, Mode::RUSR | Mode::WUSR)
            .map(File::from)
            .map_err(cant("make", node))
    }

    /// Gives a file its attributes, when all its content is there.
    pub(super) fn finish_file(
        &self,
        file: &File,
        node: &Node,
    ) -> std::result::Result<(), ContentError> {
        self.target.finish_open(file.as_fd(), node).map_err(cant("set the attributes of", node))
    }

    /// Makes a symlink, device or fifo. Devices that we may not make are left out.
    pub(super) fn other(&mut self, node: &Node) -> std::result::Result<(), ContentError> {
        let target = self.target.clone();
        let parent = self.parent(node)?;
        let name = node.path.name();
        let device = |kind| {
            fs::mknodat(parent, name, kind, Mode::RUSR | Mode::WUSR, u64::from(node.attr.rdev))
        };
        let made = match &node.kind {
            NodeKind::Symlink { target } => fs::symlinkat(&**target, parent, name),
            NodeKind::Special(Special::Fifo) => device(FileType::Fifo),
            NodeKind::Special(Special::CharDevice) => device(FileType::CharacterDevice),
            NodeKind::Special(Special::BlockDevice) => device(FileType::BlockDevice),
            NodeKind::Directory | NodeKind::File(_) => return Ok(()),
        };
        match made {
            Err(error @ Errno::PERM) if matches!(node.kind, NodeKind::Special(_)) => {
                target.leave(node, format!("devices were left out: {error}"));
                Ok(())
            }
            made => {
                made.and_then(|()| target.finish_named(parent, node)).map_err(cant("make", node))
            }
        }
    }

    /// Makes another name of what `there`, a trail of its own, leads to.
    pub(super) fn link(
        &mut self,
        node: &Node,
        there: &mut Self,
        first: &Node,
    ) -> std::result::Result<(), ContentError> {
        let from = there.parent(first)?;
        let to = self.parent(node)?;
        match fs::linkat(from, first.path.name(), to, node.path.name(), AtFlags::empty()) {
            // A device that was left out has no other names either.
            Err(Errno::NOENT) if matches!(node.kind, NodeKind::Special(_)) => {
                there.target.leave(node, "devices were left out: they have no first name");
                Ok(())
            }
            linked => linked.map_err(cant("link", node)),
        }
    }

    /// The handle of the directory that a node is in.
    fn parent(&mut self, node: &Node) -> std::result::Result<BorrowedFd<'_>, ContentError> {
        let parent = node.path.parent().unwrap_or_else(NodePath::root);
        self.enter(&parent).map_err(cant("find the directory of", node))
    }

    fn enter(&mut self, directory: &NodePath) -> Result<BorrowedFd<'_>> {
        let shared = self
            .steps
            .iter()
            .zip(directory.components())
            .take_while(|((name, _), component)| **name == **component)
            .count();
        self.steps.truncate(shared);
        for name in directory.components().skip(shared) {
            let here = self.steps.last().map_or(&self.target.staging.root, |(_, handle)| handle);
            let next = fs::openat(here, name, DIRECTORY | OFlags::PATH, Mode::empty())?;
            self.steps.push((name.into(), next));
        }
        Ok(self.steps.last().map_or(&self.target.staging.root, |(_, handle)| handle).as_fd())
    }
}

fn cant(what: &str, node: &Node) -> impl FnOnce(Errno) -> ContentError {
    let what = format!("can't {what} {}", node.path);
    |error| io_error(what)(error.into()).into()
}
