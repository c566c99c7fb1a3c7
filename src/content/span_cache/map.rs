//! Entries in memory without being read: their pages are those of the file, for all processes.
#![allow(unsafe_code, reason = "a mapping of a file; the one call is here")]

use std::io;
use std::ops::Deref;

use memmap2::{Mmap, MmapOptions};

use super::Entry;

/// The bytes of an entry.
#[derive(Debug)]
pub struct EntryMap {
    map: Mmap,
    /// Locked: it is not evicted.
    _entry: Entry,
}

impl EntryMap {
    /// Maps all bytes of an entry but its trailer.
    pub(super) fn new(entry: Entry) -> io::Result<Self> {
        let length = usize::try_from(entry.length()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        // SAFETY: the bytes of a mapped file must not change, nor end. Files of the cache appear by rename when
        // they are complete, and are removed but never written again or cut; the directory is this user's
        // alone.
        let map = unsafe { MmapOptions::new().len(length).map(&entry.file)? };
        Ok(Self { map, _entry: entry })
    }
}

impl Deref for EntryMap {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}
