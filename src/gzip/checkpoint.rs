//! Where inflating can begin again, and the spans between such places.

use std::collections::VecDeque;
use std::ops::Range;

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;

use super::inflate::{References, WINDOW};
use super::window::{SparseWindow, WindowError};

/// The usual least distance between checkpoints, in plain bytes. A start reads a part of each span that it
/// touches: of those of 4 MiB half as much again came over the link, and archives are a fifth larger for it.
pub const DEFAULT_SPAN: u64 = 1024 * 1024;

/// A place where inflating can begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The offset in the compressed stream, in bits: byte times 8 plus the bits of that byte which
    /// come before (deflate fills bytes from the lowest bit).
    pub compressed_bit: u64,
    /// The offset in the plain stream, in bytes.
    pub plain: u64,
    /// What stands there.
    pub kind: CheckpointKind,
    /// The history that the bytes from here on refer to; empty at a member's start.
    pub window: SparseWindow,
}

/// What stands at a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointKind {
    /// What needs nothing of the bytes before it: a gzip member's header and, in layers that are
    /// no gzip, a zstd frame or any byte of a tar.
    Start,
    /// A deflate block's header.
    Block,
}

/// The stretch from a checkpoint to the next, or to the end of the last member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub start: Checkpoint,
    /// The length of its plain bytes.
    pub plain_length: u64,
    /// The compressed bytes that hold it. A byte in which one span ends and another begins belongs
    /// to both.
    pub compressed: Range<u64>,
    /// The digest of those bytes.
    pub digest: Digest,
}

/// Makes spans while a stream goes by.
#[derive(Debug)]
pub(super) struct SpanBuilder {
    /// The least number of plain bytes in a span.
    span: u64,
    spans: Vec<Span>,
    /// Where the span in progress begins; its window comes later.
    start: Option<Checkpoint>,
    hasher: Sha256,
    /// The last compressed byte, which the next span shares if it begins inside it.
    last_byte: u8,
    /// How many compressed bytes were seen.
    seen: u64,
    references: References,
    /// The whole histories of checkpoints whose references are still being watched.
    histories: VecDeque<History>,
}

#[derive(Debug)]
struct History {
    /// The checkpoint's index among all.
    index: usize,
    plain: u64,
    bytes: Vec<u8>,
}

impl SpanBuilder {
    pub(super) fn new(span: u64) -> Self {
        Self {
            span: span.max(1),
            spans: Vec::new(),
            start: None,
            hasher: Sha256::new(),
            last_byte: 0,
            seen: 0,
            references: References::default(),
            histories: VecDeque::new(),
        }
    }

    /// Takes the next compressed bytes. Comes after the checkpoint at their start and before the
    /// one at their end.
    pub(super) fn compressed(&mut self, bytes: &[u8]) {
        if let Some(&last) = bytes.last() {
            self.hasher.update(bytes);
            self.seen += bytes.len() as u64;
            self.last_byte = last;
        }
    }

    /// The plain offset from which a block's end is to be told.
    pub(super) fn wants_block_from(&self) -> u64 {
        self.start.as_ref().map_or(0, |start| start.plain.saturating_add(self.span))
    }

    /// A member begins after what was seen so far.
    pub(super) fn member(&mut self, plain: u64) {
        // A member's start needs no window: take it even a little early.
        let due = self.wants_block_from().saturating_sub(self.span / 4);
        let advances = self.start.as_ref().is_none_or(|start| plain > start.plain);
        if advances && plain >= due {
            self.begin(self.seen * 8, plain, CheckpointKind::Start);
        }
    }

    /// A block begins `unused_bits` before the end of what was seen so far, at
    /// [`Self::wants_block_from`] or later. `history` is the plain text before it in its member.
    pub(super) fn block(&mut self, unused_bits: u8, plain: u64, history: &[u8]) {
        let index =
            self.begin(self.seen * 8 - u64::from(unused_bits), plain, CheckpointKind::Block);
        let bytes = history[history.len().saturating_sub(WINDOW)..].to_vec();
        self.histories.push_back(History { index, plain, bytes });
        self.references.watch(plain);
    }

    /// What the decoder notes references in, while there is a checkpoint that needs it. Index `at`
    /// of the output is plain offset `plain`.
    pub(super) fn references(&mut self, at: usize, plain: u64) -> Option<&mut References> {
        self.references.align(at, plain);
        Some(&mut self.references).filter(|references| !references.is_empty())
    }

    /// How many more plain bytes have to be watched for references.
    pub(super) fn watched(&self, plain: u64) -> Option<u64> {
        self.histories.back().map(|last| (last.plain + WINDOW as u64).saturating_sub(plain))
    }

    /// Plain bytes up to `plain` were inflated; `member_ended`, if nothing that comes can refer to
    /// them. Encodes the windows of which nothing more can be learnt.
    pub(super) fn inflated(&mut self, plain: u64, member_ended: bool) -> Result<(), WindowError> {
        while let Some(oldest) = self.histories.front()
            && (member_ended || plain >= oldest.plain + WINDOW as u64)
            && let Some(is_used) = self.references.take_oldest()
            && let Some(History { index, bytes, .. }) = self.histories.pop_front()
        {
            let window = SparseWindow::encode(bytes, is_used)?;
            if let Some(span) = self.spans.get_mut(index) {
                span.start.window = window;
            } else if let Some(start) = &mut self.start {
                start.window = window;
            }
        }
        Ok(())
    }

    /// The spans, when the last member has ended at plain offset `plain`.
    pub(super) fn finish(mut self, plain: u64) -> Vec<Span> {
        self.end_span(self.seen, plain);
        self.spans
    }

    fn begin(&mut self, compressed_bit: u64, plain: u64, kind: CheckpointKind) -> usize {
        self.end_span(self.seen, plain);
        self.hasher = Sha256::new();
        if !compressed_bit.is_multiple_of(8) {
            self.hasher.update([self.last_byte]);
        }
        let window = SparseWindow::default();
        self.start = Some(Checkpoint { compressed_bit, plain, kind, window });
        self.spans.len()
    }

    fn end_span(&mut self, compressed_end: u64, plain: u64) {
        if let Some(start) = self.start.take() {
            self.spans.push(Span {
                plain_length: plain - start.plain,
                compressed: start.compressed_bit / 8..compressed_end,
                digest: Digest::from_hasher(std::mem::take(&mut self.hasher)),
                start,
            });
        }
    }
}
