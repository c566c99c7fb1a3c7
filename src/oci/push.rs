//! Pushing to one repository of a registry (OCI distribution-spec 1.1, "Push"): blobs first, then
//! the manifest that names them. What the bytes are it must not know.
//!
//! As for reading, the transport is our own: oci-client's push drops the answers' status, `Range`
//! and `Retry-After`, so that a chunk that broke off can't be taken up again; it fails at a mount
//! that is answered 202 and leaves that upload open; and it never cancels an upload that failed.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{Stream, StreamExt};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName};
use reqwest::{Method, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::oci::credentials::Credentials;
use crate::oci::error::OciError;
use crate::oci::http::Endpoint;
use crate::oci::registry::{CONTENT_DIGEST, Registry};
use crate::oci::session::{Session, text};
use crate::oci::settings::OciSettings;
use crate::retry::{Retryable, retry};

/// The upload of one blob.
mod upload;

use upload::Upload;

/// What a registry answers with that lists a manifest with its subject.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// Bytes sent, and held in memory, at a time.
const CHUNK: usize = 8 << 20;
/// A registry may take long over the last request of a large blob, which it moves into place then.
pub(super) const PATIENCE: Duration = Duration::from_mins(5);

/// One repository that is pushed to; keeps connections and authorization. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    registry: Arc<Registry>,
    /// A repository of the same registry that may hold the blobs already.
    mount_from: Option<String>,
}

/// A blob that is in the repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PushedBlob {
    /// Its SHA-256, which the registry has verified.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

impl Publisher {
    /// Prepares access to `repository` of `registry` (`host[:port]`); nothing is asked of it yet.
    /// Blobs are looked for in `mount_from`, another repository there, before they are sent.
    pub async fn open(
        registry: &str,
        repository: &str,
        mount_from: Option<&str>,
        settings: &OciSettings,
        credentials: Option<Credentials>,
    ) -> Result<Self, OciError> {
        let idle = settings.idle_timeout.max(PATIENCE);
        let endpoint = Endpoint::new(registry, repository, settings, idle)?;
        let mount_from = mount_from.filter(|from| *from != repository).map(str::to_owned);
        let scopes = std::iter::once(format!("repository:{repository}:pull,push"))
            .chain(mount_from.iter().map(|from| format!("repository:{from}:pull")))
            .collect();
        let session = Session::open(endpoint, scopes, settings, credentials).await?;
        let registry = Arc::new(Registry::new(session, settings.retry.clone()));
        Ok(Self { registry, mount_from })
    }

    /// Pushes over an access that is there.
    pub(super) fn of(registry: Arc<Registry>) -> Self {
        Self { registry, mount_from: None }
    }

    /// `registry/repository`, for people.
    pub fn name(&self) -> String {
        self.registry.name()
    }

    /// The size of a blob, if the repository has it.
    pub async fn size_of(
        &self,
        digest: &Digest,
        cancel: &CancellationToken,
    ) -> Result<Option<u64>, OciError> {
        let registry = &self.registry;
        retry(&registry.retry, cancel, || size_of(&registry.session, digest)).await
    }

    /// Whether the repository has a blob, or can mount it and then has.
    pub async fn has_blob(
        &self,
        digest: &Digest,
        cancel: &CancellationToken,
    ) -> Result<bool, OciError> {
        Ok(self.size_of(digest, cancel).await?.is_some() || self.mounted(digest, cancel).await?)
    }

