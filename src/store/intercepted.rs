//! Somebody stands between a store and who uses it: to measure what it does, or to let it fail.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tracing::field::Empty;
use tracing::{Instrument as _, Span};

use super::{
    Commit, CommitReport, Key, Leftover, ListedObject, NewObject, ObjectStat, ObjectStore,
    Overwrite, Put, StoreError,
};
use crate::digest::Digest;
use crate::error::Classify as _;

/// What a store is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// [`ObjectStore::put`].
    Put,
    /// [`ObjectStore::create`].
    Create,
    /// [`Commit::finish`].
    Finish,
    /// [`ObjectStore::stat`].
    Stat,
    /// [`ObjectStore::read`].
    Read,
    /// [`ObjectStore::copy`].
    Copy,
    /// [`ObjectStore::presign`].
    Presign,
    /// [`ObjectStore::list`].
    List,
    /// [`ObjectStore::touch`].
    Touch,
    /// [`ObjectStore::leftovers`] and [`ObjectStore::remove_leftover`].
    Leftovers,
    /// [`ObjectStore::delete`].
    Delete,
    /// [`ObjectStore::check`].
    Check,
}

impl Operation {
    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Create => "create",
            Self::Finish => "finish",
            Self::Stat => "stat",
            Self::Read => "read",
            Self::Copy => "copy",
            Self::Presign => "presign",
            Self::List => "list",
            Self::Touch => "touch",
            Self::Leftovers => "leftovers",
            Self::Delete => "delete",
            Self::Check => "check",
        }
    }
}

/// Who stands between.
pub trait Interceptor: Send + Sync + std::fmt::Debug {
    /// Asked before the store is; an error takes the place of the store's answer.
    fn before(&self, operation: Operation) -> impl Future<Output = Result<(), StoreError>> + Send {
        let _ = operation;
        std::future::ready(Ok(()))
    }

    /// Told how it ended, and what it took.
    fn after(&self, operation: Operation, error: Option<&StoreError>, took: Duration) {
        let _ = (operation, error, took);
    }
}

/// A store behind an [`Interceptor`].
#[derive(Debug, Clone)]
pub struct InterceptedStore<I> {
    store: Arc<dyn ObjectStore>,
    interceptor: Arc<I>,
}

impl<I: Interceptor> InterceptedStore<I> {
    /// Puts `interceptor` before `store`.
    pub fn new(store: Arc<dyn ObjectStore>, interceptor: Arc<I>) -> Self {
        Self { store, interceptor }
    }
}

/// Of what belongs to a trace.
fn span(operation: Operation) -> Span {
    if Span::current().is_none() {
        return Span::none();
    }
    let name = operation.name();
    tracing::debug_span!("store request", otel.kind = "client", store.operation = name, error.type = Empty)
}

/// Does what is to be done, unless the interceptor has another mind.
async fn intercept<T>(
    interceptor: &impl Interceptor,
    operation: Operation,
    work: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let span = span(operation);
    let started = Instant::now();
    let done = match interceptor.before(operation).await {
        Ok(()) => work.instrument(span.clone()).await,
        Err(error) => Err(error),
    };
    if let Err(error) = &done {
        span.record("error.type", error.code());
    }
    interceptor.after(operation, done.as_ref().err(), started.elapsed());
    done
}

#[async_trait]
impl<I: Interceptor + 'static> ObjectStore for InterceptedStore<I> {
    fn describe(&self) -> String {
        self.store.describe()
    }

    async fn put(
        &self,
        key: &Key,
        file: &Path,
        digest: Digest,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Put, StoreError> {
        let work = self.store.put(key, file, digest, overwrite, cancel);
        intercept(&*self.interceptor, Operation::Put, work).await
    }

    async fn create(&self, key: &Key, cancel: &CancellationToken) -> Result<NewObject, StoreError> {
        let work = self.store.create(key, cancel);
        let NewObject { sink, commit } =
            intercept(&*self.interceptor, Operation::Create, work).await?;
        let interceptor = self.interceptor.clone();
        Ok(NewObject { sink, commit: Box::new(InterceptedCommit { commit, interceptor }) })
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectStat>, StoreError> {
        intercept(&*self.interceptor, Operation::Stat, self.store.stat(key)).await
    }

    async fn read(&self, key: &Key, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        intercept(&*self.interceptor, Operation::Read, self.store.read(key, offset, len)).await
    }

    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        overwrite: Overwrite,
    ) -> Result<CommitReport, StoreError> {
        let work = self.store.copy(from, to, overwrite);
        intercept(&*self.interceptor, Operation::Copy, work).await
    }

    async fn presign(&self, key: &Key, lifetime: Duration) -> Result<Option<String>, StoreError> {
        let work = self.store.presign(key, lifetime);
        intercept(&*self.interceptor, Operation::Presign, work).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let work = self.store.list(prefix, after, limit);
        intercept(&*self.interceptor, Operation::List, work).await
    }

    async fn touch(&self, key: &Key, age: Duration) -> Result<bool, StoreError> {
        intercept(&*self.interceptor, Operation::Touch, self.store.touch(key, age)).await
    }

    async fn leftovers(&self, age: Duration) -> Result<Vec<Leftover>, StoreError> {
        intercept(&*self.interceptor, Operation::Leftovers, self.store.leftovers(age)).await
    }

    async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError> {
        let work = self.store.remove_leftover(leftover);
        intercept(&*self.interceptor, Operation::Leftovers, work).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        intercept(&*self.interceptor, Operation::Delete, self.store.delete(key)).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        intercept(&*self.interceptor, Operation::Check, self.store.check()).await
    }
}

struct InterceptedCommit<I> {
    commit: Box<dyn Commit>,
    interceptor: Arc<I>,
}

#[async_trait]
impl<I: Interceptor + 'static> Commit for InterceptedCommit<I> {
    async fn finish(
        self: Box<Self>,
        head: &[u8],
        overwrite: Overwrite,
    ) -> Result<CommitReport, StoreError> {
        let Self { commit, interceptor } = *self;
        intercept(&*interceptor, Operation::Finish, commit.finish(head, overwrite)).await
    }

    async fn abort(self: Box<Self>) -> Option<StoreError> {
        self.commit.abort().await
    }
}

/// Lets one operation fail so many times, as a store does that can't be reached; then never again.
#[derive(Debug)]
pub struct Failures {
    operation: Operation,
    left: AtomicUsize,
}

impl Failures {
    /// The next `times` calls of `operation` fail.
    pub fn new(operation: Operation, times: usize) -> Self {
        Self { operation, left: AtomicUsize::new(times) }
    }

    /// How many failures are still to come.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::SeqCst)
    }
}

impl Interceptor for Failures {
    async fn before(&self, operation: Operation) -> Result<(), StoreError> {
        let fewer = |left: usize| left.checked_sub(1);
        if operation != self.operation
            || self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fewer).is_err()
        {
            return Ok(());
        }
        Err(StoreError::Unavailable {
            store: "a store that was told to fail".to_owned(),
            action: operation.name().to_owned(),
            reason: "it was told to".to_owned(),
        })
    }
}
