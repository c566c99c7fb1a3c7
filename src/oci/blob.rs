//! `BlobStream`: a blob's bytes, resumed where they break off and verified as they pass.
//!
//! Knows nothing of registries or directories: it is given a way to open the blob at an offset.

use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, Stream, StreamExt, empty, try_unfold};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::oci::descriptor::Blob;
use crate::oci::error::OciError;
use crate::retry::{Backoff, RetrySettings};

/// A connection that brought this many bytes before it broke has proved the source alive: the
/// count of failures starts again.
const PROGRESS: u64 = 8 << 20;

/// An answer that ends early is no failure when it brought this many bytes.
const SHORT: u64 = 64 << 10;

/// Bytes as they arrive, not verified.
pub(super) type Body = BoxStream<'static, Result<Bytes, OciError>>;

/// A blob's bytes in order, in chunks of whatever size arrives.
///
/// The stream ends after the last byte only when length and SHA-256 are right; otherwise its last
/// item is the error. Nothing may be built on the bytes before that.
pub struct BlobStream(Body);

impl BlobStream {
    /// Verifies `bytes`, which are all of the blob's. `repository` is where it is, for people.
    pub(super) fn verify(bytes: RangeStream, repository: &str, digest: Digest) -> Self {
        let what = format!("blob from {repository}");
        let verified = try_unfold((bytes, Sha256::new()), move |(mut bytes, mut hasher)| {
            let what = what.clone();
            async move {
                if let Some(chunk) = bytes.next().await {
                    let chunk = chunk?;
                    hasher.update(&chunk);
                    return Ok(Some((chunk, (bytes, hasher))));
                }
                let (expected, found) = (digest, Digest::from_hasher(hasher));
                if found == expected {
                    Ok(None)
                } else {
                    Err(OciError::DigestMismatch { what, expected, found })
                }
            }
        });
        Self(verified.boxed())
    }
}

/// The bytes of one range of a blob in order, in chunks of whatever size arrives.
///
/// The stream ends after the last byte of the range; otherwise its last item is the error. Whether
/// they are the right bytes only a digest of theirs can tell: that is the reader's to check.
pub struct RangeStream(Body);

impl RangeStream {
    /// Opens the blob with `open`, which takes the offset to start at, and does its own retries.
    /// `repository` is where the blob is, for people.
    pub(super) async fn open<O>(
        repository: String,
        blob: Blob,
        range: Range<u64>,
        open: O,
        retry: RetrySettings,
        cancel: CancellationToken,
    ) -> Result<Self, OciError>
    where
        O: Fn(u64) -> BoxFuture<'static, Result<Body, OciError>> + Send + 'static,
    {
        let reader = Reader {
            body: open(range.start).await?,
            open,
            repository,
            blob,
            backoff: Backoff::new(retry),
            cancel,
            at: range.start,
            end: range.end,
            opened_at: range.start,
            at_break: range.start,
        };
        Ok(Self(try_unfold(reader, Reader::next).boxed()))
    }
}

