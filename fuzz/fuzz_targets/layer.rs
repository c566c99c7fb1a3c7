//! Layers of every encoding, read and put into a seek table: what their spans hold, taken together,
//! is what the diff id names; a damaged layer is refused, or is another layer.
#![no_main]

use floors::memory::MemoryAccount;
use std::io::{Cursor, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;
use floors::clip::header::{Header, LENGTH};
use floors::clip::seek_table::{LayerSpans, SeekTable, encode};
use floors::digest::Digest;
use floors::layer::decode::decode_spans;
use floors::layer::{LayerRead, Limits, NoContents, codec, read_layer};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Layer {
    files: Vec<(u8, u16, u8)>,
    encoding: Encoding,
    /// Plain bytes of a gzip member or zstd frame.
    part: u16,
    span: u16,
    /// Empty members or skippable frames before every part.
    fillers: bool,
    damage: Option<(u16, u8)>,
    cut: Option<u16>,
}

#[derive(Debug, Arbitrary)]
enum Encoding {
    Tar,
    Gzip,
    Zstd,
}

impl Layer {
    fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, size, byte) in self.files.iter().take(12) {
            let mut header = tar::Header::new_ustar();
            let content: Vec<u8> =
                (0..size % 6000).map(|at| byte.wrapping_mul((at % 251) as u8)).collect();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, format!("f{name}"), &content[..]).expect("a file");
        }
        builder.into_inner().expect("a tar")
    }

    fn compressed(&self) -> Vec<u8> {
        let tar = self.tar();
        let mut bytes = Vec::new();
        for part in tar.chunks(usize::from(self.part).max(300)) {
            match self.encoding {
                Encoding::Tar => bytes.extend_from_slice(part),
                Encoding::Gzip => {
                    for content in [&b""[..], part].iter().skip((!self.fillers).into()) {
                        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                        encoder.write_all(content).expect("a member");
                        bytes.extend(encoder.finish().expect("a member"));
                    }
                }
                Encoding::Zstd => {
                    if self.fillers {
                        bytes.extend_from_slice(b"\x50\x2a\x4d\x18\x03\0\0\0abc");
                    }
                    bytes.extend(zstd::bulk::compress(part, 1).expect("a frame"));
                }
            }
        }
        if let Some((place, value)) = self.damage {
            let place = usize::from(place) % bytes.len();
            bytes[place] ^= value;
        }
        if let Some(cut) = self.cut {
            bytes.truncate(bytes.len() - usize::from(cut) % bytes.len());
        }
        bytes
    }
}

fuzz_target!(|layer: Layer| {
    let bytes = layer.compressed();
    let span = u64::from(layer.span).max(64);
    let limits = Limits { plain_bytes: 1 << 20, ..Limits::default() };
    let read = LayerRead { digest: Digest::of(&bytes), limits, span: Some(span) };
    let Ok(index) = read_layer(read, &MemoryAccount::default(), &bytes[..], &mut NoContents) else {
        assert!(layer.damage.is_some() || layer.cut.is_some(), "a good layer was refused");
        return;
    };
    assert_eq!(index.compressed_size, bytes.len() as u64);
    let kept = codec::encode(&read, &index).expect("it can be kept");
    assert_eq!(codec::decode(&read, &kept).as_ref(), Ok(&index));
    let table = encode(&[LayerSpans {
        digest: index.digest,
        encoding: index.encoding,
        plain_size: index.plain_size,
        compressed_size: index.compressed_size,
        span,
        spans: &index.spans,
    }])
    .expect("a table of its spans");
    let start = LENGTH as u64;
    let header = Header { index: start..start, storage: None, storage_type: "" };
    let mut file = Cursor::new([header.encode(), table].concat());
    let table = SeekTable::open(&mut file, &header).expect("our table").expect("a table");
    let spans = table.layers()[0].spans(&mut file).expect("our entries");
    let mut plain = Vec::new();
    for (at, entry) in spans.entries().iter().enumerate() {
        let compressed = &bytes[entry.compressed.start as usize..entry.compressed.end as usize];
        assert_eq!(entry.digest, Digest::of(compressed));
        let checkpoint = spans.checkpoint(at, &mut file).expect("our window");
        let entry = std::slice::from_ref(entry);
        let content = decode_spans(spans.encoding(), &checkpoint, entry, compressed);
        plain.extend(content.expect("our span"));
    }
    assert_eq!(Digest::of(&plain), index.diff_id);
});
