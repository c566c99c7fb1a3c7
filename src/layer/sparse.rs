//! Sparse files in tars: which pieces of a file are stored, in GNU's four ways of saying so (the
//! old header of type `S`; PAX records of versions 0.0, 0.1 and 1.0), and the file made whole again.

use std::io;

use super::entry::integer;
use super::{Contents, at_most};

/// Zeros of a hole are handed out in runs of this length.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Bytes of an offset or a length in an old header.
const FIELD: usize = 12;

/// What PAX records say of a sparse file, as they say it; empty is nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PaxSparse {
    pub(super) major: Vec<u8>,
    pub(super) minor: Vec<u8>,
    /// The file's own name; `path` holds one made up.
    pub(super) name: Vec<u8>,
    /// Bytes of the file when it is whole, by either name.
    pub(super) size: Vec<u8>,
    pub(super) real_size: Vec<u8>,
    /// How many pieces the map has.
    pub(super) pieces: Vec<u8>,
    /// Offsets and lengths by turns, with commas (0.0 and 0.1).
    pub(super) map: Vec<u8>,
}

/// Where the map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// In the records.
    InRecords,
    /// In the first blocks of the content (1.0).
    InContent,
}

impl PaxSparse {
    /// `None`: the records don't make a sparse file, as Go has it. One of another version is an
    /// ordinary file to it.
    pub(super) fn form(&self) -> Option<Form> {
        match (&self.major[..], &self.minor[..]) {
            (b"1", b"0") => Some(Form::InContent),
            (b"0", b"0" | b"1") => Some(Form::InRecords),
            (b"", b"") if !self.map.is_empty() => Some(Form::InRecords),
            _ => None,
        }
    }

    /// Bytes of the whole file; of one that doesn't say it there are as many as are stored.
    pub(super) fn whole_size(&self, stored: u64) -> Result<u64, String> {
        match if self.size.is_empty() { &self.real_size } else { &self.size } {
            none if none.is_empty() => Ok(stored),
            size => natural(size).ok_or_else(|| "the size of a sparse file is no number".into()),
        }
    }

    /// The numbers of `offset,length,offset,length,...`.
    pub(super) fn numbers(&self) -> Result<Vec<u64>, String> {
        let numbers: Option<Vec<u64>> = match &self.map[..] {
            b"" => Some(Vec::new()),
            map => map.split(|byte| *byte == b',').map(natural).collect(),
        };
        let pieces = natural(&self.pieces).and_then(|pieces| pieces.checked_mul(2));
        numbers
            .filter(|numbers| pieces == Some(numbers.len() as u64))
            .ok_or_else(|| "the map of a sparse file is not of as many numbers as it says".into())
    }
}

fn natural(digits: &[u8]) -> Option<u64> {
    integer(digits).and_then(|number| u64::try_from(number).ok())
}

/// The fields of an old header, or of the block that continues it, that are in use, and whether
/// another block follows.
pub(super) fn old_fields(block: &[u8], first: bool) -> (impl Iterator<Item = &[u8]>, bool) {
    let (start, entries) = if first { (386, 4) } else { (0, 21) };
    let end = start + entries * 2 * FIELD;
    let used = block[start..end].chunks(2 * FIELD).take_while(|entry| entry[0] != 0);
    (used.flat_map(|entry| entry.chunks(FIELD)), block[end] != 0)
}

/// The field of an old header that holds the whole size.
pub(super) fn old_size(block: &[u8]) -> &[u8] {
    &block[483..483 + FIELD]
}

/// The map at the start of a file's content (1.0): how many pieces, then offsets and lengths, each
/// number on a line.
#[derive(Debug, Default)]
pub(super) struct MapText {
    text: Vec<u8>,
    lines: u64,
}

impl MapText {
    /// Takes the next block. `None`: the map goes on in the one after.
    pub(super) fn take(&mut self, block: &[u8]) -> Result<Option<Vec<u64>>, String> {
        self.text.extend_from_slice(block);
        self.lines += block.split(|byte| *byte == b'\n').skip(1).count() as u64;
        let mut numbers = self.text.split(|byte| *byte == b'\n').map(|line| {
            natural(line).ok_or_else(|| "the map of a sparse file is not of numbers".to_owned())
        });
        if self.lines == 0 {
            return Ok(None);
        }
        let pieces = numbers.next().transpose()?.unwrap_or(0);
        match pieces.checked_mul(2) {
            Some(wanted) if wanted < self.lines => numbers
                .take(usize::try_from(wanted).unwrap_or(0))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(_) => Ok(None),
            None => Err("the map of a sparse file is beyond any stream".into()),
        }
    }

    /// Bytes so far.
    pub(super) fn len(&self) -> u64 {
        self.text.len() as u64
    }
}

/// A file on its way from its pieces to the whole.
#[derive(Debug)]
pub(super) struct Expansion {
    size: u64,
    /// Offset and end of each piece, in order.
    pieces: std::vec::IntoIter<(u64, u64)>,
    piece: (u64, u64),
    /// Bytes handed out.
    position: u64,
}

