//! What is done beside the jobs: leases that ended, jobs that nobody took in time, rows that are too
//! old, rows that don't tell the truth. Any process may do any of it at any time, all of them at once
//! if it comes to that: each piece is idempotent, takes no input, and does a bounded amount at a time.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::queue::{Queue, QueueError};
use crate::publish::PublishError;
use crate::publish::archives::Stores;
use crate::retry::RetrySettings;
use crate::store::StoreError;
use crate::telemetry::metrics::put_right;

/// Jobs and idempotency keys whose time is over.
mod expiry;
/// Jobs that wait for their registry.
mod hosts;
/// Images whose archive is gone or another, and image ids that nobody has.
mod images;
/// Claims of layers by processes that died.
mod layer_claims;
/// Leases that ended.
mod leases;
/// What writers that died left in the store.
mod leftovers;
/// Jobs whose secrets nobody can open.
mod lost_keys;
/// Jobs that are too old.
mod retention;
/// Secrets of a former key.
mod secrets;
/// Webhooks whose time is over.
mod webhooks;

pub use expiry::Expiry;
pub use hosts::Hosts;
pub use images::Images;
pub use layer_claims::LayerClaims;
pub use leases::Leases;
pub use leftovers::Leftovers;
pub use lost_keys::LostKeys;
pub use retention::Retention;
pub use secrets::Secrets;
pub use webhooks::Webhooks;

/// Longer than a piece should ever take.
const LIMIT: Duration = Duration::from_mins(2);

/// One kind of thing that is put right.
#[async_trait]
pub trait Reconciler: Send + Sync {
    /// For the log.
    fn name(&self) -> &'static str;

    /// How long to wait after each time.
    fn every(&self) -> Duration;

    /// Puts some of it right: how much was. There may be more when it is [`BATCH`].
    async fn run(&self) -> Result<u64, ReconcileError>;
}

/// So much is done at a time at most.
pub const BATCH: u64 = 200;

/// Why something could not be put right.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The queue's database.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Archives.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// All there are, for one process.
pub struct Reconcilers(Vec<Box<dyn Reconciler>>);

impl fmt::Debug for Reconcilers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|reconciler| reconciler.name())).finish()
    }
}

impl Reconcilers {
    /// Those of a service: `lease` is how long a worker that fell silent keeps its job, `keep` for how
    /// long jobs that ended are kept.
    pub fn new(queue: &Queue, stores: &Stores, lease: Duration, keep: Duration) -> Self {
        let queue = || queue.clone();
        let mut all: Vec<Box<dyn Reconciler>> = vec![
            Box::new(Leases { queue: queue(), every: lease / 3 }),
            Box::new(Expiry { queue: queue() }),
            Box::new(Hosts { queue: queue() }),
            Box::new(Retention { queue: queue(), keep }),
            Box::new(Webhooks { queue: queue(), keep }),
            Box::new(LayerClaims { queue: queue() }),
            Box::new(Secrets { queue: queue() }),
            Box::new(LostKeys { queue: queue() }),
            Box::new(Images::new(queue(), stores.archives.clone())),
        ];
        all.extend(stores.swept.clone().map(|store| Box::new(Leftovers { store }) as _));
        Self(all)
    }

    /// And what a floor above puts right.
    #[must_use]
    pub fn with(mut self, one: impl Reconciler + 'static) -> Self {
        self.0.push(Box::new(one));
        self
    }

    /// Runs them until `shutdown`.
    pub fn start(self, shutdown: CancellationToken) -> JoinHandle<()> {
        tokio::spawn(async move {
            let all = self.0.iter().map(|reconciler| repeat(&**reconciler));
            shutdown.run_until_cancelled(futures_util::future::join_all(all)).await;
        })
    }
}

async fn repeat(reconciler: &dyn Reconciler) {
    let name = reconciler.name();
    let wait = RetrySettings::endless(reconciler.every(), reconciler.every());
    loop {
        // Whatever one stumbles over, the others have their work to do, and so have the jobs.
        let run = AssertUnwindSafe(reconciler.run()).catch_unwind();
        let done = match timeout(LIMIT, run).await {
            Ok(Ok(Ok(done))) => done,
            Ok(Ok(Err(error))) => {
                tracing::warn!(name, %error, "could not be put right; trying on");
                0
            }
            Ok(Err(_)) => {
                tracing::error!(name, "a defect ended a reconciler's run; trying on");
                0
            }
            Err(_) => {
                tracing::warn!(name, limit = ?LIMIT, "took too long to be put right; trying on");
                0
            }
        };
        if done > 0 {
            tracing::info!(name, done, "put right");
            put_right(name, done);
        }
        if done < BATCH {
            // With jitter, so that replicas don't come together.
            sleep(wait.delay(1)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts its runs; each of them panics if it is told so.
    struct Counter {
        runs: Arc<AtomicU32>,
        panics: bool,
    }

    #[async_trait]
    impl Reconciler for Counter {
        fn name(&self) -> &'static str {
            "counter"
        }

        fn every(&self) -> Duration {
            Duration::from_mins(1)
        }

        async fn run(&self) -> Result<u64, ReconcileError> {
            self.runs.fetch_add(1, Ordering::SeqCst);
            assert!(!self.panics, "as told");
            Ok(0)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_panics_stops_neither_itself_nor_others() {
        let runs = [(); 2].map(|()| Arc::<AtomicU32>::default());
        let all = runs.iter().zip([true, false]);
        let all = all.map(|(runs, panics)| Counter { runs: runs.clone(), panics });
        let all = all.map(|counter| Box::new(counter) as Box<dyn Reconciler>).collect();
        let shutdown = CancellationToken::new();
        let task = Reconcilers(all).start(shutdown.clone());
        sleep(Duration::from_mins(10)).await;
        shutdown.cancel();
        task.await.unwrap();
        for runs in runs {
            assert!(runs.load(Ordering::SeqCst) >= 10);
        }
    }
}
