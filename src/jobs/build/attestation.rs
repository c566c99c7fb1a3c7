//! Provenance beside its image: a statement is an artifact that refers to the image's manifest, so that it is
//! found from there (distribution-spec 1.1, "Listing Referrers"). An image has one: who builds the same
//! again finds it made.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{SecondsFormat, Utc};
use futures_util::stream;
use tokio_util::sync::CancellationToken;

use super::provenance::{PREDICATE, STATEMENT, Statement};
use crate::digest::Digest;
use crate::oci::{
    Actions, Artifact, CREATED, Credentials, OciError, OciSettings, Reference, Repository,
};

/// The annotation that says what a statement is about (in-toto attestation, "Bundle").
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// The longest statement that is read.
const MAX_STATEMENT: u64 = 4 << 20;

/// The statements of images in a repository.
#[derive(Debug)]
pub(super) struct Attestations<'a> {
    repository: Repository,
    cancel: &'a CancellationToken,
}

impl<'a> Attestations<'a> {
    /// Of the repository that the reference names; nothing is asked of it yet.
    pub(super) async fn open(
        reference: &Reference,
        oci: &OciSettings,
        credentials: Option<Credentials>,
        cancel: &'a CancellationToken,
    ) -> Result<Self, OciError> {
        let (host, name) = (reference.registry(), reference.repository());
        let repository = Repository::open(host, name, Actions::Push, oci, credentials).await?;
        Ok(Self { repository, cancel })
    }

    /// The statement about an image, if it has one that can be read.
    pub(super) async fn find(&self, image: Digest) -> Result<Option<Statement>, OciError> {
        let Some(manifest) = self.manifest(image).await? else { return Ok(None) };
        let artifact = self.repository.artifact(manifest, &[STATEMENT], self.cancel).await?;
        let Some(Artifact { blob, size, .. }) = artifact.filter(|a| a.size <= MAX_STATEMENT) else {
            return Ok(None);
        };
        let bytes = self.repository.read((blob, size), 0, size, self.cancel).await?;
        Ok(serde_json::from_slice(&bytes).ok())
    }

    /// Puts a statement beside its image, if there is none.
    pub(super) async fn attach(
        &self,
        image: Digest,
        statement: &Statement,
    ) -> Result<(), OciError> {
        if self.manifest(image).await?.is_some() {
            return Ok(());
        }
        let json = Bytes::from(statement.without_values().to_json());
        let (blob, size) = (Digest::of(&json), json.len() as u64);
        let content = || std::future::ready(Ok(stream::iter([Ok(json.clone())])));
        self.repository.blob(blob, content, self.cancel).await?;
        let created = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let annotations = [(PREDICATE_TYPE, PREDICATE.to_owned()), (CREATED, created)];
        let artifact = Artifact {
            artifact_type: STATEMENT.to_owned(),
            media_type: STATEMENT.to_owned(),
            blob,
            size,
            subject: self.repository.subject(image, self.cancel).await?,
            annotations: BTreeMap::from(annotations.map(|(name, text)| (name.to_owned(), text))),
        };
        self.repository.put(&artifact, None, self.cancel).await?;
        Ok(())
    }

    /// The manifest of the newest statement about an image.
    async fn manifest(&self, image: Digest) -> Result<Option<Digest>, OciError> {
        let mut found = self.repository.referrers(image, STATEMENT, self.cancel).await?;
        found.retain(|one| {
            one.annotations.get(PREDICATE_TYPE).is_some_and(|told| told == PREDICATE)
        });
        found.sort_by(|a, b| a.annotations.get(CREATED).cmp(&b.annotations.get(CREATED)));
        Ok(found.pop().map(|newest| newest.digest))
    }
}
