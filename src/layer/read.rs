//! From a layer's compressed bytes to its [`LayerIndex`], in one pass over two threads: this one
//! reads and inflates, another hashes the plain bytes and takes the tar apart. Memory is bounded
//! by a handful of buffers, whatever the layer's size.

use std::io::{BufRead, BufReader, Read};
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
    let (empty, spent) = sync_channel::<Vec<u8>>(BUFFERS + 2);
    for _ in 0..BUFFERS {
        let _ = empty.send(Vec::with_capacity(BUFFER));
    }
    thread::scope(|scope| {
        let scan = thread::Builder::new()
            .name("layer-scan".into())
            .spawn_scoped(scope, move || scan(&plain, &empty, limits))
            .map_err(|e| LayerError::Thread { layer: digest, detail: e.to_string() })?;
        let inflated = inflate(digest, compressed, &full, &spent);
        drop(full);
        let scanned = scan.join().map_err(|_| LayerError::Thread {
            layer: digest,
            detail: "the thread that scans the layer's tar panicked".into(),
        })?;
        // A scan that failed made the inflating thread stop: its error is the cause.
        let (diff_id, plain_size, tar) = scanned.map_err(|e| e.of(digest))?;
        let compressed_size = inflated?;
        let (entries, notes) = tar.finish().map_err(|e| e.of(digest))?;
        Ok(LayerIndex { digest, diff_id, compressed_size, plain_size, entries, notes })
    })
}

/// Inflates everything; gives how many compressed bytes there were.
fn inflate(
    layer: Digest,
    compressed: impl Read,
    full: &SyncSender<Vec<u8>>,
    spent: &Receiver<Vec<u8>>,
) -> Result<u64, LayerError> {
    let mut counted = Counted { inner: compressed, bytes: 0, failure: None };
    let mut offset = 0;
    let outcome = (|| {
        let mut decoder = MultiGzDecoder::new(BufReader::with_capacity(BUFFER, &mut counted));
        loop {
            let Ok(mut buffer) = spent.recv() else { return Ok(()) };
            buffer.clear();
            let read = (&mut decoder).take(BUFFER as u64).read_to_end(&mut buffer)?;
            offset += read as u64;
            if read == 0 || full.send(buffer).is_err() {
                break;
            }
        }
        // Whatever follows the last member still belongs to the digest.
        let rest = decoder.get_mut();
        while !rest.fill_buf()?.is_empty() {
            let length = rest.buffer().len();
            rest.consume(length);
        }
        Ok::<(), std::io::Error>(())
    })();
    match (outcome, counted.failure) {
        (_, Some(source)) => Err(LayerError::Source { layer, source }),
        (Err(error), None) => Err(LayerError::Gzip { layer, offset, detail: error.to_string() }),
        (Ok(()), None) => Ok(counted.bytes),
    }
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
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let told = std::io::Error::new(error.kind(), error.to_string());
                self.failure = Some(error);
                Err(told)
            }
        }
    }
}
