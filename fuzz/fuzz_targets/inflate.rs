//! Any bytes as raw deflate: our loop gives the bytes and the places of blocks that zlib-rs gives, or
//! both refuse; however the input is cut.
//!
//! Four bytes say the chunk size, the length of the history and the bits that are skipped.
#![no_main]

use floors::gzip::{Engine, Inflate, Output, Pause, WINDOW};
use libfuzzer_sys::fuzz_target;

/// More plain bytes than this are not looked at.
const ENOUGH: usize = 2 << 20;
/// A buffer as small as decoders take, so that its end is often near.
const BUFFER: usize = WINDOW + 4096;

/// How a stream ends.
#[derive(Debug, PartialEq)]
enum End {
    /// With so many bytes unread.
    Good {
        unread: usize,
    },
    Refused,
    /// The plain bytes are enough for this test.
    Enough,
}

struct Found {
    plain: Vec<u8>,
    /// Bit and plain offset of every block after the first.
    blocks: Vec<(usize, usize)>,
    end: End,
}

fn inflate(engine: Engine, input: &[u8], chunk: usize, history: &[u8], skip_bits: u8) -> Found {
    let mut decoder: Box<dyn Inflate> = engine.start();
    decoder.start(skip_bits, history);
    let mut buffer = vec![0; BUFFER];
    buffer[WINDOW - history.len()..WINDOW].copy_from_slice(history);
    let (mut read, mut at) = (0_usize, WINDOW);
    let (mut plain, mut blocks) = (Vec::new(), Vec::new());
    let end = loop {
        let chunk = &input[read..input.len().min(read.saturating_add(chunk))];
        let output = Output { buffer: &mut buffer, at, pause_from: 0 };
        let Ok(advance) = decoder.advance(chunk, output, None) else { break End::Refused };
        read += advance.read;
        plain.extend_from_slice(&buffer[at..at + advance.written]);
        at += advance.written;
        match advance.pause {
            Pause::End => break End::Good { unread: input.len() - read },
            Pause::Block => blocks.push((read * 8 - usize::from(advance.unused_bits), plain.len())),
            Pause::Input if read == input.len() => break End::Refused,
            Pause::Input => {}
            Pause::Output => {
                assert!(BUFFER - at < 1024, "it stopped with room left");
            }
        }
        if plain.len() > ENOUGH {
            break End::Enough;
        }
        if BUFFER - at < 1024 {
            buffer.copy_within(at - WINDOW..at, 0);
            at = WINDOW;
        }
    };
    Found { plain, blocks, end }
}

fuzz_target!(|bytes: &[u8]| {
    let [chunk, history, near, skip_bits, deflate @ ..] = bytes else { return };
    let history: Vec<u8> =
        (0..=255).cycle().take(usize::from(*history) * 128 + usize::from(*near)).collect();
    let history = &history[..history.len().min(WINDOW)];
    let skip_bits = skip_bits % 8;
    let reference = inflate(Engine::Zlib, deflate, usize::MAX, history, skip_bits);
    for chunk in [usize::MAX, usize::from(*chunk).max(1)] {
        let own = inflate(Engine::Own, deflate, chunk, history, skip_bits);
        assert_eq!(own.end, reference.end, "by {chunk}");
        if reference.end == End::Refused {
            continue;
        }
        let length = own.plain.len().min(reference.plain.len());
        assert!(own.plain[..length] == reference.plain[..length], "by {chunk}");
        if reference.end != End::Enough {
            assert_eq!(own.plain.len(), reference.plain.len(), "by {chunk}");
            assert_eq!(own.blocks, reference.blocks, "by {chunk}");
        }
    }
});
