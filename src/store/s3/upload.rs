//! The way of a put: one request for a small file, a multipart upload for a larger one.
//!
//! The request that makes the object visible has a condition (`If-None-Match: *`, or `If-Match`), so
//! that the server decides between concurrent writers.

use std::path::Path;

use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::multipart::{MAX_PARTS, Multipart, conditions};
use super::published::{DIGEST_METADATA, published};
use super::{ObjectStore, S3Store};
use crate::digest::Digest;
use crate::store::{Key, Overwrite, Put, StoreError};

/// Parts on their way at a time.
const CONCURRENCY: usize = 4;

/// Publishes `file` as `key` (see [`ObjectStore::put`]).
pub(super) async fn put(
    store: &S3Store,
    key: &Key,
    file: &Path,
    digest: Digest,
    overwrite: Overwrite,
    cancel: &CancellationToken,
) -> Result<Put, StoreError> {
    let put = PutRequest { store, key, file, digest, overwrite };
    if put.overwrite == Overwrite::Never
        && let Some(found) = or_cancelled(cancel, key, Box::pin(published(store, key))).await?
    {
        return put.judge(found);
    }
    let mut source = File::open(file).await.map_err(|e| put.unreadable(e))?;
    let size = source.metadata().await.map_err(|e| put.unreadable(e))?.len();
    if size <= store.part_size {
        put.in_one_request(&mut source, size, cancel).await
    } else {
        put.in_parts(&mut source, size, cancel).await
    }
}

struct PutRequest<'a> {
    store: &'a S3Store,
    key: &'a Key,
    file: &'a Path,
    digest: Digest,
    overwrite: Overwrite,
}

impl PutRequest<'_> {
    async fn in_one_request(
        &self,
        source: &mut File,
        size: u64,
        cancel: &CancellationToken,
    ) -> Result<Put, StoreError> {
        let mut hasher = Sha256::new();
        let content = self.read_part(source, size, &mut hasher).await?;
        self.expect_end(source, hasher).await?;
        if cancel.is_cancelled() {
            return Err(StoreError::Cancelled { key: self.key.clone() });
        }
        if !self.store.may_replace(self.key, &self.overwrite).await? {
            return self.taken().await;
        }
        // Not cancelled from here on: whether it took effect could not be told.
        let (if_none_match, if_match) = conditions(&self.overwrite);
        let sent = self
            .store
            .client
            .put_object()
            .bucket(&self.store.bucket)
            .key(self.key.as_str())
            .metadata(DIGEST_METADATA, self.digest.hex())
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .body(ByteStream::from(content))
            .send()
            .await;
        match sent.map_err(Failure::from) {
            Ok(_) => Ok(Put::Written),
            Err(failure) => self.refused(failure).await,
        }
    }

    async fn in_parts(
        &self,
        source: &mut File,
        size: u64,
        cancel: &CancellationToken,
    ) -> Result<Put, StoreError> {
        let digest = Some(self.digest);
        let mut upload = Multipart::begin(self.store, self.key, digest, CONCURRENCY).await?;
        let parts =
            or_cancelled(cancel, self.key, self.send_parts(&mut upload, source, size)).await;
        let result = match parts {
            // Not cancelled from here on: whether it took effect could not be told.
            Ok(()) if !cancel.is_cancelled() => self.complete(&mut upload).await,
            Ok(()) => Err(StoreError::Cancelled { key: self.key.clone() }),
            Err(error) => Err(error),
        };
        if !matches!(result, Ok(Put::Written)) {
            upload.abort().await;
        }
        result
    }

    /// Reads the file once, in order, while the last few parts are on their way.
    async fn send_parts(
        &self,
        upload: &mut Multipart<'_>,
        source: &mut File,
        size: u64,
    ) -> Result<(), StoreError> {
        let part_size = self.store.part_size.max(size.div_ceil(MAX_PARTS));
        let mut hasher = Sha256::new();
        let mut offset = 0;
        let mut number = 0;
        while offset < size {
            let len = part_size.min(size - offset);
            let content = self.read_part(source, len, &mut hasher).await?;
            offset += len;
            number += 1;
            upload.send(number, content).await?;
        }
        self.expect_end(source, hasher).await?;
        upload.all_arrived().await
    }

    async fn complete(&self, upload: &mut Multipart<'_>) -> Result<Put, StoreError> {
        if !self.store.may_replace(self.key, &self.overwrite).await? {
            return self.taken().await;
        }
        match upload.complete(&self.overwrite).await {
            Ok(()) => Ok(Put::Written),
            // The answer to a first try was lost and a retry found the upload gone.
            Err(failure) if failure.code.as_deref() == Some("NoSuchUpload") => {
                match published(self.store, self.key).await? {
                    Some(found) if found == self.digest => Ok(Put::Written),
                    _ => Err(self.failed(failure)),
                }
            }
            Err(failure) => self.refused(failure).await,
        }
    }

    /// What a failed write means: when the key is taken, the content there decides.
    async fn refused(&self, failure: Failure) -> Result<Put, StoreError> {
        if failure.is_taken() { self.taken().await } else { Err(self.failed(failure)) }
    }

    /// The key is not what it may be replaced as.
    async fn taken(&self) -> Result<Put, StoreError> {
        match published(self.store, self.key).await? {
            Some(found) => self.judge(found),
            None => Err(self.store.not_found(self.key)),
        }
    }

    fn judge(&self, found: Digest) -> Result<Put, StoreError> {
        if found == self.digest {
            return Ok(Put::Unchanged);
        }
        Err(StoreError::Conflict {
            key: self.key.clone(),
            store: self.store.describe(),
            expected: self.digest,
            found,
        })
    }

    /// Reads exactly `len` bytes, at most one part's worth.
    async fn read_part(
        &self,
        source: &mut File,
        len: u64,
        hasher: &mut Sha256,
    ) -> Result<Bytes, StoreError> {
        let mut content = BytesMut::with_capacity(usize::try_from(len).unwrap_or(0));
        let mut part = source.take(len);
        while part.read_buf(&mut content).await.map_err(|e| self.unreadable(e))? > 0 {}
        if content.len() as u64 != len {
            return Err(self.unreadable(std::io::ErrorKind::UnexpectedEof.into()));
        }
        hasher.update(&content);
        Ok(content.freeze())
    }

    /// The file must end here and have been the one that was announced.
    async fn expect_end(&self, source: &mut File, hasher: Sha256) -> Result<(), StoreError> {
        let more = source.read(&mut [0]).await.map_err(|e| self.unreadable(e))?;
        let found = Digest::from_hasher(hasher);
        if more == 0 && found == self.digest {
            return Ok(());
        }
        let (key, file) = (self.key.clone(), self.file.to_owned());
        Err(StoreError::Mismatch { key, file, expected: self.digest, found })
    }

    fn failed(&self, failure: Failure) -> StoreError {
        failure.into_error(self.store, format!("write {}", self.key))
    }

    fn unreadable(&self, source: std::io::Error) -> StoreError {
        StoreError::io("read the finished archive", self.file, source)
    }
}

/// Runs to the end or until `cancel` fires; dropped work leaves nothing visible.
async fn or_cancelled<T>(
    cancel: &CancellationToken,
    key: &Key,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match cancel.run_until_cancelled(work).await {
        Some(result) => result,
        None => Err(StoreError::Cancelled { key: key.clone() }),
    }
}
