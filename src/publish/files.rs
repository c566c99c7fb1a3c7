//! Archives that are read where they lie: their trees, and the bytes of single files. Those that were read
//! last are kept open, since who looks at one file mostly looks at the next.

use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError};

use tempfile::NamedTempFile;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::clip::node::Node;
use crate::clip::reader::Archive;
use crate::clip::storage_info::StorageInfo;
use crate::content::{ContentError, FileParts, ReadSettings};
use crate::local::{blocking, io_error};
use crate::oci::OciSettings;
use crate::publish::PublishError;
use crate::publish::archives::ArchiveStore;
use crate::publish::stored::StoredArchive;
use crate::store::{Key, ObjectVersion};

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
    /// The one that was used last comes last.
    recent: Mutex<Vec<Arc<OpenArchive>>>,
    opening: Semaphore,
}

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

    fn index_bytes(&self) -> u64 {
        let index = &self.stored.archive.header.index;
        index.end - index.start
    }
}

impl ArchiveReader {
    /// Of archives in `archives`, whose layers are fetched by `oci`: nobody's credentials are used but
    /// those that the settings have for anybody.
    pub fn new(archives: Arc<dyn ArchiveStore>, oci: OciSettings) -> Self {
        let (recent, opening) = (Mutex::default(), Semaphore::new(OPENING));
        Self { archives, oci, recent, opening }
    }

    /// Opens the archive called `key`; `None` if there is none.
    pub async fn open(&self, key: &Key) -> Result<Option<Arc<OpenArchive>>, PublishError> {
        let Some(found) = self.archives.stat(key).await? else { return Ok(None) };
        if let Some(open) = self.recall(key, &found.version) {
            return Ok(Some(open));
        }
        let _turn = self.opening.acquire().await.map_err(|_| ContentError::Cancelled)?;
        // Somebody else may have opened it meanwhile.
        if let Some(open) = self.recall(key, &found.version) {
            return Ok(Some(open));
        }
        let (archives, key) = (self.archives.clone(), key.clone());
        // Decoding takes a while, and has the thread for itself.
        let opened = blocking(move || {
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
            Ok::<_, PublishError>(Some(Arc::new(OpenArchive { stored, copy })))
        });
        let opened = opened.await??;
        if let Some(open) = &opened {
            self.keep(open.clone());
        }
        Ok(opened)
    }

    fn recall(&self, key: &Key, version: &ObjectVersion) -> Option<Arc<OpenArchive>> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let at = recent
            .iter()
            .position(|open| open.stored.key == *key && open.stored.seen == *version)?;
        let open = recent.remove(at);
        recent.push(open.clone());
        Some(open)
    }

    fn keep(&self, open: Arc<OpenArchive>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.retain(|other| other.stored.key != open.stored.key);
        recent.push(open);
        let bytes = |recent: &[Arc<OpenArchive>]| -> u64 {
            recent.iter().map(|open| open.index_bytes()).sum()
        };
        while recent.len() > KEPT || bytes(&recent) > KEPT_BYTES {
            recent.remove(0);
        }
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
