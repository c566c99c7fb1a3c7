use std::collections::BTreeMap;
use std::io::{BufReader, Cursor, Write as _};

use super::*;
use crate::clip::node::{Attr, Node, NodeKind, NodePath};
use crate::clip::seek_table::{LayerSpans, SeekTable};
use crate::clip::storage_info::StorageInfo;
use crate::clip::tree::Tree;
use crate::clip::writer::seekable_archive;
use crate::gzip::Span;

/// Text with matches near and far, so that windows matter.
fn plain() -> Vec<u8> {
    let mut state = 1_u32;
    let mut text = Vec::new();
    while text.len() < 600 << 10 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        text.extend_from_slice(format!("{} {:x};", state >> 24, state >> 12).as_bytes());
        let back = (state >> 16) as usize % 30_000 + 1;
        if back < text.len() {
            let start = text.len() - back;
            text.extend_from_within(start..start + 20.min(back));
        }
    }
    text
}

fn spans(compressed: &[u8]) -> (Vec<Span>, u64) {
    let options = GzipOptions { span: Some(64 << 10), ..GzipOptions::default() };
    let mut reader = GzipReader::new(options);
    let mut input = compressed;
    while reader.next(&mut input).unwrap().is_some() {}
    let summary = reader.finish().unwrap();
    (summary.spans, summary.plain)
}

/// What is found of these spans in the layer.
fn found(compressed: &[u8], spans: &[Span], plain_size: u64) -> Check {
    let digest = Digest::of(compressed);
    let attr = Attr { ino: 1, mode: 0o40_755, ..Attr::default() };
    let (path, kind) = (NodePath::root(), NodeKind::Directory);
    let tree = Tree::new(vec![Node { path, kind, attr, xattrs: BTreeMap::new() }]).unwrap();
    let storage = StorageInfo::Oci(Box::default());
    let layer = LayerSpans {
        digest,
        encoding: Encoding::Gzip,
        plain_size,
        compressed_size: compressed.len() as u64,
        span: 64 << 10,
        spans,
    };
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&seekable_archive(&tree, &storage, &[layer]).unwrap()).unwrap();
    let header = crate::clip::reader::Archive::read(&mut file).unwrap().header;
    let table = SeekTable::open(&mut file, &header).unwrap().unwrap();
    let index = table.layer(&digest).unwrap().spans(&mut file).unwrap();

    // Pieces of odd sizes, so that spans begin and end within them, and at their edges.
    let (mut tee, heard) =
        Tee::new(BufReader::with_capacity(997, Cursor::new(compressed.to_vec())));
    std::thread::scope(|scope| {
        let checking = scope.spawn(move || check(digest, &index, &mut file, &heard));
        let mut read = Vec::new();
        tee.read_to_end(&mut read).unwrap();
        assert_eq!(read, compressed);
        drop(tee);
        checking.join().unwrap()
    })
}

#[test]
fn a_true_table_passes_and_each_lie_is_told_by_its_span() {
    let text = plain();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(&text).unwrap();
    let compressed = encoder.finish().unwrap();
    let (true_spans, size) = spans(&compressed);
    assert!(true_spans.len() > 4, "{}", true_spans.len());
    assert!(true_spans.iter().any(|span| span.start.compressed_bit % 8 != 0), "a shared byte");
    let good = found(&compressed, &true_spans, size);
    assert_eq!((good.checked, good.findings), (true_spans.len() as u64, vec![]));

    // Another window: the bytes inflate, but to something else.
    let mut lies = true_spans.clone();
    lies[2].start.window = true_spans[3].start.window.clone();
    let told = found(&compressed, &lies, size);
    assert_eq!(told.errors, 1, "{told:#?}");
    assert!(told.findings[0].text.contains(" span 2: "), "{told:#?}");

    // Another digest.
    let mut lies = true_spans.clone();
    lies[3].digest = Digest::of(b"other bytes");
    let told = found(&compressed, &lies, size);
    assert_eq!(told.errors, 1, "{told:#?}");
    assert!(told.findings[0].text.contains(" span 3: expected digest sha256:"), "{told:#?}");

    // Another layer, under the same table.
    let mut other = compressed.clone();
    let middle = other.len() / 2;
    other[middle] ^= 1;
    assert!(found(&other, &true_spans, size).errors > 0);
}
