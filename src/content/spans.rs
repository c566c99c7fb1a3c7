//! A part of a layer by its spans: the bytes that hold it are fetched by Range, verified span by
//! span, and only then decoded. Nothing else of the layer is asked for.
//!
//! [`SpanReader`] is for many readers at once. What one of them fetches, all that want it at the
//! same time share; nothing is kept once nobody uses it.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use futures_util::future::{BoxFuture, FutureExt as _, Shared, WeakShared};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::clip::header::Header;
use crate::clip::seek_table::{SeekTable, SpanEntry, SpanIndex};
use crate::content::ContentError;
use crate::content::positional::Positional;
use crate::digest::Digest;
use crate::layer::at_most;
use crate::layer::decode::decode_spans;
use crate::local::io_error;
use crate::oci::{Access, OciError, Source};

/// Neighbouring spans are fetched together up to so many compressed bytes...
const BATCH: u64 = 8 << 20;
/// ...and so many plain ones.
const BATCH_PLAIN: u64 = 32 << 20;
/// The largest span, compressed or plain, that is read at random. In a layer with larger ones,
/// such as a single zstd frame, there is no random access worth the name.
const MAX_SPAN: u64 = 64 << 20;
/// Bytes that a permit of [`SpanMemory`] stands for.
const PERMIT: u64 = 64 << 10;

/// The memory that spans may take while they are read, shared by as many layers as are given it.
#[derive(Debug, Clone)]
pub struct SpanMemory(Arc<Semaphore>);

impl Default for SpanMemory {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(at_most(Semaphore::MAX_PERMITS, Self::BYTES / PERMIT))))
    }
}

impl SpanMemory {
    /// Enough for one span of any size that is read.
    const BYTES: u64 = 2 * MAX_SPAN;

    pub(super) async fn take(&self, bytes: u64) -> Result<OwnedSemaphorePermit, ContentError> {
        let permits = bytes.min(Self::BYTES).div_ceil(PERMIT);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        self.0.clone().acquire_many_owned(permits).await.map_err(|_| ContentError::Cancelled)
    }
}

/// A layer whose spans are known. Clones share everything.
#[derive(Debug, Clone)]
pub struct SpanReader(pub(super) Arc<Layer>);

#[derive(Debug)]
pub(super) struct Layer {
    /// The archive, which holds the windows.
    archive: File,
    pub(super) source: Source,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) spans: SpanIndex,
    memory: SpanMemory,
    flights: Mutex<Vec<Flight>>,
}

/// Neighbouring spans that somebody is reading.
#[derive(Debug)]
struct Flight {
    spans: Range<usize>,
    plain: WeakShared<SpanRead>,
}

type SpanRead = BoxFuture<'static, Result<Arc<Plain>, Arc<ContentError>>>;

/// The plain bytes of neighbouring spans, with the memory that they may take.
#[derive(Debug)]
struct Plain {
    /// Plain offset of the first.
    start: u64,
    bytes: Vec<u8>,
    _memory: Arc<OwnedSemaphorePermit>,
}

impl SpanReader {
    /// Prepares to read the layer `digest`, of `size` compressed bytes, from `source`. `None`: the
    /// archive (a file, and the header that was read from it) has no seek table for the layer.
    pub fn open(
        archive: &Path,
        header: &Header,
        source: Source,
        digest: Digest,
        size: u64,
        memory: SpanMemory,
    ) -> Result<Option<Self>, ContentError> {
        let file =
            File::open(archive).map_err(io_error(format!("can't read {}", archive.display())))?;
        let mut reader = Positional::new(&file);
        let Some(table) = SeekTable::open(&mut reader, header)? else { return Ok(None) };
        let Some(entry) = table.layer(&digest) else { return Ok(None) };
        if entry.compressed_size != size {
            let (told, layer) = (entry.compressed_size, digest);
            let detail = format!("the seek table says that its layer has {told} bytes, not {size}");
            return Err(ContentError::Span { layer, span: 0, detail });
        }
        let spans = entry.spans(&mut reader)?;
        let flights = Mutex::default();
        let layer = Layer { archive: file, source, digest, size, spans, memory, flights };
        Ok(Some(Self(Arc::new(layer))))
    }

    /// The spans, in order.
    pub fn spans(&self) -> &SpanIndex {
        &self.0.spans
    }

    /// Whether the spans that hold these plain bytes are small enough to be read at random.
    pub fn is_seekable(&self, range: &Range<u64>) -> bool {
        let large = |span: &SpanEntry| length(&span.compressed).max(length(&span.plain)) > MAX_SPAN;
        self.0.holding(range).is_ok_and(|spans| !self.0.spans.entries()[spans].iter().any(large))
    }

