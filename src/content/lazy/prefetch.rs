//! What is fetched before it is read: a queue for each priority, taken by a few workers, in pieces
//! so small that whoever finds what he wants in one of them does not wait long for it. What is still
//! in the queue, a reader fetches himself.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::LazyLayer;
use crate::error::Classify as _;

/// Pieces on their way at a time.
const WORKERS: usize = 4;
/// Compressed bytes of a piece, if a span has not more.
const PIECE: u64 = 2 << 20;
/// Pieces that may wait: readers come before those that are too many.
const MOST: usize = 16_384;

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

#[derive(Debug, Default)]
struct Queue {
    pieces: Mutex<State>,
    more: Notify,
    /// Something has come to its end.
    done: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: [VecDeque<Piece>; 3],
    underway: usize,
    failed: usize,
}

#[derive(Debug, Clone)]
struct Piece {
    layer: LazyLayer,
    spans: Range<usize>,
}

impl Prefetcher {
    /// Starts the workers on this runtime.
    pub fn start() -> Self {
        let queue = Arc::new(Queue::default());
        let mut workers = JoinSet::new();
        for _ in 0..WORKERS {
            workers.spawn(work(queue.clone()));
        }
        Self { queue, _workers: workers }
    }

    /// Asks for spans of a layer; those that are at hand cost nothing.
    pub fn add(&self, layer: &LazyLayer, spans: Range<usize>, priority: Priority) {
        let mut state = self.queue.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = &mut state.waiting[priority as usize];
        for spans in pieces(layer, spans) {
            if waiting.len() >= MOST {
                break;
            }
            waiting.push_back(Piece { layer: layer.clone(), spans });
        }
        drop(state);
        self.queue.more.notify_waiters();
    }

    /// Waits until nothing is left to be fetched; gives how many pieces failed so far.
    pub async fn idle(&self) -> usize {
        loop {
            let done = self.queue.done.notified();
            {
                let state = self.queue.pieces.lock().unwrap_or_else(PoisonError::into_inner);
                if state.underway == 0 && state.waiting.iter().all(VecDeque::is_empty) {
                    return state.failed;
                }
            }
            done.await;
        }
    }
}

/// Cuts a run into pieces.
fn pieces(layer: &LazyLayer, spans: Range<usize>) -> Vec<Range<usize>> {
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
        let Some(Piece { layer, spans }) = queue.next() else {
            more.await;
            continue;
        };
        let fetched = layer.fetch_ahead(spans).await;
        if let Err(error) = &fetched {
            let transient = error.is_transient();
            tracing::debug!(%error, transient, "could not fetch ahead");
        }
        queue.end(fetched.is_err());
    }
}

impl Queue {
    fn next(&self) -> Option<Piece> {
        let mut state = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let piece = state.waiting.iter_mut().find_map(VecDeque::pop_front)?;
        state.underway += 1;
        Some(piece)
    }

    fn end(&self, failed: bool) {
        let mut state = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        state.underway -= 1;
        state.failed += usize::from(failed);
        drop(state);
        self.done.notify_waiters();
    }
}
