//! The directory: a record of fixed size for each layer, ascending by digest.

use std::io::{Read, Seek};
use std::ops::Range;

use super::encoding::Encoding;
use super::section::{Section, wrong};
use super::spans::{LayerDescription, SpanIndex};
use crate::clip::ClipError;
use crate::clip::fields::Fields;
use crate::digest::Digest;

/// Bytes of a record.
const RECORD: usize = 32 + 4 + 5 * 8 + 32;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) digest: Digest,
    pub(super) kind: u32,
    pub(super) plain_size: u64,
    pub(super) compressed_size: u64,
    pub(super) span: u64,
    pub(super) windows_length: u64,
    pub(super) entries_length: u64,
    pub(super) entries: Digest,
}

impl Record {
    pub(super) fn encode(&self, directory: &mut Vec<u8>) {
        directory.extend_from_slice(self.digest.as_bytes());
        directory.extend_from_slice(&self.kind.to_le_bytes());
        for number in [
            self.plain_size,
            self.compressed_size,
            self.span,
            self.windows_length,
            self.entries_length,
        ] {
            directory.extend_from_slice(&number.to_le_bytes());
        }
        directory.extend_from_slice(self.entries.as_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Fields(bytes);
        Some(Self {
            digest: fields.digest()?,
            kind: fields.u32()?,
            plain_size: fields.u64()?,
            compressed_size: fields.u64()?,
            span: fields.u64()?,
            windows_length: fields.u64()?,
            entries_length: fields.u64()?,
            entries: fields.digest()?,
        })
    }
}

/// A layer that the table can seek in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerEntry {
    /// Names the compressed bytes.
    pub digest: Digest,
    /// How its tar is stored.
    pub encoding: Encoding,
    /// Bytes of the plain stream.
    pub plain_size: u64,
    /// Bytes of the compressed blob.
    pub compressed_size: u64,
    /// The least number of plain bytes in a span that was asked for when they were made.
    pub span: u64,
    /// The span entries.
    entries: Section,
    /// Where the windows lie, in the spans' order.
    windows: Range<u64>,
}

impl LayerEntry {
    /// Reads the layer's span entries.
    pub fn spans(&self, archive: &mut (impl Read + Seek)) -> Result<SpanIndex, ClipError> {
        let entries = self.entries.read(archive, || format!("layer {}", self.digest))?;
        SpanIndex::decode(
            &entries,
            &LayerDescription {
                digest: self.digest,
                encoding: self.encoding,
                plain_size: self.plain_size,
                compressed_size: self.compressed_size,
                windows: self.windows.clone(),
            },
        )
    }
}

/// Reads the directory; `parts` is where the windows and entries that it tells of lie: all windows
/// first, then all entries, both in the directory's order and without gaps.
pub(super) fn decode(bytes: &[u8], parts: Range<u64>) -> Result<Vec<LayerEntry>, ClipError> {
    let records: Option<Vec<Record>> = bytes.chunks(RECORD).map(Record::decode).collect();
    let Some(records) = records else {
        let detail = format!("{} bytes are not a whole number of {RECORD}", bytes.len());
        return Err(wrong("directory", detail));
    };
    if let Some(pair) = records.windows(2).find(|pair| pair[0].digest >= pair[1].digest) {
        let detail = format!("layer {} comes after {}", pair[1].digest, pair[0].digest);
        return Err(wrong("directory", detail));
    }
    let sum = |at, length: fn(&Record) -> u64| {
        records.iter().try_fold(at, |at: u64, record| at.checked_add(length(record)))
    };
    let windows_end = sum(parts.start, |record| record.windows_length);
    let entries_end = windows_end.and_then(|end| sum(end, |record| record.entries_length));
    let Some(mut entries_at) = windows_end.filter(|_| entries_end == Some(parts.end)) else {
        let space = parts.end - parts.start;
        let detail = format!("windows and entries of its layers don't make {space} bytes");
        return Err(wrong("directory", detail));
    };
    let mut windows_at = parts.start;
    let mut layers = Vec::with_capacity(records.len());
    for record in records {
        // The sums above are ends of these.
        let windows = windows_at..windows_at + record.windows_length;
        let entries = entries_at..entries_at + record.entries_length;
        (windows_at, entries_at) = (windows.end, entries.end);
        if let Some(encoding) = Encoding::of_kind(record.kind) {
            layers.push(LayerEntry {
                digest: record.digest,
                encoding,
                plain_size: record.plain_size,
                compressed_size: record.compressed_size,
                span: record.span,
                entries: Section { range: entries, digest: record.entries },
                windows,
            });
        }
    }
    Ok(layers)
}
