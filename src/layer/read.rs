//! From a layer's compressed bytes to its [`LayerIndex`], in one pass over two threads: this one
//! reads and decodes, another hashes the plain bytes and takes the tar apart. Memory is bounded
//! by a handful of buffers, whatever the layer's size.

use std::io::{BufRead, Chain, Cursor, ErrorKind, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::decode::{DecodeError, Decoder};
use super::tar_scan::{ScanError, TarScanner};
use super::{Contents, Encoding, LayerError, LayerIndex, Limit, Limits, at_most};
use crate::digest::Digest;
use crate::gzip::{PlainBytes, Span};
use crate::memory::MemoryAccount;

/// Buffers of plain bytes between the threads, each of a few hundred KiB.
const BUFFERS: usize = 4;

/// How to read a layer.
#[derive(Debug, Clone, Copy)]
pub struct LayerRead {
    /// Names the compressed bytes.
    pub digest: Digest,
    /// What it may cost.
    pub limits: Limits,
    /// With a span, in plain bytes, the index has spans of about that size to begin reading at.
    pub span: Option<u64>,
}

/// Reads a layer of any [`Encoding`] from `compressed`, which must yield exactly the bytes that its
/// digest names and fail if it can't. The content of files goes to `contents` on the way, on
/// another thread; `account` pays for the index.
pub fn read_layer(
    layer: LayerRead,
    account: &MemoryAccount,
    compressed: impl BufRead,
    contents: &mut (dyn Contents + Send),
) -> Result<LayerIndex, LayerError> {
    let LayerRead { digest, limits, span } = layer;
    let stream = PlainStream::new(digest, compressed, limits, span)?;
    let encoding = stream.encoding;
    let (full, plain) = sync_channel::<PlainBytes>(BUFFERS);
    let (empty, spent) = sync_channel::<PlainBytes>(BUFFERS);
    for _ in 0..BUFFERS {
        let _ = empty.send(PlainBytes::new());
    }
    let died = |detail: &str| LayerError::Thread { layer: digest, detail: detail.to_owned() };
    thread::scope(|scope| {
        let scan = thread::Builder::new()
            .name("layer-scan".into())
            .spawn_scoped(scope, move || scan(&plain, &empty, limits, account, contents))
            .map_err(|e| died(&e.to_string()))?;
        let decoded = decode(stream, &full, &spent);
        drop(full);
        let scanned = scan.join().map_err(|_| died("the thread that scans its tar panicked"))?;
        // A scan that failed made this thread stop: its error is the cause.
        let (diff_id, plain_size, tar) = scanned.map_err(|e| e.of(digest))?;
        let DecodedStream { compressed_size, spans } = decoded?;
        let (entries, notes) = tar.finish().map_err(|e| e.of(digest))?;
        Ok(LayerIndex {
            digest,
            encoding,
            diff_id,
            compressed_size,
            plain_size,
            entries,
            notes,
            spans,
        })
    })
}

/// Copies a layer's uncompressed bytes to `out`. Fails unless the whole is what `diff_id` names:
/// only then may what `out` got be used.
pub fn copy_layer(
    layer: Digest,
    compressed: impl BufRead,
    diff_id: Digest,
    limits: Limits,
    out: &mut impl Write,
) -> Result<(), LayerError> {
    let mut stream = PlainStream::new(layer, compressed, limits, None)?;
    let mut hasher = Sha256::new();
    let mut buffer = PlainBytes::new();
    loop {
        buffer = stream.next(buffer)?;
        if buffer.is_empty() {
            break;
        }
        Limit::PlainBytes
            .check(stream.plain, limits.plain_bytes, String::new)
            .map_err(|excess| LayerError::Limit { layer, excess })?;
        hasher.update(&*buffer);
        out.write_all(&buffer).map_err(|e| LayerError::Copy { layer, detail: e.to_string() })?;
    }
    stream.finish()?;
    let found = Digest::from_hasher(hasher);
    if found == diff_id {
        Ok(())
    } else {
        Err(LayerError::DiffId { layer, expected: diff_id, found })
    }
}

/// As [`copy_layer`], of `length` bytes from `offset`.
pub fn copy_range(
    layer: Digest,
    compressed: impl BufRead,
    diff_id: Digest,
    offset: u64,
    length: u64,
    out: &mut impl Write,
) -> Result<(), LayerError> {
    let mut part = Part { out, skip: offset, want: length };
    // Whoever made the archive has had the layer pass the limits.
    copy_layer(layer, compressed, diff_id, Limits::NONE, &mut part)?;
    match part.want {
        0 => Ok(()),
        want => {
            let detail = format!("it ends {want} bytes before the end of {offset}+{length}");
            Err(LayerError::Copy { layer, detail })
        }
    }
}

/// Lets a part of what is written through.
struct Part<W> {
    out: W,
    skip: u64,
    want: u64,
}

impl<W: Write> Write for Part<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let skipped = at_most(bytes.len(), self.skip);
        self.skip -= skipped as u64;
        let taken = at_most(bytes.len() - skipped, self.want);
        self.want -= taken as u64;
        self.out.write_all(&bytes[skipped..skipped + taken])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

/// Hands on everything that comes out of the layer, for as long as somebody takes it.
fn decode(
    mut layer: PlainStream<impl BufRead>,
    full: &SyncSender<PlainBytes>,
    spent: &Receiver<PlainBytes>,
) -> Result<DecodedStream, LayerError> {
    while let Ok(spare) = spent.recv() {
        let buffer = layer.next(spare)?;
        if buffer.is_empty() {
            return layer.finish();
        }
        if full.send(buffer).is_err() {
            break;
        }
    }
    // Nobody takes any more, and whoever stopped has the better reason.
    Ok(DecodedStream { compressed_size: layer.read, spans: Vec::new() })
}

/// Hashes and scans everything that arrives.
fn scan(
    plain: &Receiver<PlainBytes>,
    empty: &SyncSender<PlainBytes>,
    limits: Limits,
    account: &MemoryAccount,
    contents: &mut (dyn Contents + Send),
) -> Result<(Digest, u64, TarScanner), ScanError> {
    let mut hasher = Sha256::new();
    let mut scanner = TarScanner::new(limits, account);
    let mut size = 0;
    while let Ok(buffer) = plain.recv() {
        size += buffer.len() as u64;
        Limit::PlainBytes.check(size, limits.plain_bytes, String::new)?;
        hasher.update(&*buffer);
        scanner.push(&buffer, contents)?;
        let _ = empty.send(buffer); // the other side has ended: nobody needs the buffer
    }
    Ok((Digest::from_hasher(hasher), size, scanner))
}

impl ScanError {
    pub(super) fn of(self, layer: Digest) -> LayerError {
        match self {
            Self::Malformed { offset, detail } => LayerError::Tar { layer, offset, detail },
            Self::Limit(excess) => LayerError::Limit { layer, excess },
            Self::Contents(detail) => LayerError::Copy { layer, detail },
        }
    }
}

/// What is known of a layer that was decoded to its end.
struct DecodedStream {
    compressed_size: u64,
    spans: Vec<Span>,
}

/// The plain bytes of a layer, and whose fault it is when there are no more.
struct PlainStream<R> {
    layer: Digest,
    encoding: Encoding,
    source: Chain<Cursor<Vec<u8>>, R>,
    decoder: Decoder,
    limits: Limits,
    /// Compressed bytes taken from the source, and plain bytes handed on.
    read: u64,
    plain: u64,
}

impl<R: BufRead> PlainStream<R> {
    /// Reads as much as tells the encoding.
    fn new(
        layer: Digest,
        mut source: R,
        limits: Limits,
        span: Option<u64>,
    ) -> Result<Self, LayerError> {
        let mut prefix = Vec::with_capacity(Encoding::PREFIX);
        (&mut source)
            .take(Encoding::PREFIX as u64)
            .read_to_end(&mut prefix)
            .map_err(|source| LayerError::Source { layer, source })?;
        let Some(encoding) = Encoding::of(&prefix) else {
            prefix.truncate(8);
            return Err(LayerError::Unrecognised { layer, prefix });
        };
        let decoder = Decoder::new(encoding, span, &limits);
        let source = Cursor::new(prefix).chain(source);
        Ok(Self { layer, encoding, source, decoder, limits, read: 0, plain: 0 })
    }

    /// The next plain bytes, in exchange for a buffer; none once the compressed bytes were read,
    /// and so verified, to their end.
    fn next(&mut self, spare: PlainBytes) -> Result<PlainBytes, LayerError> {
        loop {
            let mut chunk = match self.source.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(source) => return Err(LayerError::Source { layer: self.layer, source }),
            };
            let (before, ended) = (chunk.len(), chunk.is_empty());
            let full =
                self.decoder.fill(&mut chunk).map_err(|e| e.of(self.layer, self.encoding))?;
            let used = before - chunk.len();
            self.source.consume(used);
            self.read += used as u64;
            if full || ended {
                let plain = self.decoder.swap(spare);
                self.plain += plain.len() as u64;
                self.check_ratio()?;
                return Ok(plain);
            }
        }
    }

    fn check_ratio(&self) -> Result<(), LayerError> {
        if self.plain < self.limits.ratio_from {
            return Ok(());
        }
        let ratio = self.plain / self.read.max(1);
        Limit::Ratio
            .check(ratio, self.limits.ratio, || format!("at plain byte {}", self.plain))
            .map_err(|excess| LayerError::Limit { layer: self.layer, excess })
    }

    fn finish(self) -> Result<DecodedStream, LayerError> {
        let spans = self.decoder.finish().map_err(|e| e.of(self.layer, self.encoding))?;
        Ok(DecodedStream { compressed_size: self.read, spans })
    }
}

impl DecodeError {
    fn of(self, layer: Digest, encoding: Encoding) -> LayerError {
        match self {
            Self::Corrupt { offset, detail } => {
                LayerError::Corrupt { layer, encoding, offset, detail }
            }
            Self::Limit(excess) => LayerError::Limit { layer, excess },
        }
    }
}

#[cfg(test)]
mod tests;
