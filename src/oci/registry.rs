//! One repository in a registry: manifests, blobs and ranges of blobs (OCI distribution-spec 1.1,
//! "Pull").
//!
//! The transport is our own, over reqwest: oci-client's `Client` drops the answer's headers, and
//! with them `Retry-After`, `Content-Range` and `Content-Type`, and often its status; it reads
//! manifests and errors of any length, and asks anonymously when authorization fails.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{StreamExt, TryStreamExt};
use reqwest::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::oci::blob::{Body, RangeStream};
use crate::oci::descriptor::Blob;
use crate::oci::error::OciError;
use crate::oci::gate::Gate;
use crate::oci::http::{describe, read_capped};
use crate::oci::manifest::{self, Document, MAX_CONFIG, MAX_MANIFEST};
use crate::oci::range::{Access, Head, Ranges, part};
use crate::oci::session::{Session, text};
use crate::oci::unasked::decoded;
use crate::retry::{Backoff, RetrySettings, retry};

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

#[derive(Debug)]
pub(super) struct Registry {
    pub(super) session: Session,
    pub(super) retry: RetrySettings,
    /// A [`Ranges`].
    ranges: AtomicU8,
}

impl Registry {
    pub(super) fn new(session: Session, retry: RetrySettings) -> Self {
        Self { session, retry, ranges: AtomicU8::new(Ranges::Unknown as u8) }
    }

    /// `registry/repository`, for people.
    pub(super) fn name(&self) -> String {
        self.session.name()
    }

    /// The manifest called `name` (a tag or a digest); its digest must be `expected`, or else the
    /// one that the registry states.
    pub(super) async fn manifest(
        &self,
        name: &str,
        expected: Option<Digest>,
        cancel: &CancellationToken,
    ) -> Result<Document, OciError> {
        let path = format!("{}/manifests/{name}", self.session.endpoint.repository);
        let what = format!("manifest {name}");
        let accept = manifest::accept();
        retry(&self.retry, cancel, || async {
            let answer = self.get(&path, &[(ACCEPT, &accept)], &what).await?;
            let separator = if expected.is_some() { '@' } else { ':' };
            let answer = answer.ok_or_else(|| OciError::ImageNotFound {
                image: format!("{}{separator}{name}", self.name()),
            })?;
            let content_type = text(answer.headers(), &CONTENT_TYPE).map(str::to_owned);
            // The digest of a schema 1 manifest leaves its signature out: not ours to verify.
            let signed =
                content_type.as_deref().is_some_and(|t| t.contains("distribution.manifest.v1+"));
            let stated = text(answer.headers(), &CONTENT_DIGEST).filter(|_| !signed);
            let expected = expected.or_else(|| stated.and_then(|digest| digest.parse().ok()));
            let bytes = read_capped(answer, &self.session.endpoint, &what, MAX_MANIFEST).await?;
            let bytes = decoded(bytes, expected, MAX_MANIFEST);
            Document::verified(bytes, content_type, expected, || {
                format!("{what} from {}", self.name())
            })
        })
        .await
    }

    /// A blob that is read whole into memory: a config.
    pub(super) async fn small_blob(
        &self,
        blob: Blob,
        cancel: &CancellationToken,
    ) -> Result<Bytes, OciError> {
        let Blob { digest, size } = blob;
        let (path, what) = self.place(digest);
        retry(&self.retry, cancel, || async {
            let answer = self.get(&path, &[], &what).await?;
            let answer = answer.ok_or_else(|| self.no_blob(digest))?;
            let bytes = read_capped(answer, &self.session.endpoint, &what, MAX_CONFIG).await?;
            let bytes = decoded(bytes, Some(digest), MAX_CONFIG);
            let found = bytes.len() as u64;
            let name = || format!("{what} from {}", self.name());
            match Document::verified(bytes, None, Some(digest), name) {
                Ok(document) if found == size => Ok(document.bytes),
                Err(_) if found < size => Err(self.truncated(digest, size, found)),
                Ok(_) => Err(self.wrong_size(blob, found)),
                Err(error) => Err(error),
            }
        })
        .await
    }

    /// The bytes of a range of a blob; the caller has checked that it is within it.
    pub(super) async fn part(
        self: &Arc<Self>,
        blob: Blob,
        range: Range<u64>,
        access: Access,
        gate: &Arc<dyn Gate>,
        cancel: &CancellationToken,
    ) -> Result<RangeStream, OciError> {
        let (registry, token, gate) = (self.clone(), cancel.clone(), gate.clone());
        let end = range.end;
        let open = move |offset| {
            let (registry, token, gate) = (registry.clone(), token.clone(), gate.clone());
            async move { registry.reach(blob, offset..end, access, &gate, &token).await }.boxed()
        };
        RangeStream::open(self.name(), blob, range, open, self.retry.clone(), cancel.clone()).await
    }

    /// Opens a blob at `offset` as [`Self::open`] does, and asks again when that fails. A registry
    /// that gives other ranges than it is asked for is asked for the blob from its start.
    async fn reach(
        &self,
        blob: Blob,
        range: Range<u64>,
        access: Access,
        gate: &Arc<dyn Gate>,
        cancel: &CancellationToken,
    ) -> Result<Body, OciError> {
        let range = &range;
        retry(&self.retry, cancel, || async move {
            for access in [access, access] {
                match self.admitted(blob, range, access, gate).await {
                    Err(error @ OciError::WrongRange { .. }) => tracing::debug!(%error),
                    opened => return opened,
                }
            }
            self.admitted(blob, range, Access::FromStart, gate).await
        })
        .await
    }

