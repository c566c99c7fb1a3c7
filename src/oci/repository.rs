//! One repository whose artifacts are read, written, found and removed (OCI distribution-spec 1.1,
//! "Push", "Content Discovery", "Content Management").

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, TryStreamExt as _, stream};
use reqwest::header::{ACCEPT, CONTENT_TYPE, LINK};
use reqwest::{Method, Response, StatusCode, Url};
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::oci::artifact::{
    Artifact, EMPTY_JSON, INDEX, MANIFEST, Referrer, ReferrersIndex, Subject, broken, newest,
    referrers_tag,
};
use crate::oci::blob::BlobStream;
use crate::oci::credentials::Credentials;
use crate::oci::descriptor::Blob;
use crate::oci::error::OciError;
use crate::oci::gate::{Gate, Open};
use crate::oci::http::{Endpoint, read_capped};
use crate::oci::manifest::{MAX_MANIFEST, accept};
use crate::oci::push::{PATIENCE, Publisher};
use crate::oci::range::Access;
use crate::oci::registry::{CONTENT_DIGEST, Registry};
use crate::oci::session::{Session, text};
use crate::oci::settings::OciSettings;
use crate::retry::retry;

/// Pages of a list at most.
const MAX_PAGES: usize = 10_000;
/// Tags asked for at a time. Not every registry minds it.
const PAGE: usize = 1000;
/// A list that a registry gives in one piece may have so many bytes.
const MAX_LIST: u64 = 64 << 20;
/// How often an index that several write is written again, because another's was in between.
const ROUNDS: usize = 5;

/// What is asked to be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actions {
    /// Reading.
    Pull,
    /// Reading and writing.
    Push,
    /// Reading, writing and removing.
    All,
}

/// A repository; keeps connections and authorization. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    registry: Arc<Registry>,
    publisher: Publisher,
}

impl Repository {
    /// Prepares access to `repository` of `registry` (`host[:port]`); nothing is asked of it yet.
    /// `credentials` are as for [`crate::oci::Source::open`].
    pub async fn open(
        registry: &str,
        repository: &str,
        actions: Actions,
        settings: &OciSettings,
        credentials: Option<Credentials>,
    ) -> Result<Self, OciError> {
        let patience = settings.idle_timeout.max(PATIENCE);
        let (actions, idle) = match actions {
            Actions::Pull => ("pull", settings.idle_timeout),
            Actions::Push => ("pull,push", patience),
            Actions::All => ("pull,push,delete", patience),
        };
        let endpoint = Endpoint::new(registry, repository, settings, idle)?;
        let scopes = vec![format!("repository:{repository}:{actions}")];
        let session = Session::open(endpoint, scopes, settings, credentials).await?;
        let registry = Arc::new(Registry::new(session, settings.retry.clone()));
        Ok(Self { publisher: Publisher::of(registry.clone()), registry })
    }

    /// `registry/repository`, for people.
    pub fn name(&self) -> String {
        self.registry.name()
    }

    /// The digest of the manifest called `name`, a tag or a digest; `None` if there is none.
    pub async fn digest_of(
        &self,
        name: &str,
        cancel: &CancellationToken,
    ) -> Result<Option<Digest>, OciError> {
        let what = format!("manifest {name}");
        let path = format!("manifests/{name}");
        let accept = accept();
        let answer = self.ask(Method::HEAD, &path, &[], Some(&accept), &what, cancel).await?;
        match answer.status() {
            StatusCode::OK => {
                let told = text(answer.headers(), &CONTENT_DIGEST);
                match told.and_then(|digest| digest.parse().ok()) {
                    Some(digest) => Ok(Some(digest)),
                    None => {
                        self.registry.manifest(name, None, cancel).await.map(|d| Some(d.digest))
                    }
                }
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.registry.session.unexpected(&what, answer).await),
        }
    }

    /// The artifact whose manifest has this digest; `None` if that is something else than an artifact
    /// whose type is one of `types`.
    pub async fn artifact(
        &self,
        manifest: Digest,
        types: &[&str],
        cancel: &CancellationToken,
    ) -> Result<Option<Artifact>, OciError> {
        let read = self.registry.manifest(&manifest.to_string(), Some(manifest), cancel).await?;
        Ok(Artifact::parse(&read.bytes, types))
    }

