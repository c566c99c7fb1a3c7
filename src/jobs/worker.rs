//! The worker pool: claims jobs and runs a `Handler` on each. How jobs are claimed and fenced is the
//! queue's; what work means is the handler's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, RwLock, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::job::{JobError, JobKind, JobResult};
use super::queue::{Queue, Wanted};
use crate::telemetry::metrics::{claim_answered, workers_started};

/// One attempt at one job.
mod attempt;
/// What a handler is given.
mod hand;
/// Whether an attempt gets on.
mod liveness;
/// Heartbeats of a process.
mod pulse;
/// Events on their way to the database.
mod sink;

pub use hand::{Attempt, Fence};
pub use liveness::Liveness;
pub use sink::EventSink;

use attempt::{ClaimedLease, attempt};
use pulse::Pulse;

/// After the shutdown the pool ends within this, whatever handlers and database do. More than the
/// handlers' grace and one patient call to the database.
const DRAIN: Duration = Duration::from_secs(20);

/// The answer of a claim may have been lost, or the claim may be made when nobody waits for it any more:
/// a statement lasts no longer (`database::connect`), and some seconds are for the way there.
const LINGERS: Duration = Duration::from_secs(40);

/// The work itself.
#[async_trait]
pub trait Handler: Send + Sync {
    /// The kinds of jobs that it can do.
    fn kinds(&self) -> Vec<JobKind>;

    /// Does what the job asks for. When the attempt's `cancel` fires it should return soon, with any
    /// error, and have left nothing half done; ten seconds later, and at the end of a lease that can't be
    /// extended, it is dropped at its next `await`.
    /// Work that blocks belongs on blocking threads. A panic fails the job.
    async fn run(&self, attempt: &Attempt) -> Result<JobResult, JobError>;
}

/// How a pool works.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Jobs worked on at a time, at least 1.
    pub workers: usize,
    /// How many of them may be of a kind; all, where nothing is said.
    pub slots: BTreeMap<JobKind, usize>,
    /// How long a worker that fell silent keeps its job.
    pub lease: Duration,
    /// How often to look for jobs that no notification told of.
    pub poll: Duration,
    /// When an attempt is given up because it doesn't get on.
    pub liveness: Liveness,
    /// Names this process in leases and events; unique among all that are running.
    pub worker_id: String,
}

/// The worker pool.
#[derive(Debug, Clone, Copy)]
pub struct WorkerPool;

impl WorkerPool {
    /// Starts the pool. When `shutdown` fires, handlers are stopped and their jobs given back; the
    /// returned task ends when that is done, 20 seconds later at the latest.
    pub fn start(
        queue: Queue,
        handler: Arc<dyn Handler>,
        settings: WorkerSettings,
        shutdown: CancellationToken,
    ) -> JoinHandle<()> {
        let slots = handler.kinds().into_iter().map(|kind| {
            let slots = settings.slots.get(&kind).copied().unwrap_or(usize::MAX);
            (kind, Arc::new(Semaphore::new(slots.clamp(1, Semaphore::MAX_PERMITS))))
        });
        let pool = Pool {
            slots: slots.collect(),
            workers: Arc::new(Semaphore::new(settings.workers.max(1))),
            alone: Arc::default(),
            attempts: TaskTracker::new(),
            ended: Arc::default(),
            pulse: Arc::new(Pulse::new(settings.lease / 3)),
            claiming: Mutex::default(),
            queue,
            handler,
            settings,
            shutdown,
        };
        workers_started(pool.settings.workers.max(1));
        tokio::spawn(async move { pool.work().await })
    }
}

struct Pool {
    queue: Queue,
    handler: Arc<dyn Handler>,
    settings: WorkerSettings,
    shutdown: CancellationToken,
    pulse: Arc<Pulse>,
    /// One claim at a time, until what it took is known to `pulse`. Until when one that was given up may
    /// yet take something.
    claiming: Mutex<Option<Instant>>,
    workers: Arc<Semaphore>,
    slots: BTreeMap<JobKind, Arc<Semaphore>>,
    /// Held for reading by ordinary attempts, and for writing by one at a job whose worker fell silent:
    /// if it takes the process with it, it takes no other job along.
    alone: Arc<RwLock<()>>,
    attempts: TaskTracker,
    /// An attempt has ended: there may be room for a kind that had none.
    ended: Arc<Notify>,
}

impl Pool {
    async fn work(&self) {
        // Beats go on while attempts come to their end.
        let (pulse, queue) = (self.pulse.clone(), self.queue.clone());
        let _beats = AbortOnDropHandle::new(tokio::spawn(async move { pulse.beat(&queue).await }));
        let work = Box::pin(async {
            tokio::join!(self.take_all(), self.take_suspects());
            self.attempts.close();
            self.attempts.wait().await;
        });
        let too_long = async {
            self.shutdown.cancelled().await;
            sleep(DRAIN).await;
        };
        tokio::select! {
            () = work => {}
            () = too_long => tracing::warn!(
                "the shutdown left jobs behind: their leases could not be released in time"
            ),
        }
    }

