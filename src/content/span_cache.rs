//! Plain bytes that were fetched and verified, kept on disk for all mounts and processes of the
//! machine.
//!
//! An entry's key names everything that its bytes follow from, so that nobody can put other bytes
//! there than those that whoever asks would get himself. An entry appears whole or not at all
//! (temporary file, rename), and carries a checksum, which is looked at before the first byte is
//! served: nothing is synced, so that a power cut may leave files cut short or with blocks of
//! something else, and those are thrown away.
//!
//! Whoever reads an entry holds a shared lock on its file; what is evicted, the least recently
//! opened first, has to be had exclusively. A cache that is full or can't be written is no failure
//! of the reading.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::digest::Digest;

/// Who fetches what is not there.
mod claim;
/// One file of the cache.
mod entry;
/// What goes when the cache is full.
mod eviction;
/// A file's whole content, as the kernel takes it.
mod file;
/// Entries in memory without being read.
mod map;
/// The entries that are open.
mod open;

pub use claim::Claim;
pub use entry::Entry;
pub use file::WholeFile;
pub use map::EntryMap;

use entry::Draft;
use open::OpenEntries;

/// The layout of the directory and of its files; another one gets a directory of its own.
const VERSION: &str = "v1";
/// How long nothing is written after writing has failed.
const PAUSE: Duration = Duration::from_secs(10);

/// A directory of entries. Clones share everything.
#[derive(Debug, Clone)]
pub struct SpanCache(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    limit: u64,
    open: OpenEntries,
    /// Bytes that may be written before the directory is looked at again.
    room: AtomicU64,
    /// Until when nothing is written.
    paused: Mutex<Option<Instant>>,
}

impl SpanCache {
    /// The cache in `directory`, which is made if it is not there, of at most about `limit` bytes.
    pub fn open(directory: &Path, limit: u64) -> Self {
        let directory = directory.join(VERSION);
        let shared = Shared {
            limit,
            open: OpenEntries::default(),
            room: AtomicU64::new(0),
            paused: Mutex::default(),
            directory,
        };
        if let Err(error) = shared.prepare() {
            let directory = shared.directory.display();
            tracing::warn!(%error, "the cache in {directory} can't be written");
        }
        Self(Arc::new(shared))
    }

    /// The entry called `key` if it is there and whole, and of `length` bytes, if that is known.
    pub fn get(&self, key: &Digest, length: impl Into<Option<u64>>) -> Option<Arc<Entry>> {
        let length = length.into();
        if let Some(entry) = self.0.open.get(key) {
            return length.is_none_or(|length| entry.length() == length).then_some(entry);
        }
        Some(self.0.open.insert(*key, open_entry(&self.0.path(key), key, length)?))
    }

    /// Whether there seems to be such an entry; it is not looked into.
    pub fn contains(&self, key: &Digest) -> bool {
        self.0.open.get(key).is_some() || self.0.path(key).exists()
    }

    /// Claims the right to fetch an entry that is not there; `None` if another process is at it.
    pub fn claim(&self, key: &Digest) -> Option<Claim> {
        Claim::take(&self.0.claims(), key)
    }

    /// Keeps an entry; `false` if it could not be kept.
    pub fn put(&self, key: &Digest, bytes: &[u8]) -> bool {
        self.put_with(key, bytes.len() as u64, |out| io::Write::write_all(out, bytes))
    }

