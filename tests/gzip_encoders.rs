//! Streams of many real encoders: the plain bytes come back, and from every checkpoint.
//!
//! Encoders that are programs come from Debian's packages gzip, pigz, zopfli, libdeflate-tools and
//! isal, from Go and, for zlib-ng, from `PyPI` (scripts/setup.sh). One that is missing fails the test where
//! `CI` is `true`, and is named otherwise.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use clipwright::digest::Digest;
use clipwright::gzip::{CheckpointKind, Engine, GzipError, GzipOptions, GzipReader, Summary};
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush, Strategy};

/// Text-like, binary-like, constant and incompressible stretches with copies near and far.
fn plain(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |below: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 33) as usize % below
    };
    let mut plain = Vec::with_capacity(length + 4096);
    while plain.len() < length {
        let kind = next(16);
        let magnitude = next(10);
        let count = 1 + next(2 << magnitude);
        match kind {
            0 => plain.extend(std::iter::repeat_n(next(256) as u8, count)),
            1 | 2 => plain.extend((0..count).map(|_| next(256) as u8)),
            3..=6 => plain.extend((0..count).map(|_| b"etaoin shrdlu\n"[next(14)])),
            _ if plain.is_empty() => {}
            _ => {
                let magnitude = next(16);
                let distance = 1 + next(plain.len().min(2 << magnitude));
                for _ in 0..count.min(300) {
                    plain.push(plain[plain.len() - distance]);
                }
            }
        }
    }
    plain.truncate(length);
    plain
}

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

/// Checks a stream with a checkpoint at every block, at several chunk sizes. Gives the checkpoints' bit
/// offsets in their bytes.
fn check(name: &str, compressed: &[u8], plain: &[u8]) -> BTreeSet<u64> {
    let zlib = GzipOptions { engine: Engine::Zlib, ..GzipOptions::default() };
    let (reference, _) = read(compressed, 1 << 16, zlib).unwrap();
    assert!(reference == plain, "{name}: the encoder and zlib disagree");
    let options = GzipOptions { span: Some(1), ..GzipOptions::default() };
    for chunk in [1 << 16, 1009, 1] {
        let (found, _) = read(compressed, chunk, options).unwrap();
        assert!(found == plain, "{name} by {chunk}");
    }
    let (_, summary) = read(compressed, usize::MAX, options).unwrap();
    assert_eq!(summary.plain, plain.len() as u64, "{name}");
    let bytes = |from: u64, to: u64| &compressed[from as usize..to as usize];
    for (index, span) in summary.spans.iter().enumerate() {
        // A few spans on: the window serves the first 32 KiB.
        let last = &summary.spans[(index + 4).min(summary.spans.len() - 1)];
        let piece = bytes(span.compressed.start, last.compressed.end);
        let end = last.start.plain + last.plain_length;
        let expected = &plain[span.start.plain as usize..end as usize];
        for engine in [Engine::Own, Engine::Zlib] {
            let mut reader = GzipReader::resume(&span.start, engine).unwrap();
            let (mut input, mut found) = (piece, Vec::new());
            while let Some(plain) = reader.next(&mut input).unwrap() {
                found.extend_from_slice(plain);
            }
            assert!(found == expected, "{name} at {}", span.start.plain);
        }
        let own = bytes(span.compressed.start, span.compressed.end);
        assert_eq!(span.digest, Digest::of(own), "{name}");
    }
    summary.spans.iter().map(|span| span.start.compressed_bit % 8).collect()
}

/// What `command` makes of `input` on its standard input; nothing if the program is missing.
fn encode(command: &mut Command, input: &Path) -> Option<Vec<u8>> {
    let output = command.stdin(File::open(input).unwrap()).stderr(Stdio::inherit()).output();
    match output {
        Ok(output) => {
            assert!(output.status.success(), "{command:?} failed: {}", output.status);
            Some(output.stdout)
        }
        Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => {
            panic!("{command:?} is needed here: {error}")
        }
        Err(error) => {
            eprintln!("not tested: {command:?}: {error}");
            None
        }
    }
}

fn check_program(program: &str, arguments: &[&[&str]], length: usize) -> BTreeSet<u64> {
    let mut bits = BTreeSet::new();
    let plain = plain(length);
    let mut input = tempfile::NamedTempFile::new().unwrap();
    input.write_all(&plain).unwrap();
    for arguments in arguments {
        let mut command = Command::new(program);
        command.args(*arguments);
        if let Some(compressed) = encode(&mut command, input.path()) {
            bits.append(&mut check(&format!("{program} {arguments:?}"), &compressed, &plain));
        }
    }
    bits
}

#[test]
fn gzip_at_every_level() {
    let mut bits = check_program("gzip", &[&["-6", "--rsyncable", "-c"]], 400_000);
    for level in ["-1", "-2", "-3", "-4", "-5", "-6", "-7", "-8", "-9"] {
        bits.append(&mut check_program("gzip", &[&[level, "-c"]], 400_000));
    }
    assert_eq!(bits.len(), 8, "checkpoints at every bit of a byte, not only {bits:?}");
}

#[test]
fn pigz_with_and_without_independent_blocks() {
    let arguments: [&[&str]; 5] = [
        &["-c", "-6", "-p2", "-b128"],
        &["-c", "-6", "-p2", "-b128", "-i"],
        &["-c", "-9", "-p1"],
        &["-c", "-0", "-p2"],
        &["-c", "-6", "-p2", "-R"],
    ];
    check_program("pigz", &arguments, 600_000);
}

#[test]
fn libdeflate() {
    check_program("libdeflate-gzip", &[&["-1", "-c"], &["-6", "-c"], &["-12", "-c"]], 600_000);
}

