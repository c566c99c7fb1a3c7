//! Heartbeats: the leases of a process are extended together, by one statement. It brings back which
//! jobs are to be cancelled and which were taken away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::jobs::queue::{Heartbeat, Lease, Queue};
use crate::telemetry::metrics::leases_lost;

/// Heartbeats that somebody asked for come no closer together.
const GAP: Duration = Duration::from_millis(200);
/// How soon one that failed is made again.
const AGAIN: Duration = Duration::from_secs(1);

/// Why a handler was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    Cancelled,
    Lost,
    Shutdown,
    /// It did not get on.
    Stalled,
    /// It took too long in all.
    TimedOut,
}

/// Tells the handler to stop, and remembers the first reason.
#[derive(Debug, Clone, Default)]
pub(super) struct Brake {
    reason: Arc<OnceLock<Stop>>,
    pub(super) token: CancellationToken,
}

impl Brake {
    pub(super) fn pull(&self, stop: Stop) {
        self.reason.get_or_init(|| {
            if stop == Stop::Lost {
                leases_lost("worker", 1);
            }
            stop
        });
        self.token.cancel();
    }

    pub(super) fn reason(&self) -> Option<Stop> {
        self.reason.get().copied()
    }
}

/// So long before the end of a lease that can't be extended the brake is pulled: what is under way then
/// has the rest of the time to end.
pub(super) fn margin(lease: &Lease) -> Duration {
    lease.lasts / 3
}

/// The heartbeats of a process.
#[derive(Debug)]
pub(super) struct Pulse {
    every: Duration,
    held: Mutex<HashMap<i64, HeldLease>>,
    nudge: Notify,
}

#[derive(Debug, Clone)]
struct HeldLease {
    lease: Arc<Lease>,
    brake: Brake,
    /// When the lease ends, unless it is extended.
    ends: watch::Sender<Instant>,
}

impl Pulse {
    /// Extends all leases so often, as long as [`beat`](Self::beat) runs.
    pub(super) fn new(every: Duration) -> Self {
        let every = every.max(Duration::from_millis(1));
        Self { every, held: Mutex::default(), nudge: Notify::new() }
    }

    /// Keeps a lease alive until the guard is dropped, and pulls the brake when its job is to be
    /// cancelled, or before it may be another's.
    pub(super) fn keep(
        self: &Arc<Self>,
        lease: Arc<Lease>,
        brake: Brake,
        asked: Instant,
    ) -> KeptLease {
        let fence = lease.fence;
        let (ends, mut told) = watch::channel(asked + lease.lasts);
        let margin = margin(&lease);
        let held = HeldLease { lease, brake: brake.clone(), ends };
        self.lock().insert(fence, held);
        let watch = tokio::spawn(async move {
            loop {
                let deadline = *told.borrow_and_update() - margin;
                tokio::select! {
                    () = sleep_until(deadline) => return brake.pull(Stop::Lost),
                    changed = told.changed() => if changed.is_err() { return },
                }
            }
        });
        KeptLease { pulse: self.clone(), fence, _watch: AbortOnDropHandle::new(watch) }
    }

    /// Asks for a heartbeat soon: there is news of one of the jobs.
    pub(super) fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Jobs and claims that are kept alive.
    pub(super) fn claims(&self) -> Vec<(Uuid, i64)> {
        self.lock().values().map(|held| (held.lease.job.id, held.lease.fence)).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i64, HeldLease>> {
        // Nothing panics while it holds the lock.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on until it is dropped.
    pub(super) async fn beat(&self, queue: &Queue) {
        loop {
            if !self.beat_once(queue).await {
                sleep(AGAIN.min(self.every)).await;
                continue;
            }
            let next = Instant::now() + self.every;
            sleep(GAP.min(self.every)).await;
            tokio::select! {
                () = sleep_until(next) => {}
                () = self.nudge.notified() => {}
            }
        }
    }

    /// Whether the database answered.
    async fn beat_once(&self, queue: &Queue) -> bool {
        let held: Vec<HeldLease> = self.lock().values().cloned().collect();
        if held.is_empty() {
            return true;
        }
        // Counted from before the question was sent, so that it ends here no later than there.
        let asked = Instant::now();
        let leases: Vec<&Lease> = held.iter().map(|held| &*held.lease).collect();
        let answers = match queue.heartbeat(&leases).await {
            Ok(answers) => answers,
            Err(error) => {
                tracing::warn!(jobs = held.len(), %error, "a heartbeat failed");
                return false;
            }
        };
        for (held, answer) in held.iter().zip(answers) {
            match answer {
                Heartbeat::Held => {}
                Heartbeat::CancelRequested => held.brake.pull(Stop::Cancelled),
                Heartbeat::Lost => {
                    held.brake.pull(Stop::Lost);
                    continue;
                }
            }
            held.ends.send_replace(asked + held.lease.lasts);
        }
        true
    }
}

/// A lease that is kept alive.
#[derive(Debug)]
pub(super) struct KeptLease {
    pulse: Arc<Pulse>,
    fence: i64,
    _watch: AbortOnDropHandle<()>,
}

impl Drop for KeptLease {
    fn drop(&mut self) {
        self.pulse.lock().remove(&self.fence);
    }
}
