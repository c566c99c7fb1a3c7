//! Layers that are not compressed: the bytes pass, and spans are stretches of fixed length.

use super::cut::Cutter;
use crate::gzip::{PlainBytes, Span};
use crate::layer::at_most;

/// Passes a layer's bytes on.
pub(in crate::layer) struct TarReader {
    pub(super) plain: PlainBytes,
    /// Bytes so far.
    position: u64,
    cutter: Option<Cutter>,
}

impl TarReader {
    pub(super) fn new(span: Option<u64>) -> Self {
        Self { plain: PlainBytes::new(), position: 0, cutter: span.map(Cutter::new) }
    }

    pub(super) fn fill(&mut self, input: &mut &[u8]) -> bool {
        let room = self.plain.room();
        let (mut taken, rest) = input.split_at(input.len().min(room.len()));
        *input = rest;
        room[..taken.len()].copy_from_slice(taken);
        self.plain.grow(taken.len());
        while !taken.is_empty() {
            let until = self.cutter.as_ref().map_or(u64::MAX, Cutter::due);
            let (part, rest) = taken.split_at(at_most(taken.len(), until - self.position));
            taken = rest;
            self.position += part.len() as u64;
            if let Some(cutter) = &mut self.cutter {
                cutter.compressed(part);
                cutter.boundary(self.position, self.position);
            }
        }
        self.plain.room().is_empty()
    }

    pub(super) fn finish(self) -> Vec<Span> {
        self.cutter.map_or_else(Vec::new, |cutter| cutter.finish(self.position, self.position))
    }
}
