//! Archives that are read where they lie: their trees, and the bytes of single files. Those that were read
//! last are kept open, since who looks at one file mostly looks at the next.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tempfile::NamedTempFile;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clip::node::Node;
use crate::clip::reader::Archive;
use crate::clip::storage_info::StorageInfo;
use crate::content::beginnings::{of_blocks, of_layers};
use crate::content::{Beginning, ContentError, FileParts, ReadSettings};
use crate::digest::Digest;
use crate::local::{blocking, io_error};
use crate::oci::OciSettings;
use crate::publish::PublishError;
use crate::publish::archives::ArchiveStore;
use crate::publish::stored::StoredArchive;
use crate::store::{Key, ObjectStat, ObjectVersion};

/// Archives that are kept open...
const KEPT: usize = 8;
/// ...as long as their indexes have no more bytes than this, in all.
const KEPT_BYTES: u64 = 64 << 20;
/// Archives that are opened at a time: each takes several times its index in memory.
const OPENING: usize = 2;

/// Reads archives in a store.
#[derive(Debug)]
pub struct ArchiveReader {
    archives: Arc<dyn ArchiveStore>,
    oci: OciSettings,
    recent: Arc<Recent>,
    opening: Arc<Semaphore>,
}

/// Archives that are kept open; the one that was used last comes last.
#[derive(Debug, Default)]
struct Recent(Mutex<Vec<Arc<OpenArchive>>>);

/// An archive in memory.
#[derive(Debug)]
pub struct OpenArchive {
    stored: StoredArchive,
    /// A copy of one of v2, whose seek table is read from there.
    copy: Option<NamedTempFile>,
}

impl OpenArchive {
    /// Its tree, and where its content is.
    pub fn archive(&self) -> &Archive {
        &self.stored.archive
    }

    /// Which object it is.
    pub fn version(&self) -> &ObjectVersion {
        &self.stored.seen
    }

    /// The same, and its size.
    pub fn stat(&self) -> ObjectStat {
        ObjectStat { size: self.stored.size, version: self.stored.seen.clone() }
    }

    /// SHA-256 of all but the data blocks, as jobs tell it of what they published.
    pub fn digest(&self) -> Digest {
        self.stored.digest
    }

    fn index_bytes(&self) -> u64 {
        let index = &self.stored.archive.header.index;
        index.end - index.start
    }
}

impl ArchiveReader {
    /// Of archives in `archives`, whose layers are fetched by `oci`: nobody's credentials are used but
    /// those that the settings have for anybody.
    pub fn new(archives: Arc<dyn ArchiveStore>, oci: OciSettings) -> Self {
        let (recent, opening) = (Arc::default(), Arc::new(Semaphore::new(OPENING)));
        Self { archives, oci, recent, opening }
    }

    /// Opens the archive called `key`; `None` if there is none.
    pub async fn open(&self, key: &Key) -> Result<Option<Arc<OpenArchive>>, PublishError> {
        let Some(found) = self.archives.stat(key).await? else { return Ok(None) };
        if let Some(open) = self.recent.recall(key, &found.version) {
            return Ok(Some(open));
        }
        let turn = self.opening.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ContentError::Cancelled)?;
        // Somebody else may have opened it meanwhile.
        if let Some(open) = self.recent.recall(key, &found.version) {
            return Ok(Some(open));
        }
        let (archives, recent, key) = (self.archives.clone(), self.recent.clone(), key.clone());
        // Decoding takes a while, and has the thread for itself. That goes on when whoever asked has hung
        // up: the turn is the thread's, and what it makes is kept for who asks next.
        let opened = blocking(move || {
            let _turn = turn;
            let Some(mut stored) = Handle::current().block_on(archives.open(&key))? else {
                return Ok(None);
            };
            let copy = match (&stored.archive.storage, stored.whole.take()) {
                (StorageInfo::Oci(_), Some(bytes)) => {
                    let what = || io_error("can't keep a copy of an archive");
                    let mut copy = NamedTempFile::new().map_err(what())?;
                    copy.write_all(&bytes).map_err(what())?;
                    Some(copy)
                }
                _ => None,
            };
            let open = Arc::new(OpenArchive { stored, copy });
            recent.keep(open.clone());
            Ok::<_, PublishError>(Some(open))
        });
        opened.await?
    }

    /// The content of a file of the archive.
    pub async fn file(
        &self,
        open: &OpenArchive,
        node: &Node,
        cancel: &CancellationToken,
    ) -> Result<FileParts, PublishError> {
        let archive = open.archive();
        let parts = match &open.copy {
            Some(copy) => {
                let settings = ReadSettings { oci: self.oci.clone(), ..ReadSettings::default() };
                FileParts::of_layer(copy.path(), archive, node, settings, cancel).await?
            }
            None => FileParts::of_block(&self.archives.data(&open.stored)?, node, cancel).await?,
        };
        Ok(parts)
    }
}

