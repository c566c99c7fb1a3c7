//! The data of a v1 archive: one block a file, in the archive itself or in an S3 object
//! (CONTRACT A.2, A.3). Whatever leaves here was read as a whole block whose type, CRC-64 and
//! SHA-256 are right, or is thrown away by whoever took it.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clip::header;
use crate::clip::node::{FileContent, Node, NodeKind};
use crate::clip::storage_info::{S3StorageInfo, StorageInfo};
use crate::content::ContentError;
use crate::digest::Digest;
use crate::local::blocking;
use crate::local::io_error;
use crate::retry::{RetrySettings, retry};
use crate::store::{self, Key, ObjectStore, S3Settings, StoreError, StoreSettings};

/// Bytes asked of an S3 object at a time.
const PART: u64 = 8 << 20;
/// Parts on their way at a time; as many more may wait for the thread that takes them.
const PARTS_IN_FLIGHT: usize = 3;
/// Blocks that are no further apart are fetched together.
const GAP: u64 = 256 << 10;
/// Bytes of a local archive read at a time.
const BUFFER: usize = 256 << 10;
/// The type of the only kind of block there is.
const BLOCK_FILE: u8 = 0;
/// Bytes of the CRC-64 behind the content.
const CRC: usize = 8;

/// What takes the place of a part of an archive's S3 storage info, as beta9's workers put their own
/// bucket in place of the archive's.
#[derive(Debug, Clone, Default)]
pub struct S3Override {
    /// Bucket.
    pub bucket: Option<String>,
    /// Region.
    pub region: Option<String>,
    /// Base address.
    pub endpoint: Option<String>,
    /// Path-style addresses.
    pub force_path_style: Option<bool>,
    /// Access key and secret key; the ambient AWS chain's when absent.
    pub keys: Option<(SecretString, SecretString)>,
}

/// The bucket that an archive's storage info names, with what takes its place.
pub(super) async fn open_bucket(
    object: &S3StorageInfo,
    settings: &S3Override,
) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let endpoint = settings.endpoint.as_ref().unwrap_or(&object.endpoint);
    store::open(&StoreSettings::S3(S3Settings {
        bucket: settings.bucket.as_ref().unwrap_or(&object.bucket).clone(),
        region: settings.region.as_ref().unwrap_or(&object.region).clone(),
        endpoint: Some(endpoint.clone()).filter(|endpoint| !endpoint.is_empty()),
        force_path_style: settings.force_path_style.unwrap_or(object.force_path_style),
        keys: settings.keys.clone(),
        part_size: S3Settings::DEFAULT_PART_SIZE,
    }))
    .await
}

/// One file's content in the data, as the index tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// The file, for people: one of its names.
    pub(crate) path: String,
    /// Where the content begins.
    pub(crate) offset: u64,
    /// Its length.
    pub(crate) length: u64,
    /// Its SHA-256, when the index says it.
    pub(crate) sha256: Option<Digest>,
}

impl Block {
    /// The block of a node; `None` for what has none.
    pub(crate) fn of(node: &Node) -> Option<Self> {
        match node.kind {
            // Whatever needs no block: upstream's index has no other word for it.
            NodeKind::File(FileContent::Embedded { offset: 0, length: 0, .. }) => None,
            NodeKind::File(FileContent::Embedded { offset, length, sha256 }) => {
                Some(Self { path: node.path.to_string(), offset, length, sha256 })
            }
            _ => None,
        }
    }

    /// All distinct blocks of these nodes, in the order of the data. Names of one block count once.
    pub(crate) fn all<'a>(nodes: impl Iterator<Item = &'a Node>) -> Vec<Self> {
        let mut blocks: Vec<Self> = nodes.filter_map(Self::of).collect();
        blocks.sort_by_key(|block| (block.offset, block.length, block.sha256));
        blocks.dedup_by(|a, b| (a.offset, a.length, a.sha256) == (b.offset, b.length, b.sha256));
        blocks
    }

    /// The whole block with its type byte and CRC, which has to lie between the header and `size`.
    pub(crate) fn extent(&self, size: u64) -> Result<Range<u64>, ContentError> {
        let end = self.offset.checked_add(self.length).and_then(|end| end.checked_add(CRC as u64));
        match end {
            Some(end) if self.offset > header::LENGTH as u64 && end <= size => {
                Ok(self.offset - 1..end)
            }
            _ => Err(self.bad(
                "a place",
                format!("inside the {size} bytes of data"),
                format!("{}+{}", self.offset, self.length),
            )),
        }
    }

    fn bad(&self, what: &'static str, expected: String, found: String) -> ContentError {
        let (path, position) = (self.path.clone(), self.offset);
        ContentError::Block { path, position, what, expected, found }
    }
}

