//! In a bucket the data of a v1 archive are the object `<id>.clip`, sent while it is made, and its index
//! `<id>.rclip` comes last: the index's presence is the commit (CONTRACT A.2, C). Archives of v2 are an
//! index alone. Data that an index points to are never replaced by other data unless that is asked
//! for; where there is an index already, the archive is made for nobody and compared.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::objects::{Layout, key, write};
use super::{ArchiveName, Draft, UnusedData};
use crate::archive::index::ArchiveFile;
use crate::archive::pack::{PackedImage, Sink};
use crate::clip::MAX_V1_INDEX_BYTES;
use crate::clip::header::Header;
use crate::clip::storage_info::{S3StorageInfo, StorageInfo};
use crate::clip::writer::index_archive;
use crate::digest::Digest;
use crate::image_id::ImageId;
use crate::publish::PublishError;
use crate::publish::stored::{StoredArchive, judge, may_replace, published, stored_version};
use crate::store::{
    Bucket, Commit, CommitReport, Key, ListedObject, NewObject, ObjectStore, Overwrite, Put,
    SAFE_AGE, StoreError, list_all,
};

/// Extension of indexes.
const EXTENSION: &str = "rclip";
/// Extension of data.
const DATA: &str = "clip";

/// An index, and data beside it.
#[derive(Debug, Clone)]
pub struct IndexBesideData {
    bucket: Bucket,
}

impl IndexBesideData {
    /// Indexes name `bucket` as where their data are.
    pub fn new(bucket: Bucket) -> Self {
        Self { bucket }
    }

    /// The index that points to the data object.
    fn index(&self, packed: &PackedImage, data: &Key) -> Result<Bytes, PublishError> {
        let Bucket { name, region, endpoint, force_path_style } = self.bucket.clone();
        let storage = StorageInfo::S3(S3StorageInfo {
            bucket: name,
            region,
            key: data.to_string(),
            endpoint: endpoint.unwrap_or_default(),
            force_path_style,
        });
        Ok(index_archive(&packed.tree, &storage)?.into())
    }
}

#[async_trait]
impl Layout for IndexBesideData {
    fn extension(&self) -> &'static str {
        EXTENSION
    }

    async fn draft(
        &self,
        objects: &Arc<dyn ObjectStore>,
        name: &ArchiveName,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Box<dyn Draft>, PublishError> {
        let (ArchiveName::Image(image) | ArchiveName::Staged(image) | ArchiveName::Kept(image, ..)) =
            name;
        let data = Key::archive(image, DATA);
        let mut place = Place {
            objects: objects.clone(),
            image: image.clone(),
            staged: matches!(name, ArchiveName::Staged(_)),
            key: key(name, EXTENSION),
            overwrite,
            data,
            data_way: Overwrite::Replace,
            cancel: cancel.clone(),
        };
        let free = may_replace(&**objects, &place.key, &place.overwrite).await?;
        if !free && place.has_its_data().await? {
            let (layout, sink) = (self.clone(), Some(Box::new(std::io::sink()) as Sink));
            return Ok(Box::new(BucketDraft { layout, place, sink, commit: None }));
        }
        // Data without an index are what a crash left behind.
        if place.overwrite == Overwrite::Never && objects.stat(&place.data).await?.is_none() {
            place.data_way = Overwrite::Never;
        }
        let NewObject { sink, commit } = objects.create(&place.data, cancel).await?;
        let (layout, sink, commit) = (self.clone(), Some(sink), Some(commit));
        Ok(Box::new(BucketDraft { layout, place, sink, commit }))
    }

    fn data(&self, image: &ImageId) -> Option<Key> {
        Some(Key::archive(image, DATA))
    }

    /// A `.clip` is the data of an archive of v1, and worth nothing without. It may be one that a
    /// migration has kept.
    async fn unused(
        &self,
        objects: &Arc<dyn ObjectStore>,
        prefix: &str,
    ) -> Result<Vec<UnusedData>, PublishError> {
        let (mut data, mut indexes) = (BTreeMap::new(), BTreeMap::new());
        for object in list_all(&**objects, prefix).await? {
            match object.key.of_image() {
                Some((image, DATA)) => drop(data.insert(image, object)),
                Some((image, _)) => drop(indexes.insert(image, object)),
                None => {}
            }
        }
        let mut unused = Vec::new();
        for (image, object) in data {
            if !object.is_older(SAFE_AGE) {
                continue;
            }
            let replaced = match indexes.get(&image) {
                None => false,
                // Who mounted the archive that was there before reads the data yet.
                Some(index) if index.is_older(SAFE_AGE) && is_v2(&**objects, index).await? => true,
                Some(_) => continue,
            };
            let kept = objects.list(&Key::kept_prefix(&image, 1), "", 1).await?;
            if kept.is_empty() {
                unused.push(UnusedData { object, replaced });
            }
        }
        Ok(unused)
    }
}

/// Whether an archive surely needs no data beside it.
async fn is_v2(objects: &dyn ObjectStore, index: &ListedObject) -> Result<bool, PublishError> {
    match stored_version(objects, &index.key, index.size).await {
        Ok(version) => Ok(version == 2),
        Err(PublishError::Clip(_) | PublishError::Store(StoreError::NotFound { .. })) => Ok(false),
        Err(error) => Err(error),
    }
}

struct BucketDraft {
    layout: IndexBesideData,
    place: Place,
    sink: Option<Sink>,
    /// None: the archive is made for nobody.
    commit: Option<Box<dyn Commit>>,
}

