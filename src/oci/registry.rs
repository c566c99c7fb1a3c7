//! One repository in a registry: manifests, blobs and ranges of blobs (OCI distribution-spec 1.1,
//! "Pull").
//!
//! The transport is our own, over reqwest: oci-client's `Client` drops the answer's headers, and
//! with them `Retry-After`, `Content-Range` and `Content-Type`, and often its status; it reads
//! manifests and errors of any length, and asks anonymously when authorization fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::stream::{StreamExt, TryStreamExt};
use reqwest::header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderName, RANGE};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::oci::blob::{BlobStream, Body, skip};
use crate::oci::error::OciError;
use crate::oci::http::{describe, read_capped};
use crate::oci::manifest::{self, Blob, Document, MAX_MANIFEST};
use crate::oci::session::{Session, text};
use crate::retry::{RetrySettings, retry};

pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

#[derive(Debug)]
pub(super) struct Registry {
    pub(super) session: Session,
    pub(super) retry: RetrySettings,
    /// Whether it was said that the registry ignores ranges.
    warned: AtomicBool,
}

impl Registry {
    pub(super) fn new(session: Session, retry: RetrySettings) -> Self {
        Self { session, retry, warned: AtomicBool::new(false) }
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
            Document::verified(bytes, content_type, expected, || {
                format!("{what} from {}", self.name())
            })
        })
        .await
    }

    pub(super) async fn blob(
        self: &Arc<Self>,
        blob: Blob,
        cancel: &CancellationToken,
    ) -> Result<BlobStream, OciError> {
        let (registry, token) = (self.clone(), cancel.clone());
        let open = move |offset| {
            let (registry, token) = (registry.clone(), token.clone());
            async move {
                let end = blob.size;
                retry(&registry.retry, &token, || registry.open(blob, offset, end)).await
            }
            .boxed()
        };
        BlobStream::open(self.name(), blob, open, self.retry.clone(), cancel.clone()).await
    }

    /// `len` bytes of a blob from `offset`; the caller has checked that they are within it.
    pub(super) async fn range(
        &self,
        blob: Blob,
        offset: u64,
        len: usize,
        cancel: &CancellationToken,
    ) -> Result<Bytes, OciError> {
        let end = offset + len as u64;
        retry(&self.retry, cancel, || async {
            let mut body = self.open(blob, offset, end).await?;
            let mut bytes = BytesMut::with_capacity(len);
            while bytes.len() < len {
                let Some(chunk) = body.try_next().await? else {
                    return Err(OciError::TruncatedBlob {
                        repository: self.name(),
                        digest: blob.digest,
                        expected: end,
                        found: offset + bytes.len() as u64,
                    });
                };
                bytes.extend_from_slice(&chunk[..chunk.len().min(len - bytes.len())]);
            }
            Ok(bytes.freeze())
        })
        .await
    }

    /// Asks once for the bytes of a blob from `offset` to `end`. The body starts at `offset`, but
    /// may go on behind `end` when the registry ignores ranges.
    async fn open(&self, blob: Blob, offset: u64, end: u64) -> Result<Body, OciError> {
        let Blob { digest, size } = blob;
        let path = format!("{}/blobs/{digest}", self.session.endpoint.repository);
        let what = format!("blob {digest}");
        let range = format!("bytes={offset}-{}", end.saturating_sub(1));
        let whole = offset == 0 && end == size;
        let headers = [(RANGE, range.as_str())];
        let headers = if whole { &[][..] } else { &headers[..] };
        let answer = self
            .get(&path, headers, &what)
            .await?
            .ok_or_else(|| OciError::BlobNotFound { repository: self.name(), digest })?;
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            self.check_range(&answer, blob, offset, end)?;
            return Ok(self.body(answer, what));
        }
        if let Some(found) = answer.content_length().filter(|&length| length != size) {
            return Err(OciError::WrongSize {
                repository: self.name(),
                digest,
                expected: size,
                found,
            });
        }
        if !whole && !self.warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                repository = self.name(),
                %digest,
                offset,
                "the registry ignores Range: blobs are read from their start, which is slow"
            );
        }
        Ok(skip(self.body(answer, what), offset))
    }

    fn body(&self, answer: Response, what: String) -> Body {
        let repository = self.name();
        answer
            .bytes_stream()
            .map_err(move |error| OciError::Unavailable {
                repository: repository.clone(),
                what: what.clone(),
                reason: describe(error),
                retry_after: None,
            })
            .boxed()
    }

    /// `Content-Range` must give exactly what was asked for (RFC 9110 section 14.4).
    fn check_range(
        &self,
        answer: &Response,
        blob: Blob,
        offset: u64,
        end: u64,
    ) -> Result<(), OciError> {
        let range = format!("bytes {offset}-{}", end.saturating_sub(1));
        let found = text(answer.headers(), &CONTENT_RANGE).unwrap_or("no Content-Range");
        let right = found.split_once('/').is_some_and(|(f, total)| {
            f == range && (total == "*" || total == blob.size.to_string())
        });
        if right {
            return Ok(());
        }
        Err(OciError::WrongRange {
            repository: self.name(),
            digest: blob.digest,
            expected: format!("{range}/{}", blob.size),
            found: found.chars().take(100).collect(),
        })
    }

    /// One GET. `None` is 404; any other answer that is not 200 or 206 is an error.
    async fn get(
        &self,
        path: &str,
        headers: &[(HeaderName, &str)],
        what: &str,
    ) -> Result<Option<Response>, OciError> {
        let fill = |request: RequestBuilder| {
            headers.iter().fold(request, |request, (name, value)| request.header(name, *value))
        };
        let url = self.session.endpoint.url(path);
        let answer = self.session.send(Method::GET, &url, what, fill).await?;
        match answer.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.session.unexpected(what, answer).await),
        }
    }
}
