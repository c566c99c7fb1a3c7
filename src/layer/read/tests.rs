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
    read_layer(read, source, &mut NoContents)
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
    for broken in [&flipped[..], cut, &trailing, b"not gzip at all", b""] {
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
