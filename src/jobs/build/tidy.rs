//! What is put right beside builds: what builds of dead processes left in the storages, layers that are too
//! many, contexts that nobody uses.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::Contexts;
use crate::build::{BuildBackend, BuildError, Site, Storages};
use crate::jobs::reconcile::{ReconcileError, Reconciler};
use crate::local::io_error;

/// The storages of builds on this machine.
#[derive(Debug)]
pub struct TidyStorages {
    /// What builds.
    pub backend: Arc<dyn BuildBackend>,
    /// Where layers are kept.
    pub storages: Storages,
    /// Bytes that the layers of a workspace may take.
    pub most: u64,
    /// Where directories are made for a while.
    pub scratch: PathBuf,
    /// When each storage was used last that was measured: one that wasn't used since is as large as it was.
    pub measured: Mutex<BTreeMap<PathBuf, SystemTime>>,
}

impl TidyStorages {
    async fn tidy(&self, storage: &std::path::Path) -> Result<u64, BuildError> {
        let failed = io_error(format!("can't make a directory in {}", self.scratch.display()));
        let scratch = tempfile::tempdir_in(&self.scratch).map_err(failed)?;
        // Where somebody builds, it is put right when nobody does.
        let Some(site) = Site::open_alone(storage, scratch.path())? else { return Ok(0) };
        let used = site.last_used();
        let is_known = used.is_some() && self.lock().get(storage).copied() == used;
        let most = if is_known { u64::MAX } else { self.most };
        let done = self.backend.tidy(&site, most, &CancellationToken::new()).await?;
        if let Some(used) = used {
            self.lock().insert(storage.to_owned(), used);
        }
        Ok(done)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, SystemTime>> {
        // Nothing panics while it holds the lock.
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Reconciler for TidyStorages {
    fn name(&self) -> &'static str {
        "build storages"
    }

    fn every(&self) -> Duration {
        Duration::from_mins(2)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        let mut done = 0;
        for storage in self.storages.all() {
            match self.tidy(&storage).await {
                Ok(removed) => done += removed,
                Err(error) => {
                    tracing::warn!(storage = %storage.display(), %error, "a storage of builds is left as it is");
                }
            }
        }
        Ok(done)
    }
}

/// Contexts in the store.
#[derive(Debug)]
pub struct TidyContexts {
    /// The contexts.
    pub contexts: Contexts,
    /// For how long one is kept that nobody uses.
    pub keep: Duration,
}

#[async_trait]
impl Reconciler for TidyContexts {
    fn name(&self) -> &'static str {
        "contexts"
    }

    fn every(&self) -> Duration {
        Duration::from_hours(1)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        Ok(self.contexts.remove_old(self.keep).await?)
    }
}