/// The first two of these blocks, which ascend, that share bytes.
pub(crate) fn first_overlap<'a>(
    blocks: impl Iterator<Item = &'a Block>,
) -> Option<(&'a Block, &'a Block)> {
    let mut before: Option<&Block> = None;
    for block in blocks {
        // Between the content of two there are a CRC and a type byte.
        if let Some(before) = before.replace(block)
            && block.offset
                < before.offset.saturating_add(before.length).saturating_add(CRC as u64 + 1)
        {
            return Some((before, block));
        }
    }
    None
}

/// Where the data of a v1 archive are.
#[derive(Debug, Clone)]
pub enum BlockData {
    /// In this file.
    Local(PathBuf),
    /// In an object.
    Object {
        /// Where the object is.
        store: Arc<dyn ObjectStore>,
        /// Its name there.
        key: Key,
    },
}

impl BlockData {
    /// The data of the archive in `file`; `None` if it is no v1 archive.
    pub(crate) async fn open(
        file: &Path,
        storage: &StorageInfo,
        settings: &S3Override,
    ) -> Result<Option<Self>, ContentError> {
        Ok(match storage {
            StorageInfo::Local => Some(Self::Local(file.to_owned())),
            StorageInfo::S3(object) => Some(Self::in_bucket(object, settings).await?),
            StorageInfo::Oci(_) => None,
        })
    }

    async fn in_bucket(
        object: &S3StorageInfo,
        settings: &S3Override,
    ) -> Result<Self, ContentError> {
        let store = open_bucket(object, settings).await?;
        let key = object.key.parse().map_err(|error| ContentError::NotAFile {
            path: object.key.clone(),
            detail: format!("the archive's storage info: {error}"),
        })?;
        Ok(Self::Object { store, key })
    }