    /// Sees to it that the repository has a blob: it may be there, or can be mounted, or else is
    /// sent. `content` is as for [`Self::blob`], and must have `digest`.
    pub async fn known_blob<E, F, Fut, S>(
        &self,
        digest: &Digest,
        content: F,
        cancel: &CancellationToken,
    ) -> Result<(), E>
    where
        E: From<OciError> + Retryable,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<S, E>>,
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        if self.has_blob(digest, cancel).await? {
            return Ok(());
        }
        let pushed = self.blob(content, cancel).await?;
        if pushed.digest == *digest {
            return Ok(());
        }
        let what = format!("blob pushed to {}", self.name());
        Err(OciError::DigestMismatch { what, expected: *digest, found: pushed.digest }.into())
    }

    /// Sends a blob whose size and digest need not be known before. At most a chunk of 8 MiB is
    /// held in memory. A chunk that breaks off is taken up where the registry says that it broke;
    /// where it doesn't say, `content` is asked for everything again, which must be the same
    /// bytes. An upload that comes to nothing is cancelled, also when this future is dropped.
    pub async fn blob<E, F, Fut, S>(
        &self,
        mut content: F,
        cancel: &CancellationToken,
    ) -> Result<PushedBlob, E>
    where
        E: From<OciError> + Retryable,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<S, E>>,
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        retry(&self.registry.retry, cancel, || {
            let content = content();
            async move { self.send(content.await?, cancel).await }
        })
        .await
    }

    /// Puts a manifest under its digest, and under `tag` if there is one; everything that it names
    /// must be there. Done only when the registry gives it back by its digest.
    pub async fn manifest(
        &self,
        manifest: &Bytes,
        media_type: &str,
        tag: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<Digest, OciError> {
        self.referring(manifest, media_type, tag, cancel).await?;
        Ok(Digest::of(manifest))
    }

    /// The same, for a manifest that may have a subject: whether the registry says that it lists it
    /// there (distribution-spec 1.1, "Pushing Manifests with Subject").
    pub(super) async fn referring(
        &self,
        manifest: &Bytes,
        media_type: &str,
        tag: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<bool, OciError> {
        let digest = Digest::of(manifest);
        let session = &self.registry.session;
        let what = format!("push of manifest {digest}");
        let name = tag.map_or_else(|| digest.to_string(), str::to_owned);
        let url =
            session.endpoint.url(&format!("{}/manifests/{name}", session.endpoint.repository));
        let listed = retry(&self.registry.retry, cancel, || async {
            let answer = session
                .send(Method::PUT, &url, &what, |request| {
                    request.header(CONTENT_TYPE, media_type).body(manifest.clone())
                })
                .await?;
            if answer.status() == StatusCode::CREATED {
                check_digest(session, &answer, digest)?;
                return Ok(answer.headers().contains_key(SUBJECT));
            }
            Err(session.unexpected(&what, answer).await)
        })
        .await?;
        self.registry.manifest(&digest.to_string(), Some(digest), cancel).await?;
        Ok(listed)
    }

    async fn mounted(&self, digest: &Digest, cancel: &CancellationToken) -> Result<bool, OciError> {
        let Some(from) = &self.mount_from else { return Ok(false) };
        let registry = &self.registry;
        retry(&registry.retry, cancel, || upload::mount(registry, digest, from)).await
    }

    async fn send<E: From<OciError>>(
        &self,
        mut content: impl Stream<Item = Result<Bytes, E>> + Unpin,
        cancel: &CancellationToken,
    ) -> Result<PushedBlob, E> {
        let mut hasher = Sha256::new();
        let mut chunk = BytesMut::new();
        let mut size = 0;
        let mut upload = Upload::start(self.registry.clone()).await?;
        let sent = async {
            while let Some(bytes) = content.next().await {
                let mut bytes = bytes?;
                hasher.update(&bytes);
                size += bytes.len() as u64;
                // Full chunks go when more is known to come: a blob of one chunk is one request.
                while chunk.len() + bytes.len() > upload.chunk_size {
                    chunk.extend_from_slice(&bytes.split_to(upload.chunk_size - chunk.len()));
                    upload.append(chunk.split().freeze(), cancel).await?;
                }
                chunk.extend_from_slice(&bytes);
            }
            let digest = Digest::from_hasher(hasher);
            upload.commit(chunk.freeze(), digest, size, cancel).await?;
            Ok(PushedBlob { digest, size })
        }
        .await;
        if sent.is_err() {
            upload.cancel().await;
        }
        sent
    }
}

/// Asks once.
async fn size_of(session: &Session, digest: &Digest) -> Result<Option<u64>, OciError> {
    let what = format!("blob {digest}");
    let url = session.endpoint.url(&format!("{}/blobs/{digest}", session.endpoint.repository));
    let answer = session.send(Method::HEAD, &url, &what, |request| request).await?;
    match answer.status() {
        StatusCode::OK => {
            let length = text(answer.headers(), &CONTENT_LENGTH);
            match length.and_then(|length| length.parse().ok()) {
                Some(length) => Ok(Some(length)),
                None => Err(session.endpoint.unexpected(&what, "it gives no length".to_owned())),
            }
        }
        StatusCode::NOT_FOUND => Ok(None),
        _ => Err(session.unexpected(&what, answer).await),
    }
}

/// The registry may say what it has stored; then that must be what was sent.
fn check_digest(
    session: &Session,
    answer: &reqwest::Response,
    expected: Digest,
) -> Result<(), OciError> {
    match text(answer.headers(), &CONTENT_DIGEST).and_then(|text| text.parse().ok()) {
        Some(found) if found != expected => {
            let what = format!("what was pushed to {}", session.name());
            Err(OciError::DigestMismatch { what, expected, found })
        }
        _ => Ok(()),
    }
}
