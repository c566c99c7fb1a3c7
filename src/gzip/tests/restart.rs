//! Spans: each is what it says, and from each checkpoint come the bytes that reading in sequence gives.

use flate2::Crc;
use proptest::prelude::*;

use super::*;

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
fn a_window_that_is_none_is_an_error() {
    let plain = sample(300_000);
    let compressed = gzip(&plain, 6);
    let options = GzipOptions { span: Some(50_000), ..GzipOptions::default() };
    let (_, summary) = read(&compressed, usize::MAX, options).unwrap();
    let mut start = summary.spans[1].start.clone();
    assert!(resumed(&start, b"", Engine::Own).unwrap().is_empty());
    start.window = SparseWindow::from_encoded(b"no zstd".to_vec());
    assert!(resumed(&start, b"", Engine::Own).is_err());
}

/// A member with the optional fields that `flags` names, and the header's CRC if that is one.
fn member(flags: u8, plain: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 2, 3];
    for (flag, field) in [(4, &b"\x05\0extra"[..]), (8, b"name\0"), (16, b"comment\0")] {
        if flags & flag != 0 {
            bytes.extend_from_slice(field);
        }
    }
    if flags & 2 != 0 {
        let mut crc = Crc::new();
        crc.update(&bytes);
        bytes.extend_from_slice(&crc.sum().to_le_bytes()[..2]);
    }
    bytes.extend_from_slice(&gzip(plain, 6)[10..]);
    bytes
}

#[test]
fn every_header_and_empty_members_anywhere() {
    let plain = sample(32 * 500);
    let mut compressed = Vec::new();
    for (flags, piece) in (0..32).zip(plain.chunks(500)) {
        compressed.extend(member(flags, b""));
        compressed.extend(member(flags, piece));
        compressed.extend(gzip(b"", 0));
    }
    for engine in ENGINES {
        for (chunk, span) in [(1, 1), (7, 100), (usize::MAX, 1), (1000, 2000)] {
            let options = GzipOptions { engine, skip_crc: false, span: Some(span) };
            let (found, summary) = read(&compressed, chunk, options).unwrap();
            assert!(found == plain);
            assert_eq!(summary.members, 96);
            assert!(summary.spans.len() as u64 >= 16_000 / 2500.max(span));
            check_spans(&compressed, &plain, &summary, engine);
        }
    }
    // Nothing but empty members: one span, of no bytes.
    let empty = gzip(b"", 6).repeat(1000);
    let options = GzipOptions { span: Some(1), ..GzipOptions::default() };
    let (found, summary) = read(&empty, 10, options).unwrap();
    assert_eq!((found.len(), summary.members, summary.spans.len()), (0, 1000, 1));
    check_spans(&empty, b"", &summary, Engine::Own);
}

/// A layer whose diff id is right is taken whatever its CRCs are, and so must its spans be.
#[test]
fn spans_made_without_crcs_are_read_without_them() {
    let plain = sample(1000);
    let mut compressed = gzip(&plain, 6);
    let crc = compressed.len() - 8;
    compressed[crc] ^= 1;
    compressed.extend(gzip(&plain, 6));
    let options =
        GzipOptions { span: Some(DEFAULT_SPAN), skip_crc: true, ..GzipOptions::default() };
    let (_, summary) = read(&compressed, usize::MAX, options).unwrap();
    check_spans(&compressed, &plain.repeat(2), &summary, Engine::Own);
}

#[test]
fn places_far_beyond_4_gib_are_read_from() {
    let plain = sample(300_000);
    let compressed = gzip(&plain, 6);
    let options = GzipOptions { span: Some(50_000), ..GzipOptions::default() };
    let (_, summary) = read(&compressed, usize::MAX, options).unwrap();
    for far in [(1 << 32) - 50_000, 1 << 40] {
        for span in &summary.spans {
            let mut start = span.start.clone();
            start.plain += far;
            start.compressed_bit += far * 8;
            let bytes = &compressed[span.compressed.start as usize..span.compressed.end as usize];
            let found = resumed(&start, bytes, Engine::Own).unwrap();
            assert!(found == plain[span.start.plain as usize..][..span.plain_length as usize]);
        }
    }
}

/// Both the compressed and the plain stream grow beyond 4 GiB: stored blocks, which go by fast, and
/// then another member.
#[test]
fn streams_beyond_4_gib() {
    const LENGTH: u64 = 65_535;
    const BLOCKS: u64 = 66_000;
    let content = sample(LENGTH as usize);
    let block = [&b"\0\xff\xff\0\0"[..], &content].concat();
    let total = BLOCKS * LENGTH;
    let [head, tail] = [&gzip(b"", 6)[..10], &[1, 0, 0, 0xff, 0xff, 0, 0, 0, 0]];
    let tail = [tail, &(total as u32).to_le_bytes(), &gzip(&content, 6)].concat();
    let options = GzipOptions { span: Some(1 << 30), skip_crc: true, ..GzipOptions::default() };
    let mut reader = GzipReader::new(options);
    let mut found = 0;
    let blocks = std::iter::repeat_n(&block[..], BLOCKS as usize);
    for mut input in std::iter::once(head).chain(blocks).chain([&tail[..]]) {
        while let Some(plain) = reader.next(&mut input).unwrap() {
            found += plain.len() as u64;
        }
    }
    let summary = reader.finish().unwrap();
    assert_eq!((found, summary.plain), (total + LENGTH, total + LENGTH));
    assert_eq!(summary.members, 2);
    let starts: Vec<_> = summary.spans.iter().map(|span| span.start.plain).collect();
    // A span has 1 GiB or more and ends where a block does.
    let next = |start: &u64| Some((start + (1 << 30)).next_multiple_of(LENGTH));
    let due: Vec<_> = std::iter::successors(Some(0), next).take(5).collect();
    assert_eq!(starts, due);
    let last = &summary.spans[4];
    assert!(last.start.plain > 1 << 32 && last.compressed.start > 1 << 32);
    assert_eq!(last.start.compressed_bit, (10 + due[4] / LENGTH * block.len() as u64) * 8);
    assert!(resumed(&last.start, &block, Engine::Own).unwrap() == content);
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
}
