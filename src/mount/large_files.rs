//! The large files of a mount that somebody has open.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::{HashMap, HashMapExt as _};
use fuser::BackingId;
use tokio::sync::{Mutex as Turns, Semaphore};

use super::tree::Ino;
use crate::content::span_cache::WholeFile;

/// Which files of a mount are large enough, and those of them that were opened.
#[derive(Debug)]
pub(super) struct LargeFiles {
    pub(super) least: u64,
    opened: Mutex<HashMap<Ino, Arc<Turns<LargeFile>>>>,
    /// One is made at a time: nobody waits for them.
    pub(super) making: Semaphore,
    /// The kernel takes none, or none can be kept: no more are made.
    pub(super) is_vain: AtomicBool,
}

/// One of them.
#[derive(Debug, Default)]
pub(super) struct LargeFile {
    pub(super) handles: u64,
    /// What its handles are read from. Without it they are read through us.
    pub(super) backing: Option<(BackingId, WholeFile)>,
}

impl LargeFiles {
    /// Files of `least` bytes and more.
    pub(super) fn new(least: u64) -> Self {
        Self {
            least,
            opened: Mutex::new(HashMap::new()),
            making: Semaphore::new(1),
            is_vain: AtomicBool::new(false),
        }
    }

    /// An inode's openings and closings take turns.
    pub(super) fn of(&self, ino: Ino) -> Arc<Turns<LargeFile>> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.entry(ino).or_default().clone()
    }
}
