//! Whether inflating can begin where a seek table says: every span is inflated from its checkpoint,
//! and must give what inflating the layer from its start gives there.

use std::fs::File;
use std::io::{BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use sha2::{Digest as _, Sha256};

use crate::clip::check::Check;
use crate::clip::seek_table::SpanIndex;
use crate::digest::Digest;
use crate::gzip::{Engine, GzipOptions, GzipReader};

/// Pieces of compressed bytes between the two threads.
const PIECES: usize = 8;

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
            (Ok(found), Some(expected)) if found != *expected => {
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
        let reader = Some(GzipReader::new(options));
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
    found: Vec<Result<Digest, String>>,
    /// The span in progress, begun.
    current: Option<Current>,
    /// Where the next piece begins in the layer, and the byte before.
    position: u64,
    last: u8,
}

struct Current {
    reader: Result<GzipReader, String>,
    compressed: Sha256,
    plain: Sha256,
    wanted: u64,
}

impl<'a> Restarted<'a> {
    fn new(spans: &'a SpanIndex) -> Self {
        Self { spans, found: Vec::new(), current: None, position: 0, last: 0 }
    }

    fn take(&mut self, piece: &[u8], archive: &mut File) {
        let end = self.position + piece.len() as u64;
        while let Some(entry) = self.spans.entries().get(self.found.len()) {
            let range = entry.compressed.clone();
            if range.start >= end {
                break;
            }
            let mut current = self.current.take().unwrap_or_else(|| {
                let mut begun = Current::begin(self.spans, self.found.len(), archive);
                if range.start < self.position {
                    begun.take(&[self.last]); // shared with the span before
                }
                begun
            });
            let from = at_most(piece.len(), range.start.saturating_sub(self.position));
            let to = at_most(piece.len(), range.end - self.position.min(range.end));
            if from < to {
                current.take(&piece[from..to]);
            }
            if range.end > end {
                self.current = Some(current);
                break;
            }
            self.found.push(current.end(entry.digest));
        }
        self.position = end;
        self.last = piece.last().copied().unwrap_or(self.last);
    }
}

impl Current {
    fn begin(spans: &SpanIndex, span: usize, archive: &mut File) -> Self {
        let reader = spans
            .checkpoint(span, archive)
            .map_err(|error| error.to_string())
            .and_then(|checkpoint| {
                GzipReader::resume(&checkpoint, Engine::default()).map_err(|e| e.to_string())
            });
        let wanted = spans.entries().get(span).map_or(0, |entry| entry.plain.end - entry.plain.start);
        Self { reader, compressed: Sha256::new(), plain: Sha256::new(), wanted }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        self.compressed.update(bytes);
        let Ok(reader) = &mut self.reader else { return };
        while self.wanted > 0 {
            match reader.next(&mut bytes) {
                Ok(Some(plain)) => {
                    let taken = at_most(plain.len(), self.wanted);
                    self.plain.update(&plain[..taken]);
                    self.wanted -= taken as u64;
                }
                Ok(None) => break,
                Err(error) => {
                    self.reader = Err(error.to_string());
                    break;
                }
            }
        }
    }

    fn end(self, expected: Digest) -> Result<Digest, String> {
        let found = Digest::from_hasher(self.compressed);
        if found != expected {
            return Err(format!("expected digest {expected}, found {found}"));
        }
        self.reader?;
        if self.wanted > 0 {
            return Err(format!("it ends {} bytes before the table says", self.wanted));
        }
        Ok(Digest::from_hasher(self.plain))
    }
}

fn at_most(have: usize, want: u64) -> usize {
    usize::try_from(want).map_or(have, |want| have.min(want))
}
