//! The files of a v1 archive: in the archive itself, or in an S3 object that is read in chunks.
//!
//! There is a checksum for each file and none for its parts. A file of moderate size is brought and
//! checked whole before a byte of it is served. Of a larger one, parts are served as they come; when
//! all of it has come it is checked, and if it is wrong its chunks leave the cache and it can't be
//! read any more.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use foldhash::{HashMap, HashSet};
use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::flight::{LOOK, OTHERS};
use super::{LazyShared, RecentSpans};
use crate::clip::storage_info::StorageInfo;
use crate::content::ContentError;
use crate::content::blocks::{Block, BlockData, BlockReader, S3Override};
use crate::digest::Digest;
use crate::local::{blocking, io_error};
use crate::retry::{RetrySettings, retry};
use crate::store::{Key, ObjectStore};

/// Bytes of a chunk: small enough to come soon, large enough that the files of a directory, which
/// are neighbours in the data, come together.
const CHUNK: u64 = 2 << 20;
/// Files up to this size are checked before they are served.
const WHOLE: u64 = 16 << 20;

/// The data of a v1 archive. Clones share everything.
#[derive(Debug, Clone)]
pub struct LazyBlocks(Arc<Data>);

#[derive(Debug)]
struct Data {
    origin: Origin,
    size: u64,
    shared: LazyShared,
    /// Which chunks a reader has touched.
    touched: Mutex<HashSet<u64>>,
    recent: RecentSpans,
    coming: Mutex<HashMap<u64, Coming>>,
    /// By where their content begins; with where it ends.
    verdicts: Mutex<HashMap<u64, (u64, Verdict)>>,
}

type Coming = Shared<BoxFuture<'static, Result<(), Arc<ContentError>>>>;

#[derive(Debug)]
enum Origin {
    Local(File),
    Object { store: Arc<dyn ObjectStore>, key: Key, identity: Digest },
}

/// What is known of a file.
#[derive(Debug, Clone)]
enum Verdict {
    /// Somebody is checking it, or waits for the rest of it.
    Open,
    Right,
    Wrong(Arc<ContentError>),
}

impl LazyBlocks {
    /// The data that the archive in `file`, with this storage info, has or points to; its index tells
    /// of nothing past `end`. With `check`, an object in S3 is asked whether it is there and as long.
    /// `None`: it is no v1 archive.
    pub(crate) async fn open(
        file: &Path,
        storage: &StorageInfo,
        settings: &S3Override,
        end: u64,
        check: bool,
        shared: LazyShared,
    ) -> Result<Option<Self>, ContentError> {
        let Some(blocks) = BlockData::open(file, storage, settings).await? else {
            return Ok(None);
        };
        let what = || format!("can't read {}", file.display());
        let mut size = end;
        let origin = match &blocks {
            BlockData::Local(file) => {
                size = blocks.size().await?;
                Origin::Local(File::open(file).map_err(io_error(what()))?)
            }
            BlockData::Object { store, key } => {
                if check {
                    shared.counters().requested();
                    let found = blocks.size().await?;
                    if found < end {
                        let path = blocks.describe();
                        let detail = format!("the archive tells of {end} bytes, it has {found}");
                        return Err(ContentError::Claim { path, detail });
                    }
                }
                // The same object may be another one tomorrow; then its archive is another too.
                let archive = tokio::fs::read(file).await.map_err(io_error(what()))?;
                let place = format!("{key} in {} of {end}\0", store.describe());
                let archive = Digest::of(&archive);
                let of =
                    [&b"clipwright chunk\0"[..], archive.as_bytes(), place.as_bytes()].concat();
                Origin::Object { store: store.clone(), key: key.clone(), identity: Digest::of(&of) }
            }
        };
        Ok(Some(Self(Arc::new(Data {
            origin,
            size,
            shared,
            touched: Mutex::default(),
            recent: RecentSpans::default(),
            coming: Mutex::default(),
            verdicts: Mutex::default(),
        }))))
    }

