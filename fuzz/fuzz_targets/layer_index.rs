//! Any bytes as a kept layer index, in a frame and with a checksum that are right: two bytes for the
//! length of the body, the body, the windows.
#![no_main]

use floors::digest::Digest;
use floors::layer::{LayerRead, Limits, codec};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [low, high, rest @ ..] = bytes else { return };
    let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (body, windows) = rest.split_at(length);
    let limits = Limits { entries: 100, path_bytes: 200, path_depth: 10, ..Limits::default() };
    let read = LayerRead { digest: Digest::of(b"layer"), limits, span: Some(1 << 20) };
    // A zstd frame of one raw block (RFC 8878, 3.1.1): made much faster than by compressing.
    let size = body.len() as u32;
    let [block @ .., _] = (size << 3 | 1).to_le_bytes();
    let packed = [b"\x28\xb5\x2f\xfd\xa0", &size.to_le_bytes()[..], &block, body].concat();
    let mut file = b"CWLAYIDX\x01\0\0\0".to_vec();
    file.extend_from_slice(codec::request(&read).as_bytes());
    file.extend(size.to_le_bytes());
    file.extend((packed.len() as u32).to_le_bytes());
    let checksum = Digest::of(&[&file[..], &packed, windows].concat());
    file.extend_from_slice(checksum.as_bytes());
    file.extend(packed);
    file.extend_from_slice(windows);
    let Ok(index) = codec::decode(&read, &file) else { return };
    assert!(index.entries.len() <= 100);
    assert!(index.entries.iter().all(|entry| entry.path.as_bytes().len() <= 200));
    let again = codec::encode(&read, &index).expect("what was read can be kept");
    assert_eq!(codec::decode(&read, &again).as_ref(), Ok(&index));
});