    /// The same for all of the layer.
    pub fn is_seekable_throughout(&self) -> bool {
        self.0.spans.entries().last().is_none_or(|last| self.is_seekable(&(0..last.plain.end)))
    }

    /// The plain bytes in `range`, which are in memory at once.
    ///
    /// Reads at the same time share the spans that they both need. One that is dropped or
    /// cancelled takes nothing from the others; what nobody waits for any more stops.
    pub async fn read(
        &self,
        range: Range<u64>,
        cancel: &CancellationToken,
    ) -> Result<Bytes, ContentError> {
        let layer = &self.0;
        let spans = layer.holding(&range)?;
        let mut out = BytesMut::new();
        let mut next = spans.start;
        while next < spans.end {
            // Nothing is held while waiting, so that readers can't wait for each other in a circle.
            let (flight, until) = layer.join(next..spans.end)?;
            let plain = cancel
                .run_until_cancelled(flight)
                .await
                .ok_or(ContentError::Cancelled)?
                .map_err(ContentError::Shared)?;
            let entries = &layer.spans.entries()[next..until];
            let ends = entries.first().zip(entries.last());
            let (from, to) = ends.map_or((0, 0), |(a, b)| (a.plain.start, b.plain.end));
            let [from, to] = [from.max(range.start), to.min(range.end)]
                .map(|at| at_most(plain.bytes.len(), at.saturating_sub(plain.start)));
            out.extend_from_slice(&plain.bytes[from..to]);
            next = until;
        }
        Ok(out.freeze())
    }

    /// Copies the plain bytes in `range` to `out`, a batch of spans at a time, and fetches the next
    /// one meanwhile.
    pub async fn copy(
        &self,
        range: Range<u64>,
        out: &mut (impl Write + Send),
        cancel: &CancellationToken,
    ) -> Result<(), ContentError> {
        let layer = &self.0;
        let mut spans = layer.holding(&range)?;
        let batches = std::iter::from_fn(|| {
            let end = layer.batch_end(spans.clone())?;
            let batch = &layer.spans.entries()[spans.start..end];
            spans.start = end;
            let (from, to) = (batch.first()?.plain.start, batch.last()?.plain.end);
            Some(from.max(range.start)..to.min(range.end))
        });
        let batches: Vec<_> = batches.collect();
        let mut parts = stream::iter(batches).map(|part| self.read(part, cancel)).buffered(2);
        while let Some(part) = parts.try_next().await? {
            out.write_all(&part).map_err(io_error("can't keep the content"))?;
        }
        Ok(())
    }
}

impl Layer {
    /// The spans that hold plain bytes; none for none.
    pub(super) fn holding(&self, range: &Range<u64>) -> Result<Range<usize>, ContentError> {
        if range.is_empty() {
            return Ok(0..0);
        }
        let ends = self.spans.find(range.start).zip(self.spans.find(range.end - 1));
        ends.map(|(first, last)| first..last + 1).ok_or_else(|| {
            let detail = format!("bytes {}..{} are past its end", range.start, range.end);
            self.broken(self.spans.entries().len(), detail)
        })
    }

    /// Whoever reads the first of `spans` already, or a new flight for as many of them as make a
    /// batch; and the end of those of `spans` that are in it.
    fn join(
        self: &Arc<Self>,
        spans: Range<usize>,
    ) -> Result<(Shared<SpanRead>, usize), ContentError> {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let mut joined = None;
        let mut end = self.batch_end(spans.clone()).unwrap_or(spans.end);
        flights.retain(|flight| {
            // What failed is not for those who come later.
            let Some(plain) = flight.plain.upgrade() else { return false };
            if plain.peek().is_some_and(Result::is_err) {
                return false;
            }
            if flight.spans.contains(&spans.start) {
                joined = Some((plain, flight.spans.end.min(spans.end)));
            } else if flight.spans.start > spans.start {
                end = end.min(flight.spans.start);
            }
            true
        });
        if let Some(joined) = joined {
            return Ok(joined);
        }
        let spans = spans.start..end;
        let entry = &self.spans.entries()[spans.start];
        let large = length(&entry.compressed).max(length(&entry.plain));
        if large > MAX_SPAN {
            let detail = format!("its {large} bytes are too many to be read at random");
            return Err(self.broken(spans.start, detail));
        }
        // A task of its own goes on however slowly its readers poll, and ends with the last.
        let task = AbortOnDropHandle::new(tokio::spawn(self.clone().fetch(spans.clone())));
        let layer = self.clone();
        let reading = async move {
            let plain = match task.await {
                Ok(plain) => plain,
                Err(died) => Err(layer.died(&died)),
            };
            plain.map(Arc::new).map_err(Arc::new)
        };
        let reading = reading.boxed().shared();
        if let Some(plain) = reading.downgrade() {
            flights.push(Flight { spans, plain });
        }
        Ok((reading, end))
    }

