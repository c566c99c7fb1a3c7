//! A blob's bytes in order, from several ranges of it that are fetched at once, and verified as
//! they pass.
//!
//! Ranges are asked for from the front. Each reserves room for all its bytes before it is asked
//! for, and a byte's room is free again when whoever reads has taken it. A blob has room of its own
//! for a range or two, so that the foremost one never waits for other blobs; how much further the
//! ranges run ahead of the reader depends on what others leave of the room that all share.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::digest::Digest;
use crate::oci::{OciError, RangeStream, Ranges, Source};

/// Bytes of one range: enough that the way there and back is little beside them, few enough that
/// several of them are not much.
const RANGE: u64 = FIRST as u64;
/// The same as a number of permits.
const FIRST: usize = 2 << 20;
/// A blob's own room, once it is read.
const OWN: usize = 4 << 20;
/// The room that all blobs share.
pub(crate) const SHARED: usize = 16 << 20;
/// How far one connection runs ahead of the reader, where there are no ranges.
const STREAM_WINDOW: usize = 4 << 20;

/// Bytes on their way, and the room they take until they are dropped.
#[derive(Debug)]
pub(crate) struct Chunk {
    pub(crate) bytes: Bytes,
    _room: OwnedSemaphorePermit,
}

type Chunks = mpsc::UnboundedReceiver<Result<Chunk, OciError>>;

/// A blob that is being fetched. Gives its bytes in order; ends only when their number and digest
/// are right, otherwise with an error.
#[derive(Debug)]
pub(crate) struct BlobFetch {
    name: String,
    digest: Digest,
    size: u64,
    parts: mpsc::UnboundedReceiver<Chunks>,
    current: Option<Chunks>,
    received: u64,
    hasher: Option<Sha256>,
    room: Arc<Semaphore>,
    begun: CancellationToken,
    _fetching: AbortOnDropHandle<()>,
}

impl BlobFetch {
    /// Begins to fetch. Until [`Self::widen`], no more than one range's bytes are held; from then
    /// on, as many as there is room for in `shared`.
    pub(crate) fn start(
        source: &Source,
        shared: &Arc<Semaphore>,
        digest: Digest,
        size: u64,
        cancel: &CancellationToken,
    ) -> Self {
        let (sender, parts) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(FIRST));
        let begun = CancellationToken::new();
        let fetch = Fetch {
            source: source.clone(),
            digest,
            size,
            room: room.clone(),
            shared: shared.clone(),
            begun: begun.clone(),
            cancel: cancel.clone(),
        };
        Self {
            name: source.name(),
            digest,
            size,
            parts,
            current: None,
            received: 0,
            hasher: Some(Sha256::new()),
            room,
            begun,
            _fetching: AbortOnDropHandle::new(tokio::spawn(fetch.run(sender).in_current_span())),
        }
    }

    /// Lets the ranges run ahead, because somebody reads now.
    pub(crate) fn widen(&self) {
        self.room.add_permits(OWN - FIRST);
        self.begun.cancel();
    }

    /// The next bytes; `None` when the blob is whole and right. Nothing comes after an error.
    pub(crate) async fn next(&mut self) -> Option<Result<Chunk, OciError>> {
        let hasher = self.hasher.as_mut()?;
        loop {
            let Some(chunks) = &mut self.current else {
                match self.parts.recv().await {
                    Some(chunks) => self.current = Some(chunks),
                    None => return self.end(),
                }
                continue;
            };
            match chunks.recv().await {
                Some(Ok(chunk)) => {
                    self.received += chunk.bytes.len() as u64;
                    hasher.update(&chunk.bytes);
                    return Some(Ok(chunk));
                }
                Some(Err(error)) => {
                    self.hasher = None;
                    return Some(Err(error));
                }
                None => self.current = None,
            }
        }
    }

    fn end(&mut self) -> Option<Result<Chunk, OciError>> {
        let (expected, found) = (self.digest, Digest::from_hasher(self.hasher.take()?));
        let repository = self.name.clone();
        if self.received != self.size {
            // A task that fetched has died.
            let (expected, found) = (self.size, self.received);
            let digest = self.digest;
            return Some(Err(OciError::TruncatedBlob { repository, digest, expected, found }));
        }
        let what = format!("blob from {repository}");
        (found != expected).then_some(Err(OciError::DigestMismatch { what, expected, found }))
    }
}

