//! Tables that are written, read, cut and damaged.

mod lies;

use std::collections::BTreeMap;
use std::io::{Cursor, Write};

use flate2::{Compression, GzBuilder};
use proptest::prelude::*;

use lies::{assemble, entry, record};

use super::directory::Record;
use super::*;
use crate::clip::node::{Attr, Node, NodeKind, NodePath};
use crate::clip::reader::Archive;
use crate::clip::storage_info::{OciStorageInfo, StorageInfo};
use crate::clip::tree::Tree;
use crate::clip::writer::{index_archive, seekable_archive};
use crate::gzip::{
    Checkpoint, CheckpointKind, Engine, GzipOptions, GzipReader, Span, SparseWindow,
};

/// A layer that was read, with all its bytes.
struct Layer {
    encoding: Encoding,
    compressed: Vec<u8>,
    plain: Vec<u8>,
    digest: Digest,
    spans: Vec<Span>,
}

const SPAN: u64 = 40_000;

impl Layer {
    /// A layer of so many members, with bytes behind the last.
    fn new(seed: u32, members: usize) -> Self {
        let (mut plain, mut compressed) = (Vec::new(), Vec::new());
        for member in 0..members {
            let mut state = seed.wrapping_add(u32::try_from(member).unwrap()) | 1;
            let mut text = Vec::new();
            while text.len() < 120_000 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let back = usize::try_from(state >> 12).unwrap() % 9_000 + 1;
                match text.len().checked_sub(back) {
                    Some(from) if state & 0x300 != 0 => {
                        text.extend_from_within(from..from + 9.min(back));
                    }
                    _ => text.push((state >> 24).to_le_bytes()[0]),
                }
            }
            let mut encoder = GzBuilder::new().write(Vec::new(), Compression::new(6));
            encoder.write_all(&text).unwrap();
            compressed.append(&mut encoder.finish().unwrap());
            plain.append(&mut text);
        }
        compressed.extend_from_slice(b"\0\0\0");
        let options = GzipOptions { span: Some(SPAN), ..GzipOptions::default() };
        let mut reader = GzipReader::new(options);
        let mut input = &compressed[..];
        while reader.next(&mut input).unwrap().is_some() {}
        let spans = reader.finish().unwrap().spans;
        let (encoding, digest) = (Encoding::Gzip, Digest::of(&compressed));
        Self { encoding, compressed, plain, digest, spans }
    }

    /// The same bytes as a tar or as zstd frames, with a skippable frame behind the last.
    fn whole(seed: u32, encoding: Encoding) -> Self {
        let plain = Self::new(seed, 1).plain;
        let (mut compressed, mut spans) = (Vec::new(), Vec::new());
        for (number, part) in (0..).zip(plain.chunks(usize::try_from(SPAN).unwrap())) {
            let bytes = match encoding {
                Encoding::Zstd => zstd::bulk::compress(part, 3).unwrap(),
                _ => part.to_vec(),
            };
            let from = compressed.len() as u64;
            compressed.extend_from_slice(&bytes);
            spans.push(Span {
                start: Checkpoint {
                    compressed_bit: 8 * from,
                    plain: number * SPAN,
                    kind: CheckpointKind::Start,
                    window: SparseWindow::default(),
                },
                plain_length: part.len() as u64,
                compressed: from..compressed.len() as u64,
                digest: Digest::of(&bytes),
            });
        }
        if encoding == Encoding::Zstd {
            compressed.extend_from_slice(b"\x50\x2a\x4d\x18\0\0\0\0");
        }
        Self { encoding, digest: Digest::of(&compressed), compressed, plain, spans }
    }

    /// The plain byte at `skip` behind a span's start.
    fn byte(&self, start: &Checkpoint, span: &SpanEntry, skip: u64) -> u8 {
        let [from, to] =
            [span.compressed.start, span.compressed.end].map(|at| usize::try_from(at).unwrap());
        let bytes = &self.compressed[from..to];
        assert_eq!(Digest::of(bytes), span.digest);
        let plain = match self.encoding {
            Encoding::Gzip => {
                let mut reader = GzipReader::resume(start, Engine::Own).unwrap();
                let (mut input, mut plain) = (bytes, Vec::new());
                while let Some(more) = reader.next(&mut input).unwrap() {
                    plain.extend_from_slice(more);
                }
                plain
            }
            Encoding::Tar => bytes.to_vec(),
            Encoding::Zstd => zstd::stream::decode_all(bytes).unwrap(),
        };
        plain[usize::try_from(skip).unwrap()]
    }

    fn given(&self) -> LayerSpans<'_> {
        LayerSpans {
            digest: self.digest,
            encoding: self.encoding,
            plain_size: self.plain.len() as u64,
            compressed_size: self.compressed.len() as u64,
            span: SPAN,
            spans: &self.spans,
        }
    }
}

fn tree() -> Tree {
    let attr = Attr { ino: 1, mode: 0o40755, nlink: 2, ..Attr::default() };
    let path = NodePath::root();
    Tree::new(vec![Node { path, attr, kind: NodeKind::Directory, xattrs: BTreeMap::new() }])
        .unwrap()
}