    /// The end of the batch that the first of `spans` begins: always one span, more while they are
    /// small; `None` if there are none.
    fn batch_end(&self, spans: Range<usize>) -> Option<usize> {
        let entries = self.spans.entries().get(spans.clone())?;
        let first = entries.first()?;
        let fits = |span: &&SpanEntry| {
            span.compressed.end - first.compressed.start <= BATCH
                && span.plain.end - first.plain.start <= BATCH_PLAIN
        };
        Some(spans.start + entries.iter().take_while(fits).count().max(1))
    }

    /// Reads neighbouring spans: fetches, verifies and decodes them. Wrong bytes are asked for again,
    /// in the end without trust in ranges.
    async fn fetch(self: Arc<Self>, spans: Range<usize>) -> Result<Plain, ContentError> {
        let entries = &self.spans.entries()[spans.clone()];
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Err(self.broken(spans.start, "there is no such span".into()));
        };
        let compressed = first.compressed.start..last.compressed.end;
        let plain = first.plain.start..last.plain.end;
        let memory = Arc::new(self.memory.take(length(&compressed) + length(&plain)).await?);
        for access in [Access::Range, Access::Range] {
            match self.fetch_by(access, &spans, &compressed, memory.clone()).await {
                Err(error @ ContentError::SpanDigest { .. }) => {
                    tracing::warn!(%error, "asking for the span again");
                }
                read => return read,
            }
        }
        self.fetch_by(Access::FromStart, &spans, &compressed, memory).await
    }

    async fn fetch_by(
        self: &Arc<Self>,
        access: Access,
        spans: &Range<usize>,
        compressed: &Range<u64>,
        memory: Arc<OwnedSemaphorePermit>,
    ) -> Result<Plain, ContentError> {
        // Dropping the future is what cancels it.
        let cancel = CancellationToken::new();
        let (digest, size) = (&self.digest, self.size);
        let (from, len) = (compressed.start, length(compressed));
        let bytes = self.source.blob_range(digest, size, from, len, access, &cancel).await;
        let bytes = bytes.map_err(|source| self.unfetched(spans, source))?;
        let (layer, spans) = (self.clone(), spans.clone());
        let start = layer.spans.entries()[spans.start].plain.start;
        // The memory goes along: this thread comes to its end even when nobody waits any more.
        let decoding = tokio::task::spawn_blocking(move || {
            let bytes = layer.decode(spans, &bytes)?;
            Ok(Plain { start, bytes, _memory: memory })
        });
        decoding.await.map_err(|died| self.died(&died))?
    }

    /// Blocks: the plain bytes of spans whose compressed bytes are what the table says.
    pub(super) fn decode(
        &self,
        spans: Range<usize>,
        bytes: &[u8],
    ) -> Result<Vec<u8>, ContentError> {
        let entries = &self.spans.entries()[spans.clone()];
        let start = entries.first().map_or(0, |first| first.compressed.start);
        for (span, entry) in spans.clone().zip(entries) {
            let [from, to] = [entry.compressed.start, entry.compressed.end]
                .map(|at| at_most(bytes.len(), at - start));
            let found = Digest::of(&bytes[from..to]);
            if found != entry.digest {
                let (layer, expected) = (self.digest, entry.digest);
                return Err(ContentError::SpanDigest { layer, span, expected, found });
            }
        }
        let checkpoint = self.spans.checkpoint(spans.start, &mut Positional::new(&self.archive))?;
        decode_spans(self.spans.encoding(), &checkpoint, entries, bytes)
            .map_err(|error| self.broken(spans.start + error.index, error.detail))
    }

    pub(super) fn unfetched(&self, spans: &Range<usize>, source: OciError) -> ContentError {
        let (layer, first, last) = (self.digest, spans.start, spans.end - 1);
        ContentError::SpanFetch { layer, first, last, source: Box::new(source) }
    }

    fn broken(&self, span: usize, detail: String) -> ContentError {
        ContentError::Span { layer: self.digest, span, detail }
    }

    pub(super) fn died(&self, error: &tokio::task::JoinError) -> ContentError {
        let what = format!("layer {}: a task that reads its spans died", self.digest);
        io_error(what)(std::io::Error::other(error.to_string())).into()
    }
}

pub(super) fn length(range: &Range<u64>) -> u64 {
    range.end - range.start
}
