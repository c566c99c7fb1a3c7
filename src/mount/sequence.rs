//! Readers that go through a file from its beginning to its end: what comes next is fetched before
//! they ask. Who jumps about is left alone: of a large library a start reads little.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use foldhash::{HashMap, HashMapExt as _};

use super::tree::Ino;

/// Bytes in a row that make a sequence.
const ENOUGH: u64 = 512 << 10;
/// The furthest that is fetched ahead.
const FURTHEST: u64 = 32 << 20;
/// Files that are watched at a time.
const MOST: usize = 1024;

/// Where the readers of files are.
#[derive(Debug, Default)]
pub(super) struct Sequences(Mutex<HashMap<Ino, Sequence>>);

#[derive(Debug)]
struct Sequence {
    /// Where the next read begins if it goes on.
    next: u64,
    /// Bytes that were read in a row.
    length: u64,
    /// Up to where it has been fetched ahead.
    ahead: u64,
}

impl Sequences {
    /// Notes that `range` of a file of `size` bytes is read; gives what to fetch before it is read.
    pub(super) fn note(&self, ino: Ino, range: &Range<u64>, size: u64) -> Option<Range<u64>> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if files.len() >= MOST && !files.contains_key(&ino) {
            *files = HashMap::new(); // those that go on are found again soon
        }
        let fresh = Sequence { next: range.start, length: 0, ahead: range.end };
        let file = files.entry(ino).or_insert(fresh);
        // The kernel's own reads ahead overtake each other a little.
        let slack = ENOUGH;
        if range.start.abs_diff(file.next) > slack {
            *file = Sequence { next: range.end, length: 0, ahead: range.end };
            return None;
        }
        file.length = file.length.saturating_add(range.end - range.start);
        file.next = file.next.max(range.end);
        let goal = file.next.saturating_add((2 * file.length).min(FURTHEST)).min(size);
        let start = file.ahead.max(range.end);
        // Not a little at a time.
        let due = goal > start && (goal - start >= file.length.min(FURTHEST) / 2 || goal == size);
        if file.length < ENOUGH || !due {
            return None;
        }
        file.ahead = goal;
        Some(start..goal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 30;

    /// Reads of 128 KiB from these places; what is fetched ahead.
    fn ahead(starts: impl Iterator<Item = u64>) -> Vec<Range<u64>> {
        let sequences = Sequences::default();
        let read = |start| start..start + (128 << 10);
        starts.filter_map(|start| sequences.note(Ino::ROOT, &read(start), SIZE)).collect()
    }

    #[test]
    fn who_goes_on_is_overtaken_by_ever_more() {
        let ahead = ahead((0..SIZE / (128 << 10)).map(|at| at * (128 << 10)));
        assert_eq!(ahead[0].start, 512 << 10);
        assert_eq!(ahead.last().unwrap().end, SIZE);
        for pair in ahead.windows(2) {
            assert_eq!(pair[0].end, pair[1].start);
        }
        assert!(ahead.iter().all(|range| range.end - range.start <= FURTHEST));
        assert!(ahead.len() < 200, "{}", ahead.len());
    }

    #[test]
    fn who_jumps_about_is_left_alone() {
        assert_eq!(ahead((0..1000).map(|at| (at * 7_919 % 1000) << 20)), []);
    }

    #[test]
    fn nothing_is_past_the_end() {
        let sequences = Sequences::default();
        let size = 700 << 10;
        let mut ahead = Vec::new();
        for start in (0..size).step_by(100 << 10) {
            ahead.extend(sequences.note(Ino::ROOT, &(start..start + (100 << 10)), size));
        }
        assert!(ahead.iter().all(|range| range.end <= size && !range.is_empty()), "{ahead:?}");
    }
}
