//! The module as a whole: framing, checkpoints and spans, with every engine, at every chunk size.

use std::io::Write as _;
use std::ops::Range;

use flate2::{Compression, GzBuilder};
use proptest::prelude::*;

use super::*;
use crate::digest::Digest;

const ENGINES: [Engine; 2] = [Engine::Own, Engine::Zlib];

/// Inflates `compressed`, given in chunks of `chunk` bytes.
fn read(
    compressed: &[u8],
    chunk: usize,
    options: GzipOptions,
) -> Result<(Vec<u8>, Summary), GzipError> {
    let mut reader = GzipReader::new(options);
    let mut plain = Vec::new();
    for mut input in compressed.chunks(chunk) {
        while let Some(bytes) = reader.next(&mut input)? {
            plain.extend_from_slice(bytes);
        }
    }
    Ok((plain, reader.finish()?))
}

/// Checks that every span is what it says, and that reading from every checkpoint to the end gives
/// what follows.
fn check_spans(compressed: &[u8], plain: &[u8], summary: &Summary, engine: Engine) {
    let spans = &summary.spans;
    let mut at = 0;
    for span in spans {
        let bytes = &compressed[span.compressed.start as usize..span.compressed.end as usize];
        assert_eq!(span.start.plain, at);
        assert_eq!(span.digest, Digest::of(bytes));
        at += span.plain_length;
        let expected = &plain[span.start.plain as usize..at as usize];
        let mut out = vec![0; expected.len()];
        let piece = [(span.compressed.start, bytes)];
        assert_eq!(inflate_span(&span.start, piece, 0, &mut out, engine), Ok(out.len()));
        assert!(out == expected, "span at {}", span.start.plain);
    }
    assert_eq!(at, summary.plain);
    for (index, span) in spans.iter().enumerate() {
        let pieces = spans[index..].iter().map(|span| {
            let Range { start, end } = span.compressed;
            (start, &compressed[start as usize..end as usize])
        });
        let expected = &plain[span.start.plain as usize..];
        let skip = expected.len() / 3;
        let mut out = vec![0; expected.len() - skip + 1];
        let filled = inflate_span(&span.start, pieces, skip as u64, &mut out, engine).unwrap();
        assert!(out[..filled] == expected[skip..], "from {}", span.start.plain);
    }
}

fn gzip(plain: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::new(level));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Text with matches near and far, about half of it incompressible.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let mut plain: Vec<u8> = Vec::with_capacity(length + 300);
    while plain.len() < length {
        let count = 3 + (next() % 40) as usize;
        if plain.len() > 100 && next() % 2 == 0 {
            let distance = 1 + next() as usize % plain.len().min(1 << (next() % 17));
            for _ in 0..count * 2 {
                plain.push(plain[plain.len() - distance]);
            }
        } else {
            plain.extend((0..count).map(|_| (next() % 64) as u8 + 32));
        }
    }
    plain.truncate(length);
    plain
}

#[test]
fn members_and_spans_at_every_chunk_size() {
    let plain = sample(200_000);
    let mut compressed = gzip(&plain[..70_000], 6);
    compressed.extend(gzip(&[], 6));
    compressed.extend(gzip(&plain[70_000..70_001], 0));
    compressed.extend(gzip(&plain[70_001..], 1));
    for engine in ENGINES {
        for chunk in [1, 2, 3, 7, 64, 1000, 32_768, usize::MAX] {
            for span in [1, 20_000, 65_536, DEFAULT_SPAN] {
                let options = GzipOptions { engine, skip_crc: false, span: Some(span) };
                let (found, summary) = read(&compressed, chunk, options).unwrap();
                assert!(found == plain);
                assert_eq!((summary.members, summary.trailing), (4, Trailing::default()));
                assert_eq!(summary.compressed, compressed.len() as u64);
                check_spans(&compressed, &plain, &summary, engine);
            }
        }
    }
}

