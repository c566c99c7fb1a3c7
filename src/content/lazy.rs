//! A layer of which only what is read is fetched: from memory, from the cache on disk, from whoever
//! fetches the same already, else from its source, span by span.

/// The files of v1 archives.
mod blocks;
/// What was done for the readers of a mount.
mod counters;
/// Neighbouring spans on their way.
mod flight;
/// What is fetched before it is read.
mod prefetch;
/// Spans in memory.
mod recent;
/// What is touched, and when.
mod touches;
/// Layers that are read whole.
mod whole;
/// Files that the kernel reads past us.
mod whole_files;

use std::collections::hash_map::Entry as Slot;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use foldhash::HashMap;
use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use tokio::sync::{oneshot, watch};

use crate::content::ContentError;
use crate::content::span_cache::{Claim, Entry, SpanCache};
use crate::content::spans::{SpanMemory, SpanReader};
use crate::digest::Digest;
use crate::local::io_error;

pub use blocks::LazyBlocks;
pub use counters::{Counters, Report};
pub use prefetch::{Prefetcher, Priority};
pub use touches::Touch;
pub use whole::WholeLayer;

use flight::Flight;
use recent::RecentSpans;
use touches::Touches;

/// How long the end of a mount waits for what is still being written.
const SETTLING: Duration = Duration::from_secs(5);

/// What the layers of a mount share. Clones are the same.
#[derive(Debug, Clone)]
pub struct LazyShared(Arc<SharedState>);

#[derive(Debug)]
struct SharedState {
    cache: Option<SpanCache>,
    recent: RecentSpans,
    /// For what somebody waits for, and for what is fetched ahead.
    memory: [SpanMemory; 2],
    counters: Counters,
    touches: Touches,
    /// How many readers wait.
    waiting: watch::Sender<usize>,
    /// How many spans have come and are not kept yet.
    landing: watch::Sender<usize>,
}

impl LazyShared {
    /// Keeps spans in `cache`.
    pub fn new(cache: Option<SpanCache>) -> Self {
        Self(Arc::new(SharedState {
            cache,
            recent: RecentSpans::default(),
            memory: <[SpanMemory; 2]>::default(),
            counters: Counters::default(),
            touches: Touches::default(),
            waiting: watch::Sender::default(),
            landing: watch::Sender::default(),
        }))
    }

    /// What was done.
    pub fn counters(&self) -> &Counters {
        &self.0.counters
    }

    /// Notes from now on, and for that long, what is touched for the first time.
    pub fn note_touches(&self, time: Duration) {
        self.0.touches.note_for(time);
    }

    /// Notes no more.
    pub fn stop_noting(&self) {
        self.0.touches.note_for(Duration::ZERO);
    }

    /// Whether what is touched is noted at this moment.
    pub fn is_noting(&self) -> bool {
        self.0.touches.is_noting()
    }

    /// For how long nothing was touched for the first time; `None` before the first touch, or if nothing is noted.
    pub fn quiet_for(&self) -> Option<Duration> {
        self.0.touches.quiet_for()
    }

    /// What was touched.
    pub fn touches(&self) -> Vec<Touch> {
        self.0.touches.so_far()
    }

    /// Waits until what has come is kept, but not for ever.
    pub async fn settled(&self) {
        let mut landing = self.0.landing.subscribe();
        let _ = tokio::time::timeout(SETTLING, landing.wait_for(|landing| *landing == 0)).await;
    }

    /// The cache.
    pub fn cache(&self) -> Option<&SpanCache> {
        self.0.cache.as_ref()
    }
}

/// A layer whose spans are known. Clones share everything.
#[derive(Debug, Clone)]
pub struct LazyLayer(Arc<Layer>);

#[derive(Debug)]
struct Layer {
    reader: SpanReader,
    shared: LazyShared,
    /// Spans that are on their way, by index.
    coming: Mutex<HashMap<usize, Coming>>,
    /// Which spans a reader has touched.
    touched: Box<[AtomicBool]>,
}

/// A span that is on its way.
#[derive(Debug, Clone)]
struct Coming {
    plain: Shared<BoxFuture<'static, Result<Bytes, Arc<ContentError>>>>,
    /// Says that somebody waits for it.
    wanted: watch::Sender<bool>,
    ahead: bool,
}

/// The plain bytes of a span, where they are at hand.
#[derive(Debug, Clone)]
enum AtHand {
    Disk(Arc<Entry>),
    Memory(Bytes),
}

/// The sender's end of [`Coming`].
type Arrival = oneshot::Sender<Result<Bytes, Arc<ContentError>>>;

