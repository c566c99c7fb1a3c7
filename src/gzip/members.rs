//! Writing gzip so that it can be read from many places: members of one size, one after the other
//! (RFC 1952 section 2.2). Each is compressed on its own, which several threads can do at once, and
//! reading can begin at each without any history.

use std::io::{self, Write as _};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

use super::checkpoint::{Span, SpanBuilder};

/// The most plain bytes of a member: less would cost compression, more memory.
const MOST: u64 = 4 << 20;

/// How many plain bytes each member but the last holds in a stream that has spans of `span` plain bytes:
/// a whole number of members makes a span.
pub fn member_size(span: u64) -> usize {
    let span = span.max(1);
    // As long as it is less than a byte for each member that is missing in the end, a span begins there
    // all the same: at a member's start it may do so a little early.
    usize::try_from(span / span.div_ceil(MOST)).unwrap_or(MOST as usize)
}

/// `plain` as one member, whose header has neither name nor time: the same bytes and level give the same
/// member.
pub fn compress_member(plain: &[u8], level: u32) -> io::Result<Vec<u8>> {
    let out = Vec::with_capacity(plain.len() / 2 + 64);
    let mut encoder: GzEncoder<Vec<u8>> = GzBuilder::new().write(out, Compression::new(level));
    encoder.write_all(plain)?;
    encoder.finish()
}

/// The spans of members as they are put together: those that reading the stream would give.
#[derive(Debug)]
pub struct MemberSpans {
    builder: SpanBuilder,
    plain: u64,
}

impl MemberSpans {
    /// Of spans of at least `span` plain bytes.
    pub fn new(span: u64) -> Self {
        Self { builder: SpanBuilder::new(span), plain: 0 }
    }

    /// The next member, and how many plain bytes it holds.
    pub fn push(&mut self, member: &[u8], plain: u64) {
        self.builder.member(self.plain);
        self.builder.compressed(member);
        self.plain += plain;
    }

    /// The spans of all members.
    pub fn finish(self) -> Vec<Span> {
        self.builder.finish(self.plain)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gzip::{GzipOptions, GzipReader};

    /// Members of `plain`, and their spans.
    fn write(plain: &[u8], size: usize, span: u64, level: u32) -> (Vec<u8>, Vec<Span>) {
        let (mut stream, mut spans) = (Vec::new(), MemberSpans::new(span));
        for piece in plain.chunks(size) {
            let member = compress_member(piece, level).unwrap();
            spans.push(&member, piece.len() as u64);
            stream.extend_from_slice(&member);
        }
        (stream, spans.finish())
    }

    /// What reading says of a stream: its plain bytes and its spans.
    fn read(stream: &[u8], span: u64) -> (Vec<u8>, Vec<Span>) {
        let options = GzipOptions { span: Some(span), ..GzipOptions::default() };
        let (mut reader, mut plain, mut input) = (GzipReader::new(options), Vec::new(), stream);
        while let Some(bytes) = reader.next(&mut input).unwrap() {
            plain.extend_from_slice(bytes);
        }
        (plain, reader.finish().unwrap().spans)
    }

    #[test]
    fn a_whole_number_of_members_makes_a_span() {
        const MIB: u64 = 1 << 20;
        for mib in 1..=32 {
            let (span, size) = (mib * MIB, member_size(mib * MIB) as u64);
            assert!((MIB..=MOST).contains(&size), "{mib}");
            assert!(span % size < span.div_ceil(MOST), "{mib}");
        }
        assert_eq!(member_size(0), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        /// Whatever the sizes and the bytes, the spans are those that reading the stream gives, and begin
        /// at members alone.
        #[test]
        fn spans_are_those_that_reading_gives(
            seed in any::<u64>(),
            length in 1usize..300_000,
            span in 1_000u64..100_000,
            parts in 1u64..5,
            level in 1u32..10,
            runs in 1u64..400,
        ) {
            let mut state = seed | 1;
            let plain: Vec<u8> = (0..length).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                ((state >> 33) % runs) as u8
            }).collect();
            let size = usize::try_from(span / parts).unwrap();
            let (stream, spans) = write(&plain, size, span, level);
            let (back, expected) = read(&stream, span);
            prop_assert!(back == plain);
            prop_assert!(spans.iter().all(|s| s.start.window == crate::gzip::SparseWindow::default()));
            prop_assert_eq!(spans, expected);
        }
    }
}
