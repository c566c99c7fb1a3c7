//! A file on its way into the directory, piece by piece, under its temporary name.

use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tempfile::NamedTempFile;
use tokio_util::sync::CancellationToken;

use super::{Commit, CommitReport, DirectoryStore, Key, NewObject, Overwrite, StoreError};
use crate::write_behind::WriteBehind;

/// What the sink failed with first: whoever writes into it sees an `io::Error` only.
#[derive(Debug, Clone, Default)]
struct Failure(Arc<Mutex<Option<StoreError>>>);

impl Failure {
    fn take(&self) -> Option<StoreError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn note(&self, error: StoreError) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }
}

/// The file, and who waits for its end.
pub(super) struct Draft {
    store: DirectoryStore,
    key: Key,
    temporary: NamedTempFile,
    failure: Failure,
    cancel: CancellationToken,
}

impl Draft {
    pub(super) fn begin(
        store: &DirectoryStore,
        key: Key,
        cancel: CancellationToken,
    ) -> Result<NewObject, StoreError> {
        let failed = |e| StoreError::io(format!("write {key}"), &store.root, e);
        let temporary = store.temporary().map_err(failed)?;
        let file = temporary.as_file().try_clone().map_err(failed)?;
        let failure = Failure::default();
        let sink = Sink {
            file: WriteBehind::new(file),
            key: key.clone(),
            store: store.clone(),
            failure: failure.clone(),
            cancel: cancel.clone(),
        };
        let draft = Self { store: store.clone(), key, temporary, failure, cancel };
        Ok(NewObject { sink: Box::new(sink), commit: Box::new(draft) })
    }
}

#[async_trait]
impl Commit for Draft {
    async fn finish(
        self: Box<Self>,
        head: &[u8],
        overwrite: Overwrite,
    ) -> Result<CommitReport, StoreError> {
        let head = head.to_owned();
        let store = self.store.clone();
        store
            .blocking("write", move |store| {
                let Self { key, temporary, failure, cancel, .. } = *self;
                if let Some(failure) = failure.take() {
                    return Err(failure);
                }
                temporary
                    .as_file()
                    .write_all_at(&head, 0)
                    .map_err(|e| StoreError::io(format!("write {key}"), &store.root, e))?;
                store.publish(&key, temporary, &overwrite, &cancel)
            })
            .await
    }

    async fn abort(self: Box<Self>) -> Option<StoreError> {
        self.failure.take()
    }
}

struct Sink {
    file: WriteBehind,
    key: Key,
    store: DirectoryStore,
    failure: Failure,
    cancel: CancellationToken,
}

impl Sink {
    fn noting<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        done.map_err(|error| {
            let kind = error.kind();
            let action = format!("write {}", self.key);
            self.failure.note(StoreError::io(action, &self.store.root, error));
            kind.into()
        })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            self.failure.note(StoreError::Cancelled { key: self.key.clone() });
            return Err(io::Error::other("cancelled"));
        }
        let written = self.file.write(bytes);
        self.noting(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = self.file.flush();
        self.noting(flushed)
    }
}
