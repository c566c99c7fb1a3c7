//! The entries that are open: a bounded number, the least recently used are closed.

use std::sync::{Arc, Mutex, PoisonError};

use foldhash::{HashMap, HashMapExt as _};

use super::Entry;
use crate::digest::Digest;

/// Descriptors that are held. Spans have 4 MiB, so that these are 1 GiB.
const MOST: usize = 256;

#[derive(Debug, Default)]
pub(super) struct OpenEntries(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    entries: HashMap<Digest, Held>,
    clock: u64,
}

#[derive(Debug)]
struct Held {
    entry: Arc<Entry>,
    used: u64,
}

impl OpenEntries {
    pub(super) fn get(&self, key: &Digest) -> Option<Arc<Entry>> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.clock += 1;
        let now = table.clock;
        let held = table.entries.get_mut(key)?;
        held.used = now;
        Some(held.entry.clone())
    }

    /// Keeps an entry open; gives the one that is kept, which may be another reader's.
    pub(super) fn insert(&self, key: Digest, entry: Entry) -> Arc<Entry> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if table.entries.len() >= MOST {
            let oldest = table.entries.iter().min_by_key(|(_, held)| held.used);
            if let Some(oldest) = oldest.map(|(key, _)| *key) {
                table.entries.remove(&oldest);
            }
        }
        table.clock += 1;
        let now = table.clock;
        let held = table.entries.entry(key);
        held.or_insert_with(|| Held { entry: Arc::new(entry), used: now }).entry.clone()
    }

    pub(super) fn remove(&self, key: &Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entries.remove(key);
    }

    /// Closes what nobody reads at this moment, so that it can be evicted.
    pub(super) fn close_idle(&self) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table.entries = std::mem::replace(&mut table.entries, HashMap::new())
            .into_iter()
            .filter(|(_, held)| Arc::strong_count(&held.entry) > 1)
            .collect();
    }
}
