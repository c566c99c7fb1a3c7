//! A v1 archive on its way into a store, under an image's id.
//!
//! In a directory it is one file, `<id>.clip`. In S3 its data is the object `<id>.clip`, sent while
//! it is made, and its index `<id>.rclip` comes last: the index's presence is the commit (CONTRACT
//! A.2, C). Data that an index points to is never replaced by other data, unless that is asked for;
//! where there is an index already, the archive is made for nobody and compared.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::archive::index::ArchiveFile;
use crate::archive::pack::{PackOptions, PackedImage, Sink, pack_image};
use crate::clip::MAX_V1_INDEX_BYTES;
use crate::clip::header::{self, Header};
use crate::clip::storage_info::{S3StorageInfo, StorageInfo};
use crate::clip::writer::index_archive;
use crate::digest::Digest;
use crate::image_id::ImageId;
use crate::local::IoError;
use crate::local::blocking;
use crate::oci::{ResolvedImage, Source};
use crate::progress::{Progress, Silent};
use crate::publish::PublishError;
use crate::store::{
    ArchiveStore, Bucket, Commit, CommitReport, Key, NewObject, Overwrite, Put, StoreError,
};

/// Extension of what holds the data, in every store.
const DATA: &str = "clip";

/// A v1 archive that is in a store.
#[derive(Debug)]
pub struct PublishedV1 {
    /// What was packed.
    pub packed: PackedImage,
    /// The archive's key.
    pub key: Key,
    /// The archive object. In S3 that is the index; [`PackedImage::size`] is that of the data.
    pub archive: ArchiveFile,
    /// Whether it had to be written.
    pub put: Put,
}

/// What to publish, and where.
#[derive(Debug, Clone, Copy)]
pub struct Publication<'a> {
    /// Where the image's layers are.
    pub source: &'a Source,
    /// The image.
    pub image: &'a ResolvedImage,
    /// How it is packed.
    pub options: &'a PackOptions,
    /// Where the archive goes.
    pub store: &'a dyn ArchiveStore,
    /// The name it goes by.
    pub id: &'a ImageId,
    /// Whether it may replace another archive.
    pub overwrite: Overwrite,
}