/// A bit string, as deflate packs it.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    count: usize,
}

impl Bits {
    /// Appends the lowest `count` bits of `value`, lowest first.
    fn put(&mut self, value: u32, count: u32) {
        for bit in 0..count {
            if self.count.is_multiple_of(8) {
                self.bytes.push(0);
            }
            self.bytes[self.count / 8] |= ((value >> bit & 1) as u8) << (self.count % 8);
            self.count += 1;
        }
    }

    /// The header of a last block with dynamic codes of these lengths, each sent by itself.
    fn put_dynamic(&mut self, literals: &[u8], distances: &[u8]) {
        self.put(0b101, 3);
        self.put(literals.len() as u32 - 257, 5);
        self.put(distances.len() as u32 - 1, 5);
        self.put(15, 4);
        // All 16 lengths have codes of 4 bits, so that each code is its length, reversed.
        for symbol in [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15] {
            self.put(if symbol < 16 { 4 } else { 0 }, 3);
        }
        for &length in literals.iter().chain(distances) {
            self.put(u32::from(length).reverse_bits() >> 28, 4);
        }
    }
}

/// How a raw deflate stream ends.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// With so many bytes unread.
    Good(Vec<u8>, usize),
    Truncated,
    Bad(DeflateError),
}

impl End {
    fn is_good(&self) -> bool {
        matches!(self, Self::Good(..))
    }
}

/// Inflates a raw stream of little output, `chunk` bytes at a time.
fn inflate(engine: Engine, input: &[u8], chunk: usize, history: &[u8]) -> End {
    let mut decoder = engine.start();
    decoder.start(0, history);
    let mut buffer = vec![0; 1 << 20];
    let first = history.len();
    buffer[..first].copy_from_slice(history);
    let (mut read, mut at) = (0, first);
    loop {
        let end = input.len().min(read + chunk);
        let output = Output { buffer: &mut buffer, at, pause_from: usize::MAX };
        match decoder.advance(&input[read..end], output, None) {
            Err(error) => return End::Bad(error),
            Ok(advance) => {
                read += advance.read;
                at += advance.written;
                match advance.pause {
                    Pause::End => return End::Good(buffer[first..at].to_vec(), input.len() - read),
                    Pause::Input if read == input.len() => return End::Truncated,
                    Pause::Output => panic!("too much output for this test"),
                    _ => {}
                }
            }
        }
    }
}

/// Compares both engines on a raw stream; gives how it ends.
fn compare(input: &[u8], history: &[u8]) -> End {
    let reference = inflate(Engine::Zlib, input, usize::MAX, history);
    let mut own = inflate(Engine::Own, input, usize::MAX, history);
    for chunk in [1, 5, 40] {
        let again = inflate(Engine::Own, input, chunk, history);
        assert_eq!(own.is_good(), again.is_good(), "{own:?} {again:?}");
        own = again;
    }
    assert_eq!(own.is_good(), reference.is_good(), "{own:?} {reference:?} {input:02x?}");
    if reference.is_good() {
        assert_eq!(own, reference);
    }
    own
}

