//! Streams of many members, each made by an encoder from plain bytes or by the fuzzer itself: both
//! engines read them alike, however they are cut, and from every checkpoint come the bytes that
//! reading in sequence gives; a damaged byte is refused by both or by none.
#![no_main]

use std::io::Write as _;

use flate2::{Compression, Crc, GzBuilder};
use floors::digest::Digest;
use floors::gzip::{Engine, GzipError, GzipOptions, GzipReader, Output, Pause, Summary, WINDOW};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Stream {
    members: Vec<Member>,
    span: u16,
    chunk: u16,
    tail: Vec<u8>,
    damage: Option<(u16, u8)>,
}

#[derive(Debug, Arbitrary)]
enum Member {
    Encoded {
        pieces: Vec<Piece>,
        level: u8,
        flush: bool,
        extra: bool,
    },
    /// Raw deflate data, taken if it is whole.
    Raw(Vec<u8>),
}

#[derive(Debug, Arbitrary)]
struct Piece {
    kind: u8,
    byte: u8,
    length: u16,
    distance: u16,
}

impl Piece {
    /// Appends runs, few symbols, many symbols, copies from near and far.
    fn put(&self, plain: &mut Vec<u8>) {
        for index in 0..self.length % 1200 {
            let back = usize::from(self.distance).max(1).min(plain.len());
            plain.push(match self.kind % 5 {
                0 => self.byte,
                1 => self.byte & 3 ^ (index % 7) as u8,
                2 => (index as u8 ^ self.byte).wrapping_mul(171).rotate_left(3),
                3 if back > 0 => plain[plain.len() - (1 + (back - 1) % 20)],
                4 if back > 0 => plain[plain.len() - back],
                _ => self.byte,
            });
        }
    }
}

impl Member {
    fn put(&self, stream: &mut Vec<u8>) {
        match self {
            Self::Encoded { pieces, level, flush, extra } => {
                let mut builder = GzBuilder::new();
                if *extra {
                    builder = builder.extra(*b"extra").filename("name").comment("comment");
                }
                let level = Compression::new(u32::from(level % 10));
                let mut encoder = builder.write(Vec::new(), level);
                for piece in pieces.iter().take(12) {
                    let mut plain = Vec::new();
                    piece.put(&mut plain);
                    encoder.write_all(&plain).unwrap();
                    if *flush {
                        encoder.flush().unwrap();
                    }
                }
                stream.extend(encoder.finish().unwrap());
            }
            Self::Raw(deflate) => {
                let mut buffer = vec![0; WINDOW + (1 << 18)];
                let output = Output { buffer: &mut buffer, at: WINDOW, pause_from: usize::MAX };
                let Ok(advance) = Engine::Zlib.start().advance(deflate, output, None) else {
                    return;
                };
                if advance.pause == Pause::End {
                    let plain = &buffer[WINDOW..WINDOW + advance.written];
                    let mut crc = Crc::new();
                    crc.update(plain);
                    stream.extend(b"\x1f\x8b\x08\0\0\0\0\0\0\xff");
                    stream.extend(&deflate[..advance.read]);
                    stream.extend(crc.sum().to_le_bytes());
                    stream.extend((plain.len() as u32).to_le_bytes());
                }
            }
        }
    }
}

fn read(
    stream: &[u8],
    chunk: usize,
    options: GzipOptions,
) -> Result<(Vec<u8>, Summary), GzipError> {
    let mut reader = GzipReader::new(options);
    let mut plain = Vec::new();
    for mut input in stream.chunks(chunk) {
        while let Some(bytes) = reader.next(&mut input)? {
            plain.extend_from_slice(bytes);
        }
    }
    Ok((plain, reader.finish()?))
}

fuzz_target!(|input: Stream| {
    let mut stream = Vec::new();
    for member in input.members.iter().take(8) {
        member.put(&mut stream);
    }
    stream.extend(&input.tail);
    if let Some((place, value)) = input.damage
        && !stream.is_empty()
    {
        let place = usize::from(place) * 7 % stream.len();
        stream[place] ^= value;
    }
    let options =
        |engine| GzipOptions { engine, skip_crc: false, span: Some(u64::from(input.span)) };
    let reference = read(&stream, usize::MAX, options(Engine::Zlib));
    let own = read(&stream, usize::from(input.chunk).max(1), options(Engine::Own));
    let (Ok((plain, summary)), Ok((expected, other))) = (&own, &reference) else {
        assert_eq!(own.is_ok(), reference.is_ok(), "{own:?} {reference:?}");
        return;
    };
    assert!(plain == expected);
    assert_eq!(summary.trailing, other.trailing);
    assert_eq!(summary.spans.len(), other.spans.len());
    let bytes = |from: u64, to: u64| &stream[from as usize..to as usize];
    let mut at = 0;
    // Not all of many: most inputs have few, and these are to be quick.
    let stride = 1 + summary.spans.len() / 8;
    for (index, span) in summary.spans.iter().enumerate() {
        assert_eq!(span.start.plain, at);
        at += span.plain_length;
        assert_eq!(span.digest, other.spans[index].digest);
        if index % stride != 0 {
            continue;
        }
        assert_eq!(span.digest, Digest::of(bytes(span.compressed.start, span.compressed.end)));
        let last = &summary.spans[(index + 5).min(summary.spans.len() - 1)];
        let end = last.start.plain + last.plain_length;
        let expected = &plain[span.start.plain as usize..end as usize];
        let mut input = bytes(span.compressed.start, last.compressed.end);
        let mut reader = GzipReader::resume(&span.start, Engine::Own).unwrap();
        let mut out = Vec::new();
        while let Some(plain) = reader.next(&mut input).unwrap() {
            out.extend_from_slice(plain);
        }
        assert!(out == expected, "from {}", span.start.plain);
    }
    assert_eq!(at, summary.plain);
});
