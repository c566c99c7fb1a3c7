//! Members, what stands around them and what follows the last.

use super::*;

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