    /// Claims jobs, one after the other, while there is room, until the shutdown. A claim is never dropped
    /// half way: what it took would wait for its lease to end.
    async fn take_all(&self) {
        let mut wakes = self.queue.work_wakes();
        loop {
            let place = async {
                let worker = self.workers.clone().acquire_owned().await;
                (worker, self.alone.clone().read_owned().await)
            };
            let Some((Ok(worker), company)) = self.shutdown.run_until_cancelled(place).await else {
                return;
            };
            let (kinds, mut slots) = self.room();
            let Some(claim) = self.claim(&kinds, false).await else {
                drop((worker, company, slots));
                tokio::select! {
                    () = wakes.notified() => {}
                    () = sleep(self.settings.poll) => {}
                    () = self.ended.notified() => {}
                    () = self.shutdown.cancelled() => return,
                }
                continue;
            };
            let slot = slots.remove(&claim.lease.spec.kind());
            let (attempt, ended) = (self.attempt(claim), self.ended.clone());
            self.attempts.spawn(async move {
                attempt.await;
                drop((worker, company, slot));
                ended.notify_one();
            });
        }
    }

    /// Runs jobs whose worker fell silent, each when all others have ended. A process that has other work
    /// leaves them to one that has none, for as long as a lease; then it takes one, and lets nobody in
    /// until that one has had its turn, while other processes go on.
    async fn take_suspects(&self) {
        let mut waits_since = None;
        loop {
            self.take_suspect(&mut waits_since).await;
            let wait = sleep(self.settings.poll);
            if self.shutdown.run_until_cancelled(wait).await.is_none() {
                return;
            }
        }
    }

    /// Runs a job whose worker fell silent, if it is this process's turn.
    async fn take_suspect(&self, waits_since: &mut Option<Instant>) {
        let kinds = self.handler.kinds();
        let mut alone = self.alone.clone().try_write_owned().ok();
        if alone.is_none() {
            if !self.suspect_waits(&kinds).await {
                *waits_since = None;
                return;
            }
            let since = *waits_since.get_or_insert_with(Instant::now);
            if since.elapsed() < self.settings.lease {
                return;
            }
        }
        *waits_since = None;
        let Some(claim) = self.claim(&kinds, true).await else { return };
        if alone.is_none() {
            // When the shutdown comes the attempt gives the job back.
            alone = self.shutdown.run_until_cancelled(self.alone.clone().write_owned()).await;
        }
        // Like the others it goes on for a while when the shutdown comes. A panic is told by the panic
        // hook, and its lease ends by itself.
        let _ = self.attempts.spawn(self.attempt(claim)).await;
        drop(alone);
    }

    async fn suspect_waits(&self, kinds: &[JobKind]) -> bool {
        self.queue.suspect_waits(kinds).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "no look for suspect jobs; trying on");
            false
        })
    }

    /// The kinds that there is room for, with a slot of each.
    fn room(&self) -> (Vec<JobKind>, BTreeMap<JobKind, OwnedSemaphorePermit>) {
        let free = |(kind, slots): (&JobKind, &Arc<Semaphore>)| {
            Some((*kind, slots.clone().try_acquire_owned().ok()?))
        };
        let slots: BTreeMap<_, _> = self.slots.iter().filter_map(free).collect();
        (slots.keys().copied().collect(), slots)
    }

    async fn claim(&self, kinds: &[JobKind], suspects: bool) -> Option<ClaimedLease> {
        let WorkerSettings { worker_id, lease, .. } = &self.settings;
        let wanted = Wanted { worker_id, lasts: *lease, kinds, suspects };
        let mut in_doubt = self.claiming.lock().await;
        if in_doubt.is_some_and(|until| Instant::now() < until) {
            // What it took would wait for the lease to end, and count as lost with its worker.
            let ours = self.pulse.claims();
            if let Err(error) = self.queue.release_all_but(worker_id, &ours).await {
                tracing::debug!(%error, "what a lost claim took waits for its lease to end");
            }
        }
        // The lease ends no later here than in the database, however long the answer takes.
        let asked = Instant::now();
        let answer = self.queue.claim(&wanted).await;
        claim_answered(
            match &answer {
                Ok(Some(_)) => "claimed",
                Ok(None) => "none",
                Err(_) => "failed",
            },
            asked.elapsed(),
        );
        match answer {
            Ok(lease) => lease.map(|lease| ClaimedLease::keep(lease, &self.pulse, asked)),
            Err(error) => {
                tracing::warn!(%error, "no job can be claimed; trying on");
                *in_doubt = Some(Instant::now() + LINGERS);
                None
            }
        }
    }

    fn attempt(&self, claim: ClaimedLease) -> impl Future<Output = ()> + Send + 'static {
        let (queue, handler, pulse) =
            (self.queue.clone(), self.handler.clone(), self.pulse.clone());
        attempt(queue, handler, claim, pulse, self.settings.liveness, self.shutdown.clone())
    }
}