#[test]
fn codes_are_refused_as_zlib_refuses_them() {
    let block = |literals: &[(usize, u8)], distances: &[u8], payload: u32| {
        let mut lengths = vec![0; 286];
        for &(symbol, length) in literals {
            lengths[symbol] = length;
        }
        let mut bits = Bits::default();
        bits.put_dynamic(&lengths, distances);
        bits.put(payload, 32);
        bits.put(payload, 32);
        match compare(&bits.bytes, b"history") {
            End::Good(plain, _) => End::Good(plain, 0),
            end => end,
        }
    };
    let good = |plain: &[u8]| End::Good(plain.to_vec(), 0);
    // Only the end of the block, by one code of one bit; the other pattern means nothing.
    assert_eq!(block(&[(256, 1)], &[0], 0), good(b""));
    assert_eq!(block(&[(256, 1)], &[0], 1), End::Bad(DeflateError::Symbol));
    assert_eq!(block(&[(256, 2)], &[0], 0), End::Bad(DeflateError::LiteralCode));
    assert_eq!(block(&[(97, 1)], &[0], 0), End::Bad(DeflateError::NoEndOfBlock));
    assert_eq!(block(&[(97, 1), (98, 1), (256, 1)], &[0], 0), End::Bad(DeflateError::LiteralCode));
    // a: 0, end: 10, length 3: 11.
    let codes = [(97, 1), (256, 2), (257, 2)];
    assert_eq!(block(&codes, &[0], 0b010), good(b"a"));
    assert_eq!(block(&codes, &[0], 0b11), End::Bad(DeflateError::Symbol));
    // One distance code of one bit may stand alone; its other pattern means nothing.
    assert_eq!(block(&codes, &[1], 0b01_0110), good(b"aaaa"));
    assert_eq!(block(&codes, &[1], 0b01_1110), End::Bad(DeflateError::Symbol));
    assert_eq!(block(&codes, &[0, 1], 0b01_0110), good(b"ayay"));
    assert_eq!(block(&codes, &[2], 0), End::Bad(DeflateError::DistanceCode));
    assert_eq!(block(&codes, &[1, 2], 0), End::Bad(DeflateError::DistanceCode));
    assert_eq!(block(&codes, &[1, 1, 1], 0), End::Bad(DeflateError::DistanceCode));
    assert_eq!(block(&codes, &[1; 31], 0), End::Bad(DeflateError::TooManySymbols));
}

#[test]
fn distances_reach_as_far_as_there_are_bytes() {
    // With the fixed codes: length 3 is 0000001, distance 1 is 00000, distance 5 is 00100 and a bit.
    let block = |distance: u32, extra: u32, extra_bits: u32| {
        let mut bits = Bits::default();
        bits.put(0b011, 3);
        bits.put(0b100_0000, 7);
        bits.put(distance, 5);
        bits.put(extra, extra_bits);
        bits.put(0, 7);
        bits.bytes
    };
    let none = block(0b00000, 0, 0);
    assert_eq!(compare(&none, b""), End::Bad(DeflateError::TooFarBack));
    assert_eq!(compare(&none, b"x"), End::Good(b"xxx".to_vec(), 0));
    let five = block(0b00100, 0, 1);
    assert_eq!(compare(&five, b"wxyz"), End::Bad(DeflateError::TooFarBack));
    assert_eq!(compare(&five, b"vwxyz"), End::Good(b"vwx".to_vec(), 0));
    // The farthest: symbol 29 and 13 ones.
    let far = block(0b10111, 0x1fff, 13);
    let mut history = vec![0; WINDOW];
    history[..3].copy_from_slice(b"abc");
    assert_eq!(compare(&far, &history), End::Good(b"abc".to_vec(), 0));
    assert_eq!(compare(&far, &history[1..]), End::Bad(DeflateError::TooFarBack));
    // Symbols 30 and 31 mean nothing.
    assert_eq!(compare(&block(0b01111, 0, 0), &history), End::Bad(DeflateError::Symbol));
    assert_eq!(compare(&block(0b11111, 0, 0), &history), End::Bad(DeflateError::Symbol));
}