/// Asks for the ranges of one blob.
struct Fetch {
    source: Source,
    digest: Digest,
    size: u64,
    room: Arc<Semaphore>,
    shared: Arc<Semaphore>,
    /// Cancelled when the blob is read.
    begun: CancellationToken,
    cancel: CancellationToken,
}

impl Fetch {
    async fn run(self, parts: mpsc::UnboundedSender<Chunks>) {
        // Dropped with this task, and what they fetch with them.
        let mut tasks = JoinSet::new();
        // What one range was refused, the others will be, too: whoever reads will hear of it.
        let failed = CancellationToken::new();
        let mut next = 0;
        while next < self.size {
            let many = self.size > RANGE && self.source.ranges() != Ranges::Ignored;
            let end = if many { self.size.min(next + RANGE) } else { self.size };
            let room = if many { self.reserve(end - next).await } else { Room::one_connection() };
            if failed.is_cancelled() {
                break;
            }
            let (sender, chunks) = mpsc::unbounded_channel();
            if parts.send(chunks).is_err() {
                return;
            }
            let opening = self.open(next..end);
            // How the first one is answered says whether there is any use in others.
            if many && self.source.ranges() == Ranges::Unknown {
                let opened = opening.await;
                if opened.is_err() {
                    failed.cancel();
                }
                let opened = std::future::ready(opened);
                tasks.spawn(forward(opened, room, sender, failed.clone()).in_current_span());
            } else {
                tasks.spawn(forward(opening, room, sender, failed.clone()).in_current_span());
            }
            next = end;
            while tasks.try_join_next().is_some() {} // nothing is kept of those that are done
        }
        drop(parts);
        while tasks.join_next().await.is_some() {}
    }

    async fn reserve(&self, bytes: u64) -> Room {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let own = self.room.clone().acquire_many_owned(bytes);
        let shared = async {
            self.begun.cancelled().await;
            self.shared.clone().acquire_many_owned(bytes).await
        };
        let reserved = tokio::select! { biased; room = own => room, room = shared => room };
        reserved.map_or_else(|_| Room::one_connection(), Room::Reserved) // never closed
    }

    fn open(
        &self,
        range: Range<u64>,
    ) -> impl Future<Output = Result<RangeStream, OciError>> + Send + use<> {
        let Self { source, digest, size, cancel, .. } = self;
        let (digest, size, cancel) = (*digest, *size, cancel.clone());
        // Bytes of which is not said which they are may be any but those from the start.
        let trusted = source.ranges() != Ranges::Ignored;
        let source = if trusted { source.clone() } else { source.without_ranges() };
        async move { source.part(&digest, size, range, &cancel).await }
    }
}

/// Room for the bytes of one range.
enum Room {
    /// All of it, taken before.
    Reserved(OwnedSemaphorePermit),
    /// Taken as they come.
    Shared(Arc<Semaphore>),
}

impl Room {
    /// For one connection that brings all the rest.
    fn one_connection() -> Self {
        Self::Shared(Arc::new(Semaphore::new(STREAM_WINDOW)))
    }

    /// Never fails: shared room is never closed, and what was reserved is enough.
    async fn take(&mut self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        match self {
            Self::Reserved(room) => room.split(bytes),
            Self::Shared(room) => {
                let bytes = u32::try_from(bytes.min(STREAM_WINDOW)).unwrap_or(u32::MAX);
                room.clone().acquire_many_owned(bytes).await.ok()
            }
        }
    }
}

/// Sends the bytes of one range as they come, as long as somebody reads. An error is told to whoever
/// asks for further ranges as well.
async fn forward(
    opening: impl Future<Output = Result<RangeStream, OciError>> + Send,
    mut room: Room,
    sender: mpsc::UnboundedSender<Result<Chunk, OciError>>,
    failed: CancellationToken,
) {
    let mut body = match opening.await {
        Ok(body) => body,
        Err(error) => {
            failed.cancel();
            let _ = sender.send(Err(error));
            return;
        }
    };
    while let Some(bytes) = body.next().await {
        let chunk = match bytes {
            Ok(bytes) => match room.take(bytes.len()).await {
                Some(room) => Ok(Chunk { bytes, _room: room }),
                None => return,
            },
            Err(error) => {
                failed.cancel();
                Err(error)
            }
        };
        if sender.send(chunk).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