    /// Opens a blob as [`Self::open`] does, when the gate lets it.
    async fn admitted(
        &self,
        blob: Blob,
        range: &Range<u64>,
        access: Access,
        gate: &Arc<dyn Gate>,
    ) -> Result<Body, OciError> {
        let admission = gate.clone().admit().await;
        match self.open(blob, range, access).await {
            Ok(body) => Ok(body.inspect_ok(move |bytes| admission.received(bytes.len())).boxed()),
            Err(error) => {
                admission.failed(&error);
                Err(error)
            }
        }
    }

    /// Asks once for the bytes of a blob from `offset` to `end`. The body starts at `offset` and
    /// never goes on behind `end`; it may end before. That it holds the right bytes only a digest
    /// of theirs can tell.
    async fn open(
        &self,
        blob: Blob,
        wanted: &Range<u64>,
        access: Access,
    ) -> Result<Body, OciError> {
        let Blob { digest, size } = blob;
        let (path, what) = self.place(digest);
        let Range { start: offset, end } = *wanted;
        let by_range = access == Access::Range && (offset > 0 || end < size);
        let asked = if by_range { offset..end } else { 0..size };
        let range = format!("bytes={offset}-{}", end.saturating_sub(1));
        let headers = [(RANGE, range.as_str())];
        let headers = if by_range { &headers[..] } else { &[][..] };
        if by_range {
            self.session.endpoint.observer.range_requested();
        }
        let answer = self.get(&path, headers, &what).await?;
        let answer = answer.ok_or_else(|| self.no_blob(digest))?;
        let head = Head {
            partial: answer.status() == StatusCode::PARTIAL_CONTENT,
            content_range: text(answer.headers(), &CONTENT_RANGE),
            content_type: text(answer.headers(), &CONTENT_TYPE),
            content_length: answer.content_length(),
        };
        let refused = answer.status() == StatusCode::RANGE_NOT_SATISFIABLE;
        let Some(start) = head.start(&asked, size).filter(|_| !refused) else {
            return Err(self.wrong_range(blob, &range, &head, by_range));
        };
        if by_range {
            self.learn(&head);
        }
        Ok(part(self.body(answer, what), offset - start, end - offset))
    }

    /// Takes note of how a request for a range was answered.
    fn learn(&self, head: &Head<'_>) {
        let found = if head.states_range() { Ranges::Honoured } else { Ranges::Ignored };
        let before = self.ranges.fetch_max(found as u8, Ordering::Relaxed);
        if found == Ranges::Ignored && before != Ranges::Ignored as u8 {
            tracing::warn!(
                repository = self.name(),
                answer = %head,
                "the registry ignores Range: blobs are read from their start, which is slow"
            );
        }
    }

    /// How requests for ranges were answered so far.
    pub(super) fn ranges(&self) -> Ranges {
        match self.ranges.load(Ordering::Relaxed) {
            0 => Ranges::Unknown,
            1 => Ranges::Honoured,
            _ => Ranges::Ignored,
        }
    }

    fn wrong_range(&self, blob: Blob, range: &str, head: &Head<'_>, by_range: bool) -> OciError {
        match head.content_length {
            Some(found) if !by_range => self.wrong_size(blob, found),
            _ => OciError::WrongRange {
                repository: self.name(),
                digest: blob.digest,
                expected: format!("{range} of {}", blob.size),
                found: head.to_string(),
            },
        }
    }

    fn wrong_size(&self, blob: Blob, found: u64) -> OciError {
        let (repository, expected) = (self.name(), blob.size);
        OciError::WrongSize { repository, digest: blob.digest, expected, found }
    }

    /// Where a blob is in the API, and what it is called.
    fn place(&self, digest: Digest) -> (String, String) {
        let path = format!("{}/blobs/{digest}", self.session.endpoint.repository);
        (path, format!("blob {digest}"))
    }

    fn no_blob(&self, digest: Digest) -> OciError {
        OciError::BlobNotFound { repository: self.name(), digest }
    }

    fn truncated(&self, digest: Digest, expected: u64, found: u64) -> OciError {
        OciError::TruncatedBlob { repository: self.name(), digest, expected, found }
    }

    fn body(&self, answer: Response, what: String) -> Body {
        let repository = self.name();
        let observer = self.session.endpoint.observer.clone();
        answer
            .bytes_stream()
            .inspect_ok(move |bytes| observer.received(bytes.len()))
            .map_err(move |error| OciError::Unavailable {
                repository: repository.clone(),
                what: what.clone(),
                reason: describe(error),
                retry_after: None,
            })
            .boxed()
    }

    /// A GET. `None` is 404, twice: what was just pushed may take a moment to show everywhere. An
    /// answer that is not 200, 206 or 416 is an error.
    async fn get(
        &self,
        path: &str,
        headers: &[(HeaderName, &str)],
        what: &str,
    ) -> Result<Option<Response>, OciError> {
        let fill = |request: RequestBuilder| {
            let request = request.header(ACCEPT_ENCODING, "identity");
            headers.iter().fold(request, |request, (name, value)| request.header(name, *value))
        };
        let url = self.session.endpoint.url(path);
        let mut backoff = Backoff::new(RetrySettings { attempts: 2, ..self.retry.clone() });
        loop {
            let answer = self.session.send(Method::GET, &url, what, fill).await?;
            match answer.status() {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT => return Ok(Some(answer)),
                StatusCode::RANGE_NOT_SATISFIABLE if !headers.is_empty() => {
                    return Ok(Some(answer));
                }
                StatusCode::NOT_FOUND => match backoff.next_delay(None) {
                    // Dropped, and so cancelled, by whoever retries.
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => return Ok(None),
                },
                _ => return Err(self.session.unexpected(what, answer).await),
            }
        }
    }
}
