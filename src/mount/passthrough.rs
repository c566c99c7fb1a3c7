//! Large files that the kernel reads past us, from a file of the cache that holds their content alone.
//!
//! The kernel wants all handles of an inode to be of one kind at a time, and to be told of each opening then,
//! which costs every file of the mount a round trip at each opening. So only archives with a file that is
//! large enough pass files through, and the openings and closings of such a file take turns.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::{FileHandle, FopenFlags, ReplyOpen};
use tokio::sync::Mutex as Turns;

use super::large_files::LargeFile;
use super::shared::Shared;
use super::tree::{Ino, Kind};
use crate::local::blocking;

/// A handle whose closing is of no interest.
const ANY: FileHandle = FileHandle(0);
/// A handle that counts.
const COUNTED: FileHandle = FileHandle(1);

impl Shared {
    /// Whether there is a file that is worth it.
    pub(super) fn has_large_files(&self) -> bool {
        let Some(large) = &self.large else { return false };
        let is_large = |ino| self.tree.inode(ino).is_some_and(|inode| inode.size >= large.least);
        // Backing files are for those with all rights alone (kernel documentation, "FUSE Passthrough").
        nix::unistd::geteuid().is_root()
            && self.content.shared().cache().is_some()
            && (1..=self.tree.len() as u64).filter_map(Ino::new).any(is_large)
    }

    /// Answers whoever opens a file, now or when a large one is at hand.
    pub(super) fn open(
        self: &Arc<Self>,
        ino: Ino,
        runtime: &tokio::runtime::Handle,
        reply: ReplyOpen,
    ) {
        let inode = self.tree.inode(ino).filter(|inode| inode.kind() == Kind::File);
        match (&self.large, inode) {
            (Some(large), Some(inode)) if inode.size >= large.least => {
                let (shared, file) = (self.clone(), large.of(ino));
                runtime.spawn(async move { shared.open_large(ino, &file, reply).await });
            }
            _ => reply.opened(ANY, FopenFlags::FOPEN_KEEP_CACHE),
        }
    }

    async fn open_large(self: Arc<Self>, ino: Ino, file: &Turns<LargeFile>, reply: ReplyOpen) {
        let mut file = file.lock().await;
        // What a start touches can't be seen of a file that is read past us.
        if file.handles == 0 && !self.content.shared().is_noting() {
            let shared = self.clone();
            let whole = blocking(move || shared.content.file(&shared.tree, ino)).await;
            file.backing =
                whole.ok().flatten().and_then(|whole| match reply.open_backing(&whole) {
                    Ok(id) => Some((id, whole)),
                    Err(error) => {
                        self.give_up(&error);
                        None
                    }
                });
        }
        file.handles += 1;
        match &file.backing {
            Some((id, _)) => {
                self.content.shared().counters().passed();
                reply.opened_passthrough(COUNTED, FopenFlags::empty(), id);
            }
            None => reply.opened(COUNTED, FopenFlags::FOPEN_KEEP_CACHE),
        }
    }

    /// A handle was closed. After the last one of a large file, whose content may be there by now, it is made
    /// ready for the next.
    pub(super) fn close(
        self: &Arc<Self>,
        ino: Ino,
        handle: FileHandle,
        runtime: &tokio::runtime::Handle,
    ) {
        let Some(large) = self.large.as_ref().filter(|_| handle == COUNTED) else { return };
        let (shared, file) = (self.clone(), large.of(ino));
        runtime.spawn(async move {
            {
                let mut file = file.lock().await;
                file.handles = file.handles.saturating_sub(1);
                if file.handles > 0 || file.backing.take().is_some() {
                    return;
                }
            }
            let Some(large) = &shared.large else { return };
            let Ok(_one) = large.making.acquire().await else { return };
            if large.is_vain.load(Ordering::Relaxed) {
                return;
            }
            let making = shared.clone();
            let kept = blocking(move || making.content.keep_file(&making.tree, ino)).await;
            match kept {
                Ok(Err(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    shared.give_up(&error);
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "{} is read through us", shared.tree.path(ino));
                }
                _ => {}
            }
        });
    }

    /// The kernel or the cache's file system can't: there is no use in trying on.
    fn give_up(&self, error: &io::Error) {
        if let Some(large) = &self.large
            && !large.is_vain.swap(true, Ordering::Relaxed)
        {
            tracing::info!(%error, "{}: no file is read past the mount", self.name);
        }
    }
}
