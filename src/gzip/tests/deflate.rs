//! Raw deflate: our loop and zlib-rs give the same bytes, or both refuse.

use proptest::prelude::*;

use super::*;

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

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
