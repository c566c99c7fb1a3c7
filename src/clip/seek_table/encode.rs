//! Making a table. The same layers give the same bytes, whatever their order.

use std::collections::BTreeMap;

use super::directory::Record;
use super::encoding::Encoding;
use super::section::wrong;
use super::spans::{LayerDescription, SpanIndex, put_entry};
use super::trailer::Trailer;
use super::{HEAD, MAX_DIRECTORY, VERSION};
use crate::clip::ClipError;
use crate::digest::Digest;
use crate::gzip::Span;

/// A layer and the spans that were made while it was read.
#[derive(Debug, Clone, Copy)]
pub struct LayerSpans<'a> {
    /// Names the compressed bytes.
    pub digest: Digest,
    /// How its tar is stored.
    pub encoding: Encoding,
    /// Bytes of the plain stream.
    pub plain_size: u64,
    /// Bytes of the compressed blob.
    pub compressed_size: u64,
    /// The least number of plain bytes in a span, as was asked for.
    pub span: u64,
    /// All spans of the layer, in order.
    pub spans: &'a [Span],
}

/// Appends the entries of a layer's spans, all of them in order, and their windows.
pub(crate) fn put_spans(
    encoding: Encoding,
    spans: &[Span],
    entries: &mut Vec<u8>,
    windows: &mut Vec<u8>,
) {
    let ends = spans.iter().skip(1).map(|next| next.start.compressed_bit);
    let end = spans.last().and_then(|last| last.compressed.end.checked_mul(8));
    for (span, bit_end) in spans.iter().zip(ends.chain(end)) {
        windows.extend_from_slice(span.start.window.encoded());
        put_entry(entries, encoding, span, bit_end);
    }
}

/// The table of these layers, to stand right after the storage info; a digest that is given twice
/// is taken once. Spans that don't cover their layer are an error.
pub fn encode(layers: &[LayerSpans<'_>]) -> Result<Vec<u8>, ClipError> {
    let layers: BTreeMap<Digest, &LayerSpans<'_>> =
        layers.iter().map(|layer| (layer.digest, layer)).collect();
    let (mut table, mut entries, mut directory) = (HEAD.to_vec(), Vec::new(), Vec::new());
    for layer in layers.values() {
        let (windows_at, entries_at) = (table.len(), entries.len());
        put_spans(layer.encoding, layer.spans, &mut entries, &mut table);
        let entries_of = &entries[entries_at..];
        // What readers would refuse or take for something else is not written.
        let read_back = SpanIndex::decode(
            entries_of,
            &LayerDescription {
                digest: layer.digest,
                encoding: layer.encoding,
                plain_size: layer.plain_size,
                compressed_size: layer.compressed_size,
                windows: windows_at as u64..table.len() as u64,
            },
        )?;
        if !read_back.describes(layer.spans) {
            return Err(wrong(format!("layer {}", layer.digest), "its spans leave gaps"));
        }
        Record {
            digest: layer.digest,
            kind: layer.encoding.kind(),
            plain_size: layer.plain_size,
            compressed_size: layer.compressed_size,
            span: layer.span,
            windows_length: (table.len() - windows_at) as u64,
            entries_length: entries_of.len() as u64,
            entries: Digest::of(entries_of),
        }
        .encode(&mut directory);
    }
    let length = directory.len() as u64;
    let Some(directory_length) = u32::try_from(length).ok().filter(|_| length <= MAX_DIRECTORY)
    else {
        let detail = format!("it would be {length} bytes of at most {MAX_DIRECTORY}");
        return Err(wrong("directory", detail));
    };
    table.append(&mut entries);
    table.extend_from_slice(&directory);
    let trailer = Trailer {
        directory: Digest::of(&directory),
        table_length: (table.len() + Trailer::LENGTH) as u64,
        directory_length,
        version: VERSION,
    };
    table.append(&mut trailer.encode());
    Ok(table)
}