fn storage() -> StorageInfo {
    StorageInfo::Oci(Box::new(OciStorageInfo {
        layers: vec![Digest::of(b"layer")],
        ..OciStorageInfo::default()
    }))
}

/// An archive without a table.
fn plain_archive() -> Vec<u8> {
    index_archive(&tree(), &storage()).unwrap()
}

fn open(archive: &[u8]) -> Result<Option<SeekTable>, ClipError> {
    let header = Archive::read(&mut Cursor::new(archive)).unwrap().header;
    SeekTable::open(&mut Cursor::new(archive), &header)
}

/// Reads all there is: every span's entry and checkpoint, as spans.
fn read_all(archive: &[u8]) -> Result<Option<Vec<Vec<Span>>>, ClipError> {
    let Some(table) = open(archive)? else { return Ok(None) };
    let mut archive = Cursor::new(archive);
    let mut layers = Vec::new();
    for layer in table.layers() {
        let index = layer.spans(&mut archive)?;
        let spans = index.entries().iter().enumerate().map(|(at, entry)| {
            Ok(Span {
                start: index.checkpoint(at, &mut archive)?,
                plain_length: entry.plain.end - entry.plain.start,
                compressed: entry.compressed.clone(),
                digest: entry.digest,
            })
        });
        layers.push(spans.collect::<Result<Vec<_>, ClipError>>()?);
    }
    Ok(Some(layers))
}

fn error(archive: &[u8]) -> String {
    read_all(archive).unwrap_err().to_string()
}

#[test]
fn every_span_comes_back_and_inflates() {
    let mut layers = [
        Layer::new(1, 1),
        Layer::new(2, 3),
        Layer::whole(3, Encoding::Tar),
        Layer::whole(4, Encoding::Zstd),
    ];
    layers.sort_by_key(|layer| layer.digest);
    let archive =
        seekable_archive(&tree(), &storage(), &layers.each_ref().map(Layer::given)).unwrap();
    let read = read_all(&archive).unwrap().unwrap();
    assert_eq!(read, layers.each_ref().map(|layer| layer.spans.clone()));
    let kinds = |kind| layers.iter().flat_map(|layer| &layer.spans).any(|s| s.start.kind == kind);
    assert!(kinds(CheckpointKind::Block), "the layers are to have windows");

    let table = open(&archive).unwrap().unwrap();
    let mut file = Cursor::new(&archive);
    for layer in &layers {
        let entry = table.layer(&layer.digest).unwrap();
        assert_eq!((entry.plain_size, entry.span), (layer.plain.len() as u64, SPAN));
        let index = entry.spans(&mut file).unwrap();
        assert_eq!([entry.encoding, index.encoding()], [layer.encoding; 2]);
        for offset in (0..layer.plain.len()).step_by(9_973) {
            let at = index.find(offset as u64).unwrap();
            let span = &index.entries()[at];
            assert!(span.plain.contains(&(offset as u64)));
            let start = index.checkpoint(at, &mut file).unwrap();
            let byte = layer.byte(&start, span, offset as u64 - span.plain.start);
            assert_eq!(byte, layer.plain[offset]);
        }
        assert_eq!(index.find(layer.plain.len() as u64), None);
        assert_eq!(index.find(u64::MAX), None);
        let past = index.checkpoint(index.entries().len(), &mut file).unwrap_err().to_string();
        assert!(past.contains(&format!("layer {} span", layer.digest)), "{past}");
    }
    assert_eq!(table.layer(&Digest::of(b"another")), None);
}

#[test]
fn the_order_of_layers_and_repeats_change_nothing() {
    let (a, b) = (Layer::new(1, 1), Layer::new(2, 1));
    let table = encode(&[a.given(), b.given()]).unwrap();
    assert_eq!(table, encode(&[b.given(), a.given(), b.given()]).unwrap());
}

#[test]
fn nothing_else_of_the_archive_changes() {
    let without = plain_archive();
    let layer = Layer::new(1, 1);
    let with = seekable_archive(&tree(), &storage(), &[layer.given()]).unwrap();
    assert_eq!(with[..without.len()], without);
    let [old, new] = [&without, &with].map(|file| Archive::read(&mut Cursor::new(file)).unwrap());
    assert_eq!(old, new);
    let range = open(&with).unwrap().unwrap().range;
    assert_eq!(range, without.len() as u64..with.len() as u64);
    assert_eq!(open(&without).unwrap(), None);
    assert_eq!(seekable_archive(&tree(), &storage(), &[]).unwrap(), without);
}

#[test]
fn bytes_of_others_are_no_table() {
    for noise in [&b"noise"[..], &[0; 200], b"CWSEEKTX", &HEAD[1..]] {
        assert_eq!(open(&[&plain_archive(), noise].concat()).unwrap(), None);
    }
}

#[test]
fn a_later_version_is_passed_over() {
    let mut archive = [plain_archive(), encode(&[]).unwrap()].concat();
    assert_eq!(open(&archive).unwrap().unwrap().layers(), []);
    let at = archive.len() - Trailer::LENGTH;
    let mut trailer = Trailer::decode(&archive[at..]).unwrap().unwrap();
    trailer.version = VERSION + 1;
    archive.splice(at.., trailer.encode());
    assert_eq!(open(&archive).unwrap(), None);
}