macro_rules! is_a_stream {
    ($name:ident) => {
        impl Stream for $name {
            type Item = Result<Bytes, OciError>;

            fn poll_next(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<Self::Item>> {
                self.0.poll_next_unpin(cx)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    };
}

is_a_stream!(BlobStream);
is_a_stream!(RangeStream);

struct Reader<O> {
    body: Body,
    open: O,
    repository: String,
    blob: Blob,
    backoff: Backoff,
    cancel: CancellationToken,
    /// Offset of the byte that comes next.
    at: u64,
    end: u64,
    /// What it was when the connection was opened.
    opened_at: u64,
    /// What it was when a connection broke last.
    at_break: u64,
}

impl<O> Reader<O>
where
    O: Fn(u64) -> BoxFuture<'static, Result<Body, OciError>> + Send + 'static,
{
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, OciError> {
        let Blob { digest, size } = self.blob;
        while self.at < self.end {
            let Some(item) = self.cancel.run_until_cancelled(self.body.next()).await else {
                return Err(OciError::Cancelled);
            };
            let ended = item.is_none();
            let broken = match item {
                Some(Ok(chunk)) => {
                    self.at += chunk.len() as u64;
                    if self.at > self.end {
                        return Err(OciError::WrongSize {
                            repository: self.repository,
                            digest,
                            expected: size,
                            found: self.at,
                        });
                    }
                    return Ok(Some((chunk, self)));
                }
                Some(Err(error)) => error,
                None => OciError::TruncatedBlob {
                    repository: self.repository.clone(),
                    digest,
                    expected: self.end,
                    found: self.at,
                },
            };
            // Some send less than they are asked for, as they may: that is no failure.
            let short = ended && self.at - self.opened_at >= SHORT;
            self.resume((!short).then_some(broken)).await?;
        }
        Ok(None)
    }

    async fn resume(&mut self, broken: Option<OciError>) -> Result<(), OciError> {
        if self.at - self.at_break >= PROGRESS {
            self.backoff.reset();
        }
        // A connection that is broken shall not be one of those that may be open.
        self.body = empty().boxed();
        if let Some(broken) = broken {
            self.at_break = self.at;
            self.backoff.wait_after(broken, &self.cancel).await?;
        }
        tracing::debug!(
            repository = self.repository,
            digest = %self.blob.digest,
            offset = self.at,
            "resuming a blob that broke off"
        );
        self.body = (self.open)(self.at).await?;
        self.opened_at = self.at;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use futures_util::stream::iter;

    use super::*;

    const CONTENT: &[u8] = b"the quick brown fox jumps over the lazy dog";

    fn blob() -> Blob {
        Blob { digest: Digest::of(CONTENT), size: CONTENT.len() as u64 }
    }

    fn retry() -> RetrySettings {
        RetrySettings {
            attempts: 3,
            base_delay: Duration::from_micros(1),
            max_delay: Duration::from_millis(1),
        }
    }

    async fn stream<O>(blob: Blob, open: O, cancel: CancellationToken) -> BlobStream
    where
        O: Fn(u64) -> BoxFuture<'static, Result<Body, OciError>> + Send + 'static,
    {
        let name = || "h/r".to_owned();
        let bytes = RangeStream::open(name(), blob, 0..blob.size, open, retry(), cancel);
        BlobStream::verify(bytes.await.unwrap(), &name(), blob.digest)
    }

    /// What one opening of the blob brings: bytes, then an error if any.
    type Opening = (&'static [u8], Option<OciError>);

    /// Reads all of `blob` from `openings`; also gives the offsets they were opened at.
    async fn read(blob: Blob, openings: Vec<Opening>) -> (Vec<u8>, Option<OciError>, Vec<u64>) {
        let openings = Mutex::new(openings.into_iter());
        let offsets = Arc::new(Mutex::new(Vec::new()));
        let log = offsets.clone();
        let open = move |offset: u64| -> BoxFuture<'static, Result<Body, OciError>> {
            log.lock().unwrap().push(offset);
            let (bytes, error) = openings.lock().unwrap().next().unwrap();
            let items = bytes.chunks(5).map(|chunk| Ok(Bytes::from_static(chunk)));
            let items: Vec<_> = items.chain(error.map(Err)).collect();
            Box::pin(async { Ok(iter(items).boxed()) })
        };
        let cancel = CancellationToken::new();
        let mut stream = stream(blob, open, cancel).await;
        let (mut bytes, mut error) = (Vec::new(), None);
        while let Some(item) = stream.next().await {
            assert!(error.is_none(), "an item after the error");
            match item {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(found) => error = Some(found),
            }
        }
        let offsets = offsets.lock().unwrap().clone();
        (bytes, error, offsets)
    }

    fn reset() -> OciError {
        OciError::Unavailable {
            repository: "h/r".to_owned(),
            what: "it".to_owned(),
            reason: "reset".to_owned(),
            retry_after: None,
        }
    }

    #[tokio::test]
    async fn whole() {
        let (bytes, error, offsets) = read(blob(), vec![(CONTENT, None)]).await;
        assert_eq!((bytes.as_slice(), offsets), (CONTENT, vec![0]));
        assert!(error.is_none());
    }

    #[tokio::test]
    async fn resumes_where_it_broke() {
        let openings =
            vec![(&CONTENT[..10], Some(reset())), (&CONTENT[10..25], None), (&CONTENT[25..], None)];
        let (bytes, error, offsets) = read(blob(), openings).await;
        assert_eq!((bytes.as_slice(), offsets), (CONTENT, vec![0, 10, 25]));
        assert!(error.is_none(), "{error:?}");
    }

    #[tokio::test]
    async fn gives_up_in_the_end() {
        let openings = vec![(&CONTENT[..10], None), (b"", None), (b"", None)];
        let (bytes, error, _) = read(blob(), openings).await;
        assert_eq!(bytes, &CONTENT[..10]);
        assert!(matches!(error, Some(OciError::TruncatedBlob { found: 10, .. })), "{error:?}");
    }

    #[tokio::test]
    async fn wrong_bytes_end_in_an_error() {
        let wrong = Blob { digest: Digest::of(b"other"), ..blob() };
        let (bytes, error, _) = read(wrong, vec![(CONTENT, None)]).await;
        assert_eq!(bytes, CONTENT);
        assert!(matches!(error, Some(OciError::DigestMismatch { .. })), "{error:?}");
        let empty = Blob { digest: Digest::of(b"x"), size: 0 };
        let (_, error, _) = read(empty, vec![(b"", None)]).await;
        assert!(matches!(error, Some(OciError::DigestMismatch { .. })), "{error:?}");
    }

    #[tokio::test]
    async fn too_many_bytes_end_in_an_error() {
        let (_, error, _) = read(Blob { size: 7, ..blob() }, vec![(CONTENT, None)]).await;
        assert!(matches!(error, Some(OciError::WrongSize { expected: 7, .. })), "{error:?}");
    }

    #[tokio::test]
    async fn cancellation_ends_a_silent_body() {
        let cancel = CancellationToken::new();
        let open = |_| -> BoxFuture<'static, Result<Body, OciError>> {
            Box::pin(async { Ok(futures_util::stream::pending().boxed()) })
        };
        let mut stream = stream(blob(), open, cancel.clone()).await;
        cancel.cancel();
        assert!(matches!(stream.next().await, Some(Err(OciError::Cancelled))));
        assert!(stream.next().await.is_none());
    }
}
