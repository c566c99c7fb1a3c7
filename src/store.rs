//! Bags of objects: a directory, an S3 bucket or a registry's repository.
//!
//! A store holds immutable objects under short keys. A key is visible only when its whole content
//! is there, so that an archive's presence is the commit point of its job (CONTRACT section C).
//! It knows nothing of jobs, images' contents or the archive format: which objects make an archive is
//! said in `publish::archives`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;

/// Files in one directory.
mod directory;
/// Why a store could not do what was asked.
mod error;
/// Somebody stands between a store and who uses it.
mod intercepted;
/// Names of objects.
mod key;
/// Objects in one repository of a registry.
mod registry;
/// Objects in one bucket.
mod s3;
/// What is under a key, so that only that is replaced.
mod version;

pub use directory::DirectoryStore;
pub use error::StoreError;
pub use intercepted::{Failures, InterceptedStore, Interceptor, Operation};
pub use key::{InvalidKey, Key};
pub use registry::{Describe, Description, RegistrySettings, RegistryStore};
pub use s3::{S3Settings, S3Store};
pub use version::{ObjectStat, ObjectVersion};

/// Which store to use.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum StoreSettings {
    /// Files in one directory; archives end in `.clip`.
    Directory(PathBuf),
    /// Objects in one bucket; archives end in `.rclip`.
    S3(S3Settings),
    /// Artifacts in one repository; archives end in `.clip`.
    Registry(RegistrySettings),
}

/// What [`ObjectStore::put`] may do when the key is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overwrite {
    /// Keep what is there: the same content is success, other content is an error.
    Never,
    /// Replace it, whatever it is.
    Replace,
    /// Replace it if it is what was seen, and only then: for a key at which something else is by now,
    /// or nothing, this is [`Overwrite::Never`] at a taken key.
    Seen(ObjectVersion),
}

impl Overwrite {
    /// Replace what was seen under a key; where there was nothing, nothing.
    pub fn only(seen: Option<ObjectVersion>) -> Self {
        seen.map_or(Self::Never, Self::Seen)
    }
}

/// An object on its way into a store, piece by piece.
pub struct NewObject {
    /// Takes the bytes, on a thread that may block; flushing it ends the object.
    pub sink: Box<dyn Write + Send>,
    /// Makes it visible, or not.
    pub commit: Box<dyn Commit>,
}

/// The end of a [`NewObject`]. Dropping it is giving up: nothing stays behind.
#[async_trait]
pub trait Commit: Send {
    /// Makes the object visible, its first bytes replaced by `head`, once the sink was flushed.
    ///
    /// Among concurrent calls with [`Overwrite::Never`], or that saw the same, exactly one writes.
    async fn finish(
        self: Box<Self>,
        head: &[u8],
        overwrite: Overwrite,
    ) -> Result<CommitReport, StoreError>;

    /// Gives up; when this returns nothing is left. Where the store had failed already, that is
    /// the cause of whatever went wrong after.
    async fn abort(self: Box<Self>) -> Option<StoreError>;
}

/// How a [`Commit`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitReport {
    /// The object is there.
    Written,
    /// The key was taken: what was there is there still, and ours is gone.
    Taken,
}

/// Where in S3 a store's objects are; never credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub name: String,
    /// Region.
    pub region: String,
    /// Base address; `None` is AWS itself.
    pub endpoint: Option<String>,
    /// Path-style addresses.
    pub force_path_style: bool,
}

/// Whether a [`ObjectStore::put`] wrote anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object was written.
    Written,
    /// The same content was there already.
    Unchanged,
}

/// An object in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// Its name.
    pub key: Key,
    /// Bytes.
    pub size: u64,
    /// When it was written or touched last.
    pub modified: SystemTime,
}

impl ListedObject {
    /// Whether it was written or touched longer than `age` ago.
    pub fn is_older(&self, age: Duration) -> bool {
        SystemTime::now().duration_since(self.modified).is_ok_and(|found| found > age)
    }
}

/// What a writer that died left behind; no key leads to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What it was to become or, of a temporary file, its name.
    pub name: String,
    /// How the store itself names it.
    pub(self) id: String,
    /// When it was begun or written last.
    pub since: SystemTime,
}

/// A store of immutable objects.
#[async_trait]
pub trait ObjectStore: Send + Sync + std::fmt::Debug {
    /// A name for people, without credentials, such as `directory /var/lib/x` or `S3 bucket b`.
    fn describe(&self) -> String;