#[test]
fn framing_errors_say_where() {
    let plain = sample(1000);
    let good = gzip(&plain, 6);
    let length = good.len();
    let end = length as u64;
    let error = |bytes: &[u8]| read(bytes, 7, GzipOptions::default()).unwrap_err();
    for cut in 0..length {
        assert_eq!(error(&good[..cut]), Problem::Truncated.at(cut as u64));
    }
    let with = |index: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[index] = value;
        bytes
    };
    assert_eq!(error(&with(0, 0x1e)), Problem::Magic(0x1e, 0x8b).at(0));
    assert_eq!(error(&with(2, 9)).at, 2);
    let crc = error(&with(length - 8, !good[length - 8]));
    assert!(matches!(crc.problem, Problem::Crc { .. }) && crc.at == end - 8);
    let size = error(&with(length - 1, 1));
    let found = 1000;
    assert_eq!(size, Problem::Length { expected: found + (1 << 24), found }.at(end - 4));
    let skip_crc = GzipOptions { skip_crc: true, ..GzipOptions::default() };
    assert!(read(&with(length - 8, !good[length - 8]), 7, skip_crc).is_ok());
    assert!(read(&with(length - 1, 1), 7, skip_crc).is_err());
}

#[test]
fn trailing_bytes_are_counted_and_belong_to_no_span() {
    let plain = sample(5000);
    let good = gzip(&plain, 6);
    let all = [&b"\0\0\0"[..], b"\x1f", b"\x1f\x1f\x8b", b"garbage\0", b"\0\x1f\x8b\x08"];
    for tail in all {
        let bytes = [&good[..], tail].concat();
        let nonzero = tail.iter().filter(|byte| **byte != 0).count() as u64;
        for chunk in [1, 2, 1000, usize::MAX] {
            let options = GzipOptions { span: Some(1000), ..GzipOptions::default() };
            let (found, summary) = read(&bytes, chunk, options).unwrap();
            assert!(found == plain);
            assert_eq!(summary.trailing, Trailing { bytes: tail.len() as u64, nonzero });
            assert_eq!(summary.compressed, good.len() as u64);
            assert_eq!(summary.spans.last().unwrap().compressed.end, good.len() as u64);
            check_spans(&bytes, &plain, &summary, Engine::Own);
        }
    }
    // A second magic begins a member, whatever follows.
    let bytes = [&good[..], b"\x1f\x8b\x07"].concat();
    let error = read(&bytes, 1, GzipOptions::default()).unwrap_err();
    assert_eq!(error, Problem::Method(7).at(good.len() as u64 + 2));
}

#[test]
fn thousands_of_small_members() {
    let plain = sample(60_000);
    let compressed: Vec<u8> = plain.chunks(30).flat_map(|piece| gzip(piece, 6)).collect();
    let options = GzipOptions { span: Some(8192), ..GzipOptions::default() };
    let (found, summary) = read(&compressed, 1000, options).unwrap();
    assert!(found == plain);
    assert_eq!(summary.members, 2000);
    assert!(summary.spans.len() >= 7);
    for span in &summary.spans {
        assert_eq!(span.start.kind, CheckpointKind::Start);
        assert_eq!(span.start.window, SparseWindow::default());
    }
    check_spans(&compressed, &plain, &summary, Engine::Own);
}

#[test]
fn checkpoints_do_not_depend_on_chunks_and_hit_every_bit() {
    let plain = sample(400_000);
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::new(6));
    for piece in plain.chunks(5000) {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
    }
    let mut compressed = encoder.finish().unwrap();
    compressed.extend(gzip(&plain, 9));
    let whole = [&plain[..], &plain].concat();
    let options = GzipOptions { span: Some(1), ..GzipOptions::default() };
    let (_, expected) = read(&compressed, usize::MAX, options).unwrap();
    for chunk in [1, 13, 4096] {
        let (found, summary) = read(&compressed, chunk, options).unwrap();
        assert!(found == whole);
        assert!(summary.spans == expected.spans);
    }
    let bits: std::collections::BTreeSet<u64> =
        expected.spans.iter().map(|span| span.start.compressed_bit % 8).collect();
    assert_eq!(bits.len(), 8, "{bits:?}");
    let zlib = GzipOptions { engine: Engine::Zlib, ..options };
    let (_, reference) = read(&compressed, usize::MAX, zlib).unwrap();
    let places = |summary: &Summary| -> Vec<_> {
        summary.spans.iter().map(|span| (span.start.compressed_bit, span.digest)).collect()
    };
    assert_eq!(places(&expected), places(&reference));
}

