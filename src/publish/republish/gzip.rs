//! A layer on its way from its registry through a compressor, as a stream that fails unless the
//! layer was the right one to its last byte.
//!
//! The same layer gives the same bytes: one gzip member whose header has neither name nor time,
//! level 6 (what registries are full of; the layer is compressed once and read many times), and
//! input handed to the compressor in pieces of one size.

use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

use crate::digest::Digest;
use crate::fetch::download::with_layer;
use crate::fetch::{Budget, FetchError};
use crate::layer::{LayerError, Limits, copy_layer};
use crate::oci::Source;
use crate::progress::Progress;
use crate::publish::PublishError;

const LEVEL: u32 = 6;
/// Plain bytes handed to the compressor at a time.
const PIECE: usize = 64 << 10;
/// Compressed bytes handed on at a time, and how many such pieces wait.
const CHUNK: usize = 256 << 10;
const CHUNKS_IN_FLIGHT: usize = 8;

type Compressed = BoxStream<'static, Result<Bytes, PublishError>>;

/// The layer (its digest and size) in gzip. Its plain bytes must be what `diff_id` names. Nothing
/// may be built on the bytes before the stream has ended well.
pub(super) fn compressed(
    source: Source,
    (layer, size): (Digest, u64),
    diff_id: Digest,
    limits: Limits,
    budget: Arc<Budget>,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Compressed {
    let (sender, receiver) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let working = AbortOnDropHandle::new(tokio::spawn(
        async move {
            let work = move |bytes| {
                let failed = |e: io::Error| LayerError::Copy { layer, detail: e.to_string() };
                let mut out = Compressor::new(BufWriter::with_capacity(CHUNK, Chunks(sender)));
                copy_layer(layer, bytes, diff_id, limits, &mut out)?;
                out.finish().and_then(|mut chunks| chunks.flush()).map_err(failed)
            };
            with_layer(&source, layer, size, progress, &budget, &cancel, work).await
        }
        .in_current_span(),
    ));
    // The chunks, and then what the work came to.
    stream::unfold((receiver, Some(working)), move |(mut receiver, mut working)| async move {
        if let Some(chunk) = receiver.recv().await {
            return Some((Ok(chunk), (receiver, working)));
        }
        let died =
            |e: JoinError| FetchError::from(LayerError::Thread { layer, detail: e.to_string() });
        let done = working.take()?.await.map_err(died).flatten();
        done.err().map(|error| (Err(error.into()), (receiver, None)))
    })
    .boxed()
}

/// gzip of whatever is written.
struct Compressor<W: Write> {
    encoder: GzEncoder<W>,
    piece: Vec<u8>,
}

impl<W: Write> Compressor<W> {
    fn new(out: W) -> Self {
        let encoder = GzBuilder::new().write(out, Compression::new(LEVEL));
        Self { encoder, piece: Vec::with_capacity(PIECE) }
    }

    fn finish(mut self) -> io::Result<W> {
        self.encoder.write_all(&self.piece)?;
        self.encoder.finish()
    }
}

impl<W: Write> Write for Compressor<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.encoder.write_all(&self.piece)?;
            self.piece.clear();
        }
        Ok(taken)
    }

    /// Not the compressor: that would change its bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The blocking end of the stream.
struct Chunks(mpsc::Sender<Bytes>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use flate2::read::MultiGzDecoder;

    use super::*;

    #[test]
    fn the_same_bytes_however_they_come() {
        let plain: Vec<u8> = (0..1_000_000u32).flat_map(|n| (n / 7 % 251).to_le_bytes()).collect();
        let compress = |step: usize| {
            let mut compressor = Compressor::new(Vec::new());
            for piece in plain.chunks(step) {
                compressor.write_all(piece).unwrap();
                compressor.flush().unwrap();
            }
            compressor.finish().unwrap()
        };
        let whole = compress(plain.len());
        assert_eq!(whole[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
        for step in [1000, PIECE - 1, PIECE, 300_001] {
            assert!(compress(step) == whole, "{step}");
        }
        let mut back = Vec::new();
        MultiGzDecoder::new(&whole[..]).read_to_end(&mut back).unwrap();
        assert!(back == plain);
    }
}
