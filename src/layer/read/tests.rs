use crate::memory::MemoryAccount;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Read;

use super::*;
use crate::layer::NoContents;

fn tar() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in [("a", vec![1; 300_000]), ("b", vec![2; 700_000]), ("c", vec![])] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &*content).unwrap();
    }
    builder.into_inner().unwrap()
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn read_limited(
    layer: &[u8],
    source: impl BufRead,
    limits: Limits,
) -> Result<LayerIndex, LayerError> {
    let read = LayerRead { digest: Digest::of(layer), limits, span: None };
    read_layer(read, &MemoryAccount::default(), source, &mut NoContents)
}

fn read(layer: &[u8]) -> Result<LayerIndex, LayerError> {
    read_limited(layer, layer, Limits::default())
}

#[test]
fn one_pass_finds_everything_out() {
    let (plain, layer) = (tar(), gzip(&tar()));
    let index = read(&layer).unwrap();
    assert_eq!(index.digest, Digest::of(&layer));
    assert_eq!(index.diff_id, Digest::of(&plain));
    assert_eq!(index.compressed_size, layer.len() as u64);
    assert_eq!(index.plain_size, plain.len() as u64);
    assert_eq!(index.entries.len(), 3);
}

#[test]
fn members_are_one_stream() {
    let plain = tar();
    let layer = plain.chunks(100_000).flat_map(gzip).collect::<Vec<_>>();
    assert_eq!(read(&layer).unwrap().entries, read(&gzip(&plain)).unwrap().entries);
}

#[test]
fn what_is_wrong_is_said() {
    let layer = gzip(&tar());
    let mut flipped = layer.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    let cut = &layer[..layer.len() - 9];
    let trailing = [&layer[..], b"\0\0"].concat();
    for broken in [&flipped[..], cut, &trailing, b"not gzip at all"] {
        let error = read(broken).unwrap_err();
        assert!(error.is_of_content(), "{error}");
    }
    let error = read(&gzip(b"no tar")).unwrap_err();
    assert!(matches!(error, LayerError::Tar { .. }), "{error}");
    let limits = Limits { plain_bytes: 500_000, ..Limits::default() };
    let error = read_limited(&layer, &*layer, limits).unwrap_err();
    assert!(
        error.to_string().ends_with("of which clipwright.limits.plainMib allows 500000"),
        "{error}"
    );
}

#[test]
fn a_failing_source_is_the_cause() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the line is dead"))
        }
    }
    let layer = gzip(&tar());
    let source = std::io::BufReader::new((&layer[..layer.len() / 2]).chain(Broken));
    let error = read_limited(&layer, source, Limits::default()).unwrap_err();
    assert!(error.to_string().ends_with("the line is dead"), "{error}");
}

#[test]
fn ranges_are_copied_and_the_whole_verified() {
    let (plain, layer) = (tar(), gzip(&tar()));
    let (digest, diff_id) = (Digest::of(&layer), Digest::of(&plain));
    for (offset, length) in [(0, 10), (300_000, 600_000), (plain.len() - 5, 5), (7, 0)] {
        let mut out = Vec::new();
        copy_range(digest, &*layer, diff_id, offset as u64, length as u64, &mut out).unwrap();
        assert_eq!(out, plain[offset..offset + length]);
    }
    let past = plain.len() as u64 - 5;
    let error = copy_range(digest, &*layer, diff_id, past, 6, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("ends 1 bytes before"), "{error}");
    let error = copy_range(digest, &*layer, digest, 0, 1, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, LayerError::DiffId { .. }), "{error}");
}

fn zstd_frames(plain: &[u8], frame: usize) -> Vec<u8> {
    plain.chunks(frame).flat_map(|part| zstd::bulk::compress(part, 3).unwrap()).collect()
}

fn skippable(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_le_bytes();
    [&[0x5a, 0x2a, 0x4d, 0x18], &length[..], content].concat()
}

/// The same layer in every encoding, with the number of its spans of 200,000 bytes.
fn encodings() -> Vec<(&'static str, Encoding, Vec<u8>, usize)> {
    let plain = tar();
    let mut chunked = skippable(b"head");
    for part in plain.chunks(70_000) {
        chunked.extend(zstd_frames(part, 70_000));
        chunked.extend(skippable(b"between"));
    }
    chunked.extend(skippable(&[7; 5000]));
    vec![
        ("tar", Encoding::Tar, plain.clone(), plain.len().div_ceil(200_000)),
        ("one frame", Encoding::Zstd, zstd_frames(&plain, plain.len()), 1),
        ("as zstd:chunked", Encoding::Zstd, chunked, plain.len().div_ceil(210_000)),
        (
            "large frames",
            Encoding::Zstd,
            zstd_frames(&plain, 500_000),
            plain.len().div_ceil(500_000),
        ),
    ]
}