#[test]
fn buffers_can_be_taken_and_given() {
    let plain = sample(1_500_000);
    let compressed = gzip(&plain, 6);
    let mut reader = GzipReader::new(GzipOptions::default());
    let mut spare = PlainBytes::new();
    let mut found = Vec::new();
    for mut input in compressed.chunks(100_000) {
        while reader.fill(&mut input).unwrap() {
            spare = reader.swap(spare);
            found.extend_from_slice(&spare);
        }
    }
    found.extend_from_slice(&reader.swap(spare));
    assert!(found == plain);
    reader.finish().unwrap();
}

#[test]
fn windows_hold_little_of_what_is_not_referred_to() {
    // Incompressible bytes: nothing is referred to, so windows cost next to nothing.
    let mut state = 1_u64;
    let mut next = || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        (state >> 56) as u8 & 0x7f
    };
    let plain: Vec<u8> = (0..100_000).map(|_| next()).collect();
    let compressed = gzip(&plain, 6);
    let options = GzipOptions { span: Some(20_000), ..GzipOptions::default() };
    let (_, summary) = read(&compressed, usize::MAX, options).unwrap();
    assert!(summary.spans.len() > 2);
    for span in &summary.spans {
        let length = span.start.window.encoded().len();
        assert!(length < 6000, "{length}");
    }
    check_spans(&compressed, &plain, &summary, Engine::Own);
}

#[test]
fn pieces_must_join() {
    let plain = sample(300_000);
    let compressed = gzip(&plain, 6);
    let options = GzipOptions { span: Some(50_000), ..GzipOptions::default() };
    let (_, summary) = read(&compressed, usize::MAX, options).unwrap();
    let span = &summary.spans[1];
    let Range { start, end } = span.compressed.clone();
    let mut out = vec![0; 100];
    let bytes = &compressed[start as usize + 1..end as usize];
    let error = inflate_span(&span.start, [(start + 1, bytes)], 0, &mut out, Engine::Own);
    assert_eq!(error, Err(Problem::Gap(start + 1).at(start)));
    let mut broken = span.start.clone();
    broken.window = SparseWindow::from_encoded(b"no zstd".to_vec());
    let bytes = &compressed[start as usize..end as usize];
    assert!(inflate_span(&broken, [(start, bytes)], 0, &mut out, Engine::Own).is_err());
    assert_eq!(inflate_span(&span.start, [(start, &bytes[..0])], 0, &mut out, Engine::Own), Ok(0));
}

#[test]
#[ignore = "4 GiB take ten seconds"]
fn streams_beyond_4_gib() {
    let piece = vec![7; 1 << 24];
    let member = gzip(&piece, 6);
    let mut encoder = GzBuilder::new().write(Vec::new(), Compression::new(1));
    for _ in 0..260 {
        encoder.write_all(&piece).unwrap();
    }
    let mut compressed = encoder.finish().unwrap();
    compressed.extend_from_slice(&member);
    let options = GzipOptions { span: Some(1 << 30), skip_crc: true, ..GzipOptions::default() };
    let mut reader = GzipReader::new(options);
    let mut input = &compressed[..];
    let mut total = 0;
    while let Some(plain) = reader.next(&mut input).unwrap() {
        total += plain.len() as u64;
    }
    let summary = reader.finish().unwrap();
    assert_eq!((total, summary.plain), (261 << 24, 261 << 24));
    let last = summary.spans.last().unwrap();
    assert!(last.start.plain > u64::from(u32::MAX));
    let bytes = &compressed[last.compressed.start as usize..];
    let mut out = vec![0; 1000];
    let piece = [(last.compressed.start, bytes)];
    assert_eq!(inflate_span(&last.start, piece, 0, &mut out, Engine::Own), Ok(1000));
    assert!(out.iter().all(|byte| *byte == 7));
}

