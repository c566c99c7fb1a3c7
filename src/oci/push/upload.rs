//! `Upload`: one blob on its way into a repository. Knows how a registry counts what it has taken;
//! where the bytes come from it must not know.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use tokio_util::sync::CancellationToken;

use super::{CHUNK, check_digest, size_of};
use crate::digest::Digest;
use crate::oci::error::OciError;
use crate::oci::registry::Registry;
use crate::oci::session::{Session, text};
use crate::retry::Backoff;

/// How long the cancellation of an upload may take; the registry sweeps up what is left.
const CANCELLATION: Duration = Duration::from_secs(10);
/// The largest chunk that a registry may insist on.
const MAX_CHUNK: usize = 64 << 20;
const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
const OCTETS: &str = "application/octet-stream";

/// An upload that the registry has opened. Cancelled when dropped before it is committed.
#[derive(Debug)]
pub(super) struct Upload {
    registry: Arc<Registry>,
    /// Where its next request goes; `None` when it is over.
    location: Option<Url>,
    /// Bytes that the registry has taken.
    taken: u64,
    /// Bytes in a chunk.
    pub(super) chunk_size: usize,
}

/// Mounts a blob of repository `from`, if the registry can and has it.
pub(super) async fn mount(
    registry: &Arc<Registry>,
    digest: &Digest,
    from: &str,
) -> Result<bool, OciError> {
    let what = format!("mount of blob {digest} from {from}");
    let query = [("mount", digest.to_string()), ("from", from.to_owned())];
    let answer = open(&registry.session, &query, &what).await?;
    if answer.status() == StatusCode::CREATED {
        check_digest(&registry.session, &answer, *digest)?;
        return Ok(true);
    }
    // It has opened an upload instead, for which there is no content at hand yet.
    Upload::opened(registry.clone(), answer, &what).await?.cancel().await;
    Ok(false)
}

/// The request that opens an upload.
async fn open(
    session: &Session,
    query: &[(&str, String)],
    what: &str,
) -> Result<Response, OciError> {
    let path = format!("{}/blobs/uploads/", session.endpoint.repository);
    let mut url = Url::parse(&session.endpoint.url(&path))
        .map_err(|error| session.endpoint.unexpected(what, error.to_string()))?;
    if !query.is_empty() {
        url.query_pairs_mut().extend_pairs(query);
    }
    session.send(Method::POST, url.as_str(), what, |r| r.header(CONTENT_LENGTH, 0)).await
}

impl Upload {
    /// Opens one.
    pub(super) async fn start(registry: Arc<Registry>) -> Result<Self, OciError> {
        let what = "start of an upload";
        let answer = open(&registry.session, &[], what).await?;
        Self::opened(registry, answer, what).await
    }

    async fn opened(
        registry: Arc<Registry>,
        answer: Response,
        what: &str,
    ) -> Result<Self, OciError> {
        if answer.status() != StatusCode::ACCEPTED {
            return Err(registry.session.unexpected(what, answer).await);
        }
        let least = text(answer.headers(), &CHUNK_MIN_LENGTH).and_then(|text| text.parse().ok());
        let chunk_size = least.unwrap_or(CHUNK).max(CHUNK);
        let mut upload = Self { registry, location: None, taken: 0, chunk_size };
        upload.follow(&answer, what)?;
        if upload.location.is_none() || chunk_size > MAX_CHUNK {
            let reason = "it gives no address to send to, or wants chunks of more than 64 MiB";
            return Err(upload.registry.session.endpoint.unexpected(what, reason.to_owned()));
        }
        Ok(upload)
    }

    /// Sends the bytes that follow those that were taken.
    pub(super) async fn append(
        &mut self,
        chunk: Bytes,
        cancel: &CancellationToken,
    ) -> Result<(), OciError> {
        let (start, end) = (self.taken, self.taken + chunk.len() as u64);
        let mut backoff = Backoff::new(self.registry.retry.clone());
        let mut sure = true;
        loop {
            let before = self.taken;
            let sent = async {
                if !sure {
                    self.ask(start, end).await?;
                }
                // `ask` keeps it within the chunk.
                let rest = usize::try_from(self.taken - start).unwrap_or_default();
                if self.taken < end { self.patch(chunk.slice(rest..), end).await } else { Ok(()) }
            };
            match sent.await {
                Ok(()) if self.taken == end => return Ok(()),
                Ok(()) if self.taken > before => sure = true,
                Ok(()) => return Err(self.lost("it takes no more bytes")),
                Err(error @ OciError::UploadLost { .. }) => return Err(error),
                Err(error) => {
                    backoff.wait_after(error, cancel).await?;
                    sure = false;
                }
            }
        }
    }

