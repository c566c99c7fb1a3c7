//! From a layer's compressed bytes to its [`LayerIndex`], in one pass over two threads: this one
//! reads and inflates, another hashes the plain bytes and takes the tar apart. Memory is bounded
//! by a handful of buffers, whatever the layer's size.

use std::io::{BufRead, ErrorKind, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use sha2::{Digest as _, Sha256};

use super::tar_scan::{ScanError, TarScanner};
use super::{Contents, Encoding, LayerError, LayerIndex, Limits};
use crate::digest::Digest;
use crate::gzip::{GzipError, GzipOptions, GzipReader, PlainBytes, Span};

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

/// Reads a gzip layer (one member or many) from `compressed`, which must yield exactly the bytes
/// that its digest names and fail if it can't. The content of files goes to `contents` on the way,
/// on another thread.
pub fn read_layer(
    layer: LayerRead,
    compressed: impl BufRead,
    contents: &mut (dyn Contents + Send),
) -> Result<LayerIndex, LayerError> {
    let LayerRead { digest, limits, span } = layer;
    let (full, plain) = sync_channel::<PlainBytes>(BUFFERS);
    let (empty, spent) = sync_channel::<PlainBytes>(BUFFERS);
    for _ in 0..BUFFERS {
        let _ = empty.send(PlainBytes::new());
    }
    let died = |detail: &str| LayerError::Thread { layer: digest, detail: detail.to_owned() };
    thread::scope(|scope| {
        let scan = thread::Builder::new()
            .name("layer-scan".into())
            .spawn_scoped(scope, move || scan(&plain, &empty, limits, contents))
            .map_err(|e| died(&e.to_string()))?;
        let inflated = inflate(Inflater::new(digest, compressed, span), &full, &spent);
        drop(full);
        let scanned = scan.join().map_err(|_| died("the thread that scans its tar panicked"))?;
        // A scan that failed made this thread stop: its error is the cause.
        let (diff_id, plain_size, tar) = scanned.map_err(|e| e.of(digest))?;
        let Inflated { compressed_size, spans } = inflated?;
        let (entries, notes) = tar.finish().map_err(|e| e.of(digest))?;
        let encoding = Encoding::Gzip;
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

/// Copies `length` uncompressed bytes from `offset` to `out`. Reads on to the layer's end and
/// fails unless the whole is what `diff_id` names: only then may what `out` got be used.
pub fn copy_range(
    layer: Digest,
    compressed: impl BufRead,
    diff_id: Digest,
    offset: u64,
    length: u64,
    out: &mut impl Write,
) -> Result<(), LayerError> {
    let mut inflater = Inflater::new(layer, compressed, None);
    let mut hasher = Sha256::new();
    let mut buffer = PlainBytes::new();
    let (mut skip, mut want) = (offset, length);
    loop {
        buffer = inflater.next(buffer)?;
        if buffer.is_empty() {
            break;
        }
        hasher.update(&*buffer);
        let skipped = at_most(buffer.len(), skip);
        skip -= skipped as u64;
        let taken = at_most(buffer.len() - skipped, want);
        want -= taken as u64;
        out.write_all(&buffer[skipped..skipped + taken])
            .map_err(|e| LayerError::Copy { layer, detail: e.to_string() })?;
    }
    inflater.finish()?;
    let found = Digest::from_hasher(hasher);
    if found != diff_id {
        return Err(LayerError::DiffId { layer, expected: diff_id, found });
    }
    if want > 0 {
        let detail = format!("it ends {want} bytes before the end of {offset}+{length}");
        return Err(LayerError::Copy { layer, detail });
    }
    Ok(())
}

fn at_most(have: usize, want: u64) -> usize {
    usize::try_from(want).map_or(have, |want| have.min(want))
}

/// Hands on everything that comes out of the layer, for as long as somebody takes it.
fn inflate(
    mut layer: Inflater<impl BufRead>,
    full: &SyncSender<PlainBytes>,
    spent: &Receiver<PlainBytes>,
) -> Result<Inflated, LayerError> {
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
    Ok(Inflated { compressed_size: layer.read, spans: Vec::new() })
}

/// Hashes and scans everything that arrives.
fn scan(
    plain: &Receiver<PlainBytes>,
    empty: &SyncSender<PlainBytes>,
    limits: Limits,
    contents: &mut (dyn Contents + Send),
) -> Result<(Digest, u64, TarScanner), ScanError> {
    let mut hasher = Sha256::new();
    let mut scanner = TarScanner::new(limits);
    let mut size = 0;
    while let Ok(buffer) = plain.recv() {
        size += buffer.len() as u64;
        if size > limits.plain_bytes {
            let what = "the uncompressed size".into();
            return Err(ScanError::Limit { what, limit: limits.plain_bytes });
        }
        hasher.update(&*buffer);
        scanner.push(&buffer, contents)?;
        let _ = empty.send(buffer); // the other side has ended: nobody needs the buffer
    }
    Ok((Digest::from_hasher(hasher), size, scanner))
}

impl ScanError {
    fn of(self, layer: Digest) -> LayerError {
        match self {
            Self::Malformed { offset, detail } => LayerError::Tar { layer, offset, detail },
            Self::Limit { what, limit } => LayerError::Limit { layer, what, limit },
            Self::Contents(detail) => LayerError::Copy { layer, detail },
        }
    }
}

/// What is known of a layer that was inflated to its end.
struct Inflated {
    compressed_size: u64,
    spans: Vec<Span>,
}

/// The plain bytes of a layer, and whose fault it is when there are no more.
struct Inflater<R> {
    layer: Digest,
    source: R,
    reader: GzipReader,
    /// Compressed bytes taken from the source.
    read: u64,
}

impl<R: BufRead> Inflater<R> {
    fn new(layer: Digest, source: R, span: Option<u64>) -> Self {
        // The diff id that is verified in the end says more than a CRC.
        let options = GzipOptions { skip_crc: true, span, ..GzipOptions::default() };
        Self { layer, source, reader: GzipReader::new(options), read: 0 }
    }

    /// The next plain bytes, in exchange for a buffer; none once the compressed bytes were read,
    /// and so verified, to their end.
    fn next(&mut self, spare: PlainBytes) -> Result<PlainBytes, LayerError> {
        let layer = self.layer;
        loop {
            let mut chunk = match self.source.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(source) => return Err(LayerError::Source { layer, source }),
            };
            let (before, ended) = (chunk.len(), chunk.is_empty());
            let full = self.reader.fill(&mut chunk).map_err(|e| broken(layer, &e))?;
            let used = before - chunk.len();
            self.source.consume(used);
            self.read += used as u64;
            if full || ended {
                return Ok(self.reader.swap(spare));
            }
        }
    }

    fn finish(self) -> Result<Inflated, LayerError> {
        let layer = self.layer;
        let summary = self.reader.finish().map_err(|e| broken(layer, &e))?;
        if summary.trailing.bytes > 0 {
            // gzip takes this for padding, but Go's reader, which upstream's mount uses, does not.
            let detail = format!("{} bytes follow its end", summary.trailing.bytes);
            return Err(LayerError::Gzip { layer, offset: summary.compressed, detail });
        }
        Ok(Inflated { compressed_size: self.read, spans: summary.spans })
    }
}

fn broken(layer: Digest, error: &GzipError) -> LayerError {
    LayerError::Gzip { layer, offset: error.at, detail: error.problem.to_string() }
}

#[cfg(test)]
mod tests;
