//! A buffer with plain bytes, which goes from thread to thread without a copy.

use std::ops::{Deref, Range};

use super::WINDOW;

/// Room for the history, and as much again several times, so that moving the history to the front
/// costs little. Small enough to stay in a core's second level cache.
pub(super) const BUFFER: usize = WINDOW + 256 * 1024;

/// A buffer and the plain bytes in it.
#[derive(Debug)]
pub struct PlainBytes {
    pub(super) buffer: Box<[u8]>,
    pub(super) range: Range<usize>,
}

impl PlainBytes {
    /// A buffer without bytes.
    pub fn new() -> Self {
        Self { buffer: vec![0; BUFFER].into_boxed_slice(), range: 0..0 }
    }

    /// Forgets the bytes.
    pub fn clear(&mut self) {
        self.range = 0..0;
    }

    /// Where more bytes can be put.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.range.end..]
    }

    /// Takes in the first `count` bytes of the room.
    pub fn grow(&mut self, count: usize) {
        self.range.end = self.buffer.len().min(self.range.end + count);
    }
}

impl Default for PlainBytes {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for PlainBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.buffer[self.range.clone()]
    }
}
