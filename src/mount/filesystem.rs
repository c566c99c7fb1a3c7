//! What the kernel asks, answered from the tree and the content. Nothing ever changes, so that the
//! kernel may keep all it is told.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};
use tokio::runtime::Handle;

use super::shared::Shared;
use super::tree::{FileTree, Ino, Inode, Kind};
use crate::clip::node::Special;
use crate::content::lazy::Priority;

/// How long the kernel may keep what it was told: for ever.
const TTL: Duration = Duration::from_secs(u32::MAX as u64);
/// The most that may be underway for reads that nobody waits for yet.
const BACKGROUND: u16 = 64;

/// The file system of an archive.
#[derive(Debug)]
pub(super) struct ArchiveFs {
    shared: Arc<Shared>,
    runtime: Handle,
    patience: Duration,
    /// Whether large files are passed through.
    passes: bool,
}

impl ArchiveFs {
    /// Reads that take a while are waited for on `runtime`, and not longer than `patience`.
    pub(super) fn new(shared: Arc<Shared>, runtime: Handle, patience: Duration) -> Self {
        Self { shared, runtime, patience, passes: false }
    }

    fn tree(&self) -> &FileTree {
        &self.shared.tree
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let ino = Ino::new(ino.0)?;
        Some(attributes(ino, self.tree().inode(ino)?))
    }
}

