//! A layer on its way from a source to a thread that takes it apart.

use std::io::{BufRead, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ArchiveError;
use crate::digest::Digest;
use crate::layer::LayerError;
use crate::oci::Source;
use crate::progress::{Progress, Step};

/// Chunks of compressed bytes between the network and the thread that inflates them.
const CHUNKS_IN_FLIGHT: usize = 16;

/// Downloads a layer in this task while `work` reads it on a thread of its own. What `work` gives
/// is passed on only if the layer's size and digest were found right.
pub(super) async fn with_layer<T: Send + 'static>(
    source: &Source,
    layer: Digest,
    size: u64,
    progress: Arc<dyn Progress>,
    cancel: &CancellationToken,
    work: impl FnOnce(LayerBytes) -> Result<T, LayerError> + Send + 'static,
) -> Result<T, ArchiveError> {
    let mut stream = source.blob(&layer, size, cancel).await?;
    let (chunks, received) = mpsc::channel(CHUNKS_IN_FLIGHT);
    let working =
        tokio::task::spawn_blocking(|| work(LayerBytes { received, current: Bytes::new() }));
    let mut failure = None;
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(bytes) => {
                progress.step(Step::LayerBytes { layer, bytes: bytes.len() as u64 });
                if chunks.send(bytes).await.is_err() {
                    break; // the work has given up and says why
                }
            }
            Err(error) => {
                failure = Some(error);
                break;
            }
        }
    }
    drop(chunks);
    let done = match working.await {
        Ok(done) => done,
        Err(died) => Err(LayerError::Thread { layer, detail: died.to_string() }),
    };
    if failure.is_none() && done.as_ref().is_err_and(LayerError::is_of_content) {
        // Bytes that make no sense may not be the ones that were asked for: then that is the cause.
        while failure.is_none()
            && let Some(chunk) = stream.next().await
        {
            failure = chunk.err();
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(done?),
    }
}

/// The blocking end of a download.
pub(super) struct LayerBytes {
    received: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for LayerBytes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let chunk = self.fill_buf()?;
        let length = chunk.len().min(buffer.len());
        buffer[..length].copy_from_slice(&chunk[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for LayerBytes {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        while self.current.is_empty() {
            match self.received.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => break,
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, length: usize) {
        self.current.advance(length);
    }
}
