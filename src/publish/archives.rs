//! Where archives are published, and how they are found again.
//!
//! A place for archives knows which objects make an archive there and how they become visible at
//! once; who publishes, lists, migrates or mounts need not know. `ObjectArchives` keeps them in a
//! bag of objects.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::archive::index::ArchiveFile;
use crate::archive::pack::{PackedImage, Sink};
use crate::content::blocks::BlockData;
use crate::digest::Digest;
use crate::image_id::ImageId;
use crate::publish::PublishError;
use crate::publish::stored::{ListedArchive, StoredArchive};
use crate::store::{
    CommitReport, DirectoryStore, Key, ListedObject, ObjectStat, ObjectStore, Overwrite, Put,
    RegistryStore, S3Store, StoreError, StoreSettings,
};

/// In a bucket: a small index, and beside it the data of v1.
mod bucket;
/// In a directory: one file an archive.
mod file;
/// Archives in a bag of objects.
mod objects;
/// What archives are to those who look for them in a registry.
mod registry;

pub use bucket::IndexBesideData;
pub use file::OneFile;
pub use objects::{Layout, ObjectArchives};

use registry::ArchiveDescriber;

/// What an archive is called where it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveName {
    /// The archive of an image, which workers mount.
    Image(ImageId),
    /// One that a migration is about to make, which nobody may see yet.
    Staged(ImageId),
    /// One that a migration has put aside: of this version, with this digest.
    Kept(ImageId, u8, Digest),
}

/// A place for archives.
#[async_trait]
pub trait ArchiveStore: Send + Sync + std::fmt::Debug {
    /// A name for people, without credentials, such as `directory /var/lib/x` or `S3 bucket b`.
    fn describe(&self) -> String;

    /// What an archive is called here, in results and messages.
    fn key(&self, name: &ArchiveName) -> Key;

    /// What is published as `key`, without reading it.
    async fn stat(&self, key: &Key) -> Result<Option<ObjectStat>, PublishError>;

    /// Reads the index of an archive; `None` if there is none. Its data are left where they are.
    async fn open(&self, key: &Key) -> Result<Option<StoredArchive>, PublishError>;

    /// Up to `len` bytes of an archive's object from `offset`; fewer only at its end.
    async fn read(&self, key: &Key, offset: u64, len: u64) -> Result<Bytes, PublishError>;

    /// Where the data of a v1 archive are. Data outside of it are looked for in the same place, as
    /// workers look for them in their own bucket, whatever bucket the archive names.
    fn data(&self, stored: &StoredArchive) -> Result<BlockData, PublishError>;

    /// Publishes an archive that is a finished file of this digest and has no data beside it.
    async fn publish(
        &self,
        key: &Key,
        file: &Path,
        digest: Digest,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Put, PublishError>;

    /// Begins a v1 archive: its data are on their way, its index comes last.
    async fn draft(
        &self,
        name: &ArchiveName,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Box<dyn Draft>, PublishError>;

    /// Makes `key` name what `stored` is, which keeps its own name.
    async fn copy(
        &self,
        stored: &StoredArchive,
        key: &Key,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<CommitReport, PublishError>;

    /// Removes an archive but not the data beside it; success if it is gone already.
    async fn remove(&self, key: &Key) -> Result<(), PublishError>;

    /// Removes data beside the archives of an image, which none of them needs; their key, if there
    /// were any.
    async fn remove_data(&self, image: &ImageId) -> Result<Option<Key>, PublishError>;

    /// Archives of this image and version that migrations have kept.
    async fn kept(&self, image: &ImageId, version: u8) -> Result<Vec<Key>, PublishError>;

    /// Archives of images whose ids begin with `prefix` and sort behind `after`, in their order, at
    /// most `limit`.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&ImageId>,
        limit: usize,
    ) -> Result<Vec<ListedArchive>, PublishError>;

    /// An address at which anybody can read the archive for `lifetime`, if there are such here.
    async fn presign(&self, key: &Key, lifetime: Duration) -> Result<Option<String>, PublishError>;

    /// Data beside archives of images whose ids begin with `prefix`, which none of them needs.
    async fn unused(&self, prefix: &str) -> Result<Vec<UnusedData>, PublishError>;

    /// Answers when archives can be published; for readiness checks.
    async fn check(&self) -> Result<(), StoreError>;
}

/// Data beside archives that none of them needs.
#[derive(Debug, Clone)]
pub struct UnusedData {
    /// The data.
    pub object: ListedObject,
    /// An archive of v2 has taken the place of theirs; else there is none.
    pub replaced: bool,
}

/// A v1 archive on its way into a place for archives.
#[async_trait]
pub trait Draft: Send {
    /// Takes the archive's bytes, 54 zero bytes in place of its header; asked for once.
    fn sink(&mut self) -> Sink;

    /// Makes the archive visible, whose bytes the sink has taken.
    async fn finish(
        self: Box<Self>,
        packed: &PackedImage,
    ) -> Result<(ArchiveFile, Put), PublishError>;

    /// Gives up; when this returns nothing is left. Where the store had failed already, that is the
    /// cause of whatever went wrong after.
    async fn abort(self: Box<Self>) -> Option<PublishError>;
}

/// What one setting opens: the bag of objects, in which layer indexes are as well, and the archives
/// in it.
#[derive(Debug, Clone)]
pub struct Stores {
    /// Objects of any kind.
    pub objects: Arc<dyn ObjectStore>,
    /// Archives.
    pub archives: Arc<dyn ArchiveStore>,
    /// Objects among which the service itself removes what writers left behind that died. In a bucket
    /// its own rules, or `gc`, see to that: not every service may list uploads.
    pub swept: Option<Arc<dyn ObjectStore>>,
}

impl Stores {
    /// Opens what `settings` name; `wrap` may put somebody before the objects. A directory is made
    /// when it is missing. A bucket is not contacted: [`ArchiveStore::check`] is.
    pub async fn open(
        settings: &StoreSettings,
        wrap: impl FnOnce(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>,
    ) -> Result<Self, StoreError> {
        Ok(match settings {
            StoreSettings::Directory(path) => {
                let objects = wrap(Arc::new(DirectoryStore::open(path).await?));
                let archives = Arc::new(ObjectArchives::new(objects.clone(), OneFile));
                Self { swept: Some(objects.clone()), objects, archives }
            }
            StoreSettings::S3(settings) => {
                let store = S3Store::open(settings).await;
                let layout = IndexBesideData::new(store.place());
                let objects = wrap(Arc::new(store));
                let archives = Arc::new(ObjectArchives::new(objects.clone(), layout));
                Self { swept: None, objects, archives }
            }
            StoreSettings::Registry(settings) => {
                let store = RegistryStore::described(settings, Arc::new(ArchiveDescriber)).await?;
                let objects = wrap(Arc::new(store));
                let archives = Arc::new(ObjectArchives::new(objects.clone(), OneFile));
                Self { swept: None, objects, archives }
            }
        })
    }
}
