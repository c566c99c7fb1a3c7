//! Where archives go.
//!
//! A store holds immutable objects under short keys. A key is visible only when its whole content
//! is there. Which key an image has, and with which extension, is decided here (CONTRACT: the
//! extension depends on the store alone, never on the archive's version).

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;

/// Which store to use.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// Files in one directory; archives end in `.clip`.
    Directory(PathBuf),
    /// Objects in one bucket; archives end in `.rclip`.
    S3(S3Settings),
}

/// How to reach a bucket (beta9's `imageService.registries.s3`).
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// Bucket name.
    pub bucket: String,
    /// Region; S3-likes mostly ignore it.
    pub region: String,
    /// Base address of an S3-like; `None` is AWS itself.
    pub endpoint: Option<String>,
    /// Put the bucket into the path rather than into the host name.
    pub force_path_style: bool,
    /// Access key and secret key; `None` asks the ambient AWS chain.
    pub keys: Option<(SecretString, SecretString)>,
}

/// What [`ArchiveStore::put`] may do when the key is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// Keep what is there: the same content is success, other content is an error.
    Never,
    /// Replace it.
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

/// A store of immutable objects.
#[async_trait]
pub trait ArchiveStore: Send + Sync + std::fmt::Debug {
    /// `clip` or `rclip`: the extension of archives in this store.
    fn extension(&self) -> &'static str;
    /// A name for people, without credentials, such as `directory /var/lib/x` or `s3 bucket b`.
    fn describe(&self) -> String;
    /// Publishes a finished local file under `key`. Nothing is visible until all of it is.
    async fn put(
        &self,
        key: &str,
        file: &Path,
        digest: Digest,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Put, StoreError>;
    /// The object's size in bytes, or `None` when there is no such key.
    async fn size(&self, key: &str) -> Result<Option<u64>, StoreError>;
    /// Up to `len` bytes from `offset`; fewer only at the object's end.
    async fn read(&self, key: &str, offset: u64, len: u64) -> Result<Bytes, StoreError>;
    /// Removes the object; a missing key is success.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;
    /// Answers when the store can be used; for readiness checks.
    async fn check(&self) -> Result<(), StoreError>;
}

/// Why a store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {}