impl ArchiveReader {
    /// The beginnings of many files of the archive, each of which is handed to `take` with its number. How
    /// many were left out, since they are in layers that can't be read at random.
    pub async fn beginnings(
        &self,
        open: &OpenArchive,
        wanted: &[Beginning<'_>],
        cancel: &CancellationToken,
        take: &mut (dyn FnMut(usize, Bytes) + Send),
    ) -> Result<usize, PublishError> {
        let left_out = match &open.copy {
            Some(copy) => {
                of_layers(copy.path(), open.archive(), wanted, &self.oci, cancel, take).await?
            }
            None => of_blocks(&self.archives.data(&open.stored)?, wanted, cancel, take).await?,
        };
        Ok(left_out)
    }
}

impl Recent {
    fn recall(&self, key: &Key, version: &ObjectVersion) -> Option<Arc<OpenArchive>> {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = recent
            .iter()
            .position(|open| open.stored.key == *key && open.stored.seen == *version)?;
        let open = recent.remove(at);
        recent.push(open.clone());
        Some(open)
    }

    fn keep(&self, open: Arc<OpenArchive>) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|other| other.stored.key != open.stored.key);
        recent.push(open);
        let bytes = |recent: &[Arc<OpenArchive>]| -> u64 {
            recent.iter().map(|open| open.index_bytes()).sum()
        };
        while recent.len() > KEPT || bytes(&recent) > KEPT_BYTES {
            recent.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Notify;

    use super::*;
    use crate::publish::archives::Stores;
    use crate::store::{InterceptedStore, Interceptor, Operation, StoreError, StoreSettings};

    /// Holds reads back until it is opened.
    #[derive(Debug)]
    struct Gate {
        reached: Notify,
        passes: Semaphore,
    }

    impl Interceptor for Gate {
        async fn before(&self, operation: Operation) -> Result<(), StoreError> {
            if operation == Operation::Read {
                self.reached.notify_one();
                drop(self.passes.acquire().await);
            }
            Ok(())
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn who_hangs_up_frees_no_turn_before_the_work_is_done() {
        let directory = tempfile::tempdir().unwrap();
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v1-local.clip");
        std::fs::copy(golden, directory.path().join("x.clip")).unwrap();
        let gate = Arc::new(Gate { reached: Notify::new(), passes: Semaphore::new(0) });
        let before = gate.clone();
        let settings = StoreSettings::Directory(directory.path().to_owned());
        let gated = move |objects| Arc::new(InterceptedStore::new(objects, before)) as _;
        let archives = Stores::open(&settings, gated).await.unwrap().archives;
        let reader = ArchiveReader::new(archives, OciSettings::default());
        let key = "x.clip".parse().unwrap();
        tokio::select! {
            opened = reader.open(&key) => panic!("nothing was read: {opened:?}"),
            () = gate.reached.notified() => {}
        }
        assert_eq!(reader.opening.available_permits(), OPENING - 1);
        gate.passes.add_permits(1);
        let all = u32::try_from(OPENING).unwrap();
        let _all = reader.opening.acquire_many(all).await.unwrap();
        assert_eq!(reader.recent.0.lock().unwrap().len(), 1, "what was made is kept");
    }
}