    /// A manifest here, as what artifacts are about; `None` if there is none of this digest.
    pub async fn subject(
        &self,
        manifest: Digest,
        cancel: &CancellationToken,
    ) -> Result<Option<Subject>, OciError> {
        let read = match self.registry.manifest(&manifest.to_string(), Some(manifest), cancel).await
        {
            Ok(read) => read,
            Err(OciError::ImageNotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let media_type = read.content_type.unwrap_or_else(|| MANIFEST.to_owned());
        Ok(Some(Subject { media_type, digest: manifest, size: read.bytes.len() as u64 }))
    }

    /// Sees to it that a blob is there; `content` is as for [`Publisher::blob`].
    pub async fn blob<F, Fut, S>(
        &self,
        digest: Digest,
        content: F,
        cancel: &CancellationToken,
    ) -> Result<(), OciError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<S, OciError>>,
        S: Stream<Item = Result<Bytes, OciError>> + Unpin,
    {
        self.publisher.known_blob(&digest, content, cancel).await
    }

    /// Up to `len` bytes of a blob of `size` bytes from `offset`; verified if that is all of it.
    pub async fn read(
        &self,
        (digest, size): (Digest, u64),
        offset: u64,
        len: u64,
        cancel: &CancellationToken,
    ) -> Result<Bytes, OciError> {
        let start = offset.min(size);
        let range = start..start.saturating_add(len).min(size);
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let whole = range.end - range.start == size;
        let gate: Arc<dyn Gate> = Arc::new(Open);
        let blob = Blob { digest, size };
        let part = self.registry.part(blob, range, Access::Range, &gate, cancel).await?;
        let gather = |mut bytes: BytesMut, chunk: Bytes| {
            bytes.extend_from_slice(&chunk);
            std::future::ready(Ok(bytes))
        };
        let bytes = if whole {
            let verified = BlobStream::verify(part, &self.name(), digest);
            verified.try_fold(BytesMut::new(), gather).await?
        } else {
            part.try_fold(BytesMut::new(), gather).await?
        };
        Ok(bytes.freeze())
    }

    /// A whole blob, verified (see [`BlobStream`]).
    pub async fn stream(
        &self,
        (digest, size): (Digest, u64),
        cancel: &CancellationToken,
    ) -> Result<BlobStream, OciError> {
        let gate: Arc<dyn Gate> = Arc::new(Open);
        let blob = Blob { digest, size };
        let part = self.registry.part(blob, 0..size, Access::Range, &gate, cancel).await?;
        Ok(BlobStream::verify(part, &self.name(), digest))
    }

    /// Puts an artifact, whose blob and subject are there: from now on it is found, by its subject if it has
    /// one and by the tag if there is one. The digest of its manifest.
    pub async fn put(
        &self,
        artifact: &Artifact,
        tag: Option<&str>,
        cancel: &CancellationToken,
    ) -> Result<Digest, OciError> {
        let empty = || async { Ok(stream::iter([Ok::<_, OciError>(EMPTY_JSON)])) };
        self.publisher.known_blob(&Digest::of(&EMPTY_JSON), empty, cancel).await?;
        let manifest = artifact.to_manifest();
        let digest = Digest::of(&manifest);
        let listed = self.publisher.referring(&manifest, MANIFEST, tag, cancel).await?;
        if let Some(subject) = artifact.subject.as_ref().filter(|_| !listed) {
            let add = |index: &mut ReferrersIndex| index.add(digest, manifest.len(), artifact);
            self.change(subject.digest, add, |index| index.has(digest), cancel).await?;
        }
        Ok(digest)
    }

    /// Removes the manifest of an artifact, and every tag that leads to it; success if it is gone
    /// already. Its blob goes when the registry collects what nothing leads to.
    pub async fn remove(
        &self,
        manifest: Digest,
        artifact: &Artifact,
        cancel: &CancellationToken,
    ) -> Result<(), OciError> {
        if let Some(subject) = &artifact.subject {
            let kept = self.kept_index(subject.digest, cancel).await?;
            if kept.is_some_and(|(_, index)| index.has(manifest)) {
                let remove = |index: &mut ReferrersIndex| index.remove(manifest);
                self.change(subject.digest, remove, |index| !index.has(manifest), cancel).await?;
            }
        }
        self.delete(manifest, cancel).await
    }

    /// The newest artifact of this type that refers to a manifest.
    pub async fn referrer(
        &self,
        subject: Digest,
        artifact_type: &str,
        cancel: &CancellationToken,
    ) -> Result<Option<Referrer>, OciError> {
        Ok(newest(self.referrers(subject, artifact_type, cancel).await?))
    }

    /// The artifacts of this type that refer to a manifest.
    pub async fn referrers(
        &self,
        subject: Digest,
        artifact_type: &str,
        cancel: &CancellationToken,
    ) -> Result<Vec<Referrer>, OciError> {
        let index = match self.told_index(subject, artifact_type, cancel).await? {
            Some(index) => index,
            None => match self.kept_index(subject, cancel).await? {
                Some((_, index)) => index,
                None => return Ok(Vec::new()),
            },
        };
        Ok(index.of_type(artifact_type))
    }

    /// All tags.
    pub async fn tags(&self, cancel: &CancellationToken) -> Result<Vec<String>, OciError> {
        let what = "list of tags";
        let mut page = self.first_tags(PAGE, cancel).await?;
        let mut tags = Vec::new();
        for _ in 0..MAX_PAGES {
            let Some(answer) = page else { return Ok(tags) };
            let next = next_page(&answer);
            let body = self.body(answer, what).await?;
            tags.extend(parse_tags(&body).map_err(|reason| broken(self.name(), what, reason))?);
            page = match next {
                Some(url) => Some(self.follow(&url, what, cancel).await?),
                None => None,
            };
        }
        Err(broken(self.name(), what, format!("it has more than {MAX_PAGES} pages")))
    }

    /// Answers when the repository can be asked, whether there is anything in it or not.
    pub async fn check(&self, cancel: &CancellationToken) -> Result<(), OciError> {
        self.first_tags(1, cancel).await.map(drop)
    }

    /// The first page of tags; `None`: nothing was ever pushed here.
    async fn first_tags(
        &self,
        count: usize,
        cancel: &CancellationToken,
    ) -> Result<Option<Response>, OciError> {
        let what = "list of tags";
        let query = [("n", count.to_string())];
        let answer = self.ask(Method::GET, "tags/list", &query, None, what, cancel).await?;
        match answer.status() {
            StatusCode::OK => Ok(Some(answer)),
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(self.registry.session.unexpected(what, answer).await),
        }
    }

    /// What the registry says refers to a manifest; `None`: it doesn't keep such lists.
    async fn told_index(
        &self,
        subject: Digest,
        artifact_type: &str,
        cancel: &CancellationToken,
    ) -> Result<Option<ReferrersIndex>, OciError> {
        let what = "list of referrers";
        let path = format!("referrers/{subject}");
        let query = [("artifactType", artifact_type.to_owned())];
        let mut answer = self.ask(Method::GET, &path, &query, Some(INDEX), what, cancel).await?;
        let mut index = ReferrersIndex::default();
        for page in 0..MAX_PAGES {
            if answer.status() != StatusCode::OK {
                // The specification says 404; some say that they don't know the address or the method.
                let unknown = matches!(answer.status().as_u16(), 400 | 404 | 405);
                return match (page, unknown) {
                    (0, true) => Ok(None),
                    _ => Err(self.registry.session.unexpected(what, answer).await),
                };
            }
            let next = next_page(&answer);
            let body = self.body(answer, what).await?;
            let parsed = ReferrersIndex::parse(&body);
            index.extend(parsed.map_err(|reason| broken(self.name(), what, reason))?);
            match next {
                Some(url) => answer = self.follow(&url, what, cancel).await?,
                None => return Ok(Some(index)),
            }
        }
        Err(broken(self.name(), what, format!("it has more than {MAX_PAGES} pages")))
    }

    /// The index that clients keep of what refers to a manifest, and its digest.
    async fn kept_index(
        &self,
        subject: Digest,
        cancel: &CancellationToken,
    ) -> Result<Option<(Digest, ReferrersIndex)>, OciError> {
        let tag = referrers_tag(subject);
        let Some(digest) = self.digest_of(&tag, cancel).await? else { return Ok(None) };
        let read = self.registry.manifest(&digest.to_string(), Some(digest), cancel).await?;
        let parsed = ReferrersIndex::parse(&read.bytes);
        let index = parsed.map_err(|reason| broken(self.name(), "list of referrers", reason))?;
        Ok(Some((digest, index)))
    }

    /// Changes the index that clients keep, until what is there is `right`: there is no way to replace
    /// only what was read, so that another's change may have taken the place of ours.
    async fn change(
        &self,
        subject: Digest,
        change: impl Fn(&mut ReferrersIndex),
        right: impl Fn(&ReferrersIndex) -> bool,
        cancel: &CancellationToken,
    ) -> Result<(), OciError> {
        let tag = referrers_tag(subject);
        for _ in 0..ROUNDS {
            let found = self.kept_index(subject, cancel).await?;
            let (old, mut index) =
                found.map_or_else(Default::default, |(digest, index)| (Some(digest), index));
            change(&mut index);
            let new = if index.is_empty() {
                None
            } else {
                Some(
                    self.publisher
                        .manifest(&index.to_manifest(), INDEX, Some(&tag), cancel)
                        .await?,
                )
            };
            if let Some(old) = old.filter(|old| Some(*old) != new) {
                // What nothing leads to any more is only untidy.
                if let Err(error) = self.delete(old, cancel).await {
                    tracing::debug!(%error, "an old list of referrers stays");
                }
            }
            let found = self.kept_index(subject, cancel).await?;
            if right(&found.map(|(_, index)| index).unwrap_or_default()) {
                return Ok(());
            }
        }
        let reason = format!("others changed it each of {ROUNDS} times");
        Err(broken(self.name(), "list of referrers", reason))
    }

    async fn delete(&self, manifest: Digest, cancel: &CancellationToken) -> Result<(), OciError> {
        let what = format!("removal of manifest {manifest}");
        let path = format!("manifests/{manifest}");
        let answer = self.ask(Method::DELETE, &path, &[], None, &what, cancel).await?;
        match answer.status() {
            StatusCode::ACCEPTED
            | StatusCode::OK
            | StatusCode::NO_CONTENT
            | StatusCode::NOT_FOUND => Ok(()),
            _ => Err(self.registry.session.unexpected(&what, answer).await),
        }
    }

    /// Asks until there is an answer that is none of "later".
    async fn ask(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        accept: Option<&str>,
        what: &str,
        cancel: &CancellationToken,
    ) -> Result<Response, OciError> {
        let session = &self.registry.session;
        let path = format!("{}/{path}", session.endpoint.repository);
        let mut url = Url::parse(&session.endpoint.url(&path))
            .map_err(|error| session.endpoint.unexpected(what, error.to_string()))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        retry(&self.registry.retry, cancel, || {
            session.send(method.clone(), url.as_str(), what, |request| match accept {
                Some(accept) => request.header(ACCEPT, accept),
                None => request,
            })
        })
        .await
    }

    async fn follow(
        &self,
        url: &Url,
        what: &str,
        cancel: &CancellationToken,
    ) -> Result<Response, OciError> {
        let session = &self.registry.session;
        if !session.endpoint.is_own(url) {
            return Err(broken(self.name(), what, "its next page is somewhere else".to_owned()));
        }
        let send = || session.send(Method::GET, url.as_str(), what, |request| request);
        retry(&self.registry.retry, cancel, send).await
    }

    async fn body(&self, answer: Response, what: &str) -> Result<Bytes, OciError> {
        let limit = if answer.headers().get(CONTENT_TYPE).is_some_and(|t| t == INDEX) {
            MAX_MANIFEST
        } else {
            MAX_LIST
        };
        read_capped(answer, &self.registry.session.endpoint, what, limit).await
    }
}

/// The address that an answer gives for what follows it: `Link: <URL>; rel="next"`.
fn next_page(answer: &Response) -> Option<Url> {
    let link = text(answer.headers(), &LINK)?;
    let (address, relation) = link.strip_prefix('<')?.split_once('>')?;
    relation.contains("next").then(|| answer.url().join(address).ok()).flatten()
}

fn parse_tags(body: &[u8]) -> Result<Vec<String>, String> {
    #[derive(serde::Deserialize)]
    struct Tags {
        tags: Option<Vec<String>>,
    }
    let parsed: Tags = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    Ok(parsed.tags.unwrap_or_default())
}