    /// The bytes of a file's content in `range`, which counts from the content's beginning, if
    /// nobody has to be asked or waited for. Blocks: reads files.
    pub(crate) fn at_hand(&self, block: &Block, range: &Range<u64>) -> Option<Vec<u8>> {
        if !matches!(self.0.verdict(block), Some(Verdict::Right)) {
            return None;
        }
        self.0.look(&in_data(block, range))
    }

    /// The bytes of a file's content in `range`, which counts from the content's beginning.
    pub(crate) async fn read(
        &self,
        block: &Block,
        range: Range<u64>,
    ) -> Result<Vec<u8>, ContentError> {
        let data = &self.0;
        let extent = block.extent(data.size)?;
        let whole = extent.end - extent.start <= WHOLE;
        match data.verdict(block) {
            Some(Verdict::Wrong(error)) => return Err(ContentError::Shared(error)),
            Some(Verdict::Right) => {}
            _ if whole => {
                data.bring(&extent).await?;
                data.clone().check(block.clone()).await?;
            }
            _ => {}
        }
        let wanted = in_data(block, &range);
        data.bring(&wanted).await?;
        if !whole && data.verdict(block).is_none() {
            data.clone().check_when_complete(block.clone(), extent);
        }
        let (looking, place) = (data.clone(), wanted.clone());
        if let Some(bytes) = blocking(move || looking.look(&place)).await? {
            return Ok(bytes);
        }
        // What was kept is gone again: then straight from where it is.
        data.fetch(&wanted).await.map(Vec::from)
    }

    /// How many bytes there are to be fetched, those between files included.
    pub(crate) fn size(&self) -> u64 {
        match self.0.origin {
            Origin::Local(_) => 0,
            Origin::Object { .. } => self.0.size,
        }
    }

    /// Brings the chunks that hold `range`, which is within the data.
    pub(crate) async fn fetch_ahead(&self, range: Range<u64>) -> Result<(), ContentError> {
        self.0.bring(&range).await
    }
}

fn in_data(block: &Block, range: &Range<u64>) -> Range<u64> {
    block.offset.saturating_add(range.start)..block.offset.saturating_add(range.end)
}

impl Data {
    fn verdict(&self, block: &Block) -> Option<Verdict> {
        let verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.get(&block.offset).map(|(_, verdict)| verdict.clone())
    }

    fn judge(&self, block: &Block, verdict: Verdict) {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.insert(block.offset, (block.offset.saturating_add(block.length), verdict));
    }