impl Expansion {
    /// A file of `size` bytes of which `stored` are in the tar, at these offsets and lengths.
    pub(super) fn new(size: u64, numbers: &[u64], stored: u64) -> Result<Self, String> {
        let wrong = || "the map of a sparse file makes no sense".to_owned();
        let (mut end, mut sum, mut pieces) = (0, 0_u64, Vec::new());
        for pair in numbers.chunks(2) {
            let &[offset, length] = pair else { return Err(wrong()) };
            if offset < end {
                return Err(wrong());
            }
            end = offset.checked_add(length).filter(|end| *end <= size).ok_or_else(wrong)?;
            sum += length; // no more than `size`
            if length > 0 {
                pieces.push((offset, end));
            }
        }
        if sum != stored {
            return Err(format!("a sparse file maps {sum} bytes of the {stored} that it has"));
        }
        let mut pieces = pieces.into_iter();
        let piece = pieces.next().unwrap_or((size, size));
        Ok(Self { size, pieces, piece, position: 0 })
    }

    /// Bytes of the whole file.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Takes stored bytes.
    pub(super) fn stored(
        &mut self,
        mut bytes: &[u8],
        contents: &mut dyn Contents,
    ) -> io::Result<()> {
        while !bytes.is_empty() {
            let (start, end) = self.piece;
            self.zeros_until(start, contents)?;
            let (now, rest) = bytes.split_at(at_most(bytes.len(), end - self.position));
            contents.bytes(now)?;
            self.position += now.len() as u64;
            bytes = rest;
            if self.position == end {
                self.piece = self.pieces.next().unwrap_or((self.size, self.size));
            }
        }
        Ok(())
    }

    /// The hole at the end.
    pub(super) fn finish(&mut self, contents: &mut dyn Contents) -> io::Result<()> {
        self.zeros_until(self.size, contents)
    }

    fn zeros_until(&mut self, offset: u64, contents: &mut dyn Contents) -> io::Result<()> {
        while self.position < offset {
            let run = at_most(ZEROS.len(), offset - self.position);
            contents.bytes(&ZEROS[..run])?;
            self.position += run as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clip::node::NodePath;

    struct Whole(Vec<u8>);

    impl Contents for Whole {
        fn begin(&mut self, _path: &NodePath, _offset: u64, _length: u64) -> io::Result<bool> {
            Ok(true)
        }

        fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }

        fn end(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn maps_that_make_no_sense_are_refused() {
        for (size, numbers, stored) in [
            (10, &[0, 5, 4, 1][..], 6), // overlap
            (10, &[6, 1, 0, 1], 2),     // order
            (10, &[6, 5], 5),           // beyond the end
            (10, &[u64::MAX, 1], 1),
            (10, &[0, 5], 4), // not what is stored
            (10, &[0], 0),
        ] {
            assert!(Expansion::new(size, numbers, stored).is_err(), "{numbers:?}");
        }
        assert!(Expansion::new(10, &[2, 3, 5, 0, 10, 0], 3).is_ok());
    }

    #[test]
    fn maps_in_records() {
        let numbers = |map: &[u8], pieces: &[u8]| {
            let (pieces, map) = (pieces.to_vec(), map.to_vec());
            PaxSparse { pieces, map, ..PaxSparse::default() }.numbers().ok()
        };
        assert_eq!(numbers(b"", b"0"), Some(vec![]));
        assert_eq!(numbers(b"0,5", b"1"), Some(vec![0, 5]));
        for wrong in [&b","[..], b"1,", b"-1,2", b"1 2", b"0,5,7,1"] {
            assert_eq!(numbers(wrong, b"1"), None, "{wrong:?}");
        }
    }

    #[test]
    fn maps_in_content_may_go_over_blocks() {
        let map = |text: &[u8]| MapText::default().take(text);
        assert_eq!(map(b"1\n0\n5\n\0\0"), Ok(Some(vec![0, 5])));
        assert_eq!(map(b"0\n\0"), Ok(Some(vec![])));
        for unfinished in [&b"2\n0\n5\n7\n"[..], b"1", b"1\n0\n1"] {
            assert_eq!(map(unfinished), Ok(None));
        }
        for wrong in [&b"x\n"[..], b"1\n-1\n1\n", b"\n", b"18446744073709551615\n"] {
            assert!(map(wrong).is_err(), "{wrong:?}");
        }
        let mut text = MapText::default();
        assert_eq!(text.take(b"1\n12"), Ok(None));
        assert_eq!(text.take(b"3\n5\n\0"), Ok(Some(vec![123, 5])));
    }

    proptest! {
        #[test]
        fn what_is_expanded_is_the_file(
            parts in prop::collection::vec((0_usize..90_000, 1_usize..300), 0..5),
            tail in 0_usize..70_000,
            chunk in 1_usize..500,
        ) {
            let (mut whole, mut stored, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
            for (hole, length) in parts {
                whole.resize(whole.len() + hole, 0);
                numbers.extend([whole.len() as u64, length as u64]);
                let piece: Vec<u8> = (1..=250).cycle().take(length).collect();
                whole.extend(&piece);
                stored.extend(piece);
            }
            whole.resize(whole.len() + tail, 0);
            let mut file =
                Expansion::new(whole.len() as u64, &numbers, stored.len() as u64).unwrap();
            let mut made = Whole(Vec::new());
            for bytes in stored.chunks(chunk) {
                file.stored(bytes, &mut made).unwrap();
            }
            file.finish(&mut made).unwrap();
            prop_assert!(made.0 == whole);
        }

        #[test]
        fn nothing_panics(
            text in prop::collection::vec(prop::sample::select(b"0129\n,x\0".to_vec()), 0..60),
            numbers in prop::collection::vec(any::<u64>(), 0..6),
        ) {
            let _ = MapText::default().take(&text);
            let sparse = PaxSparse { map: text.clone(), pieces: text, ..PaxSparse::default() };
            let _ = sparse.numbers();
            let _ = Expansion::new(numbers.first().copied().unwrap_or(0), &numbers, 7);
        }
    }
}
