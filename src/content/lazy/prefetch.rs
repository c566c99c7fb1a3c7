//! What is fetched before it is read: a queue for each priority, taken by a few workers, in pieces
//! so small that whoever finds what he wants in one of them does not wait long for it. What is still
//! in the queue, a reader fetches himself.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{LazyBlocks, LazyLayer, WholeLayer};
use crate::content::ContentError;

/// Pieces on their way at a time.
const WORKERS: usize = 4;
/// Compressed bytes of a piece, if a span has not more.
const PIECE: u64 = 2 << 20;
/// Pieces that may wait: readers come before those that are too many.
const MOST: usize = 65_536;

/// Why something is fetched ahead, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Priority {
    /// A reader comes closer.
    ReadAhead,
    /// Earlier starts have read it.
    Trace,
    /// The image is to be complete.
    Fill,
}

/// Fetches ahead until dropped.
#[derive(Debug)]
pub struct Prefetcher {
    queue: Arc<Queue>,
    _workers: JoinSet<()>,
}

#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    /// Bytes a second that filling may take.
    fill_rate: Option<u64>,
    more: Notify,
    /// Something has come to its end.
    done: Notify,
}

#[derive(Debug)]
struct State {
    waiting: [VecDeque<Piece>; 3],
    underway: usize,
    failed: usize,
    /// When the next piece of a filling is due.
    next_fill: Instant,
}

/// Something that is fetched by one request, or few.
#[derive(Debug, Clone)]
pub(crate) enum Piece {
    Spans(LazyLayer, Range<usize>),
    Whole(WholeLayer),
    Blocks(LazyBlocks, Range<u64>),
}

impl Prefetcher {
    /// Starts the workers on this runtime. Filling takes at most so many bytes a second.
    pub fn start(fill_rate: Option<u64>) -> Self {
        let state = State {
            waiting: <[VecDeque<Piece>; 3]>::default(),
            underway: 0,
            failed: 0,
            next_fill: Instant::now(),
        };
        let (more, done) = (Notify::new(), Notify::new());
        let queue = Arc::new(Queue { state: Mutex::new(state), fill_rate, more, done });
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            workers.spawn(work(queue.clone()));
        }
        Self { queue, _workers: workers }
    }

    /// Asks for spans of a layer; those that are at hand cost nothing.
    pub fn add_spans(&self, layer: &LazyLayer, spans: Range<usize>, priority: Priority) {
        let pieces = cut(layer, spans);
        self.add(pieces.into_iter().map(|spans| Piece::Spans(layer.clone(), spans)), priority);
    }

    /// Asks for all of a layer.
    pub fn add_whole(&self, layer: &WholeLayer, priority: Priority) {
        self.add([Piece::Whole(layer.clone())], priority);
    }

    /// Asks for a part of a v1 archive's data.
    pub fn add_blocks(&self, blocks: &LazyBlocks, range: Range<u64>, priority: Priority) {
        let starts = (range.start..range.end).step_by(usize::try_from(PIECE).unwrap_or(1));
        let piece = |start: u64| start..(start + PIECE).min(range.end);
        self.add(starts.map(|start| Piece::Blocks(blocks.clone(), piece(start))), priority);
    }

    fn add(&self, pieces: impl IntoIterator<Item = Piece>, priority: Priority) {
        let mut state = self.queue.lock();
        let waiting = &mut state.waiting[priority as usize];
        let room = MOST.saturating_sub(waiting.len());
        waiting.extend(pieces.into_iter().take(room));
        drop(state);
        self.queue.more.notify_waiters();
    }

    /// Waits until nothing is left to be fetched; gives how many pieces failed so far.
    pub async fn idle(&self) -> usize {
        loop {
            let done = self.queue.done.notified();
            {
                let state = self.queue.lock();
                if state.underway == 0 && state.waiting.iter().all(VecDeque::is_empty) {
                    return state.failed;
                }
            }
            done.await;
        }
    }
}

/// Cuts a run into pieces.
fn cut(layer: &LazyLayer, spans: Range<usize>) -> Vec<Range<usize>> {
    let entries = layer.0.reader.spans().entries();
    let mut pieces: Vec<Range<usize>> = Vec::new();
    for span in spans.start..spans.end.min(entries.len()) {
        let end = entries[span].compressed.end;
        match pieces.last_mut() {
            Some(piece) if end - entries[piece.start].compressed.start <= PIECE => {
                piece.end = span + 1;
            }
            _ => pieces.push(span..span + 1),
        }
    }
    pieces
}

async fn work(queue: Arc<Queue>) {
    loop {
        let more = queue.more.notified();
        let Some((piece, due)) = queue.next() else {
            more.await;
            continue;
        };
        if let Some(due) = due {
            sleep_until(due).await;
        }
        let fetched = piece.fetch().await;
        if let Err(error) = &fetched {
            tracing::debug!(%error, "could not fetch ahead");
        }
        queue.end(fetched.is_err());
    }
}

impl Piece {
    async fn fetch(self) -> Result<(), ContentError> {
        match self {
            Self::Spans(layer, spans) => layer.fetch_ahead(spans).await,
            Self::Whole(layer) => layer.fetch().await,
            Self::Blocks(blocks, range) => blocks.fetch_ahead(range).await,
        }
    }

    /// Bytes that it takes of the link, if nothing is at hand.
    fn cost(&self) -> u64 {
        match self {
            Self::Spans(layer, spans) => {
                let entries = &layer.0.reader.spans().entries()[spans.clone()];
                entries.iter().map(|span| span.compressed.end - span.compressed.start).sum()
            }
            Self::Whole(layer) => layer.size(),
            Self::Blocks(_, range) => range.end - range.start,
        }
    }
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The most urgent piece, and when to begin with it, if not at once.
    fn next(&self) -> Option<(Piece, Option<Instant>)> {
        let mut state = self.lock();
        let priority = state.waiting.iter().position(|waiting| !waiting.is_empty())?;
        let piece = state.waiting[priority].pop_front()?;
        state.underway += 1;
        let rate = self.fill_rate.filter(|_| priority == Priority::Fill as usize);
        let due = rate.map(|rate| {
            let due = state.next_fill.max(Instant::now());
            let millis = piece.cost().saturating_mul(1000) / rate.max(1);
            state.next_fill = due + Duration::from_millis(millis.min(60_000));
            due
        });
        Some((piece, due))
    }

    fn end(&self, failed: bool) {
        let mut state = self.lock();
        state.underway -= 1;
        state.failed += usize::from(failed);
        drop(state);
        self.done.notify_waiters();
    }
}