#[test]
fn igzip() {
    check_program("igzip", &[&["-0", "-c"], &["-1", "-c"], &["-3", "-c"]], 600_000);
}

#[test]
fn zopfli() {
    // It reads a named file only.
    let plain = plain(150_000);
    let mut input = tempfile::NamedTempFile::new().unwrap();
    input.write_all(&plain).unwrap();
    let mut command = Command::new("zopfli");
    command.args(["-c", "--i5"]).arg(input.path());
    if let Some(compressed) = encode(&mut command, input.path()) {
        check("zopfli", &compressed, &plain);
    }
}

#[test]
fn zlib_ng() {
    let plain = plain(600_000);
    let mut input = tempfile::NamedTempFile::new().unwrap();
    input.write_all(&plain).unwrap();
    let program = "import sys\n\
        from zlib_ng import zlib_ng\n\
        encoder = zlib_ng.compressobj(int(sys.argv[1]), zlib_ng.DEFLATED, 31, 8, int(sys.argv[2]))\n\
        out = sys.stdout.buffer\n\
        while data := sys.stdin.buffer.read(100_000):\n    \
            out.write(encoder.compress(data))\n\
        out.write(encoder.flush())\n";
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/zlib-ng/bin/python3");
    // Every level has a strategy of its own; 2, 3 and 4 are Huffman only, RLE and fixed codes.
    let level = |level| (level, "0");
    let levels = ["0", "1", "2", "3", "5", "6", "7", "9"].map(level);
    for (level, strategy) in levels.into_iter().chain([("6", "2"), ("6", "3"), ("6", "4")]) {
        let mut command = Command::new(python);
        command.args(["-c", program, level, strategy]);
        if let Some(compressed) = encode(&mut command, input.path()) {
            check(&format!("zlib-ng {level} {strategy}"), &compressed, &plain);
        }
    }
}

#[test]
fn go() {
    let plain = plain(400_000);
    let folder = tempfile::tempdir().unwrap();
    let (program, input) = (folder.path().join("main.go"), folder.path().join("input"));
    std::fs::write(&input, &plain).unwrap();
    std::fs::write(
        &program,
        "package main\n\
         import (\"compress/gzip\"; \"io\"; \"os\"; \"strconv\")\n\
         func main() {\n\
           level, _ := strconv.Atoi(os.Args[1])\n\
           w, err := gzip.NewWriterLevel(os.Stdout, level)\n\
           if err != nil { panic(err) }\n\
           w.Name, w.Comment, w.Extra = \"name\", \"comment\", []byte(\"extra\")\n\
           if _, err = io.Copy(w, os.Stdin); err != nil { panic(err) }\n\
           if err = w.Close(); err != nil { panic(err) }\n\
         }\n",
    )
    .unwrap();
    for level in ["-2", "-1", "0", "1", "9"] {
        let mut command = Command::new("go");
        command.arg("run").arg(&program).arg(level);
        if let Some(compressed) = encode(&mut command, &input) {
            check(&format!("Go {level}"), &compressed, &plain);
        }
    }
}

/// Compresses with zlib-rs, flushing every `every` bytes.
fn deflate(plain: &[u8], config: DeflateConfig, flush: DeflateFlush, every: usize) -> Vec<u8> {
    let mut encoder = Deflate::new_with_config(config);
    let mut out = vec![0; 2 * plain.len() + (plain.len() / every + 2) * 64];
    let mut chunks = plain.chunks(every).peekable();
    while let Some(chunk) = chunks.next() {
        let flush = if chunks.peek().is_none() { DeflateFlush::Finish } else { flush };
        let from = encoder.total_out() as usize;
        encoder.compress(chunk, &mut out[from..], flush).unwrap();
    }
    out.truncate(encoder.total_out() as usize);
    out
}

#[test]
fn every_strategy_flush_and_window_of_zlib() {
    let plain = plain(200_000);
    let strategies = [
        Strategy::Default,
        Strategy::Filtered,
        Strategy::HuffmanOnly,
        Strategy::Rle,
        Strategy::Fixed,
    ];
    let gzip = |window: i32| DeflateConfig {
        level: 6,
        window_bits: 16 + window,
        ..DeflateConfig::default()
    };
    for strategy in strategies {
        for mem_level in [1, 8] {
            let config = DeflateConfig { strategy, mem_level, ..gzip(15) };
            let compressed = deflate(&plain, config, DeflateFlush::NoFlush, 50_000);
            check(&format!("{strategy:?} {mem_level}"), &compressed, &plain);
        }
    }
    for flush in [DeflateFlush::SyncFlush, DeflateFlush::FullFlush, DeflateFlush::PartialFlush] {
        let compressed = deflate(&plain, gzip(15), flush, 1777);
        check("flushed", &compressed, &plain);
    }
    for window in 9..15 {
        let compressed = deflate(&plain, gzip(window), DeflateFlush::NoFlush, 50_000);
        check(&format!("window of {window} bits"), &compressed, &plain);
    }
    let stored = DeflateConfig { level: 0, ..gzip(15) };
    check("stored", &deflate(&plain, stored, DeflateFlush::NoFlush, 50_000), &plain);
}

#[test]
fn independent_blocks_need_no_window() {
    let plain = plain(200_000);
    let config = DeflateConfig { level: 6, window_bits: 31, ..DeflateConfig::default() };
    let compressed = deflate(&plain, config, DeflateFlush::FullFlush, 40_000);
    let options = GzipOptions { span: Some(40_000), ..GzipOptions::default() };
    let (_, summary) = read(&compressed, 1 << 16, options).unwrap();
    assert_eq!(summary.spans.len(), 5);
    for span in &summary.spans[1..] {
        assert_eq!(span.start.kind, CheckpointKind::Block);
        assert!(span.start.window.encoded().len() < 32);
    }
}
