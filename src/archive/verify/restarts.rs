//! Whether reading can begin where a seek table says. Every span's compressed bytes have their
//! digest. A gzip span is inflated from its checkpoint, and must give what inflating the layer from
//! its start gives there; zstd frames need nothing but themselves, so that a span which decodes to
//! its length is right; the span of a tar is its own content.

use std::fs::File;
use std::io::{BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};

use crate::clip::check::Check;
use crate::clip::seek_table::{SpanEntry, SpanIndex};
use crate::digest::Digest;
use crate::gzip::{Checkpoint, CheckpointKind, Engine, GzipOptions, GzipReader, SparseWindow};
use crate::layer::decode::decode_spans;
use crate::layer::{Encoding, at_most};

/// Pieces of compressed bytes between the two threads.
const PIECES: usize = 8;
/// The largest zstd span, compressed or plain, that is decoded; it is in memory then.
const MAX_SPAN: u64 = 64 << 20;

/// Passes on what is read, and gives it to whoever listens.
pub(super) struct Tee<R> {
    inner: R,
    listener: Option<SyncSender<Vec<u8>>>,
}

impl<R> Tee<R> {
    /// The reader, and what hears all that is read of it.
    pub(super) fn new(inner: R) -> (Self, Receiver<Vec<u8>>) {
        let (listener, heard) = sync_channel(PIECES);
        (Self { inner, listener: Some(listener) }, heard)
    }
}

impl<R: BufRead> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let piece = self.fill_buf()?;
        let length = piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&piece[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl<R: BufRead> BufRead for Tee<R> {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, length: usize) {
        if let Some(listener) = &self.listener
            && length > 0
        {
            // What was filled is still there.
            let piece = self.inner.fill_buf().unwrap_or_default();
            if listener.send(piece[..length.min(piece.len())].to_vec()).is_err() {
                self.listener = None; // nobody listens any more
            }
        }
        self.inner.consume(length);
    }
}

/// Checks all spans of `layer` while its compressed bytes come; windows are in the open `archive`.
pub(super) fn check(
    layer: Digest,
    spans: &SpanIndex,
    archive: &mut File,
    compressed: &Receiver<Vec<u8>>,
) -> Check {
    let mut check = Check::new("restarts", "spans");
    let mut sequential = Sequential::new(spans);
    let mut restarted = Restarted::new(spans);
    while let Ok(piece) = compressed.recv() {
        sequential.take(&piece);
        restarted.take(&piece, archive);
    }
    // A layer that broke off, or is no gzip, is the reader's to tell.
    for (span, found) in restarted.found.into_iter().enumerate() {
        check.checked += 1;
        let wrong = match (found, sequential.digests.get(span)) {
            (Err(detail), _) => detail,
            (Ok(Some(found)), Some(expected)) if found != *expected => {
                format!("from its checkpoint it is {found}, from the layer's start {expected}")
            }
            _ => continue,
        };
        check.error(format!("layer {layer} span {span}: {wrong}"));
    }
    check
}

/// The digest of each span's plain bytes, inflated from the layer's start.
struct Sequential<'a> {
    spans: &'a SpanIndex,
    reader: Option<GzipReader>,
    digests: Vec<Digest>,
    hasher: Sha256,
    plain: u64,
}

impl<'a> Sequential<'a> {
    fn new(spans: &'a SpanIndex) -> Self {
        let options = GzipOptions { skip_crc: true, ..GzipOptions::default() };
        let reader = (spans.encoding() == Encoding::Gzip).then(|| GzipReader::new(options));
        Self { spans, reader, digests: Vec::new(), hasher: Sha256::new(), plain: 0 }
    }

    fn take(&mut self, mut piece: &[u8]) {
        let Some(reader) = &mut self.reader else { return };
        loop {
            match reader.next(&mut piece) {
                Ok(Some(mut plain)) => {
                    while let Some(entry) = self.spans.entries().get(self.digests.len()) {
                        let left = at_most(plain.len(), entry.plain.end - self.plain);
                        self.hasher.update(&plain[..left]);
                        self.plain += left as u64;
                        plain = &plain[left..];
                        if self.plain < entry.plain.end {
                            break;
                        }
                        self.digests.push(Digest::from_hasher(std::mem::take(&mut self.hasher)));
                    }
                }
                Ok(None) => return,
                Err(_) => {
                    self.reader = None;
                    return;
                }
            }
        }
    }
}