#[test]
fn every_encoding_gives_the_same_index() {
    let by_gzip = read(&gzip(&tar())).unwrap();
    for (what, encoding, layer, spans) in encodings() {
        // Whatever the chunks that the bytes come in.
        for chunk in [1 << 20, 4099, 7] {
            let digest = Digest::of(&layer);
            let read = LayerRead { digest, limits: Limits::default(), span: Some(200_000) };
            let source = std::io::BufReader::with_capacity(chunk, &layer[..]);
            let index =
                read_layer(read, &MemoryAccount::default(), source, &mut NoContents).unwrap();
            assert_eq!((index.encoding, index.diff_id), (encoding, by_gzip.diff_id), "{what}");
            assert_eq!(index.entries, by_gzip.entries, "{what}");
            assert_eq!(index.plain_size, by_gzip.plain_size, "{what}");
            assert_eq!(index.compressed_size, layer.len() as u64, "{what}");
            assert_eq!(index.spans.len(), spans, "{what}");
            let mut end = (0, 0);
            for span in &index.spans {
                let [from, to] = [span.compressed.start, span.compressed.end]
                    .map(|at| usize::try_from(at).unwrap());
                assert_eq!((span.compressed.start, span.start.plain), end, "{what}");
                assert_eq!(span.start.compressed_bit, 8 * span.compressed.start, "{what}");
                assert_eq!(span.digest, Digest::of(&layer[from..to]), "{what}");
                end = (span.compressed.end, span.start.plain + span.plain_length);
            }
            assert_eq!(end.1, index.plain_size, "{what}");
        }
        let mut out = Vec::new();
        copy_range(Digest::of(&layer), &*layer, by_gzip.diff_id, 99_000, 300_000, &mut out)
            .unwrap();
        assert_eq!(out, tar()[99_000..399_000], "{what}");
    }
}

#[test]
fn broken_layers_of_every_encoding_are_refused() {
    for (what, encoding, layer, _) in encodings() {
        if encoding == Encoding::Tar {
            // The source has verified the digest, and the diff id is of the same bytes; framing
            // that is cut off shows by itself.
            assert!(read(&layer[..layer.len() / 2]).is_err(), "{what}");
            continue;
        }
        for (how, broken) in [
            ("cut", layer[..layer.len() - 3].to_vec()),
            ("zeros behind", [&layer[..], &[0; 4]].concat()),
            ("gzip behind", [&layer[..], &gzip(b"x")].concat()),
        ] {
            let error = read(&broken).unwrap_err();
            assert!(matches!(error, LayerError::Corrupt { .. }), "{what}, {how}: {error}");
            assert!(error.to_string().contains("not valid zstd at byte "), "{error}");
        }
    }
    let error = read(&zstd_frames(b"no tar", 9)).unwrap_err();
    assert!(matches!(error, LayerError::Tar { .. }), "{error}");
}

fn exceeded(layer: &[u8], limits: Limits) -> Limit {
    match read_limited(layer, layer, limits).unwrap_err() {
        LayerError::Limit { excess, .. } => excess.limit,
        other => panic!("{other}"),
    }
}

#[test]
fn a_zstd_window_has_a_limit() {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(24).unwrap();
    encoder.write_all(&tar()).unwrap();
    let layer = encoder.finish().unwrap();
    let limits = Limits { zstd_window: 8 << 20, ..Limits::default() };
    assert_eq!(exceeded(&layer, limits), Limit::ZstdWindow);
    read(&layer).unwrap();
}

#[test]
fn bombs_are_told_by_their_ratio_once_they_are_large() {
    let zeros = vec![0; 20 << 20];
    let limits = Limits { ratio_from: 4 << 20, ..Limits::default() };
    assert_eq!(exceeded(&zstd_frames(&zeros, zeros.len()), limits), Limit::Ratio);
    // Nothing that deflate can do is refused by default, and small layers may have any ratio.
    read_limited(&gzip(&zeros), &gzip(&zeros)[..], limits).unwrap();
    read(&zstd_frames(&zeros, zeros.len())).unwrap();
    let strict = Limits { ratio: 100, ..limits };
    assert_eq!(exceeded(&gzip(&zeros), strict), Limit::Ratio);
}
