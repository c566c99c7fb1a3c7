//! The module as a whole: framing, checkpoints and spans, with every engine, at every chunk size.

use std::io::Write as _;
use std::ops::Range;

use flate2::{Compression, GzBuilder};

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
