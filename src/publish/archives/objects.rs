//! Archives in a bag of objects. How many objects an archive is there, and what they are called, is the
//! [`Layout`]'s to say.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::{ArchiveName, ArchiveStore, Draft, UnusedData};
use crate::clip::ClipError;
use crate::clip::storage_info::StorageInfo;
use crate::content::blocks::BlockData;
use crate::digest::Digest;
use crate::image_id::ImageId;
use crate::local::{IoError, blocking};
use crate::publish::PublishError;
use crate::publish::stored::{ListedArchive, StoredArchive, list_archives};
use crate::store::{
    CommitReport, Key, NewObject, ObjectStat, ObjectStore, Overwrite, Put, StoreError,
};

/// So many archives of one image and version are looked at among those that were kept.
const MAX_KEPT: usize = 100;

/// Which objects an archive is.
#[async_trait]
pub trait Layout: Send + Sync + std::fmt::Debug {
    /// `clip` or `rclip`: the extension of archives here, whatever their version.
    fn extension(&self) -> &'static str;

    /// Begins a v1 archive.
    async fn draft(
        &self,
        objects: &Arc<dyn ObjectStore>,
        name: &ArchiveName,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Box<dyn Draft>, PublishError>;

    /// Where data lie beside an archive of the image.
    fn data(&self, image: &ImageId) -> Option<Key>;

    /// Data that no archive needs.
    async fn unused(
        &self,
        objects: &Arc<dyn ObjectStore>,
        prefix: &str,
    ) -> Result<Vec<UnusedData>, PublishError>;
}

/// Archives in a bag of objects.
#[derive(Debug)]
pub struct ObjectArchives<L> {
    objects: Arc<dyn ObjectStore>,
    layout: L,
}

impl<L: Layout> ObjectArchives<L> {
    /// Archives in `objects`.
    pub fn new(objects: Arc<dyn ObjectStore>, layout: L) -> Self {
        Self { objects, layout }
    }
}

/// What an archive's object is called where archives have this extension.
pub(super) fn key(name: &ArchiveName, extension: &'static str) -> Key {
    match name {
        ArchiveName::Image(image) => Key::archive(image, extension),
        ArchiveName::Staged(image) => Key::staged(image, extension),
        ArchiveName::Kept(image, version, digest) => Key::kept(image, *version, *digest, extension),
    }
}

/// Writes a small object at once.
pub(super) async fn write(
    objects: &dyn ObjectStore,
    key: &Key,
    bytes: Bytes,
    overwrite: Overwrite,
    cancel: &CancellationToken,
) -> Result<CommitReport, PublishError> {
    let NewObject { mut sink, commit } = objects.create(key, cancel).await?;
    let sent = blocking(move || sink.write_all(&bytes).and_then(|()| sink.flush())).await?;
    if let Err(source) = sent {
        let error = IoError { what: format!("can't write {key}"), source };
        return Err(commit.abort().await.map_or(error.into(), Into::into));
    }
    Ok(commit.finish(&[], overwrite).await?)
}

#[async_trait]
impl<L: Layout> ArchiveStore for ObjectArchives<L> {
    fn describe(&self) -> String {
        self.objects.describe()
    }

    fn key(&self, name: &ArchiveName) -> Key {
        key(name, self.layout.extension())
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectStat>, PublishError> {
        Ok(self.objects.stat(key).await?)
    }

    async fn open(&self, key: &Key) -> Result<Option<StoredArchive>, PublishError> {
        StoredArchive::open(&*self.objects, key).await
    }

    async fn read(&self, key: &Key, offset: u64, len: u64) -> Result<Bytes, PublishError> {
        Ok(self.objects.read(key, offset, len).await?)
    }

    fn data(&self, stored: &StoredArchive) -> Result<BlockData, PublishError> {
        let key = match &stored.archive.storage {
            StorageInfo::Local => stored.key.clone(),
            StorageInfo::S3(object) => {
                object.key.parse().map_err(|error| ClipError::Storage(format!("{error}")))?
            }
            StorageInfo::Oci(_) => {
                let detail = "expected a v1 archive, found version 2".to_owned();
                return Err(PublishError::Unexpected { key: stored.key.clone(), detail });
            }
        };
        Ok(BlockData::Object { store: self.objects.clone(), key })
    }

    async fn publish(
        &self,
        key: &Key,
        file: &Path,
        digest: Digest,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Put, PublishError> {
        Ok(self.objects.put(key, file, digest, overwrite, cancel).await?)
    }

    async fn draft(
        &self,
        name: &ArchiveName,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Box<dyn Draft>, PublishError> {
        self.layout.draft(&self.objects, name, overwrite, cancel).await
    }

    async fn copy(
        &self,
        stored: &StoredArchive,
        key: &Key,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<CommitReport, PublishError> {
        match &stored.whole {
            // What was read, not what is there by now.
            Some(bytes) => write(&*self.objects, key, bytes.clone(), overwrite, cancel).await,
            None => Ok(self.objects.copy(&stored.key, key, overwrite).await?),
        }
    }

    async fn remove(&self, key: &Key) -> Result<(), PublishError> {
        Ok(self.objects.delete(key).await?)
    }

    async fn remove_data(&self, image: &ImageId) -> Result<Option<Key>, PublishError> {
        let Some(data) = self.layout.data(image) else { return Ok(None) };
        if self.objects.stat(&data).await?.is_none() {
            return Ok(None);
        }
        self.objects.delete(&data).await?;
        Ok(Some(data))
    }

    async fn kept(&self, image: &ImageId, version: u8) -> Result<Vec<Key>, PublishError> {
        let prefix = Key::kept_prefix(image, version);
        let kept = self.objects.list(&prefix, "", MAX_KEPT).await?;
        Ok(kept.into_iter().map(|listed| listed.key).collect())
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&ImageId>,
        limit: usize,
    ) -> Result<Vec<ListedArchive>, PublishError> {
        list_archives(&*self.objects, self.layout.extension(), prefix, after, limit).await
    }

    async fn presign(&self, key: &Key, lifetime: Duration) -> Result<Option<String>, PublishError> {
        Ok(self.objects.presign(key, lifetime).await?)
    }

    async fn unused(&self, prefix: &str) -> Result<Vec<UnusedData>, PublishError> {
        self.layout.unused(&self.objects, prefix).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.objects.check().await
    }
}
