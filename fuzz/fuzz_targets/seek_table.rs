//! Seek tables of which every digest is right, written by docs/format.md alone: what their numbers
//! say is any nonsense.
#![no_main]

use std::io::Cursor;

use floors::clip::header::{Header, LENGTH};
use floors::clip::seek_table::SeekTable;
use floors::digest::Digest;
use floors::gzip::{CheckpointKind, Engine, GzipReader, WINDOW};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Table {
    layers: Vec<Layer>,
    /// Added to what the trailer says.
    wrong_table: i8,
    wrong_directory: i8,
    version: u8,
}

#[derive(Debug, Arbitrary)]
struct Layer {
    digest: u8,
    kind: u8,
    spans: Vec<Span>,
    /// Added to what the spans make.
    wrong_plain: i8,
    wrong_compressed: i8,
    wrong_windows: i8,
    wrong_entries: i8,
    surplus: Vec<u8>,
}

#[derive(Debug, Arbitrary)]
struct Span {
    bits: u32,
    huge: bool,
    on_a_byte: bool,
    plain: u32,
    kind: u8,
    window: Window,
}

#[derive(Debug, Arbitrary)]
enum Window {
    None,
    /// A frame that decodes to so many bytes.
    Frame(u16),
    Bytes(Vec<u8>),
}

impl Window {
    fn encoded(&self) -> Vec<u8> {
        match self {
            Self::None => Vec::new(),
            Self::Frame(length) => {
                // One block that repeats a byte (RFC 8878, 3.1.1).
                let size = u32::from(*length);
                let [block @ .., _] = (size << 3 | 0b011).to_le_bytes();
                [b"\x28\xb5\x2f\xfd\xa0", &size.to_le_bytes()[..], &block, b"x"].concat()
            }
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

fn varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn plus(value: u64, wrong: i8) -> u64 {
    value.wrapping_add_signed(wrong.into())
}

impl Span {
    /// Appends the entry of a span that begins at `bit`; gives its bits and its window.
    fn put(&self, kind: u8, bit: u64, entries: &mut Vec<u8>) -> (u64, Vec<u8>) {
        let mut bits = if self.huge { u64::MAX >> (self.bits % 64) } else { self.bits.into() };
        let digest = Digest::of(&[]);
        if kind == 2 || kind == 3 {
            let bytes = if kind == 2 && self.on_a_byte { self.plain.into() } else { bits / 8 };
            varint(entries, bytes);
            varint(entries, self.plain.into());
            entries.extend_from_slice(digest.as_bytes());
            return (bytes.wrapping_mul(8), Vec::new());
        }
        if self.on_a_byte {
            bits = bits.wrapping_add(bit.wrapping_neg() & 7);
        }
        varint(entries, bits);
        varint(entries, self.plain.into());
        entries.push(self.kind);
        let window = self.window.encoded();
        varint(entries, window.len() as u64);
        if !window.is_empty() {
            entries.extend_from_slice(Digest::of(&window).as_bytes());
        }
        entries.extend_from_slice(digest.as_bytes());
        (bits, window)
    }
}

impl Table {
    fn encode(&self) -> Vec<u8> {
        let mut layers: Vec<&Layer> = self.layers.iter().take(8).collect();
        layers.sort_by_key(|layer| layer.digest);
        let (mut windows, mut entries, mut directory) = (Vec::new(), Vec::new(), Vec::new());
        for layer in layers {
            let (windows_at, entries_at) = (windows.len(), entries.len());
            let (mut bit, mut plain) = (0_u64, 0_u64);
            for span in layer.spans.iter().take(40) {
                let (bits, window) = span.put(layer.kind, bit, &mut entries);
                windows.extend(window);
                bit = bit.wrapping_add(bits);
                plain = plain.wrapping_add(span.plain.into());
            }
            entries.extend(&layer.surplus);
            directory.extend_from_slice(Digest::of(&[layer.digest]).as_bytes());
            directory.extend(u32::from(layer.kind).to_le_bytes());
            let windows_length = (windows.len() - windows_at) as u64;
            let entries_length = (entries.len() - entries_at) as u64;
            for number in [
                plus(plain, layer.wrong_plain),
                plus(bit.div_ceil(8), layer.wrong_compressed),
                1,
                plus(windows_length, layer.wrong_windows),
                plus(entries_length, layer.wrong_entries),
            ] {
                directory.extend(number.to_le_bytes());
            }
            directory.extend_from_slice(Digest::of(&entries[entries_at..]).as_bytes());
        }
        let mut table = [&b"CWSEEKTB"[..], &windows, &entries, &directory].concat();
        let mut trailer = Digest::of(&directory).as_bytes().to_vec();
        trailer.extend(plus(table.len() as u64 + 88, self.wrong_table).to_le_bytes());
        trailer.extend(
            (directory.len() as u32).wrapping_add_signed(self.wrong_directory.into()).to_le_bytes(),
        );
        trailer.extend(u32::from(self.version).to_le_bytes());
        let checksum = Digest::of(&trailer);
        trailer.extend_from_slice(checksum.as_bytes());
        trailer.extend(b"CWSEEKTE");
        table.extend(trailer);
        table
    }
}

fuzz_target!(|table: Table| {
    let start = LENGTH as u64;
    let header = Header { index: start..start, storage: None, storage_type: "" };
    let bytes = [header.encode(), table.encode()].concat();
    let size = bytes.len() as u64;
    let mut file = Cursor::new(bytes);
    let Ok(Some(table)) = SeekTable::open(&mut file, &header) else { return };
    assert_eq!(table.range, start..size);
    assert!(table.layers().is_sorted_by(|a, b| a.digest < b.digest));
    for layer in table.layers() {
        assert_eq!(table.layer(&layer.digest), Some(layer));
        let Ok(spans) = layer.spans(&mut file) else { continue };
        let entries = spans.entries();
        let (mut bit, mut plain) = (0, 0);
        for (index, entry) in entries.iter().enumerate() {
            assert!(entry.compressed_bit >= bit && entry.compressed.end <= layer.compressed_size);
            assert!(!entry.compressed.is_empty());
            assert_eq!(entry.compressed.start, entry.compressed_bit / 8);
            assert_eq!(entry.plain.start, plain);
            assert!(index > 0 || entry.kind == CheckpointKind::Start);
            (bit, plain) = (entry.compressed_bit + 1, entry.plain.end);
            if !entry.plain.is_empty() {
                assert_eq!(spans.find(entry.plain.start), Some(index));
                assert_eq!(spans.find(entry.plain.end - 1), Some(index));
            }
            let Ok(checkpoint) = spans.checkpoint(index, &mut file) else { continue };
            let Ok(window) = checkpoint.window.decode() else { continue };
            assert!(window.len() <= WINDOW);
            if let Ok(mut reader) = GzipReader::resume(&checkpoint, Engine::Own) {
                let mut input = &b"\x03\0any bytes at all"[..];
                while let Ok(Some(_)) = reader.next(&mut input) {}
            }
        }
        assert_eq!(plain, layer.plain_size);
        assert_eq!(spans.find(plain), None);
    }
});