impl Publication<'_> {
    /// Packs the image into the store. When it fails or is cancelled nothing partial stays behind,
    /// and what it was to replace is there. Only if S3 has taken the data and then refuses the index
    /// do the data stay, for the next try or the garbage collection.
    pub async fn publish(
        &self,
        progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<PublishedV1, PublishError> {
        match self.store.bucket() {
            None => self.in_directory(progress, cancel).await,
            Some(bucket) => self.in_bucket(&bucket, progress, cancel).await,
        }
    }

    async fn in_directory(
        &self,
        progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<PublishedV1, PublishError> {
        let key = Key::archive(self.id, DATA);
        let taken = self.overwrite == Overwrite::Never && self.store.size(&key).await?.is_some();
        let (packed, committed) = if taken {
            (self.rehearse(progress, cancel).await?, CommitReport::Taken)
        } else {
            let NewObject { sink, commit } = self.store.create(&key, cancel).await?;
            match self.pack(sink, progress, cancel).await {
                Ok(packed) => {
                    let committed = commit.finish(&packed.head, self.overwrite).await?;
                    (packed, committed)
                }
                Err(error) => return Err(gave_up(commit, error).await),
            }
        };
        let archive = ArchiveFile { size: packed.size, digest: packed.digest };
        let put = match committed {
            CommitReport::Written => Put::Written,
            CommitReport::Taken => {
                let found = self.published(&key).await?;
                self.same(&key, packed.digest, found)?
            }
        };
        Ok(PublishedV1 { packed, key, archive, put })
    }

    async fn in_bucket(
        &self,
        bucket: &Bucket,
        mut progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<PublishedV1, PublishError> {
        let key = Key::archive(self.id, self.store.extension());
        let data = Key::archive(self.id, DATA);
        let replace = self.overwrite == Overwrite::Replace;
        if !replace && self.store.size(&key).await?.is_some() {
            let packed = self.rehearse(progress, cancel).await?;
            let index = index_of(&packed, bucket, &data)?;
            let digest = Digest::of(&index);
            let put = self.same(&key, digest, self.published(&key).await?)?;
            if self.store.size(&data).await? == Some(packed.size) {
                let archive = ArchiveFile { size: index.len() as u64, digest };
                return Ok(PublishedV1 { packed, key, archive, put });
            }
            progress = Arc::new(Silent); // an index without its data: bring them
        }

        // Data without an index are what a crash left behind.
        let orphan = self.store.size(&data).await?.is_some();
        let way = if replace || orphan { Overwrite::Replace } else { Overwrite::Never };
        let NewObject { sink, commit } = self.store.create(&data, cancel).await?;
        let made = async {
            let packed = self.pack(sink, progress, cancel).await?;
            let index = index_of(&packed, bucket, &data)?;
            let displaced = self.make_way(&key, Digest::of(&index)).await?;
            Ok((packed, index, displaced))
        };
        let (packed, index, displaced) = match made.await {
            Ok(made) => made,
            Err(error) => return Err(gave_up(commit, error).await),
        };
        let committed = match commit.finish(&packed.head, way).await {
            Ok(committed) => committed,
            Err(error) => {
                if let Some(index) = displaced {
                    self.put_back(&key, index, &data, packed.digest).await;
                }
                return Err(error.into());
            }
        };
        if committed == CommitReport::Taken {
            let found = self.published(&data).await?;
            self.same(&data, packed.digest, found)?;
        }

        let archive = ArchiveFile { size: index.len() as u64, digest: Digest::of(&index) };
        let put = match self.put_index(&key, index, self.overwrite).await? {
            CommitReport::Written => Put::Written,
            CommitReport::Taken => self.same(&key, archive.digest, self.published(&key).await?)?,
        };
        Ok(PublishedV1 { packed, key, archive, put })
    }

    /// Data are about to appear to which the index that is there, if any, must not point unless it
    /// is theirs. Gives back the index that had to go.
    async fn make_way(&self, key: &Key, index: Digest) -> Result<Option<Vec<u8>>, PublishError> {
        let Some(found) = self.published(key).await?.filter(|found| *found != index) else {
            return Ok(None);
        };
        if self.overwrite == Overwrite::Never {
            self.same(key, index, Some(found))?;
        }
        let old = self.store.read(key, 0, MAX_V1_INDEX_BYTES).await?;
        if points_to_layers(&old) {
            return Ok(None); // its successor takes its place at once
        }
        // Better no image for a moment than one whose index and data don't fit.
        self.store.delete(key).await?;
        Ok(Some(old.into()))
    }

    /// The data did not come for which the index made way: it is right again.
    async fn put_back(&self, key: &Key, index: Vec<u8>, data: &Key, ours: Digest) {
        let back = match self.published(data).await {
            // They came, and the answer did not.
            Ok(found) if found == Some(ours) => Ok(()),
            Ok(_) => self.put_index(key, index, Overwrite::Never).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = back {
            tracing::error!(%key, %error, "the archive that was to be replaced is lost");
        }
    }

    /// Not to be cancelled: it is small, and the data that it points to are there.
    async fn put_index(
        &self,
        key: &Key,
        index: Vec<u8>,
        overwrite: Overwrite,
    ) -> Result<CommitReport, PublishError> {
        let never = CancellationToken::new();
        let NewObject { mut sink, commit } = self.store.create(key, &never).await?;
        let sent = blocking(move || sink.write_all(&index).and_then(|()| sink.flush())).await?;
        if let Err(source) = sent {
            let what = format!("can't write {key}");
            return Err(gave_up(commit, IoError { what, source }.into()).await);
        }
        Ok(commit.finish(&[], overwrite).await?)
    }

    async fn pack(
        &self,
        sink: Sink,
        progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<PackedImage, PublishError> {
        Ok(pack_image(self.source, self.image, self.options, sink, progress, cancel).await?)
    }

    /// Packs for nobody, to know what would be written.
    async fn rehearse(
        &self,
        progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<PackedImage, PublishError> {
        self.pack(Box::new(std::io::sink()), progress, cancel).await
    }

    /// What names the content that is under `key`: the digest of all but its data blocks.
    async fn published(&self, key: &Key) -> Result<Option<Digest>, PublishError> {
        let Some(size) = self.store.size(key).await? else { return Ok(None) };
        let head = self.store.read(key, 0, header::LENGTH as u64).await?;
        let index = match Header::decode(&head, size) {
            Ok(header) => header.index.start..size,
            Err(_) => head.len() as u64..size,
        };
        // What is not of our making may be of any size: then its end is enough to tell.
        let start = index.start.max(size.saturating_sub(MAX_V1_INDEX_BYTES));
        let rest = self.store.read(key, start, size - start).await?;
        Ok(Some(Digest::from_hasher(Sha256::new().chain_update(head).chain_update(rest))))
    }

    fn same(&self, key: &Key, expected: Digest, found: Option<Digest>) -> Result<Put, StoreError> {
        let store = self.store.describe();
        match found {
            Some(found) if found == expected => Ok(Put::Unchanged),
            Some(found) => Err(StoreError::Conflict { key: key.clone(), store, expected, found }),
            None => Err(StoreError::NotFound { key: key.clone(), store }),
        }
    }
}

/// Whether an index is that of a v2 archive, which has no data beside it.
fn points_to_layers(index: &[u8]) -> bool {
    let storage = || {
        let range = Header::decode(index, index.len() as u64).ok()?.storage?;
        let (start, end) = (range.start.try_into().ok()?, range.end.try_into().ok()?);
        StorageInfo::decode(index.get::<std::ops::Range<usize>>(start..end)?).ok()
    };
    matches!(storage(), Some(StorageInfo::Oci(_)))
}

/// Leaves nothing behind; what the store itself failed with is the better reason.
async fn gave_up(commit: Box<dyn Commit>, error: PublishError) -> PublishError {
    commit.abort().await.map_or(error, Into::into)
}

/// The index that points to the data object.
pub(super) fn index_of(
    packed: &PackedImage,
    bucket: &Bucket,
    data: &Key,
) -> Result<Vec<u8>, PublishError> {
    let storage = StorageInfo::S3(S3StorageInfo {
        bucket: bucket.name.clone(),
        region: bucket.region.clone(),
        key: data.to_string(),
        endpoint: bucket.endpoint.clone().unwrap_or_default(),
        force_path_style: bucket.force_path_style,
    });
    Ok(index_archive(&packed.tree, &storage)?)
}