/// Plain bytes of many kinds: runs, few symbols, copies from before.
fn plain_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = (any::<u8>(), 0_u8..8, 1_usize..400, 1_usize..70_000);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| {
        let mut plain: Vec<u8> = Vec::new();
        for (byte, kind, length, distance) in pieces {
            for index in 0..length {
                let next = match kind {
                    0 => byte,
                    1 => byte ^ (index as u8).wrapping_mul(171).rotate_left(3),
                    2 => byte & 3 ^ (index % 7) as u8,
                    _ if plain.is_empty() => byte,
                    3 => plain[plain.len() - 1 - distance % plain.len().min(20)],
                    _ => plain[plain.len() - 1 - distance % plain.len()],
                };
                plain.push(next);
            }
        }
        plain
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_plain_bytes_come_back(
        plain in plain_bytes(), level in 0_u32..10, chunk in 1_usize..5000, flush in 1_usize..4000,
    ) {
        let mut encoder = GzBuilder::new().write(Vec::new(), Compression::new(level));
        for piece in plain.chunks(flush) {
            encoder.write_all(piece).unwrap();
            encoder.flush().unwrap();
        }
        let compressed = encoder.finish().unwrap();
        let options = GzipOptions { span: Some(1), ..GzipOptions::default() };
        let (found, summary) = read(&compressed, chunk, options).unwrap();
        prop_assert!(found == plain);
        check_spans(&compressed, &plain, &summary, Engine::Own);
    }

    #[test]
    fn damaged_streams_end_as_in_zlib(
        plain in plain_bytes(), level in 0_u32..10, mutations in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let compressed = gzip(&plain, level);
        let mut deflate = compressed[10..compressed.len() - 8].to_vec();
        for (index, value) in mutations {
            let index = index.index(deflate.len());
            deflate[index] ^= value;
        }
        compare(&deflate, &[]);
    }

    #[test]
    fn random_bytes_end_as_in_zlib(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        compare(&bytes, b"some history");
        let _ = read(&bytes, 3, GzipOptions::default());
        let _ = SparseWindow::from_encoded(bytes).decode();
    }

    #[test]
    fn random_codes_end_as_in_zlib(
        literals in prop::collection::vec((0_usize..286, 1_u8..16), 1..40),
        distances in prop::collection::vec(0_u8..16, 1..31),
        complete in any::<bool>(),
        payload in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut lengths = vec![0; 286];
        lengths[256] = 1 + payload.first().map_or(0, |byte| byte % 15);
        for (symbol, length) in literals {
            lengths[symbol] = length;
        }
        let mut distances = distances;
        if complete {
            make_complete(&mut lengths);
            make_complete(&mut distances);
        }
        let mut bits = Bits::default();
        bits.put_dynamic(&lengths, &distances);
        for byte in payload {
            bits.put(byte.into(), 8);
        }
        compare(&bits.bytes, &vec![b'h'; WINDOW]);
    }
}

/// Changes lengths so that they make a complete code, if there are symbols enough.
fn make_complete(lengths: &mut [u8]) {
    let mut left = 1_u32 << 15;
    let mut order: Vec<usize> = (0..lengths.len()).filter(|&symbol| lengths[symbol] > 0).collect();
    order.sort_by_key(|&symbol| lengths[symbol]);
    for symbol in order {
        while lengths[symbol] < 15 && 1 << (15 - lengths[symbol]) > left / 2 {
            lengths[symbol] += 1;
        }
        let share = 1 << (15 - lengths[symbol]);
        if share > left {
            lengths[symbol] = 0;
        } else {
            left -= share;
        }
    }
    for length in lengths.iter_mut().filter(|length| **length == 0) {
        if left > 0 {
            let bit = left.ilog2();
            *length = 15 - (bit as u8).min(14);
            left -= 1 << bit.min(14);
        }
    }
}
