//! An archive that lies in a store: its index is read, its data are left where they are.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::clip::header::{self, Header};
use crate::clip::node::NodeKind;
use crate::clip::reader::Archive;
use crate::clip::storage_info::StorageInfo;
use crate::clip::{ClipError, MAX_V1_INDEX_BYTES};
use crate::digest::Digest;
use crate::image_id::ImageId;
use crate::publish::PublishError;
use crate::store::{
    Key, ListedObject, ObjectStat, ObjectStore, ObjectVersion, Overwrite, Put, StoreError,
};

/// Keys asked for at a time.
const PAGE: usize = 1000;
/// Bytes of an archive that are read to tell its version.
const FIRST_READ: u64 = 64 << 10;
/// Archives looked into at a time.
const AT_A_TIME: usize = 8;

/// An archive in a store.
#[derive(Debug, Clone)]
pub struct StoredArchive {
    /// Its name there.
    pub key: Key,
    /// Bytes of the object.
    pub size: u64,
    /// Which object was read, so that only that is replaced.
    pub seen: ObjectVersion,
    /// SHA-256 of all but the data blocks. The index holds the SHA-256 of each file.
    pub digest: Digest,
    /// The archive.
    pub archive: Archive,
    /// All of the object's bytes, unless there are data blocks among them.
    pub whole: Option<Bytes>,
}

impl StoredArchive {
    /// Opens the archive called `key`; `None` if there is none.
    pub async fn open(store: &dyn ObjectStore, key: &Key) -> Result<Option<Self>, PublishError> {
        let Some(ObjectStat { size, version: seen }) = store.stat(key).await? else {
            return Ok(None);
        };
        let object = Object { store, key, size };
        let head = object.read(0..size.min(header::LENGTH as u64)).await?;
        let header = Header::decode(&head, size)?;
        let start = header.index.start;
        let rest = object.read(start..size).await?;
        let read = Bytes::from([&head[..], &rest[..]].concat());
        let digest = Digest::of(&read);
        let part = |range: &Range<u64>| {
            let within = |at: u64| at.checked_sub(start).and_then(|at| usize::try_from(at).ok());
            Some(rest.slice(within(range.start)?..within(range.end)?))
        };
        let storage = match &header.storage {
            None => None,
            Some(range) => match part(range) {
                Some(bytes) => Some(bytes),
                // Nobody writes it before the index, but readers would find it there.
                None => Some(object.read(range.clone()).await?),
            },
        };
        let index = part(&header.index).unwrap_or_default();
        let archive = Archive::decode(header, &index, storage.as_deref())?;
        let whole = (read.len() as u64 == size).then_some(read);
        Ok(Some(Self { key: key.clone(), size, seen, digest, archive, whole }))
    }

    /// 2 if the files' content is in an image's layers, else 1.
    pub fn version(&self) -> u8 {
        version(&self.archive.storage)
    }

    /// Regular files, each name counted.
    pub fn files(&self) -> u64 {
        let nodes = self.archive.tree.iter();
        nodes.filter(|node| matches!(node.kind, NodeKind::File(_))).count() as u64
    }
}

/// The version of the archive called `key`, without its index.
pub(super) async fn stored_version(
    store: &dyn ObjectStore,
    key: &Key,
    size: u64,
) -> Result<u8, PublishError> {
    let object = Object { store, key, size };
    // Most indexes are smaller than that, and are read at once.
    let head = object.read(0..size.min(FIRST_READ)).await?;
    let Some(range) = Header::decode(&head, size)?.storage else { return Ok(1) };
    let within = |at: u64| usize::try_from(at).ok().filter(|at| *at <= head.len());
    let storage = match within(range.start).zip(within(range.end)) {
        Some((start, end)) if start <= end => head.slice(start..end),
        _ => object.read(range).await?,
    };
    // The header's own word for it is not to be trusted (CONTRACT A.1).
    Ok(version(&StorageInfo::decode(&storage)?))
}

/// Whether what is under the key, or that there is nothing, leaves room for another archive.
pub(super) async fn may_replace(
    store: &dyn ObjectStore,
    key: &Key,
    overwrite: &Overwrite,
) -> Result<bool, PublishError> {
    Ok(match overwrite {
        Overwrite::Replace => true,
        Overwrite::Never => store.stat(key).await?.is_none(),
        Overwrite::Seen(seen) => store.stat(key).await?.is_some_and(|stat| stat.version == *seen),
    })
}

/// What names the content that is under `key`: the digest of all but its data blocks.
pub(super) async fn published(
    store: &dyn ObjectStore,
    key: &Key,
) -> Result<Option<Digest>, PublishError> {
    let Some(size) = store.size(key).await? else { return Ok(None) };
    let head = store.read(key, 0, header::LENGTH as u64).await?;
    let index = match Header::decode(&head, size) {
        Ok(header) => header.index.start..size,
        Err(_) => head.len() as u64..size,
    };
    // What is not of our making may be of any size: then its end is enough to tell.
    let start = index.start.max(size.saturating_sub(MAX_V1_INDEX_BYTES));
    let rest = store.read(key, start, size - start).await?;
    Ok(Some(Digest::from_hasher(Sha256::new().chain_update(head).chain_update(rest))))
}