    /// The bytes of the data in `range`, if they are on this machine.
    fn look(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).ok()?];
        let (cache, identity) = match &self.origin {
            Origin::Local(file) => {
                file.read_exact_at(&mut bytes, range.start).ok()?;
                return Some(bytes);
            }
            Origin::Object { identity, .. } => (self.shared.cache(), identity),
        };
        for chunk in range.start / CHUNK..range.end.div_ceil(CHUNK) {
            let place = self.place(chunk);
            self.touch(chunk, &place);
            let (from, until) = (range.start.max(place.start), range.end.min(place.end));
            let at = |offset: u64| usize::try_from(offset).ok();
            let part = &mut bytes[at(from - range.start)?..at(until - range.start)?];
            let key = chunk_key(identity, chunk);
            if let Some(kept) = self.recent.get(&key) {
                part.copy_from_slice(kept.get(at(from - place.start)?..at(until - place.start)?)?);
                self.shared.counters().hit_memory();
            } else {
                let entry = cache?.get(&key, place.end - place.start)?;
                entry.read_exact_at(part, from - place.start).ok()?;
                self.shared.counters().hit_disk();
            }
        }
        Some(bytes)
    }

    fn touch(&self, chunk: u64, place: &Range<u64>) {
        if self.touched.lock().unwrap_or_else(PoisonError::into_inner).insert(chunk) {
            self.shared.0.touches.note(None, place.clone());
        }
    }

    fn place(&self, chunk: u64) -> Range<u64> {
        let start = chunk * CHUNK;
        start..(start + CHUNK).min(self.size)
    }

    /// Sees to it that the chunks that hold `range` are on this machine.
    async fn bring(self: &Arc<Self>, range: &Range<u64>) -> Result<(), ContentError> {
        let Origin::Object { identity, .. } = &self.origin else { return Ok(()) };
        let mut coming = Vec::new();
        for chunk in range.start / CHUNK..range.end.min(self.size).div_ceil(CHUNK) {
            let key = chunk_key(identity, chunk);
            let kept = self.recent.get(&key).is_some()
                || self.shared.cache().is_some_and(|cache| cache.contains(&key));
            if !kept {
                coming.push(self.chunk(chunk, key));
            }
        }
        // All are on their way before the first is waited for.
        for chunk in coming {
            chunk.await.map_err(ContentError::Shared)?;
        }
        Ok(())
    }

    /// Whoever brings a chunk already, or a new task.
    fn chunk(self: &Arc<Self>, chunk: u64, key: Digest) -> Coming {
        let mut coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(coming) = coming.get(&chunk) {
            return coming.clone();
        }
        let (data, place) = (self.clone(), self.place(chunk));
        let task = tokio::spawn(async move {
            let brought = data.bring_chunk(&place, key).await;
            data.coming.lock().unwrap_or_else(PoisonError::into_inner).remove(&chunk);
            brought
        });
        let arrived = async move {
            let brought = task.await.unwrap_or_else(|died| {
                Err(io_error("a task that reads a chunk died")(io::Error::other(died)).into())
            });
            brought.map_err(Arc::new)
        };
        coming.entry(chunk).or_insert(arrived.boxed().shared()).clone()
    }

    /// Fetches a chunk and keeps it, unless another process of the machine does.
    async fn bring_chunk(
        self: &Arc<Self>,
        place: &Range<u64>,
        key: Digest,
    ) -> Result<(), ContentError> {
        let late = Instant::now() + OTHERS;
        let _claim = loop {
            let Some(cache) = self.shared.cache() else { break None };
            // In this order: who gives a claim back has kept the entry before.
            let claim = cache.claim(&key);
            if cache.contains(&key) {
                self.distrust(place);
                return Ok(());
            }
            if claim.is_some() || Instant::now() >= late {
                break claim;
            }
            tokio::time::sleep(LOOK).await;
        };
        let bytes = self.fetch(place).await?;
        self.distrust(place);
        let keeping = self.clone();
        Ok(blocking(move || keeping.keep(key, bytes)).await?)
    }

    fn keep(&self, key: Digest, bytes: Bytes) {
        if !self.shared.cache().is_some_and(|cache| cache.put(&key, &bytes)) {
            self.recent.insert(key, bytes);
        }
    }

    /// What came anew was not checked yet.
    fn distrust(&self, place: &Range<u64>) {
        let mut verdicts = self.verdicts.lock().unwrap_or_else(PoisonError::into_inner);
        verdicts.retain(|start, (end, verdict)| {
            let touched = *start < place.end && place.start < *end;
            !touched || !matches!(verdict, Verdict::Right)
        });
    }

    async fn fetch(&self, range: &Range<u64>) -> Result<Bytes, ContentError> {
        let Origin::Object { store, key, .. } = &self.origin else {
            let short = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(io_error("the archive's data are cut short")(short).into());
        };
        let settings = RetrySettings { attempts: 4, ..RetrySettings::default() };
        let counters = self.shared.counters();
        let read = || async {
            counters.requested();
            Ok::<_, ContentError>(store.read(key, range.start, range.end - range.start).await?)
        };
        let bytes = retry(&settings, &CancellationToken::new(), read).await?;
        counters.received(bytes.len());
        if bytes.len() as u64 == range.end - range.start {
            return Ok(bytes);
        }
        let short = io::Error::from(io::ErrorKind::UnexpectedEof);
        Err(io_error(format!("{key} is shorter than it was"))(short).into())
    }

    /// Checks a file that is on this machine.
    async fn check(self: Arc<Self>, block: Block) -> Result<(), ContentError> {
        let checking = self.clone();
        let verdict = blocking(move || {
            let extent = block.extent(checking.size)?;
            let looking = checking.clone();
            let look = move |range: Range<u64>| {
                looking.look(&range).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            };
            let mut reader = BlockReader::of(look, extent.end);
            let checked = reader.block(&block, &mut |_| Ok(())).map(drop);
            match checked {
                Ok(()) => checking.judge(&block, Verdict::Right),
                Err(error @ ContentError::Block { .. }) => {
                    let error = Arc::new(error);
                    checking.throw_away(&block);
                    // What is on this disk does not become better by reading it again.
                    if matches!(checking.origin, Origin::Local(_)) {
                        checking.judge(&block, Verdict::Wrong(error.clone()));
                    }
                    return Err(ContentError::Shared(error));
                }
                Err(error) => return Err(error),
            }
            Ok(())
        });
        verdict.await?
    }

    /// Checks a large file in the background, once all of it is there.
    fn check_when_complete(self: Arc<Self>, block: Block, extent: Range<u64>) {
        if let Origin::Object { identity, .. } = &self.origin {
            let missing = |chunk| {
                let key = chunk_key(identity, chunk);
                !self.shared.cache().is_some_and(|cache| cache.contains(&key))
            };
            if (extent.start / CHUNK..extent.end.div_ceil(CHUNK)).any(missing) {
                return;
            }
        }
        self.judge(&block, Verdict::Open);
        tokio::spawn(async move {
            if let Err(error) = self.clone().check(block.clone()).await {
                tracing::error!(%error, "a file that was read already is wrong");
                self.judge(&block, Verdict::Wrong(Arc::new(error)));
            }
        });
    }

    fn throw_away(&self, block: &Block) {
        let Origin::Object { identity, .. } = &self.origin else { return };
        for chunk in block.offset / CHUNK..=block.offset.saturating_add(block.length) / CHUNK {
            let key = chunk_key(identity, chunk);
            self.recent.remove(&key);
            if let Some(cache) = self.shared.cache() {
                cache.remove(&key);
            }
        }
    }
}

