//! Which bytes before a place are referred to by the bytes after it.

use std::collections::VecDeque;

use super::WINDOW;

/// Watches, for each of a few places in the plain stream, which of the [`WINDOW`] bytes before it
/// the output after it copies from. Copies of copies don't count: they lie after the place.
#[derive(Debug, Default)]
pub struct References {
    /// The plain offset of the output buffer's first byte, modulo 2^64.
    origin: u64,
    places: VecDeque<Place>,
}

#[derive(Debug)]
struct Place {
    plain: u64,
    /// One bit for each byte of the window before the place; the last bit is the nearest byte.
    used: Box<[u64; WINDOW / 64]>,
}

impl References {
    /// Watches the place at the plain offset `plain`, not before any that is watched already.
    pub(in crate::gzip) fn watch(&mut self, plain: u64) {
        self.places.push_back(Place { plain, used: Box::new([0; WINDOW / 64]) });
    }

    /// Says that index `at` of the output buffer is plain offset `plain`.
    pub(in crate::gzip) fn align(&mut self, at: usize, plain: u64) {
        self.origin = plain.wrapping_sub(at as u64);
    }

    /// Whether nothing is watched.
    pub(in crate::gzip) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Ends watching the oldest place, and calls `is_used(back)` what answers whether the byte
    /// `back` (1 to [`WINDOW`]) before it is referred to.
    pub(in crate::gzip) fn take_oldest(&mut self) -> Option<impl Fn(usize) -> bool> {
        let place = self.places.pop_front()?;
        Some(move |back: usize| {
            let bit = WINDOW - back;
            place.used[bit / 64] & (1 << (bit % 64)) != 0
        })
    }

    /// Notes that `length` bytes at index `at` of the output buffer copy from `distance` before.
    pub fn copied(&mut self, at: usize, distance: usize, length: usize) {
        let at = self.origin.wrapping_add(at as u64);
        for place in &mut self.places {
            let after = at.saturating_sub(place.plain).min(WINDOW as u64) as usize;
            if distance > after {
                let back = distance - after;
                place.mark(back.min(WINDOW), length.min(back));
            }
        }
    }

    /// Notes that every byte may be referred to.
    pub fn all_copied(&mut self) {
        for place in &mut self.places {
            place.used.fill(u64::MAX);
        }
    }
}

impl Place {
    /// Marks `length` bytes, of which the first lies `back` before the place.
    fn mark(&mut self, back: usize, length: usize) {
        let first = WINDOW - back;
        for bit in first..first + length {
            self.used[bit / 64] |= 1 << (bit % 64);
        }
    }
}
