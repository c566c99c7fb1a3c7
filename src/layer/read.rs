//! From a layer's compressed bytes to its [`LayerIndex`], in one pass over two threads: this one
//! reads and inflates, another hashes the plain bytes and takes the tar apart. Memory is bounded
//! by a handful of buffers, whatever the layer's size.

use std::io::{BufRead as _, BufReader, ErrorKind, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};

use super::tar_scan::{ScanError, TarScanner};
use super::{LayerError, LayerIndex, Limits};
use crate::digest::Digest;

/// Plain bytes handed from thread to thread at a time.
const BUFFER: usize = 256 << 10;
/// Buffers in flight between the threads.
const BUFFERS: usize = 4;

/// Reads a gzip layer (one member or many) from `compressed`, which must yield exactly the bytes
/// that `digest` names and fail if it can't.
pub fn read_gzip_layer(
    digest: Digest,
    compressed: impl Read,
    limits: Limits,
) -> Result<LayerIndex, LayerError> {
    let (full, plain) = sync_channel::<Vec<u8>>(BUFFERS);
    let (empty, spent) = sync_channel::<Vec<u8>>(BUFFERS);
    for _ in 0..BUFFERS {
        let _ = empty.send(Vec::with_capacity(BUFFER));
    }
    let died = |detail: &str| LayerError::Thread { layer: digest, detail: detail.to_owned() };
    thread::scope(|scope| {
        let scan = thread::Builder::new()
            .name("layer-scan".into())
            .spawn_scoped(scope, move || scan(&plain, &empty, limits))
            .map_err(|e| died(&e.to_string()))?;
        let mut layer = Inflater::new(digest, compressed);
        let inflated = feed(&mut layer, &full, &spent);
        drop(full);
        let scanned = scan.join().map_err(|_| died("the thread that scans its tar panicked"))?;
        // A scan that failed made this thread stop: its error is the cause.
        let (diff_id, plain_size, tar) = scanned.map_err(|e| e.of(digest))?;
        inflated?;
        let (entries, notes) = tar.finish().map_err(|e| e.of(digest))?;
        let compressed_size = layer.compressed_bytes();
        Ok(LayerIndex { digest, diff_id, compressed_size, plain_size, entries, notes })
    })
}

/// Copies `length` uncompressed bytes from `offset` to `out`. Reads on to the layer's end and
/// fails unless the whole is what `diff_id` names: only then may what `out` got be used.
pub fn copy_range(
    layer: Digest,
    compressed: impl Read,
    diff_id: Digest,
    offset: u64,
    length: u64,
    out: &mut impl Write,
) -> Result<(), LayerError> {
    let mut inflater = Inflater::new(layer, compressed);
    let mut hasher = Sha256::new();
    let mut buffer = Vec::with_capacity(BUFFER);
    let (mut skip, mut want) = (offset, length);
    while inflater.fill(&mut buffer)? {
        hasher.update(&buffer);
        let skipped = at_most(buffer.len(), skip);
        skip -= skipped as u64;
        let taken = at_most(buffer.len() - skipped, want);
        want -= taken as u64;
        out.write_all(&buffer[skipped..skipped + taken])
            .map_err(|e| LayerError::Copy { layer, detail: e.to_string() })?;
    }
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
fn feed(
    layer: &mut Inflater<impl Read>,
    full: &SyncSender<Vec<u8>>,
    spent: &Receiver<Vec<u8>>,
) -> Result<(), LayerError> {
    while let Ok(mut buffer) = spent.recv() {
        if !layer.fill(&mut buffer)? || full.send(buffer).is_err() {
            break;
        }
    }
    Ok(())
}

/// Hashes and scans everything that arrives.
fn scan(
    plain: &Receiver<Vec<u8>>,
    empty: &SyncSender<Vec<u8>>,
    limits: Limits,
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
        hasher.update(&buffer);
        scanner.push(&buffer)?;
        let _ = empty.send(buffer); // the other side has ended: nobody needs the buffer
    }
    Ok((Digest::from_hasher(hasher), size, scanner))
}

impl ScanError {
    fn of(self, layer: Digest) -> LayerError {
        match self {
            Self::Malformed { offset, detail } => LayerError::Tar { layer, offset, detail },
            Self::Limit { what, limit } => LayerError::Limit { layer, what, limit },
        }
    }
}

/// The plain bytes of a layer, and whose fault it is when there are no more.
struct Inflater<R> {
    layer: Digest,
    decoder: MultiGzDecoder<BufReader<Counted<R>>>,
    plain_bytes: u64,
}

impl<R: Read> Inflater<R> {
    fn new(layer: Digest, compressed: R) -> Self {
        let counted = Counted { inner: compressed, bytes: 0, failure: None };
        let decoder = MultiGzDecoder::new(BufReader::with_capacity(BUFFER, counted));
        Self { layer, decoder, plain_bytes: 0 }
    }

    fn compressed_bytes(&self) -> u64 {
        self.decoder.get_ref().get_ref().bytes
    }

    /// Replaces what is in `buffer` by the next plain bytes; `false` once there are none and the
    /// compressed bytes were read, and so verified, to their end.
    fn fill(&mut self, buffer: &mut Vec<u8>) -> Result<bool, LayerError> {
        buffer.clear();
        let outcome = (&mut self.decoder).take(BUFFER as u64).read_to_end(buffer);
        let outcome = outcome
            .and_then(|read| if read == 0 { self.drain().map(|()| false) } else { Ok(true) });
        self.plain_bytes += buffer.len() as u64;
        let (layer, offset) = (self.layer, self.plain_bytes);
        outcome.map_err(|error| match self.decoder.get_mut().get_mut().failure.take() {
            Some(source) => LayerError::Source { layer, source },
            None => LayerError::Gzip { layer, offset, detail: error.to_string() },
        })
    }

    /// Whatever follows the last member still belongs to the layer's digest.
    fn drain(&mut self) -> std::io::Result<()> {
        let rest = self.decoder.get_mut();
        while !rest.fill_buf()?.is_empty() {
            let length = rest.buffer().len();
            rest.consume(length);
        }
        Ok(())
    }
}

/// Counts bytes, and keeps the reader's own failure apart from what the decoder makes of it.
struct Counted<R> {
    inner: R,
    bytes: u64,
    failure: Option<std::io::Error>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(read) => {
                self.bytes += read as u64;
                Ok(read)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let told = std::io::Error::new(error.kind(), error.to_string());
                self.failure = Some(error);
                Err(told)
            }
        }
    }
}

#[cfg(test)]
mod tests;