    /// For people.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Local(file) => file.display().to_string(),
            Self::Object { store, key } => format!("{key} in {}", store.describe()),
        }
    }

    /// How many bytes there are.
    pub(crate) async fn size(&self) -> Result<u64, ContentError> {
        match self {
            Self::Local(file) => {
                let metadata = tokio::fs::metadata(file).await;
                Ok(metadata.map_err(io_error(format!("can't read {}", self.describe())))?.len())
            }
            Self::Object { store, key } => {
                let missing = || StoreError::NotFound { key: key.clone(), store: store.describe() };
                Ok(store.size(key).await?.ok_or_else(missing)?)
            }
        }
    }

    /// Reads what is in `wanted`, which ascends, while `work` takes it on a thread of its own.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        wanted: &[Range<u64>],
        cancel: &CancellationToken,
        work: impl FnOnce(BlockReader) -> Result<T, ContentError> + Send + 'static,
    ) -> Result<T, ContentError> {
        let (store, key) = match self {
            Self::Local(file) => {
                let what = format!("can't read {}", file.display());
                let file = File::open(file).map_err(io_error(what))?;
                let cancel = cancel.clone();
                return blocking(move || work(BlockReader::new(Supply::File(file), cancel)))
                    .await?;
            }
            Self::Object { store, key } => (store, key),
        };
        let mut parts = stream::iter(parts(wanted))
            .map(|part| self.part(store.as_ref(), key, part, cancel))
            .buffered(PARTS_IN_FLIGHT);
        let (sender, received) = mpsc::channel(PARTS_IN_FLIGHT);
        let token = cancel.clone();
        let working =
            tokio::spawn(blocking(move || work(BlockReader::new(Supply::Parts(received), token))));
        let mut failure = None;
        while let Some(part) = parts.next().await {
            match part {
                Ok(part) => {
                    if sender.send(part).await.is_err() {
                        break; // the work has given up and says why
                    }
                }
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        drop(sender);
        let done = working
            .await
            .map_err(|error| io_error("a helper thread died")(io::Error::other(error)))??;
        // What could not be fetched looks to the work like the end of the data.
        failure.map_or(done, Err)
    }

    async fn part(
        &self,
        store: &dyn ObjectStore,
        key: &Key,
        part: Range<u64>,
        cancel: &CancellationToken,
    ) -> Result<(u64, Bytes), ContentError> {
        let settings = RetrySettings { attempts: 3, ..RetrySettings::default() };
        let read = || async {
            Ok::<_, ContentError>(store.read(key, part.start, part.end - part.start).await?)
        };
        Ok((part.start, retry(&settings, cancel, read).await?))
    }
}

/// What to fetch for these ranges, which ascend: neighbours together, long ones in parts.
fn parts(wanted: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut parts: Vec<Range<u64>> = Vec::new();
    for range in wanted {
        let mut start = range.start;
        if let Some(last) = parts.last_mut() {
            start = start.max(last.end.min(range.end));
            let room = (last.start + PART).min(range.end);
            if start <= last.end.saturating_add(GAP) && room > last.end {
                last.end = room;
                start = start.max(room);
            }
        }
        while start < range.end {
            let end = range.end.min(start + PART);
            parts.push(start..end);
            start = end;
        }
    }
    parts
}

/// The blocking end: blocks, one after the other, in the order of the data.
pub(crate) struct BlockReader {
    supply: Supply,
    cancel: CancellationToken,
    /// What is at hand, and where it begins.
    at_hand: Bytes,
    start: u64,
    /// Where the data end, if somebody has said it.
    end: u64,
}

enum Supply {
    File(File),
    Parts(mpsc::Receiver<(u64, Bytes)>),
    Look(Look),
}

/// Gives the bytes of the data in a range.
type Look = Box<dyn FnMut(Range<u64>) -> io::Result<Vec<u8>> + Send>;

impl BlockReader {
    fn new(supply: Supply, cancel: CancellationToken) -> Self {
        Self { supply, cancel, at_hand: Bytes::new(), start: 0, end: u64::MAX }
    }

    /// Reads what `look` gives of the data up to `end`.
    pub(super) fn of(
        look: impl FnMut(Range<u64>) -> io::Result<Vec<u8>> + Send + 'static,
        end: u64,
    ) -> Self {
        let supply = Supply::Look(Box::new(look));
        Self { end, ..Self::new(supply, CancellationToken::new()) }
    }

    /// Hands a block's content to `out`, piece by piece, then checks all of it and gives its
    /// SHA-256: only after success may it be used. A block that is wrong is
    /// [`ContentError::Block`]; the next one can be read all the same.
    pub(crate) fn block(
        &mut self,
        block: &Block,
        out: &mut dyn FnMut(&[u8]) -> Result<(), ContentError>,
    ) -> Result<Digest, ContentError> {
        let mut kind = [0];
        self.exactly(block, block.offset - 1, &mut kind)?;
        let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64GoIso);
        let mut sha256 = Sha256::new();
        let (mut at, end) = (block.offset, block.offset + block.length);
        while at < end {
            let bytes = self.some(block, at, end - at)?;
            crc.update(&bytes);
            sha256.update(&bytes);
            out(&bytes)?;
            at += bytes.len() as u64;
        }
        let mut stored = [0; CRC];
        self.exactly(block, end, &mut stored)?;
        if kind != [BLOCK_FILE] {
            return Err(block.bad("type", BLOCK_FILE.to_string(), kind[0].to_string()));
        }
        let (stored, found) = (u64::from_be_bytes(stored), crc.finalize());
        if stored != found {
            return Err(block.bad("CRC-64", format!("{stored:016x}"), format!("{found:016x}")));
        }
        let found = Digest::from_hasher(sha256);
        match block.sha256 {
            Some(expected) if expected != found => {
                Err(block.bad("SHA-256", expected.hex(), found.hex()))
            }
            _ => Ok(found),
        }
    }

    fn exactly(&mut self, block: &Block, at: u64, buffer: &mut [u8]) -> Result<(), ContentError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let wanted = (buffer.len() - filled) as u64;
            let bytes = self.some(block, at + filled as u64, wanted)?;
            buffer[filled..filled + bytes.len()].copy_from_slice(&bytes);
            filled += bytes.len();
        }
        Ok(())
    }

    /// At least one byte from `at` on, at most `limit`.
    fn some(&mut self, block: &Block, at: u64, limit: u64) -> Result<Bytes, ContentError> {
        loop {
            let behind = at.checked_sub(self.start).and_then(|behind| usize::try_from(behind).ok());
            if let Some(behind) = behind
                && behind < self.at_hand.len()
            {
                let left = self.at_hand.len() - behind;
                let length = usize::try_from(limit).map_or(left, |limit| left.min(limit));
                return Ok(self.at_hand.slice(behind..behind + length));
            }
            if self.cancel.is_cancelled() {
                return Err(ContentError::Cancelled);
            }
            (self.start, self.at_hand) = match &mut self.supply {
                Supply::Parts(parts) => parts.blocking_recv().unwrap_or_default(),
                Supply::Look(look) => {
                    let end = self.end.min(at.saturating_add(BUFFER as u64));
                    let bytes = look(at..end).map_err(io_error("can't read the archive's data"))?;
                    (at, bytes.into())
                }
                Supply::File(file) => {
                    let mut buffer = vec![0; BUFFER];
                    let read = file.read_at(&mut buffer, at);
                    let read = read.map_err(io_error("can't read the archive's data"))?;
                    buffer.truncate(read);
                    (at, buffer.into())
                }
            };
            if self.at_hand.is_empty() {
                let expected = format!("{} bytes", block.length);
                return Err(block.bad("content", expected, format!("the data's end at {at}")));
            }
        }
    }
}

#[cfg(test)]
mod tests;
