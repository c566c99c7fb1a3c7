//! An object whose bytes come piece by piece, and whose first bytes are known last.
//!
//! A task of its own sends the parts as they fill, holds the first one back until it is told how
//! that begins, and cleans up when it is cancelled or told nothing more. An object of one part
//! goes up in one request.

use std::io::{self, Write};

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::S3Store;
use super::failure::Failure;
use super::multipart::{MAX_PARTS, Multipart, conditions};
use crate::store::{Commit, CommitReport, Key, NewObject, ObjectStore, Overwrite, StoreError};

/// Parts on their way at a time. Beside them are in memory the first part, the one that is being
/// filled, and one between.
const CONCURRENCY: usize = 2;

/// Begins an object; nothing is asked of S3 before its second part is full.
pub(super) fn begin(store: &S3Store, key: &Key, cancel: &CancellationToken) -> NewObject {
    let token = cancel.child_token();
    let (full, parts) = mpsc::channel(1);
    let (end, ending) = oneshot::channel();
    let task = tokio::spawn({
        let (store, key, token) = (store.clone(), key.clone(), token.clone());
        async move { Box::pin(upload(&store, &key, parts, ending, &token)).await }
    });
    let part_size = usize::try_from(store.part_size).unwrap_or(usize::MAX);
    let key = key.clone();
    NewObject {
        sink: Box::new(Sink { part: BytesMut::new(), part_size, full }),
        commit: Box::new(Upload {
            key,
            end,
            task,
            token: token.clone(),
            _guard: token.drop_guard(),
        }),
    }
}

/// What the object's first bytes are, and whether it may replace another.
type End = (Bytes, Overwrite);

struct Upload {
    key: Key,
    end: oneshot::Sender<End>,
    task: JoinHandle<Result<CommitReport, StoreError>>,
    token: CancellationToken,
    /// Dropped with the rest, it cancels the task.
    _guard: DropGuard,
}

#[async_trait]
impl Commit for Upload {
    async fn finish(
        self: Box<Self>,
        head: &[u8],
        overwrite: Overwrite,
    ) -> Result<CommitReport, StoreError> {
        let Self { key, end, task, _guard, .. } = *self;
        let _ = end.send((Bytes::copy_from_slice(head), overwrite)); // a task that ended says why
        joined(&key, task).await
    }

    async fn abort(self: Box<Self>) -> Option<StoreError> {
        self.token.cancel();
        match joined(&self.key, self.task).await {
            Err(StoreError::Cancelled { .. }) | Ok(_) => None,
            Err(error) => Some(error),
        }
    }
}

async fn joined(
    key: &Key,
    task: JoinHandle<Result<CommitReport, StoreError>>,
) -> Result<CommitReport, StoreError> {
    match task.await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::Cancelled { key: key.clone() }),
        },
    }
}

/// Fills parts.
struct Sink {
    part: BytesMut,
    part_size: usize,
    full: mpsc::Sender<Bytes>,
}

impl Sink {
    fn pass_on(&mut self) -> io::Result<()> {
        let part = std::mem::take(&mut self.part).freeze();
        self.full.blocking_send(part).map_err(|_| io::Error::other("the upload has ended"))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.part.capacity() == 0 {
            self.part.reserve(self.part_size);
        }
        let taken = bytes.len().min(self.part_size - self.part.len());
        self.part.extend_from_slice(&bytes[..taken]);
        if self.part.len() == self.part_size {
            self.pass_on()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.part.is_empty() { Ok(()) } else { self.pass_on() }
    }
}

async fn upload(
    store: &S3Store,
    key: &Key,
    mut parts: mpsc::Receiver<Bytes>,
    ending: oneshot::Receiver<End>,
    token: &CancellationToken,
) -> Result<CommitReport, StoreError> {
    let cancelled = || StoreError::Cancelled { key: key.clone() };
    let mut multipart = None;
    let mut size = 0;
    let sending = send_parts(store, key, &mut parts, &mut size, ending, &mut multipart);
    let result = match token.run_until_cancelled(Box::pin(sending)).await {
        // Not cancelled from here on: whether it took effect could not be told.
        Some(Ok((first, overwrite))) if !token.is_cancelled() => {
            complete(store, key, first, size, overwrite, multipart.as_mut()).await
        }
        Some(Err(error)) => Err(error),
        _ => Err(cancelled()),
    };
    if let Some(multipart) = multipart
        && !matches!(result, Ok(CommitReport::Written))
    {
        multipart.abort().await;
    }
    result
}

/// Sends all parts but the first, which is given back as it must become.
async fn send_parts<'a>(
    store: &'a S3Store,
    key: &'a Key,
    parts: &mut mpsc::Receiver<Bytes>,
    size: &mut u64,
    ending: oneshot::Receiver<End>,
    multipart: &mut Option<Multipart<'a>>,
) -> Result<(Bytes, Overwrite), StoreError> {
    let first = parts.recv().await.unwrap_or_default();
    *size = first.len() as u64;
    let mut number = 1;
    while let Some(part) = parts.recv().await {
        *size += part.len() as u64;
        number += 1;
        if number > MAX_PARTS {
            let (limit, size) = (MAX_PARTS, store.part_size);
            return Err(StoreError::Rejected {
                store: store.describe(),
                action: format!("write {key}"),
                reason: format!(
                    "it is over {limit} parts of {size} bytes: larger parts are needed"
                ),
            });
        }
        let upload = match multipart {
            Some(upload) => upload,
            None => multipart.insert(Multipart::begin(store, key, None, CONCURRENCY).await?),
        };
        upload.send(i32::try_from(number).unwrap_or(i32::MAX), part).await?;
    }
    let (head, overwrite) = ending.await.map_err(|_| StoreError::Cancelled { key: key.clone() })?;
    let mut first = BytesMut::from(first);
    let length = head.len().min(first.len());
    first[..length].copy_from_slice(&head[..length]);
    if let Some(upload) = multipart {
        upload.send(1, first.freeze()).await?;
        upload.all_arrived().await?;
        return Ok((Bytes::new(), overwrite));
    }
    Ok((first.freeze(), overwrite))
}

/// Makes the object visible: `only` is all of it unless there are parts.
async fn complete(
    store: &S3Store,
    key: &Key,
    only: Bytes,
    size: u64,
    overwrite: Overwrite,
    multipart: Option<&mut Multipart<'_>>,
) -> Result<CommitReport, StoreError> {
    if !store.may_replace(key, &overwrite).await? {
        return Ok(CommitReport::Taken);
    }
    let (if_none_match, if_match) = conditions(&overwrite);
    let done = match multipart {
        Some(multipart) => multipart.complete(&overwrite).await,
        None => store
            .client
            .put_object()
            .bucket(&store.bucket)
            .key(key.as_str())
            .set_if_none_match(if_none_match)
            .set_if_match(if_match)
            .body(ByteStream::from(only))
            .send()
            .await
            .map(|_| ())
            .map_err(Failure::from),
    };
    match done {
        Ok(()) => Ok(CommitReport::Written),
        Err(failure) if failure.is_taken() => Ok(CommitReport::Taken),
        // The answer to a first try was lost and a retry found the upload gone.
        Err(failure)
            if failure.code.as_deref() == Some("NoSuchUpload")
                && store.size(key).await? == Some(size) =>
        {
            Ok(CommitReport::Written)
        }
        Err(failure) => Err(failure.into_error(store, format!("write {key}"))),
    }
}
