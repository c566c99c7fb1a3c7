//! Where archives go.
//!
//! A store holds immutable objects under short keys. A key is visible only when its whole content
//! is there, so that an archive's presence is the commit point of its job (CONTRACT section C).
//! It knows nothing of jobs, images' contents or the archive format.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;

/// Files in one directory.
mod directory;
/// Why a store could not do what was asked.
mod error;
/// Names of objects.
mod key;
/// Objects in one bucket.
mod s3;

pub use directory::DirectoryStore;
pub use error::StoreError;
pub use key::{InvalidKey, Key};
pub use s3::{S3Settings, S3Store};

/// Which store to use.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// Files in one directory; archives end in `.clip`.
    Directory(PathBuf),
    /// Objects in one bucket; archives end in `.rclip`.
    S3(S3Settings),
}

/// What [`ArchiveStore::put`] may do when the key is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Keep what is there: the same content is success, other content is an error.
    Never,
    /// Replace it, whatever it is.
    Replace,
}

/// Whether a [`ArchiveStore::put`] wrote anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object was written.
    Written,
    /// The same content was there already.
    Unchanged,
}

/// An object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its key.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// When it was written or touched last.
    pub modified: SystemTime,
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
pub trait ArchiveStore: Send + Sync + std::fmt::Debug {
    /// `clip` or `rclip`: the extension of archives in this store, whatever their version.
    fn extension(&self) -> &'static str;

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

    /// The object's size in bytes, or `None` when there is no such key.
    async fn size(&self, key: &Key) -> Result<Option<u64>, StoreError>;

    /// Up to `len` bytes from `offset`; fewer only at the object's end, none past it.
    ///
    /// The answer is held in memory, so that `len` should be one that the caller can afford.
    async fn read(&self, key: &Key, offset: u64, len: u64) -> Result<Bytes, StoreError>;

    /// Says that the object is in use: its time of modification becomes now if it is older than
    /// `age`. `false`: there is no such key.
    async fn touch(&self, key: &Key, age: Duration) -> Result<bool, StoreError>;

    /// The objects whose keys begin with `prefix`, in no particular order. Names that are no keys
    /// are somebody else's, and passed over.
    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Object, StoreError>>;

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
/// A directory is made when it is missing. A bucket is not contacted: [`ArchiveStore::check`] is.
pub async fn open(settings: &StoreSettings) -> Result<Arc<dyn ArchiveStore>, StoreError> {
    Ok(match settings {
        StoreSettings::Directory(path) => Arc::new(DirectoryStore::open(path).await?),
        StoreSettings::S3(settings) => Arc::new(S3Store::open(settings).await),
    })
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
