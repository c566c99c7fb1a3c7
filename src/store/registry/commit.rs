//! The way of an object into the repository: its bytes, then its manifest, under a tag.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _};

use chrono::{SecondsFormat, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use super::{Description, Found, KEY, OBJECT, OCTETS, RegistryStore, failure, tag};
use crate::digest::Digest;
use crate::oci::{Artifact, CREATED, OciError, Subject};
use crate::store::{CommitReport, Key, ObjectStore as _, Overwrite, StoreError};

/// Bytes read from a file at a time.
const CHUNK: usize = 256 << 10;

impl RegistryStore {
    /// Sends a file's bytes, which have this digest.
    pub(super) async fn send(
        &self,
        key: &Key,
        file: &File,
        digest: Digest,
        cancel: &CancellationToken,
    ) -> Result<(), StoreError> {
        let content = || async {
            let opened = file.try_clone().and_then(|mut file| file.rewind().map(|()| file));
            let file = opened.map_err(|error| lost(&error))?;
            let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(file), CHUNK);
            Ok(stream.map_err(|error| lost(&error)).boxed())
        };
        let sent = self.repository.blob(digest, content, cancel).await;
        sent.map_err(|error| failure::of_write(error, self.describe(), key))
    }

    /// Makes a blob that is there visible under a key.
    pub(super) async fn commit(
        &self,
        key: &Key,
        artifact: Artifact,
        overwrite: &Overwrite,
        cancel: &CancellationToken,
    ) -> Result<CommitReport, StoreError> {
        let _turn = self.turn(key).await;
        let found = self.find(key).await?;
        let free = match (overwrite, &found) {
            (Overwrite::Replace, _) | (Overwrite::Never, None) => true,
            (Overwrite::Never, Some(_)) | (Overwrite::Seen(_), None) => false,
            (Overwrite::Seen(seen), Some(found)) => found.version() == *seen,
        };
        if !free {
            return Ok(CommitReport::Taken);
        }
        if cancel.is_cancelled() {
            return Err(StoreError::Cancelled { key: key.clone() });
        }
        let ours = self.publish(key, artifact.clone(), cancel).await?;
        if let Some(old) = found {
            self.tidy(&old).await;
        }
        if *overwrite == Overwrite::Replace {
            return Ok(CommitReport::Written);
        }
        // Another process may have written meanwhile; the last one has the key.
        if self.find(key).await?.is_none_or(|now| now.manifest == ours) {
            return Ok(CommitReport::Written);
        }
        self.tidy(&Found { manifest: ours, artifact }).await;
        Ok(CommitReport::Taken)
    }

    /// Pushes the manifest, under a time of now.
    pub(super) async fn publish(
        &self,
        key: &Key,
        mut artifact: Artifact,
        cancel: &CancellationToken,
    ) -> Result<Digest, StoreError> {
        let now = Utc::now().to_rfc3339_opts(SecondsFormat::Nanos, true);
        artifact.annotations =
            BTreeMap::from([(CREATED.to_owned(), now), (KEY.to_owned(), key.to_string())]);
        let put = self.repository.put(&artifact, Some(&tag::of(key)), cancel).await;
        put.map_err(|error| failure::of_write(error, self.describe(), key))
    }

    /// Removes what was replaced. Where the registry removes nothing it stays, and no key leads to it.
    pub(super) async fn tidy(&self, old: &Found) {
        let never = CancellationToken::new();
        if let Err(error) = self.repository.remove(old.manifest, &old.artifact, &never).await {
            tracing::debug!(%error, "what was replaced stays in the registry");
        }
    }

    /// What a file is, and the manifest that it is about.
    pub(super) async fn artifact(
        &self,
        key: &Key,
        file: File,
        (blob, size): (Digest, u64),
        cancel: &CancellationToken,
    ) -> Result<Artifact, StoreError> {
        let (describer, of) = (self.describer.clone(), key.clone());
        let described = tokio::task::spawn_blocking(move || describer.describe(&of, &file)).await;
        let described = described.unwrap_or_default().unwrap_or(Description {
            artifact_type: OBJECT,
            media_type: OCTETS,
            subject: None,
        });
        let Description { artifact_type, media_type, subject } = described;
        let here = |(host, path, digest): (String, String, Digest)| {
            (host == self.host && path == self.path).then_some(digest)
        };
        let subject: Option<Subject> = match subject.and_then(here) {
            Some(image) => {
                let found = self.repository.subject(image, cancel).await;
                found.map_err(|error| failure::of_write(error, self.describe(), key))?
            }
            None => None,
        };
        Ok(Artifact {
            artifact_type: artifact_type.to_owned(),
            media_type: media_type.to_owned(),
            blob,
            size,
            subject,
            annotations: BTreeMap::new(),
        })
    }

    /// Sends a file and makes it visible.
    pub(super) async fn store(
        &self,
        key: &Key,
        file: File,
        (digest, size): (Digest, u64),
        overwrite: &Overwrite,
        cancel: &CancellationToken,
    ) -> Result<CommitReport, StoreError> {
        self.send(key, &file, digest, cancel).await?;
        let artifact = self.artifact(key, file, (digest, size), cancel).await?;
        self.commit(key, artifact, overwrite, cancel).await
    }
}

/// A local file that can't be read while it is sent.
fn lost(error: &io::Error) -> OciError {
    OciError::Client { reason: format!("the file to be sent can't be read: {error}") }
}
