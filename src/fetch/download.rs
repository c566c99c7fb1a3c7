//! A layer on its way from a source to a thread that takes it apart.

use std::io::{BufRead, Read};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf as _;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::fetch::Budget;
use crate::fetch::FetchError;
use crate::fetch::stream::{BlobFetch, Chunk};
use crate::layer::LayerError;
use crate::oci::Source;
use crate::progress::{Progress, Step, wait};

/// A download from which nothing came for so long gives its turn to others.
const STALL: Duration = Duration::from_secs(1);

/// Downloads a layer in this task while `work` reads it on a thread of its own. What `work` gives
/// is passed on only if the layer's size and digest were found right.
pub(crate) async fn with_layer<T: Send + 'static>(
    source: &Source,
    layer: Digest,
    size: u64,
    progress: Arc<dyn Progress>,
    budget: &Budget,
    cancel: &CancellationToken,
    work: impl FnOnce(LayerBytes) -> Result<T, LayerError> + Send + 'static,
) -> Result<T, FetchError> {
    let source = source.gated(budget.link(source));
    let mut fetch = BlobFetch::start(&source, budget.room(), layer, size, cancel);
    let mut turn = Some(wait(&*progress, layer, budget.turn(cancel)).await?);
    fetch.widen();
    let (chunks, received) = mpsc::unbounded_channel();
    let working = tokio::task::spawn_blocking(|| work(LayerBytes { received, current: None }));
    let mut failure: Option<FetchError> = None;
    loop {
        let chunk = {
            let mut next = pin!(fetch.next());
            if let Ok(chunk) = timeout(STALL, &mut next).await {
                chunk
            } else {
                turn = None; // a source that is silent shall not hold others up
                next.await
            }
        };
        let Some(chunk) = chunk else { break };
        if turn.is_none() {
            match wait(&*progress, layer, budget.turn(cancel)).await {
                Ok(again) => turn = Some(again),
                Err(error) => {
                    failure = Some(error); // and the work comes to its end first
                    break;
                }
            }
        }
        match chunk {
            Ok(chunk) => {
                progress.step(Step::LayerBytes { layer, bytes: chunk.bytes.len() as u64 });
                if chunks.send(chunk).is_err() {
                    break; // the work has given up and says why
                }
            }
            Err(error) => {
                failure = Some(error.into());
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
            && let Some(chunk) = fetch.next().await
        {
            failure = chunk.err().map(FetchError::from);
        }
    }
    match failure {
        Some(error) => Err(error),
        None => Ok(done?),
    }
}

/// The blocking end of a download.
pub(crate) struct LayerBytes {
    received: mpsc::UnboundedReceiver<Chunk>,
    current: Option<Chunk>,
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
        while self.current.as_ref().is_none_or(|chunk| chunk.bytes.is_empty()) {
            self.current = None; // makes room for what is awaited
            self.current = self.received.blocking_recv();
            if self.current.is_none() {
                break;
            }
        }
        Ok(self.current.as_ref().map_or(&[], |chunk| &chunk.bytes))
    }

    fn consume(&mut self, length: usize) {
        if let Some(chunk) = &mut self.current {
            chunk.bytes.advance(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::oci::{Credentials, ImageSource, OciSettings};
    use crate::progress::Silent;

    /// Who is cancelled while another has the turn that it gave up leaves nothing running.
    #[tokio::test]
    async fn a_download_ends_after_its_thread() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let image: ImageSource = format!("{}/r:t", listener.local_addr().unwrap()).parse().unwrap();
        let (go_on, stalled) = tokio::sync::oneshot::channel::<()>();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await;
            stream.write_all(b"HTTP/1.1 200 X\r\nContent-Length: 3\r\n\r\na").await.unwrap();
            stalled.await.unwrap();
            stream.write_all(b"b").await.unwrap();
            std::future::pending::<()>().await;
        });
        let (settings, anonymous) = (OciSettings::default(), Some(Credentials::Anonymous));
        let source = Source::open(&image, &settings, anonymous).await.unwrap();
        let (budget, cancel) = (Budget::new(1), CancellationToken::new());
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let work = move |mut bytes: LayerBytes| {
            let _ = bytes.read_to_end(&mut Vec::new());
            std::thread::sleep(Duration::from_millis(200));
            end.store(true, Ordering::SeqCst);
            Ok(())
        };
        let digest = Digest::of(b"abc");
        let layer = with_layer(&source, digest, 3, Arc::new(Silent), &budget, &cancel, work);
        let other = async {
            let turn = budget.turn(&CancellationToken::new()).await.unwrap();
            go_on.send(()).unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            cancel.cancel();
            turn
        };
        let mut layer = pin!(layer);
        // It takes the first turn.
        assert!(timeout(Duration::from_millis(100), &mut layer).await.is_err());
        let (done, _turn) = tokio::join!(layer, other);
        assert!(matches!(done, Err(FetchError::Cancelled)), "{done:?}");
        assert!(ended.load(Ordering::SeqCst));
    }
}
