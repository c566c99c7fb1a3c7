//! The span entries of one layer, and its windows.

use std::io::{Cursor, Read, Seek};
use std::ops::Range;

use super::MAX_WINDOW;
use super::encoding::Encoding;
use super::section::{Section, wrong};
use crate::clip::ClipError;
use crate::clip::fields::{Fields, put_varint};
use crate::digest::Digest;
use crate::gzip::{Checkpoint, CheckpointKind, Span, SparseWindow};

const START: u8 = 0;
const BLOCK: u8 = 1;

/// The spans of a layer, in order and without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanIndex {
    layer: Digest,
    encoding: Encoding,
    spans: Vec<SpanEntry>,
}

/// What the table says of a span ([`Span`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanEntry {
    /// Where it begins in the compressed blob, in bits.
    pub compressed_bit: u64,
    /// Its bytes of the compressed blob. A byte in which it begins or ends midway, its neighbour
    /// has too.
    pub compressed: Range<u64>,
    /// Its bytes of the plain stream.
    pub plain: Range<u64>,
    /// What stands at its beginning.
    pub kind: CheckpointKind,
    /// The digest of its compressed bytes.
    pub digest: Digest,
    /// The window's encoded form, unless it is empty.
    window: Option<Section>,
}

/// What the directory says of a layer.
pub(crate) struct LayerDescription {
    pub(crate) digest: Digest,
    pub(crate) encoding: Encoding,
    pub(crate) plain_size: u64,
    pub(crate) compressed_size: u64,
    /// Where its windows lie.
    pub(crate) windows: Range<u64>,
}

impl SpanIndex {
    /// How the layer's tar is stored.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// The spans; their indices are what the other methods speak of.
    pub fn entries(&self) -> &[SpanEntry] {
        &self.spans
    }

    /// The index of the span that holds the plain byte at `offset`; `None` past the end.
    pub fn find(&self, offset: u64) -> Option<usize> {
        let found = self.spans.partition_point(|span| span.plain.end <= offset);
        (found < self.spans.len()).then_some(found)
    }

    /// Where inflating the span of index `span` begins; reads its window, and nothing else.
    pub fn checkpoint(
        &self,
        span: usize,
        archive: &mut (impl Read + Seek),
    ) -> Result<Checkpoint, ClipError> {
        let place = || place(self.layer, span);
        let Some(entry) = self.spans.get(span) else {
            return Err(wrong(place(), format!("the layer has {} spans", self.spans.len())));
        };
        let window = match &entry.window {
            None => SparseWindow::default(),
            Some(window) => {
                let place = || format!("window of {}", place());
                SparseWindow::from_encoded(window.read(archive, place)?)
            }
        };
        Ok(Checkpoint {
            compressed_bit: entry.compressed_bit,
            plain: entry.plain.start,
            kind: entry.kind,
            window,
        })
    }

    /// A digest of all that the plain bytes of the span of index `span` follow from, whichever layer
    /// it is in: its compressed bytes, where in them it begins, the window, how many bytes come out.
    pub fn identity(&self, span: usize) -> Option<Digest> {
        let entry = self.spans.get(span)?;
        let mut of = Vec::with_capacity(96);
        of.extend_from_slice(b"clipwright span\0");
        let kind = match entry.kind {
            CheckpointKind::Start => START,
            CheckpointKind::Block => BLOCK,
        };
        put_varint(&mut of, self.encoding.kind().into());
        of.extend_from_slice(&[kind, (entry.compressed_bit % 8) as u8]);
        put_varint(&mut of, entry.plain.end - entry.plain.start);
        of.extend_from_slice(entry.digest.as_bytes());
        if let Some(window) = &entry.window {
            of.extend_from_slice(window.digest.as_bytes());
        }
        Some(Digest::of(&of))
    }

    /// All spans of a layer whose entries and windows these are, as
    /// [`put_spans`](super::put_spans) made them; `of` says that the windows begin at 0.
    pub(crate) fn decode_all(
        entries: &[u8],
        windows: &[u8],
        of: &LayerDescription,
    ) -> Result<Vec<Span>, ClipError> {
        let index = Self::decode(entries, of)?;
        let mut windows = Cursor::new(windows);
        let span = |(at, entry): (usize, &SpanEntry)| {
            Ok(Span {
                start: index.checkpoint(at, &mut windows)?,
                plain_length: entry.plain.end - entry.plain.start,
                compressed: entry.compressed.clone(),
                digest: entry.digest,
            })
        };
        index.spans.iter().enumerate().map(span).collect()
    }