/// Where an archive goes, and what may be there.
struct Place {
    objects: Arc<dyn ObjectStore>,
    image: ImageId,
    /// What is made takes nobody's place yet, but for its data.
    staged: bool,
    /// The index.
    key: Key,
    overwrite: Overwrite,
    data: Key,
    data_way: Overwrite,
    cancel: CancellationToken,
}

impl Place {
    /// Whether the index that is there has the data beside it that it was made with.
    async fn has_its_data(&self) -> Result<bool, PublishError> {
        let objects = &*self.objects;
        let Some(index) = StoredArchive::open(objects, &self.key).await? else { return Ok(false) };
        match StoredArchive::open(objects, &self.data).await {
            Ok(Some(data)) => Ok(data.archive.tree == index.archive.tree),
            Ok(None) | Err(PublishError::Clip(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Data are about to appear to which the index that is there, if any, must not point unless it
    /// is theirs. Gives back the index that had to go.
    async fn make_way(&self, index: Digest) -> Result<Option<Bytes>, PublishError> {
        let objects = &*self.objects;
        if self.staged {
            // What was kept has its data where the new ones go; they hold something else, or it would
            // be back.
            for stale in objects.list(&Key::kept_prefix(&self.image, 1), "", 100).await? {
                objects.delete(&stale.key).await?;
            }
            return Ok(None);
        }
        if published(objects, &self.key).await?.is_none_or(|found| found == index) {
            return Ok(None);
        }
        if !may_replace(objects, &self.key, &self.overwrite).await? {
            judge(objects, &self.key, index).await?;
        }
        let old = objects.read(&self.key, 0, MAX_V1_INDEX_BYTES).await?;
        if points_to_layers(&old) {
            return Ok(None); // its successor takes its place at once
        }
        // Better no image for a moment than one whose index and data don't fit.
        objects.delete(&self.key).await?;
        Ok(Some(old))
    }

    /// The data did not come for which the index made way: it is right again.
    async fn put_back(&self, index: Bytes, ours: Digest) {
        let back = match published(&*self.objects, &self.data).await {
            // They came, and the answer did not.
            Ok(found) if found == Some(ours) => Ok(()),
            Ok(_) => self.put_index(index, Overwrite::Never).await.map(|_| ()),
            Err(error) => Err(error),
        };
        if let Err(error) = back {
            let key = &self.key;
            tracing::error!(%key, %error, "the archive that was to be replaced is lost");
        }
    }

    /// Not to be cancelled: it is small, and the data that it points to are there.
    async fn put_index(
        &self,
        index: Bytes,
        overwrite: Overwrite,
    ) -> Result<CommitReport, PublishError> {
        write(&*self.objects, &self.key, index, overwrite, &CancellationToken::new()).await
    }

    /// The data take their place, whose index is `index`; what made way for them.
    async fn put_data(
        &self,
        commit: Box<dyn Commit>,
        packed: &PackedImage,
        index: Digest,
    ) -> Result<Option<Bytes>, PublishError> {
        let displaced = match self.make_way(index).await {
            Ok(_) if self.cancel.is_cancelled() => {
                let cancelled = StoreError::Cancelled { key: self.data.clone() };
                return Err(commit.abort().await.unwrap_or(cancelled).into());
            }
            Ok(displaced) => displaced,
            Err(error) => return Err(commit.abort().await.map_or(error, Into::into)),
        };
        let committed = match commit.finish(&packed.head, self.data_way.clone()).await {
            Ok(committed) => committed,
            Err(error) => {
                if let Some(index) = displaced {
                    self.put_back(index, packed.digest).await;
                }
                return Err(error.into());
            }
        };
        if committed == CommitReport::Taken {
            judge(&*self.objects, &self.data, packed.digest).await?;
        }
        Ok(displaced)
    }

    /// Data first, then the index.
    async fn put(
        &self,
        commit: Box<dyn Commit>,
        packed: &PackedImage,
        index: Bytes,
    ) -> Result<(ArchiveFile, Put), PublishError> {
        let archive = archive(&index);
        let displaced = self.put_data(commit, packed, archive.digest).await?;
        // What made way is not there to be seen any more.
        let overwrite = if displaced.is_some() { Overwrite::Never } else { self.overwrite.clone() };
        let put = match self.put_index(index, overwrite).await? {
            CommitReport::Written => Put::Written,
            CommitReport::Taken => judge(&*self.objects, &self.key, archive.digest).await?,
        };
        Ok((archive, put))
    }
}

#[async_trait]
impl Draft for BucketDraft {
    fn sink(&mut self) -> Sink {
        self.sink.take().unwrap_or_else(|| Box::new(std::io::sink()))
    }

    async fn finish(
        self: Box<Self>,
        packed: &PackedImage,
    ) -> Result<(ArchiveFile, Put), PublishError> {
        let Self { layout, place, commit, .. } = *self;
        Ok(match (layout.index(packed, &place.data), commit) {
            (Ok(index), Some(commit)) => place.put(commit, packed, index).await?,
            (Ok(index), None) => {
                let archive = archive(&index);
                let put = judge(&*place.objects, &place.key, archive.digest).await?;
                (archive, put)
            }
            (Err(error), Some(commit)) => {
                return Err(commit.abort().await.map_or(error, Into::into));
            }
            (Err(error), None) => return Err(error),
        })
    }

    async fn abort(self: Box<Self>) -> Option<PublishError> {
        self.commit?.abort().await.map(Into::into)
    }
}

/// What an index is.
fn archive(index: &[u8]) -> ArchiveFile {
    ArchiveFile { size: index.len() as u64, digest: Digest::of(index) }
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
