//! The module as a whole, with every engine, at every chunk size.

mod deflate;
mod framing;
mod restart;

use std::io::Write as _;

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

/// The plain bytes from a checkpoint on; `compressed` begins with the byte that holds its bit.
fn resumed(
    start: &Checkpoint,
    mut compressed: &[u8],
    engine: Engine,
) -> Result<Vec<u8>, GzipError> {
    let mut reader = GzipReader::resume(start, engine)?;
    let mut plain = Vec::new();
    while let Some(bytes) = reader.next(&mut compressed)? {
        plain.extend_from_slice(bytes);
    }
    Ok(plain)
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
        assert!(
            resumed(&span.start, bytes, engine).unwrap() == expected,
            "span at {}",
            span.start.plain
        );
    }
    assert_eq!(at, summary.plain);
    let end = spans.last().map_or(0, |span| span.compressed.end as usize);
    for span in spans {
        let bytes = &compressed[span.compressed.start as usize..end];
        let found = resumed(&span.start, bytes, engine).unwrap();
        assert!(found == plain[span.start.plain as usize..], "from {}", span.start.plain);
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