    /// Keeps an entry of about `length` bytes, which `write` writes; `false` if it could not be
    /// kept. An error of `write` leaves nothing behind.
    pub fn put_with(
        &self,
        key: &Digest,
        length: u64,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> bool {
        self.keep(key, length, write, |draft| draft.finish(&self.0.path(key)))
    }

    /// The tree called `key`, if it is there and whole.
    pub fn tree(&self, key: &Digest) -> Option<EntryMap> {
        let entry = open_entry(&under(&self.0.trees(), key), key, None)?;
        EntryMap::new(entry).ok()
    }

    /// Keeps a tree, as [`put_with`](Self::put_with) does an entry.
    pub fn put_tree(
        &self,
        key: &Digest,
        length: u64,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> bool {
        let path = under(&self.0.trees(), key);
        self.keep(key, length, write, |draft| draft.finish(&path))
    }

    /// The file called `key`, of `length` bytes, if it is there and whole. Blocks: what nobody has looked
    /// at since the machine was started is read to its end.
    pub fn file(&self, key: &Digest, length: u64) -> Option<WholeFile> {
        let path = self.0.file_path(key);
        match WholeFile::open(&path, key, length) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "{} is thrown away", path.display());
                let _ = fs::remove_file(&path);
                None
            }
            Err(error) => {
                tracing::debug!(%error, "can't read {}", path.display());
                None
            }
        }
    }

    /// Keeps a file of `length` bytes, which `write` writes out of entries that take as much; an error if it
    /// can't be kept beside them, or not at all. Nobody else's keeping suffers by that.
    pub fn put_file(
        &self,
        key: &Digest,
        length: u64,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> io::Result<()> {
        // Room that is made by removing the very entries would be of no use.
        if !self.0.may_write() || length > self.0.limit / 4 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.make_room(length)?;
        let mut draft = Draft::begin(&self.0.temporary(), key)?;
        write(&mut draft)?;
        WholeFile::finish(draft, &self.0.file_path(key))
    }

    fn keep(
        &self,
        key: &Digest,
        length: u64,
        write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
        finish: impl FnOnce(Draft) -> io::Result<()>,
    ) -> bool {
        if !self.0.may_write() {
            return false;
        }
        let kept = self.0.make_room(length).and_then(|()| {
            let mut draft = Draft::begin(&self.0.temporary(), key)?;
            write(&mut draft)?;
            finish(draft)
        });
        match kept {
            Ok(()) => true,
            Err(error) => {
                let directory = self.0.directory.display();
                tracing::warn!(%error, "the cache in {directory} could not keep an entry");
                *self.0.paused.lock().unwrap_or_else(PoisonError::into_inner) =
                    Some(Instant::now() + PAUSE);
                false
            }
        }
    }

    /// Forgets an entry that has turned out to be wrong.
    pub fn remove(&self, key: &Digest) {
        self.0.open.remove(key);
        let _ = fs::remove_file(self.0.path(key));
    }
}

impl Shared {
    fn prepare(&self) -> io::Result<()> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(self.temporary())?;
        builder.create(self.entries())?;
        builder.create(self.files())?;
        builder.create(self.trees())?;
        builder.create(self.claims())?;
        claim::sweep(&self.claims())?;
        claim::sweep(&self.temporary())
    }

    fn entries(&self) -> PathBuf {
        self.directory.join("spans")
    }

    fn files(&self) -> PathBuf {
        self.directory.join("files")
    }

    fn trees(&self) -> PathBuf {
        self.directory.join("trees")
    }

    fn temporary(&self) -> PathBuf {
        self.directory.join("tmp")
    }

    fn claims(&self) -> PathBuf {
        self.directory.join("claims")
    }

    fn path(&self, key: &Digest) -> PathBuf {
        under(&self.entries(), key)
    }

    fn file_path(&self, key: &Digest) -> PathBuf {
        under(&self.files(), key)
    }

    fn may_write(&self) -> bool {
        let paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        paused.is_none_or(|until| until <= Instant::now())
    }

    /// Sees to it that `length` bytes more are within the limit.
    fn make_room(&self, length: u64) -> io::Result<()> {
        if length > self.limit {
            let detail = format!("{length} bytes are more than the limit of {}", self.limit);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, detail));
        }
        let take = |room: u64| room.checked_sub(length);
        if self.room.try_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
            return Ok(());
        }
        // One process at a time looks at everything; another that has no room either waits for it.
        let lock = File::create(self.directory.join("eviction.lock"))?;
        lock.lock()?;
        self.open.close_idle();
        let places = [self.entries(), self.files(), self.trees()];
        let left = eviction::evict(&places, self.limit, length)?;
        // Others write as well: what they wrote is seen at the next look, which comes soon enough.
        self.room.store((left / 4).min(self.limit / 16), Ordering::SeqCst);
        Ok(())
    }
}

/// The entry in a file; one that is torn is thrown away.
fn open_entry(path: &Path, key: &Digest, length: Option<u64>) -> Option<Entry> {
    match Entry::open(path, key, length) {
        Ok(entry) => entry,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%error, "{} is thrown away", path.display());
            let _ = fs::remove_file(path);
            None
        }
        Err(error) => {
            tracing::debug!(%error, "can't read {}", path.display());
            None
        }
    }
}

fn under(directory: &Path, key: &Digest) -> PathBuf {
    let hex = key.hex();
    directory.join(&hex[..2]).join(&hex[2..])
}

#[cfg(test)]
mod tests;
