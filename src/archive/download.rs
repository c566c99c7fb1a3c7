//! A layer on its way from a source to a thread that takes it apart.

use std::io::Read;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ArchiveError;
use crate::digest::Digest;
use crate::layer::LayerError;
use crate::oci::{OciError, Source};
use crate::progress::{Progress, Step};

/// Chunks of compressed bytes between the network and the thread that inflates them.
const CHUNKS_IN_FLIGHT: usize = 16;

/// Downloads a layer in this task while `work` reads it on a thread of its own. The reader that
/// `work` gets ends only after the layer's size and digest were found right.
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
    while let Some(chunk) = stream.next().await {
        if let Ok(bytes) = &chunk {
            progress.step(Step::LayerBytes { layer, bytes: bytes.len() as u64 });
        }
        if chunks.send(chunk).await.is_err() {
            break; // the work has given up and says why
        }
    }
    drop(chunks);
    match working.await {
        Ok(done) => done.map_err(own_cause),
        Err(died) => Err(LayerError::Thread { layer, detail: died.to_string() }.into()),
    }
}

/// Gives a download's own error back, which went through the work as an `io::Error`.
fn own_cause(error: LayerError) -> ArchiveError {
    match error {
        LayerError::Source { layer, source } => match source.downcast::<OciError>() {
            Ok(error) => error.into(),
            Err(source) => LayerError::Source { layer, source }.into(),
        },
        error => error.into(),
    }
}

/// The blocking end of a download.
pub(super) struct LayerBytes {
    received: mpsc::Receiver<Result<Bytes, OciError>>,
    current: Bytes,
}

impl Read for LayerBytes {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.current.is_empty() {
            match self.received.blocking_recv() {
                Some(Ok(chunk)) => self.current = chunk,
                Some(Err(error)) => return Err(std::io::Error::other(error)),
                None => return Ok(0),
            }
        }
        let length = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}
