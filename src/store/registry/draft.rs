//! An object on its way into a registry, piece by piece. What its first bytes are is known last, and a
//! registry takes a blob from its start: until then it is a file that has no name, and goes with the
//! process.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{RegistryStore, hash};
use crate::store::{Commit, CommitReport, Key, NewObject, Overwrite, StoreError};
use crate::write_behind::WriteBehind;

/// The object, and who waits for its end.
struct Draft {
    store: RegistryStore,
    key: Key,
    file: File,
    failure: Arc<Mutex<Option<StoreError>>>,
    cancel: CancellationToken,
}

pub(super) fn begin(
    store: &RegistryStore,
    key: &Key,
    cancel: &CancellationToken,
) -> Result<NewObject, StoreError> {
    let made = || {
        fs::create_dir_all(&store.scratch)?;
        let file = tempfile::tempfile_in(&store.scratch)?;
        Ok((file.try_clone()?, file))
    };
    let (behind, file) =
        made().map_err(|e| StoreError::io(format!("write {key}"), &store.scratch, e))?;
    let failure = Arc::default();
    let sink = Sink {
        file: WriteBehind::new(behind),
        key: key.clone(),
        scratch: store.scratch.clone(),
        failure: Arc::clone(&failure),
        cancel: cancel.clone(),
    };
    let (key, cancel) = (key.clone(), cancel.clone());
    let commit = Draft { store: store.clone(), key, file, failure, cancel };
    Ok(NewObject { sink: Box::new(sink), commit: Box::new(commit) })
}

#[async_trait]
impl Commit for Draft {
    async fn finish(
        self: Box<Self>,
        head: &[u8],
        overwrite: Overwrite,
    ) -> Result<CommitReport, StoreError> {
        let Self { store, key, file, failure, cancel } = *self;
        if let Some(failure) = take(&failure) {
            return Err(failure);
        }
        if cancel.is_cancelled() {
            return Err(StoreError::Cancelled { key });
        }
        let head = head.to_owned();
        let hashed = tokio::task::spawn_blocking(move || {
            file.write_all_at(&head, 0)?;
            Ok((hash(&file)?, file))
        });
        let hashed = hashed.await.unwrap_or_else(|died| Err(io::Error::other(died)));
        let (content, file) =
            hashed.map_err(|e| StoreError::io(format!("write {key}"), &store.scratch, e))?;
        store.store(&key, file, content, &overwrite, &cancel).await
    }

    async fn abort(self: Box<Self>) -> Option<StoreError> {
        take(&self.failure)
    }
}

fn take(failure: &Mutex<Option<StoreError>>) -> Option<StoreError> {
    failure.lock().unwrap_or_else(PoisonError::into_inner).take()
}

struct Sink {
    file: WriteBehind,
    key: Key,
    scratch: PathBuf,
    failure: Arc<Mutex<Option<StoreError>>>,
    cancel: CancellationToken,
}

impl Sink {
    fn note(&self, error: StoreError) {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    fn noting<T>(&mut self, done: io::Result<T>) -> io::Result<T> {
        done.map_err(|error| {
            let kind = error.kind();
            self.note(StoreError::io(format!("write {}", self.key), &self.scratch, error));
            kind.into()
        })
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            self.note(StoreError::Cancelled { key: self.key.clone() });
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