/// What it means that a key is taken: whether it is by what was to be published.
pub(super) async fn judge(
    store: &dyn ObjectStore,
    key: &Key,
    expected: Digest,
) -> Result<Put, PublishError> {
    let (found, key, store) = (published(store, key).await?, key.clone(), store.describe());
    Err(match found {
        Some(found) if found == expected => return Ok(Put::Unchanged),
        Some(found) => StoreError::Conflict { key, store, expected, found },
        None => StoreError::NotFound { key, store },
    }
    .into())
}

fn version(storage: &StorageInfo) -> u8 {
    match storage {
        StorageInfo::Oci(_) => 2,
        StorageInfo::Local | StorageInfo::S3(_) => 1,
    }
}

struct Object<'a> {
    store: &'a dyn ObjectStore,
    key: &'a Key,
    size: u64,
}

impl Object<'_> {
    async fn read(&self, range: Range<u64>) -> Result<Bytes, PublishError> {
        let length = range.end.saturating_sub(range.start);
        if length > MAX_V1_INDEX_BYTES {
            return Err(ClipError::TooLarge { size: length, limit: MAX_V1_INDEX_BYTES }.into());
        }
        let bytes = self.store.read(self.key, range.start, length).await?;
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        let detail = format!("{} has no {length} bytes at {}", self.key, range.start);
        Err(ClipError::Header(format!("{detail}: it had {} bytes", self.size)).into())
    }
}

/// An archive in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ListedArchive {
    /// The image that it is named after.
    pub image_id: ImageId,
    /// Its version; absent if it can't be told, which `problem` explains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip_version: Option<u8>,
    /// Bytes of the archive object. Of a v1 archive in S3 that is the index alone.
    pub size: u64,
    /// Versions of which migrations have kept an archive.
    pub kept: Vec<u8>,
    /// What is wrong with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// Archives of images whose ids begin with `prefix` and sort behind `after`, in their order, at
/// most `limit`.
pub(super) async fn list_archives(
    store: &dyn ObjectStore,
    extension: &'static str,
    prefix: &str,
    after: Option<&ImageId>,
    limit: usize,
) -> Result<Vec<ListedArchive>, PublishError> {
    let mut after = after.map_or_else(String::new, |id| Key::archive(id, extension).to_string());
    let mut found = Vec::new();
    while found.len() < limit {
        // In S3 the data of v1 archives lie in between.
        let page = store.list(prefix, &after, PAGE).await?;
        let Some(last) = page.last() else { break };
        after = last.key.to_string();
        found.extend(page.into_iter().filter_map(|listed| {
            let (id, end) = listed.key.as_str().split_once('.')?;
            Some((id.parse::<ImageId>().ok().filter(|_| end == extension)?, listed))
        }));
    }
    found.truncate(limit);
    let kept = kept_versions(store, prefix, &found).await?;
    let kept = &kept;
    let described = found.into_iter().map(async |(image_id, listed)| {
        let version = match stored_version(store, &listed.key, listed.size).await {
            Ok(version) => Ok(version),
            // One archive that is broken must not hide the others; a store that is, must.
            Err(PublishError::Clip(error)) => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        let versions = [1, 2].into_iter().filter(|v| kept.contains(&(image_id.clone(), *v)));
        Ok::<_, PublishError>(ListedArchive {
            kept: versions.collect(),
            clip_version: version.as_ref().ok().copied(),
            size: listed.size,
            problem: version.err(),
            image_id,
        })
    });
    stream::iter(described).buffered(AT_A_TIME).try_collect().await
}

/// Of which versions migrations have kept archives of these images, which are in order.
async fn kept_versions(
    store: &dyn ObjectStore,
    prefix: &str,
    found: &[(ImageId, ListedObject)],
) -> Result<BTreeSet<(ImageId, u8)>, PublishError> {
    let mut kept = BTreeSet::new();
    let (Some((first, _)), Some((last, _))) = (found.first(), found.last()) else {
        return Ok(kept);
    };
    // Sorts before all keys of the first image, whatever follows its id.
    let mut after = format!("{}{first}", Key::KEPT);
    let end = format!("{}{last}/", Key::KEPT);
    loop {
        let page = store.list(&format!("{}{prefix}", Key::KEPT), &after, PAGE).await?;
        let Some(behind) = page.last() else { return Ok(kept) };
        let whole = page.len() < PAGE || behind.key.as_str() > end.as_str();
        after = behind.key.to_string();
        kept.extend(page.into_iter().filter_map(|listed| listed.key.of_kept()));
        if whole {
            return Ok(kept);
        }
    }
}
