//! Spans that begin on a byte and need nothing of what comes before: stretches of a tar, and zstd
//! frames.

use sha2::{Digest as _, Sha256};

use crate::digest::Digest;
use crate::gzip::{Checkpoint, CheckpointKind, Span, SparseWindow};

/// Makes spans while a layer goes by.
pub(super) struct Cutter {
    /// The least number of plain bytes in a span.
    span: u64,
    spans: Vec<Span>,
    /// Compressed and plain offset of the span in progress.
    start: (u64, u64),
    /// Of its compressed bytes so far.
    hasher: Sha256,
}

impl Cutter {
    pub(super) fn new(span: u64) -> Self {
        Self { span: span.max(1), spans: Vec::new(), start: (0, 0), hasher: Sha256::new() }
    }

    /// Takes the next compressed bytes.
    pub(super) fn compressed(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The plain offset from which a span may end.
    pub(super) fn due(&self) -> u64 {
        self.start.1.saturating_add(self.span)
    }

    /// Behind these many compressed and plain bytes a span may begin.
    pub(super) fn boundary(&mut self, compressed: u64, plain: u64) {
        if plain >= self.due() {
            self.cut(compressed, plain);
        }
    }

    /// The spans of a layer of so many bytes. What follows the last plain byte belongs to none.
    pub(super) fn finish(mut self, compressed: u64, plain: u64) -> Vec<Span> {
        if plain > self.start.1 || self.spans.is_empty() {
            self.cut(compressed, plain);
        }
        self.spans
    }

    fn cut(&mut self, compressed: u64, plain: u64) {
        let (from, plain_from) = std::mem::replace(&mut self.start, (compressed, plain));
        self.spans.push(Span {
            start: Checkpoint {
                compressed_bit: from * 8,
                plain: plain_from,
                kind: CheckpointKind::Start,
                window: SparseWindow::default(),
            },
            plain_length: plain - plain_from,
            compressed: from..compressed,
            digest: Digest::from_hasher(std::mem::take(&mut self.hasher)),
        });
    }
}