impl LazyLayer {
    /// Reads through `reader`.
    pub fn new(reader: SpanReader, shared: LazyShared) -> Self {
        let touched = reader.spans().entries().iter().map(|_| AtomicBool::new(false)).collect();
        Self(Arc::new(Layer { reader, shared, coming: Mutex::default(), touched }))
    }

    /// Digest of the compressed layer.
    pub fn digest(&self) -> Digest {
        self.0.reader.0.digest
    }

    /// The spans that hold these plain bytes.
    pub fn holding(&self, range: &Range<u64>) -> Result<Range<usize>, ContentError> {
        self.0.reader.0.holding(range)
    }

    /// How many spans there are.
    pub fn spans(&self) -> usize {
        self.0.reader.spans().entries().len()
    }

    /// Whether these plain bytes can be read at random ([`SpanReader::is_seekable`]).
    pub fn is_seekable(&self, range: &Range<u64>) -> bool {
        self.0.reader.is_seekable(range)
    }

    /// The plain bytes in `range`, if nobody has to be asked or waited for. Blocks: reads files.
    pub fn at_hand(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let spans = self.holding(range).ok()?;
        let mut out = Vec::with_capacity(usize::try_from(range.end - range.start).ok()?);
        for span in spans {
            self.0.touch(span);
            let at_hand = self.0.at_hand(span)?;
            self.0.append(span, &at_hand, range, &mut out).ok()?;
        }
        Some(out)
    }

    /// The plain bytes in `range`.
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<u8>, ContentError> {
        let spans = self.holding(&range)?;
        let _waiting = Counted::new(&self.0.shared.0.waiting);
        // All that is missing is asked for before anything is waited for.
        let found: Vec<_> = self.find(spans.clone(), false).await?;
        let mut out = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap_or(0));
        for (span, found) in spans.zip(found) {
            let at_hand = match found {
                Found::AtHand(at_hand) => at_hand,
                Found::Coming(coming) => AtHand::Memory(self.arrival(span, coming).await?),
            };
            self.0.append(span, &at_hand, &range, &mut out)?;
        }
        Ok(out)
    }

    /// Fetches those of `spans` that are not at hand, and waits until they have come.
    pub(crate) async fn fetch_ahead(&self, spans: Range<usize>) -> Result<(), ContentError> {
        for found in self.find(spans, true).await? {
            if let Found::Coming(coming) = found {
                coming.plain.await.map_err(ContentError::Shared)?;
            }
        }
        Ok(())
    }

    /// Waits for a span. What was fetched ahead of its readers is asked for once more by them.
    async fn arrival(&self, span: usize, coming: Coming) -> Result<Bytes, ContentError> {
        coming.wanted.send_replace(true);
        match coming.plain.await {
            Ok(plain) => return Ok(plain),
            Err(error) if !coming.ahead => return Err(ContentError::Shared(error)),
            Err(_) => {}
        }
        match self.find(span..span + 1, false).await?.pop() {
            Some(Found::Coming(coming)) => {
                coming.wanted.send_replace(true);
                coming.plain.await.map_err(ContentError::Shared)
            }
            _ => self.0.plain_at_hand(span).ok_or(ContentError::Cancelled),
        }
    }

    /// Where each of `spans` is; what is nowhere is asked for, neighbours together.
    async fn find(&self, spans: Range<usize>, ahead: bool) -> Result<Vec<Found>, ContentError> {
        let layer = self.0.clone();
        // Files are looked at, and checked when they are opened.
        let looking = tokio::task::spawn_blocking(move || {
            spans.map(|span| (span, layer.at_hand(span))).collect::<Vec<_>>()
        });
        let looked = looking.await.map_err(|died| self.0.reader.0.died(&died))?;
        let mut found = Vec::with_capacity(looked.len());
        let mut run: Vec<(usize, Arrival)> = Vec::new();
        let wanted = watch::Sender::new(!ahead);
        let mut coming = self.0.coming.lock().unwrap_or_else(PoisonError::into_inner);
        for (span, at_hand) in looked {
            // It may have come since.
            let at_hand = at_hand.or_else(|| self.0.came(span, &coming));
            if let Some(at_hand) = at_hand {
                found.push(Found::AtHand(at_hand));
                continue;
            }
            let slot = match coming.entry(span) {
                Slot::Occupied(slot) => slot.get().clone(),
                Slot::Vacant(slot) => {
                    let (arrival, arrived) = oneshot::channel();
                    if run.last().is_some_and(|(last, _)| last + 1 != span) {
                        self.depart(std::mem::take(&mut run), &wanted);
                    }
                    run.push((span, arrival));
                    let plain = arrived.map(|arrived| {
                        arrived.unwrap_or_else(|_| Err(Arc::new(ContentError::Cancelled)))
                    });
                    let plain = plain.boxed().shared();
                    slot.insert(Coming { plain, wanted: wanted.clone(), ahead }).clone()
                }
            };
            found.push(Found::Coming(slot));
        }
        self.depart(run, &wanted);
        Ok(found)
    }

    fn depart(&self, run: Vec<(usize, Arrival)>, wanted: &watch::Sender<bool>) {
        if !run.is_empty() {
            tokio::spawn(Flight::new(self.0.clone(), run, wanted.subscribe()).run());
        }
    }
}