impl Filesystem for ArchiveFs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
        ] {
            // What an old kernel can't, it does without.
            let _ = config.add_capabilities(wanted);
        }
        // One level: the cache's files are on no stacked file system.
        self.passes = self.shared.has_large_files()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(1).is_ok();
        let _ = config.set_max_background(BACKGROUND);
        if let Err(most) = config.set_max_readahead(1 << 20) {
            let _ = config.set_max_readahead(most);
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found =
            Ino::new(parent.0).and_then(|parent| self.tree().lookup(parent, name.as_bytes()));
        match found.and_then(|ino| self.attributes(INodeNo(ino.number()))) {
            Some(attr) => reply.entry(&TTL, &attr, Generation(0)),
            // An entry without an inode: the kernel remembers that there is none.
            None => reply.entry(&TTL, &nothing(), Generation(0)),
        }
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        match self.attributes(ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        match Ino::new(ino.0).and_then(|ino| self.tree().target(ino)) {
            Some(target) => reply.data(target),
            None => reply.error(Errno::EINVAL),
        }
    }

    /// Unless large files are passed through there is nothing to be opened: the kernel takes that as leave never
    /// to ask again, and to keep the pages of files.
    fn open(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match Ino::new(ino.0).filter(|_| self.passes) {
            Some(ino) => self.shared.open(ino, &self.runtime, reply),
            None => reply.error(Errno::ENOSYS),
        }
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        if let Some(ino) = Ino::new(ino.0) {
            self.shared.close(ino, handle, &self.runtime);
        }
    }

    /// There is nothing to be opened: the kernel takes that as leave never to ask again, and to keep the
    /// entries of directories.
    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let Some((ino, inode)) = Ino::new(ino.0)
            .and_then(|ino| Some((ino, self.tree().inode(ino)?)))
            .filter(|(_, inode)| inode.kind() == Kind::File)
        else {
            return reply.error(Errno::EINVAL);
        };
        let end = offset.saturating_add(size.into()).min(inode.size);
        let range = offset.min(end)..end;
        if range.is_empty() {
            return reply.data(&[]);
        }
        let shared = &self.shared;
        shared.content.shared().counters().read();
        if let Some(ahead) = shared.sequences.note(ino, &range, inode.size) {
            let _runtime = self.runtime.enter();
            shared.content.expect(&shared.tree, ino, &ahead, Priority::ReadAhead);
        }
        if let Some(bytes) = shared.content.at_hand(&shared.tree, ino, &range) {
            return reply.data(&bytes);
        }
        let (shared, patience) = (shared.clone(), self.patience);
        self.runtime.spawn(async move {
            match shared.read(ino, range.clone(), patience).await {
                Ok(bytes) => reply.data(&bytes),
                Err(error) => {
                    shared.content.shared().counters().failed();
                    let (image, path) = (&shared.name, shared.tree.path(ino));
                    let (from, until) = (range.start, range.end);
                    tracing::error!("{image}: {path}: can't read bytes {from}..{until}: {error}");
                    reply.error(Errno::EIO);
                }
            }
        });
    }

    /// No file here is a terminal; whoever opens one for text asks.
    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    /// Said once: the kernel does not ask again, and finds no holes by itself.
    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// Said once: the kernel does not ask again.
    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(entries) = self.list(ino, offset) else { return reply.error(Errno::ENOTDIR) };
        for (next, name, ino, inode) in entries {
            if reply.add(INodeNo(ino.number()), next, file_type(inode), OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let Some(entries) = self.list(ino, offset) else { return reply.error(Errno::ENOTDIR) };
        for (next, name, ino, inode) in entries {
            let (number, attr) = (INodeNo(ino.number()), attributes(ino, inode));
            if reply.add(number, next, OsStr::from_bytes(name), &TTL, &attr, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let blocks = self.tree().content_length().div_ceil(4096);
        let files = self.tree().len() as u64;
        reply.statfs(blocks, 0, 0, files, 0, 4096, 1024, 4096);
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        if !self.tree().has_xattrs() {
            // The kernel asks for capabilities at each exec, unless it is told that there are none.
            return reply.error(Errno::ENOSYS);
        }
        let mut xattrs = Ino::new(ino.0).into_iter().flat_map(|ino| self.tree().xattrs(ino));
        match xattrs.find(|(known, _)| *known == name.as_bytes()) {
            Some((_, value)) => sized(value, size, reply),
            None => reply.error(Errno::NO_XATTR),
        }
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let mut names = Vec::new();
        for (name, _) in Ino::new(ino.0).into_iter().flat_map(|ino| self.tree().xattrs(ino)) {
            names.extend_from_slice(name);
            names.push(0);
        }
        sized(&names, size, reply);
    }
}

impl ArchiveFs {
    /// The entries of a directory from `offset` on, the two that every directory has first; each
    /// with the offset of the next.
    fn list(
        &self,
        ino: INodeNo,
        offset: u64,
    ) -> Option<impl Iterator<Item = (u64, &[u8], Ino, &Inode)>> {
        let ino = Ino::new(ino.0)?;
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let dots = [(&b"."[..], ino), (&b".."[..], self.tree().parent(ino)?)];
        let rest = self.tree().entries(ino, skip.saturating_sub(dots.len()))?;
        let all = dots.into_iter().skip(skip).chain(rest);
        let with_inodes = all.filter_map(|(name, ino)| Some((name, ino, self.tree().inode(ino)?)));
        Some((offset + 1..).zip(with_inodes).map(|(next, (name, ino, i))| (next, name, ino, i)))
    }
}

fn sized(value: &[u8], size: u32, reply: ReplyXattr) {
    match u32::try_from(value.len()) {
        Ok(length) if size == 0 => reply.size(length),
        Ok(length) if length <= size => reply.data(value),
        Ok(_) => reply.error(Errno::ERANGE),
        Err(_) => reply.error(Errno::E2BIG),
    }
}

fn file_type(inode: &Inode) -> FileType {
    match inode.kind() {
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::File => FileType::RegularFile,
        Kind::Special(Special::CharDevice) => FileType::CharDevice,
        Kind::Special(Special::BlockDevice) => FileType::BlockDevice,
        Kind::Special(Special::Fifo) => FileType::NamedPipe,
    }
}

fn attributes(ino: Ino, inode: &Inode) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.number()),
        size: inode.size,
        blocks: inode.blocks,
        atime: time(inode.atime, inode.atime_nsec),
        mtime: time(inode.mtime, inode.mtime_nsec),
        ctime: time(inode.ctime, inode.ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: file_type(inode),
        perm: inode.permissions,
        nlink: inode.nlink,
        uid: inode.uid,
        gid: inode.gid,
        rdev: inode.rdev,
        blksize: 4096,
        flags: 0,
    }
}

/// The attributes of no inode.
fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// A time that this system can't tell is the epoch.
fn time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let start =
        if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    let part = Duration::from_nanos(nanoseconds.min(999_999_999).into());
    start.and_then(|start| start.checked_add(part)).unwrap_or(UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_the_epoch() {
        assert_eq!(time(0, 5), UNIX_EPOCH + Duration::from_nanos(5));
        assert_eq!(time(-1, 250_000_000), UNIX_EPOCH - Duration::from_millis(750));
        // Nothing overflows.
        assert!(time(i64::MAX, u32::MAX) > UNIX_EPOCH && time(i64::MIN, 0) < UNIX_EPOCH);
    }
}
