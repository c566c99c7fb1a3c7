//! An archive that lies in a store: its index is read, its data are left where they are.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::ArchiveError;
use crate::clip::header::{self, Header};
use crate::clip::node::NodeKind;
use crate::clip::reader::Archive;
use crate::clip::storage_info::StorageInfo;
use crate::clip::{ClipError, MAX_INDEX_BYTES};
use crate::digest::Digest;
use crate::store::{ArchiveStore, Key};

/// An archive in a store.
#[derive(Debug, Clone)]
pub struct StoredArchive {
    /// Its name there.
    pub key: Key,
    /// Bytes of the object.
    pub size: u64,
    /// SHA-256 of all but the data blocks. The index holds the SHA-256 of each file.
    pub digest: Digest,
    /// The archive.
    pub archive: Archive,
    /// All of the object's bytes, unless there are data blocks among them.
    pub whole: Option<Bytes>,
}

impl StoredArchive {
    /// Opens the archive called `key`; `None` if there is none.
    pub async fn open(
        store: &Arc<dyn ArchiveStore>,
        key: &Key,
    ) -> Result<Option<Self>, ArchiveError> {
        let Some(size) = store.size(key).await? else { return Ok(None) };
        let object = Object { store, key, size };
        let head = object.read(0..size.min(header::LENGTH as u64)).await?;
        let header = Header::decode(&head, size)?;
        let start = header.index.start;
        let rest = object.read(start..size).await?;
        let seen = Bytes::from([&head[..], &rest[..]].concat());
        let digest = Digest::of(&seen);
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
        let whole = (seen.len() as u64 == size).then_some(seen);
        Ok(Some(Self { key: key.clone(), size, digest, archive, whole }))
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
pub async fn stored_version(
    store: &Arc<dyn ArchiveStore>,
    key: &Key,
    size: u64,
) -> Result<u8, ArchiveError> {
    let object = Object { store, key, size };
    let head = object.read(0..size.min(header::LENGTH as u64)).await?;
    match Header::decode(&head, size)?.storage {
        None => Ok(1),
        // The header's own word for it is not to be trusted (CONTRACT A.1).
        Some(range) => Ok(version(&StorageInfo::decode(&object.read(range).await?)?)),
    }
}

fn version(storage: &StorageInfo) -> u8 {
    match storage {
        StorageInfo::Oci(_) => 2,
        StorageInfo::Local | StorageInfo::S3(_) => 1,
    }
}

struct Object<'a> {
    store: &'a Arc<dyn ArchiveStore>,
    key: &'a Key,
    size: u64,
}

impl Object<'_> {
    async fn read(&self, range: Range<u64>) -> Result<Bytes, ArchiveError> {
        let length = range.end.saturating_sub(range.start);
        if length > MAX_INDEX_BYTES {
            return Err(ClipError::TooLarge { size: length, limit: MAX_INDEX_BYTES }.into());
        }
        let bytes = self.store.read(self.key, range.start, length).await?;
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        let detail = format!("{} has no {length} bytes at {}", self.key, range.start);
        Err(ClipError::Header(format!("{detail}: it had {} bytes", self.size)).into())
    }
}