    /// Publishes a finished local file under `key`; nothing is visible until all of it is.
    ///
    /// The file is hashed on the way and must have `digest`. Among concurrent calls with
    /// [`Overwrite::Never`] exactly one writes. When `cancel` fires, or the future is dropped,
    /// before the object is visible, nothing of it stays behind; after that it is success.
    async fn put(
        &self,
        key: &Key,
        file: &Path,
        digest: Digest,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Put, StoreError>;

    /// Begins an object whose bytes are not known yet. When `cancel` fires before it is visible,
    /// nothing of it stays behind.
    async fn create(&self, key: &Key, cancel: &CancellationToken) -> Result<NewObject, StoreError>;

    /// What is under the key, or `None` when there is no such key.
    async fn stat(&self, key: &Key) -> Result<Option<ObjectStat>, StoreError>;

    /// The object's size in bytes, or `None` when there is no such key.
    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError> {
        Ok(self.stat(key).await?.map(|stat| stat.size))
    }

    /// Up to `len` bytes from `offset`; fewer only at the object's end, none past it.
    ///
    /// The answer is held in memory, so that `len` should be one that the caller can afford.
    async fn read(&self, key: &Key, offset: u64, len: u64) -> Result<Bytes, StoreError>;

    /// Makes `to` what `from` is, unless `overwrite` forbids it: then `to` stays what it is.
    /// At any moment `to` is whole, and where the store can help it the content is not stored
    /// twice.
    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        overwrite: Overwrite,
    ) -> Result<CommitReport, StoreError>;

    /// An address at which anybody can read the object for `lifetime`, if the store has such.
    async fn presign(&self, key: &Key, lifetime: Duration) -> Result<Option<String>, StoreError>;

    /// Objects whose keys begin with `prefix` and sort behind `after`, in the order of their keys,
    /// at most `limit`. Keys that have a slash behind the prefix are passed over.
    async fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ListedObject>, StoreError>;

    /// Says that the object is in use: its time of modification becomes now if it is older than
    /// `age`. `false`: there is no such key.
    async fn touch(&self, key: &Key, age: Duration) -> Result<bool, StoreError>;

    /// What writers left behind that began more than `age` ago and have not ended. In a place that
    /// is shared with others: what may be ours, by its name.
    async fn leftovers(&self, age: Duration) -> Result<Vec<Leftover>, StoreError>;

    /// Removes what was left behind; success if it is gone already.
    async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError>;

    /// Removes the object; a missing key is success.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;

    /// Answers when the store can be used; for readiness checks.
    async fn check(&self) -> Result<(), StoreError>;
}

/// Opens the store that `settings` name.
///
/// A directory is made when it is missing. A bucket or registry is not contacted:
/// [`ObjectStore::check`] does that.
pub async fn open(settings: &StoreSettings) -> Result<Arc<dyn ObjectStore>, StoreError> {
    Ok(match settings {
        StoreSettings::Directory(path) => Arc::new(DirectoryStore::open(path).await?),
        StoreSettings::S3(settings) => Arc::new(S3Store::open(settings).await),
        StoreSettings::Registry(settings) => Arc::new(RegistryStore::open(settings).await?),
    })
}

/// What is older belongs to nobody who is still writing.
pub const SAFE_AGE: Duration = Duration::from_hours(24);

/// Objects asked for at a time.
const PAGE: usize = 1000;

/// All objects whose keys begin with `prefix` and have no slash behind it.
pub async fn list_all(
    store: &dyn ObjectStore,
    prefix: &str,
) -> Result<Vec<ListedObject>, StoreError> {
    let mut objects: Vec<ListedObject> = Vec::new();
    loop {
        let after = objects.last().map_or("", |last| last.key.as_str());
        let page = store.list(prefix, after, PAGE).await?;
        let is_last = page.len() < PAGE;
        objects.extend(page);
        if is_last {
            return Ok(objects);
        }
    }
}

/// Removes what writers that died left in the store more than a day ago: how much it was.
pub async fn sweep(store: &dyn ObjectStore) -> Result<u64, StoreError> {
    let mut swept = 0;
    for leftover in store.leftovers(SAFE_AGE).await? {
        store.remove_leftover(&leftover).await?;
        swept += 1;
    }
    Ok(swept)
}

/// Waits for a task that cleans up after itself when its token fires. Dropping the returned
/// future fires the token, so that giving up on a put is the same as cancelling it.
async fn supervise<T>(
    key: &Key,
    token: CancellationToken,
    task: tokio::task::JoinHandle<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let _cancels_when_dropped = token.drop_guard();
    match task.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Cancelled { key: key.clone() }),
        },
    }
}