    /// Reads the entries of a layer.
    pub(super) fn decode(entries: &[u8], of: &LayerDescription) -> Result<Self, ClipError> {
        let &LayerDescription { digest: layer, encoding, plain_size, compressed_size, ref windows } =
            of;
        let mut fields = Fields(entries);
        let mut spans: Vec<SpanEntry> = Vec::new();
        let (mut bit, mut plain, mut window_at) = (0_u64, 0_u64, windows.start);
        while !fields.is_empty() {
            let wrong = |detail: String| wrong(place(layer, spans.len()), detail);
            let Some(raw) = Raw::take(&mut fields, encoding) else {
                return Err(wrong("its entry is cut off or holds a malformed number".into()));
            };
            let kind = match raw.kind {
                START => CheckpointKind::Start,
                BLOCK => CheckpointKind::Block,
                other => return Err(wrong(format!("expected kind 0 or 1, found {other}"))),
            };
            if kind == CheckpointKind::Start && (!bit.is_multiple_of(8) || raw.window.is_some()) {
                return Err(wrong(format!("a member can't start at bit {bit} or with a window")));
            }
            if spans.last().map_or(kind == CheckpointKind::Block, |last| last.plain.is_empty()) {
                let detail = "the first span has to start a member, and only the last may be empty";
                return Err(wrong(detail.into()));
            }
            let bit_end =
                bit.checked_add(raw.bits).filter(|end| end.div_ceil(8) <= compressed_size);
            let plain_end = plain.checked_add(raw.plain).filter(|end| *end <= plain_size);
            let (Some(bit_end), Some(plain_end), 1..) = (bit_end, plain_end, raw.bits) else {
                return Err(wrong(format!(
                    "{} bits from bit {bit} and {} bytes from byte {plain} don't fit a layer of \
                     {compressed_size} compressed and {plain_size} plain bytes",
                    raw.bits, raw.plain
                )));
            };
            let window = match raw.window {
                None => None,
                Some((length, digest)) => {
                    let left = windows.end - window_at;
                    if length > left.min(MAX_WINDOW) {
                        let limit = left.min(MAX_WINDOW);
                        let detail = format!("its window has {length} bytes of at most {limit}");
                        return Err(wrong(detail));
                    }
                    let start = window_at;
                    window_at += length;
                    Some(Section { range: start..window_at, digest })
                }
            };
            if encoding == Encoding::Tar && raw.bits / 8 != raw.plain {
                let detail = format!("{} bits of a tar can't hold {} bytes", raw.bits, raw.plain);
                return Err(wrong(detail));
            }
            spans.push(SpanEntry {
                compressed_bit: bit,
                compressed: bit / 8..bit_end.div_ceil(8),
                plain: plain..plain_end,
                kind,
                digest: raw.digest,
                window,
            });
            (bit, plain) = (bit_end, plain_end);
        }
        if !bit.is_multiple_of(8) || spans.is_empty() || plain != plain_size {
            return Err(wrong(
                format!("layer {layer}"),
                format!(
                    "its {} spans end at compressed bit {bit} and plain byte {plain} of {plain_size}",
                    spans.len()
                ),
            ));
        }
        if window_at != windows.end {
            let left = windows.end - window_at;
            return Err(wrong(
                format!("layer {layer}"),
                format!("{left} bytes belong to no window"),
            ));
        }
        Ok(Self { layer, encoding, spans })
    }

    /// Whether these are `spans`, but for their windows.
    pub(super) fn describes(&self, spans: &[Span]) -> bool {
        self.spans.len() == spans.len()
            && self.spans.iter().zip(spans).all(|(entry, span)| {
                entry.compressed_bit == span.start.compressed_bit
                    && entry.compressed == span.compressed
                    && entry.plain.start == span.start.plain
                    && entry.plain.end - entry.plain.start == span.plain_length
                    && entry.kind == span.start.kind
            })
    }
}

/// An entry as it is stored.
struct Raw {
    bits: u64,
    plain: u64,
    kind: u8,
    window: Option<(u64, Digest)>,
    digest: Digest,
}

impl Raw {
    fn take(fields: &mut Fields<'_>, encoding: Encoding) -> Option<Self> {
        if encoding != Encoding::Gzip {
            return Some(Self {
                bits: fields.varint()?.checked_mul(8)?,
                plain: fields.varint()?,
                kind: START,
                window: None,
                digest: fields.digest()?,
            });
        }
        Some(Self {
            bits: fields.varint()?,
            plain: fields.varint()?,
            kind: fields.byte()?,
            window: match fields.varint()? {
                0 => None,
                length => Some((length, fields.digest()?)),
            },
            digest: fields.digest()?,
        })
    }
}

/// Appends the entry of a span that ends at compressed bit `bit_end`.
pub(super) fn put_entry(entries: &mut Vec<u8>, encoding: Encoding, span: &Span, bit_end: u64) {
    // What does not ascend or begins within a byte is found when the entries are read back.
    let bits = bit_end.saturating_sub(span.start.compressed_bit);
    if encoding == Encoding::Gzip {
        put_varint(entries, bits);
        put_varint(entries, span.plain_length);
        entries.push(match span.start.kind {
            CheckpointKind::Start => START,
            CheckpointKind::Block => BLOCK,
        });
        let window = span.start.window.encoded();
        put_varint(entries, window.len() as u64);
        if !window.is_empty() {
            entries.extend_from_slice(Digest::of(window).as_bytes());
        }
    } else {
        put_varint(entries, bits / 8);
        put_varint(entries, span.plain_length);
    }
    entries.extend_from_slice(span.digest.as_bytes());
}

fn place(layer: Digest, span: usize) -> String {
    format!("layer {layer} span {span}")
}