enum Found {
    AtHand(AtHand),
    Coming(Coming),
}

impl Layer {
    fn key(&self, span: usize) -> Option<Digest> {
        self.reader.spans().identity(span)
    }

    fn at_hand(&self, span: usize) -> Option<AtHand> {
        let key = self.key(span)?;
        let shared = &self.shared.0;
        if let Some(plain) = shared.recent.get(&key) {
            shared.counters.hit_memory();
            return Some(AtHand::Memory(plain));
        }
        let entry = &self.reader.spans().entries()[span];
        let found = shared.cache.as_ref()?.get(&key, entry.plain.end - entry.plain.start)?;
        shared.counters.hit_disk();
        Some(AtHand::Disk(found))
    }

    /// Claims the right to fetch a span, as far as there is a cache to keep it in; an error: another
    /// process of the machine is at it.
    fn claim(&self, span: usize) -> Result<Option<Claim>, ()> {
        match (&self.shared.0.cache, self.key(span)) {
            (Some(cache), Some(key)) => cache.claim(&key).map(Some).ok_or(()),
            _ => Ok(None),
        }
    }

    /// All plain bytes of a span that is at hand.
    fn plain_at_hand(&self, span: usize) -> Option<Bytes> {
        match self.at_hand(span)? {
            AtHand::Memory(plain) => Some(plain),
            at_hand @ AtHand::Disk(_) => {
                let plain = self.reader.spans().entries()[span].plain.clone();
                let mut out = Vec::new();
                self.append(span, &at_hand, &plain, &mut out).ok()?;
                Some(out.into())
            }
        }
    }

    /// A span that was not at hand, and is not coming (any more). Looks at files only if there is
    /// one: most often there is none.
    fn came(&self, span: usize, coming: &HashMap<usize, Coming>) -> Option<AtHand> {
        if coming.contains_key(&span) {
            return None;
        }
        let key = self.key(span)?;
        let shared = &self.shared.0;
        let is_there = shared.recent.get(&key).is_some()
            || shared.cache.as_ref().is_some_and(|cache| cache.contains(&key));
        if is_there { self.at_hand(span) } else { None }
    }

    fn touch(&self, span: usize) {
        if !self.touched[span].swap(true, Ordering::Relaxed) {
            let plain = self.reader.spans().entries()[span].plain.clone();
            self.shared.0.touches.note(Some(self.reader.0.digest), plain);
        }
    }

    /// Appends what of `range` is in `span`.
    fn append(
        &self,
        span: usize,
        at_hand: &AtHand,
        range: &Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), ContentError> {
        let plain = &self.reader.spans().entries()[span].plain;
        let from = range.start.max(plain.start) - plain.start;
        let until = range.end.min(plain.end).saturating_sub(plain.start);
        let length = usize::try_from(until.saturating_sub(from)).unwrap_or(0);
        match at_hand {
            AtHand::Disk(entry) => {
                let start = out.len();
                out.resize(start + length, 0);
                let read = entry.read_exact_at(&mut out[start..], from);
                read.map_err(io_error("can't read the cache"))?;
            }
            AtHand::Memory(bytes) => {
                let from = usize::try_from(from).unwrap_or(usize::MAX);
                let part = bytes.get(from..from.saturating_add(length));
                let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
                out.extend_from_slice(part.ok_or_else(short).map_err(io_error("a span is short"))?);
            }
        }
        Ok(())
    }

    /// Keeps a span that came, and says that it is not on its way any more.
    fn keep(&self, span: usize, plain: &Bytes) {
        if let Some(key) = self.key(span) {
            let cache = self.shared.0.cache.as_ref();
            if !cache.is_some_and(|cache| cache.put(&key, plain)) {
                self.shared.0.recent.insert(key, plain.clone());
            }
        }
        self.forget(span);
    }

    fn forget(&self, span: usize) {
        self.coming.lock().unwrap_or_else(PoisonError::into_inner).remove(&span);
    }
}

/// One of a number, while it lives: a reader that waits, a span that has come.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn new(number: &watch::Sender<usize>) -> Self {
        number.send_modify(|number| *number += 1);
        Self(number.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|number| *number -= 1);
    }
}