fn chunk_key(identity: &Digest, chunk: u64) -> Digest {
    Digest::of(&[&identity.as_bytes()[..], &chunk.to_le_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::SpanCache;
    use crate::store::DirectoryStore;

    /// What another process is about to keep is not fetched beside it.
    #[tokio::test(start_paused = true)]
    async fn a_chunk_is_fetched_by_one_process_of_the_machine() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirectoryStore::open(dir.path()).await.unwrap();
        let (identity, key) = (Digest::of(b"object"), "absent.clip".parse().unwrap());
        let (other, own) =
            (SpanCache::open(dir.path(), 1 << 30), SpanCache::open(dir.path(), 1 << 30));
        let shared = LazyShared::new(Some(own));
        let data = Arc::new(Data {
            origin: Origin::Object { store: Arc::new(store), key, identity },
            size: 3,
            shared: shared.clone(),
            touched: Mutex::default(),
            recent: RecentSpans::default(),
            coming: Mutex::default(),
            verdicts: Mutex::default(),
        });
        let chunk = chunk_key(&identity, 0);
        let claim = other.claim(&chunk).unwrap();
        let range = 0..3;
        let mut bringing = std::pin::pin!(data.bring(&range));
        assert!(tokio::time::timeout(3 * LOOK, &mut bringing).await.is_err());
        assert!(other.put(&chunk, b"abc"));
        drop(claim);
        bringing.await.unwrap();
        assert_eq!(data.look(&(0..3)).unwrap(), b"abc");
        assert_eq!(shared.counters().report().clip_range_get_count, 0);
    }
}