#[test]
fn every_cut_is_seen() {
    let layer = Layer::new(1, 1);
    let start = plain_archive().len();
    let archive = [plain_archive(), encode(&[layer.given()]).unwrap()].concat();
    for cut in start + 1..archive.len() {
        let error = error(&archive[..cut]);
        assert!(error.starts_with("seek table: trailer: expected one"), "{cut}: {error}");
    }
    assert_eq!(open(&archive[..start]).unwrap(), None);
    let error = error(&[&archive[..], b"\n"].concat());
    assert!(error.starts_with("seek table: trailer: expected one"), "{error}");
}

#[test]
fn every_flipped_bit_is_seen() {
    let layer = Layer::new(1, 2);
    let start = plain_archive().len();
    for whole in [Encoding::Tar, Encoding::Zstd].map(|encoding| Layer::whole(1, encoding)) {
        let archive = [plain_archive(), encode(&[whole.given()]).unwrap()].concat();
        for at in start..archive.len() {
            let mut damaged = archive.clone();
            damaged[at] ^= 1 << (at % 8);
            assert!(error(&damaged).starts_with("seek table: "), "byte {at}");
        }
    }
    let archive = [plain_archive(), encode(&[layer.given()]).unwrap()].concat();
    let windows: usize = layer.spans.iter().map(|span| span.start.window.encoded().len()).sum();
    let windows = start + HEAD.len()..start + HEAD.len() + windows;
    let sound = open(&archive).unwrap().unwrap();
    for at in start..archive.len() {
        let mut damaged = archive.clone();
        damaged[at] ^= 1 << (at % 8);
        let message = error(&damaged);
        assert!(message.starts_with("seek table: "), "byte {at}: {message}");
        if windows.contains(&at) {
            // One span suffers, and is named.
            assert_eq!(open(&damaged).unwrap(), Some(sound.clone()));
            let mut file = Cursor::new(&damaged);
            let index = sound.layers()[0].spans(&mut file).unwrap();
            let read = (0..layer.spans.len()).map(|span| index.checkpoint(span, &mut file));
            let failed: Vec<usize> =
                read.enumerate().filter_map(|(i, r)| r.is_err().then_some(i)).collect();
            let [failed] = failed[..] else { panic!("byte {at}: spans {failed:?} failed") };
            let named = format!("seek table: window of layer {} span {failed}: ", layer.digest);
            assert!(message.starts_with(&named), "{message}");
        }
    }
}

#[test]
fn spans_that_do_not_cover_their_layer_are_not_written() {
    let layer = Layer::new(1, 3);
    let all = layer.given();
    let refused = |spans: &[Span]| encode(&[LayerSpans { spans, ..all }]).unwrap_err().to_string();
    refused(&[]);
    refused(&all.spans[1..]);
    refused(&all.spans[..1]);
    refused(&[&all.spans[..1], &all.spans[2..]].concat());
    let mut spans = all.spans.to_vec();
    spans.swap(1, 2);
    refused(&spans);
    let mut spans = all.spans.to_vec();
    spans[0].compressed.end += 1;
    assert!(refused(&spans).ends_with("its spans leave gaps"));
    assert!(encode(&[LayerSpans { plain_size: all.plain_size + 1, ..all }]).is_err());
    assert!(encode(&[LayerSpans { compressed_size: 9, ..all }]).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn whatever_follows_an_archive_is_borne(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_all(&[&plain_archive(), &bytes[..]].concat());
        let _ = read_all(&[&plain_archive(), &HEAD[..], &bytes].concat());
    }

    #[test]
    fn whatever_digests_vouch_for_is_borne(
        windows in prop::collection::vec(any::<u8>(), 0..40),
        entries in prop::collection::vec(prop_oneof![0_u8..3, any::<u8>()], 0..400),
        sizes in any::<[u64; 2]>(),
        kind in 0_u32..5,
        lie in prop::option::of(any::<u64>()),
    ) {
        let mut record = Record { kind, ..record(&windows, &entries) };
        [record.plain_size, record.compressed_size] = sizes;
        let _ = read_all(&assemble(&windows, &entries, &[record]));
        record.windows_length = lie.unwrap_or(record.windows_length);
        let _ = read_all(&assemble(&windows, &entries, &[record, record]));
    }

    #[test]
    fn mutated_entries_are_borne(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut entries = [
            entry(&[80], &[100], 0, None),
            entry(&[0xd0, 0x05], &[0x84, 0x07], 1, Some(b"window")),
        ].concat();
        for (at, value) in changes {
            let at = at.index(entries.len());
            entries[at] = value;
        }
        if let Ok(Some(layers)) = read_all(&assemble(b"window", &entries, &[record(b"window", &entries)])) {
            let spans = &layers[0];
            prop_assert_eq!(spans.iter().map(|span| span.plain_length).sum::<u64>(), 1000);
            prop_assert!(spans.iter().all(|span| span.compressed.end <= 100));
        }
    }
}