    /// Ends the upload with `rest`, the bytes that were not sent yet. The registry verifies the
    /// digest of the whole.
    pub(super) async fn commit(
        &mut self,
        rest: Bytes,
        digest: Digest,
        size: u64,
        cancel: &CancellationToken,
    ) -> Result<(), OciError> {
        let whole = self.taken == 0;
        let body =
            if whole { rest } else { self.append(rest, cancel).await.map(|()| Bytes::new())? };
        let what = format!("push of blob {digest}");
        let mut backoff = Backoff::new(self.registry.retry.clone());
        loop {
            let Err(error) = self.put(&body, digest, &what).await else { return Ok(()) };
            if matches!(error, OciError::UploadLost { .. }) {
                return Err(error);
            }
            backoff.wait_after(error, cancel).await?;
            // The answer may have been lost, not the request.
            if size_of(&self.registry.session, &digest).await? == Some(size) {
                self.location = None;
                return Ok(());
            }
        }
    }

    /// Tells the registry to forget the upload, if it is not over. That may fail: then the
    /// registry's own sweep does it.
    pub(super) async fn cancel(mut self) {
        if let Some(location) = self.location.take() {
            forget(&self.registry, &location).await;
        }
    }

    async fn put(&mut self, body: &Bytes, digest: Digest, what: &str) -> Result<(), OciError> {
        let mut url = self.location()?;
        url.query_pairs_mut().append_pair("digest", &digest.to_string());
        let session = &self.registry.session;
        let answer = session
            .send(Method::PUT, url.as_str(), what, |request| {
                let request = request.header(CONTENT_TYPE, OCTETS);
                request.header(CONTENT_LENGTH, body.len()).body(body.clone())
            })
            .await?;
        match answer.status() {
            StatusCode::CREATED => {
                self.location = None;
                check_digest(session, &answer, digest)
            }
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(self.lost("it does not know the upload any more"))
            }
            _ => Err(session.unexpected(what, answer).await),
        }
    }

    /// Sends bytes from where the upload stands up to `end`.
    async fn patch(&mut self, bytes: Bytes, end: u64) -> Result<(), OciError> {
        let what = "upload of a chunk";
        let range = format!("{}-{}", self.taken, end - 1);
        let url = self.location()?;
        let session = &self.registry.session;
        let answer = session
            .send(Method::PATCH, url.as_str(), what, |request| {
                let request = request.header(CONTENT_TYPE, OCTETS).header(CONTENT_RANGE, &range);
                request.header(CONTENT_LENGTH, bytes.len()).body(bytes.clone())
            })
            .await?;
        match answer.status() {
            // 204 is an old one's.
            StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
                let taken = taken(&answer).unwrap_or(end);
                if taken < self.taken || taken > end {
                    return Err(self.lost("it counts other bytes than were sent"));
                }
                self.taken = taken;
                self.follow(&answer, what)
            }
            StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE => {
                Err(self.lost("it does not know the upload any more"))
            }
            _ => Err(session.unexpected(what, answer).await),
        }
    }

    /// Asks how much of the chunk between `start` and `end` was taken.
    async fn ask(&mut self, start: u64, end: u64) -> Result<(), OciError> {
        let what = "state of an upload";
        let url = self.location()?;
        let answer =
            self.registry.session.send(Method::GET, url.as_str(), what, |request| request).await?;
        match taken(&answer) {
            Some(taken)
                if answer.status() == StatusCode::NO_CONTENT && (start..=end).contains(&taken) =>
            {
                self.taken = taken;
                self.follow(&answer, what)
            }
            _ => Err(self.lost("it can't say where to go on after a broken connection")),
        }
    }

    fn location(&self) -> Result<Url, OciError> {
        self.location.clone().ok_or_else(|| self.lost("it is over"))
    }

    /// Goes to the address that an answer gives, if it gives one. It may be relative.
    fn follow(&mut self, answer: &Response, what: &str) -> Result<(), OciError> {
        let Some(location) = text(answer.headers(), &LOCATION) else { return Ok(()) };
        let endpoint = &self.registry.session.endpoint;
        match answer.url().join(location) {
            Ok(url) if !endpoint.is_https() || url.scheme() == "https" => {
                self.location = Some(url);
                Ok(())
            }
            _ => {
                let reason = "the address of the upload is not valid, or leaves https";
                Err(endpoint.unexpected(what, reason.to_owned()))
            }
        }
    }

    fn lost(&self, reason: &'static str) -> OciError {
        OciError::UploadLost { repository: self.registry.name(), reason }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(location) = self.location.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let registry = self.registry.clone();
            runtime.spawn(async move { forget(&registry, &location).await });
        }
    }
}

async fn forget(registry: &Registry, location: &Url) {
    let what = "end of an upload";
    let asked = registry.session.send(Method::DELETE, location.as_str(), what, |request| request);
    match tokio::time::timeout(CANCELLATION, asked).await {
        Ok(Ok(answer)) if answer.status().is_success() => {}
        _ => tracing::debug!(repository = registry.name(), "an upload could not be cancelled"),
    }
}

/// How many bytes the registry has: `Range: 0-N`, of which `0-0` is said of none.
fn taken(answer: &Response) -> Option<u64> {
    let range = text(answer.headers(), &RANGE)?;
    let (start, last) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    match (start, last.parse().ok()?) {
        ("0", 0) => Some(0),
        ("0", last) => u64::checked_add(last, 1),
        _ => None,
    }
}