/// The digest of each span's plain bytes, inflated from its checkpoint, or what is wrong with it.
struct Restarted<'a> {
    spans: &'a SpanIndex,
    found: Vec<Result<Option<Digest>, String>>,
    /// The span in progress, begun.
    current: Option<Current>,
    /// Where the next piece begins in the layer, and the byte before.
    position: u64,
    last: u8,
}

struct Current {
    entry: SpanEntry,
    decoding: Decoding,
    compressed: Sha256,
}

enum Decoding {
    /// From the checkpoint, with so many bytes still wanted.
    Gzip { reader: Result<Box<GzipReader>, String>, plain: Sha256, wanted: u64 },
    /// The frames so far.
    Zstd(Vec<u8>),
    /// Nothing to decode, or too much to: then nobody reads there at random either.
    None,
}

impl<'a> Restarted<'a> {
    fn new(spans: &'a SpanIndex) -> Self {
        Self { spans, found: Vec::new(), current: None, position: 0, last: 0 }
    }

    fn take(&mut self, piece: &[u8], archive: &mut File) {
        let end = self.position + piece.len() as u64;
        while let Some(entry) = self.spans.entries().get(self.found.len()) {
            let range = entry.compressed.clone();
            let shared = range.start < self.position && self.current.is_none();
            if range.start >= end {
                break;
            }
            let mut current = self
                .current
                .take()
                .unwrap_or_else(|| Current::begin(self.spans, self.found.len(), entry, archive));
            if shared {
                current.take(&[self.last]); // of the piece before
            }
            let from = at_most(piece.len(), range.start.saturating_sub(self.position));
            let to = at_most(piece.len(), range.end.saturating_sub(self.position));
            current.take(&piece[from..to]);
            if range.end > end {
                self.current = Some(current);
                break;
            }
            self.found.push(current.end());
        }
        self.position = end;
        self.last = piece.last().copied().unwrap_or(self.last);
    }
}

impl Current {
    fn begin(spans: &SpanIndex, span: usize, entry: &SpanEntry, archive: &mut File) -> Self {
        let length = entry.plain.end - entry.plain.start;
        let decoding = match spans.encoding() {
            Encoding::Gzip => {
                let checkpoint = spans.checkpoint(span, archive).map_err(|e| e.to_string());
                let reader = checkpoint.and_then(|checkpoint| {
                    GzipReader::resume(&checkpoint, Engine::default())
                        .map(Box::new)
                        .map_err(|e| e.to_string())
                });
                Decoding::Gzip { reader, plain: Sha256::new(), wanted: length }
            }
            Encoding::Zstd
                if length.max(entry.compressed.end - entry.compressed.start) <= MAX_SPAN =>
            {
                Decoding::Zstd(Vec::new())
            }
            Encoding::Zstd | Encoding::Tar => Decoding::None,
        };
        Self { entry: entry.clone(), decoding, compressed: Sha256::new() }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        self.compressed.update(bytes);
        match &mut self.decoding {
            Decoding::None => {}
            Decoding::Zstd(frames) => frames.extend_from_slice(bytes),
            Decoding::Gzip { reader, plain, wanted } => {
                let Ok(inflating) = reader else { return };
                while *wanted > 0 {
                    match inflating.next(&mut bytes) {
                        Ok(Some(piece)) => {
                            let taken = at_most(piece.len(), *wanted);
                            plain.update(&piece[..taken]);
                            *wanted -= taken as u64;
                        }
                        Ok(None) => break,
                        Err(error) => {
                            *reader = Err(error.to_string());
                            break;
                        }
                    }
                }
            }
        }
    }

    /// The digest of the plain bytes, if there is one to compare with.
    fn end(self) -> Result<Option<Digest>, String> {
        let (expected, found) = (self.entry.digest, Digest::from_hasher(self.compressed));
        if found != expected {
            return Err(format!("expected digest {expected}, found {found}"));
        }
        match self.decoding {
            Decoding::None => Ok(None),
            Decoding::Zstd(frames) => {
                let start = Checkpoint {
                    compressed_bit: self.entry.compressed_bit,
                    plain: self.entry.plain.start,
                    kind: CheckpointKind::Start,
                    window: SparseWindow::default(),
                };
                decode_spans(Encoding::Zstd, &start, &[self.entry], &frames)
                    .map(|_| None)
                    .map_err(|error| error.to_string())
            }
            Decoding::Gzip { reader, plain, wanted } => {
                reader?;
                match wanted {
                    0 => Ok(Some(Digest::from_hasher(plain))),
                    left => Err(format!("it ends {left} bytes before the table says")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
