//! The worker pool with a handler that does as it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use clipwright::jobs::job::{EventKind, Job, JobError, JobKind, JobResult, JobState};
use clipwright::jobs::pull::REGISTRY_SECRET;
use clipwright::jobs::queue::{NewJob, Queue};
use clipwright::jobs::worker::{Attempt, Handler, Liveness, WorkerPool, WorkerSettings};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::harness::{Fixture, LEASE, error, new_job, recorded, result_for, warning, within};

/// What the handler does with every job.
#[derive(Clone, Copy)]
pub(crate) enum Deed {
    Succeed,
    /// With a result of several MiB.
    SucceedAtLength,
    Fail,
    Panic,
    /// Waits for a permit of `go` or for the cancel token.
    Wait,
    /// Doesn't stop when it is told to; `stopped` says when it was dropped.
    Deaf,
    Chatter,
}

struct Dropped<'a>(&'a Notify);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

pub(crate) struct Fake {
    deed: Deed,
    pub(crate) started: Notify,
    /// The handler was told to stop.
    pub(crate) stopped: Notify,
    pub(crate) go: Semaphore,
    running: AtomicUsize,
    most: AtomicUsize,
    credentials: std::sync::Mutex<Option<String>>,
}

impl Fake {
    pub(crate) fn new(deed: Deed) -> Arc<Self> {
        Arc::new(Self {
            deed,
            started: Notify::new(),
            stopped: Notify::new(),
            go: Semaphore::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            credentials: std::sync::Mutex::default(),
        })
    }
}

#[async_trait]
impl Handler for Fake {
    fn kinds(&self) -> Vec<JobKind> {
        JobKind::ALL.to_vec()
    }

    async fn run(&self, attempt: &Attempt) -> Result<JobResult, JobError> {
        let (job, events, cancel) = (attempt.job(), &attempt.events, &attempt.cancel);
        let secret = attempt.secrets().get(REGISTRY_SECRET);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        *self.credentials.lock().unwrap() = secret.map(|c| c.expose_secret().to_owned());
        self.started.notify_one();
        let done = match self.deed {
            Deed::Succeed => Ok(result_for(job)),
            Deed::SucceedAtLength => {
                let mut result = result_for(job);
                result.summary.warnings = vec!["w".repeat(1 << 20); 3];
                Ok(result)
            }
            Deed::Fail => Err(error("image_not_found", false)),
            Deed::Panic => panic!("as told"),
            Deed::Wait => tokio::select! {
                go = self.go.acquire() => { go.unwrap().forget(); Ok(result_for(job)) }
                () = cancel.cancelled() => {
                    self.stopped.notify_one();
                    Err(error("stopped", false))
                }
            },
            Deed::Deaf => {
                let _dropped = Dropped(&self.stopped);
                std::future::pending().await
            }
            Deed::Chatter => {
                for n in 0..500 {
                    events.send(progress(n));
                    events.send(EventKind::Cancelled);
                    if n % 100 == 0 {
                        events.send(warning(&n.to_string()));
                    }
                }
                Ok(result_for(job))
            }
        };
        self.running.fetch_sub(1, Ordering::SeqCst);
        done
    }
}

fn progress(bytes_done: u64) -> EventKind {
    EventKind::Progress {
        layers_done: 0,
        layers_cached: 0,
        layers_total: 1,
        bytes_done,
        bytes_total: 500,
    }
}

pub(crate) struct Pool {
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Pool {
    pub(crate) fn start(queue: &Queue, handler: &Arc<Fake>, workers: usize) -> Self {
        Self::with_lease(queue, handler, workers, LEASE)
    }

    pub(crate) fn with_lease(
        queue: &Queue,
        handler: &Arc<Fake>,
        workers: usize,
        lease: Duration,
    ) -> Self {
        Self::with(queue, handler, |settings| WorkerSettings { workers, lease, ..settings })
    }

    fn with(
        queue: &Queue,
        handler: &Arc<Fake>,
        set: impl FnOnce(WorkerSettings) -> WorkerSettings,
    ) -> Self {
        let shutdown = CancellationToken::new();
        let settings = WorkerSettings {
            workers: 4,
            slots: BTreeMap::default(),
            lease: LEASE,
            poll: Duration::from_millis(50),
            liveness: Liveness::default(),
            worker_id: "w".to_owned(),
        };
        let task =
            WorkerPool::start(queue.clone(), handler.clone(), set(settings), shutdown.clone());
        Self { task, shutdown }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        within(self.task).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_worked_off_so_many_at_a_time() {
    let f = Fixture::new().await;
    let handler = Fake::new(Deed::Wait);
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(f.submit(n).await);
    }
    let pool = Pool::start(&f.queue, &handler, 3);
    within(async {
        while handler.running.load(Ordering::SeqCst) < 3 {
            handler.started.notified().await;
        }
    })
    .await;
    handler.go.add_permits(7);
    for id in ids {
        f.until(id, |job| job.state == JobState::Succeeded).await;
        assert_eq!(f.story(id).await, ["queued", "started", "succeeded"]);
    }
    assert_eq!(handler.most.load(Ordering::SeqCst), 3);
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_comes_later_is_taken_and_brings_its_credentials() {
    let f = Fixture::new().await;
    let handler = Fake::new(Deed::Succeed);
    let pool = Pool::start(&f.queue, &handler, 2);
    let secrets = [(REGISTRY_SECRET.to_owned(), SecretString::from("u:p"))].into();
    let new = NewJob { secrets, ..new_job(1) };
    let id = f.queue.submit(new).await.unwrap().job.id;
    f.until(id, |job| job.state == JobState::Succeeded).await;
    assert_eq!(handler.credentials.lock().unwrap().as_deref(), Some("u:p"));
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_and_panic_fail_the_job_and_not_the_worker() {
    for (deed, code) in [(Deed::Fail, "image_not_found"), (Deed::Panic, "internal")] {
        let f = Fixture::new().await;
        let pool = Pool::start(&f.queue, &Fake::new(deed), 1);
        for n in 0..2 {
            let id = f.submit(n).await;
            let job = f.until(id, Job::is_final).await;
            let error = job.error.unwrap().read().unwrap();
            assert_eq!((job.state, error.code.as_str()), (JobState::Failed, code));
            assert_eq!(f.story(id).await, ["queued", "started", "failed"]);
        }
        pool.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_stopped_when_somebody_wants_that() {
    let f = Fixture::new().await;
    let handler = Fake::new(Deed::Wait);
    let pool = Pool::start(&f.queue, &handler, 1);
    let id = f.submit(1).await;
    within(handler.started.notified()).await;
    f.queue.cancel(id).await.unwrap();
    f.until(id, |job| job.state == JobState::Cancelled).await;
    assert_eq!(f.story(id).await, ["queued", "started", "cancel_requested", "cancelled"]);
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_lost_its_lease_stops_and_writes_nothing() {
    let f = Fixture::new().await;
    let handler = Fake::new(Deed::Wait);
    let pool = Pool::with_lease(&f.queue, &handler, 1, Duration::from_secs(3));
    let id = f.submit(1).await;
    within(handler.started.notified()).await;
    f.sql("UPDATE live_job SET worker_id = 'thief', fence = fence + 1").await;
    within(async {
        while handler.running.load(Ordering::SeqCst) > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    pool.stop().await;
    assert_eq!(f.story(id).await, ["queued", "started"]);
    assert_eq!(f.get(id).await.state, JobState::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_left_runs_when_nothing_else_does() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    f.claim("dead").await.unwrap();
    f.let_time_pass().await;
    assert_eq!(f.reap().await, 1);
    let handler = Fake::new(Deed::Wait);
    let pool = Pool::start(&f.queue, &handler, 4);
    within(handler.started.notified()).await;
    let innocent = f.submit(2).await;
    handler.go.add_permits(1);
    let job = f.until(id, |job| job.state == JobState::Succeeded).await;
    assert_eq!((job.attempt, job.losses), (2, 1));
    handler.go.add_permits(1);
    f.until(innocent, |job| job.state == JobState::Succeeded).await;
    assert_eq!(handler.most.load(Ordering::SeqCst), 1, "never beside each other");
    pool.stop().await;
}

/// The database was so slow that the claim was made when nobody waited for it any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_claim_takes_that_was_given_up_is_found() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    f.sql(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN PERFORM pg_advisory_xact_lock_shared(7); RETURN NEW; END $$;
         CREATE TRIGGER dawdle BEFORE UPDATE OF worker_id ON live_job
         FOR EACH ROW WHEN (NEW.worker_id IS NOT NULL) EXECUTE FUNCTION dawdle()",
    )
    .await;
    let mut holding = f.database.pool().begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(7)").execute(&mut *holding).await.unwrap();
    let pool = Pool::start(&f.queue, &Fake::new(Deed::Succeed), 1);
    // It was looked for, when it could not be found yet.
    let looked = "SELECT EXISTS (SELECT FROM pg_stat_activity
                                 WHERE query LIKE 'WITH held AS%fence <> ALL%'
                                   AND datname = current_database())";
    within(async {
        while !sqlx::query_scalar::<_, bool>(looked).fetch_one(f.database.pool()).await.unwrap() {}
    })
    .await;
    holding.rollback().await.unwrap();
    let job = f.until(id, |job| job.state == JobState::Succeeded).await;
    assert_eq!((job.attempt, job.losses), (1, 0));
    pool.stop().await;
}

/// Who has other work goes on with it, and leaves what a dead worker left to who has none.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_left_is_done_by_who_is_idle() {
    let f = Fixture::new().await;
    let left = f.submit(0).await;
    f.claim("dead").await.unwrap();
    f.let_time_pass().await;
    f.sql("UPDATE live_job SET due_at = now() + interval '1 hour'").await;
    let busy = Fake::new(Deed::Wait);
    let pool = Pool::start(&f.queue, &busy, 1000);
    let long = f.submit(1).await;
    within(busy.started.notified()).await;
    assert_eq!(f.reap().await, 1);
    f.sql("UPDATE live_job SET due_at = now() WHERE suspect").await;
    for n in 2..10 {
        let id = f.submit(n).await;
        f.until(id, |job| job.state == JobState::Running).await;
    }
    assert_eq!(f.get(left).await.state, JobState::Queued);
    let other = Pool::start(&f.queue, &Fake::new(Deed::Succeed), 1);
    f.until(left, |job| job.state == JobState::Succeeded).await;
    other.stop().await;
    assert_eq!(f.get(long).await.state, JobState::Running);
    pool.stop().await;
}

/// Where nobody is idle, one lets nobody in until it has done it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_worker_left_is_done_by_who_is_busy_if_it_must() {
    let f = Fixture::new().await;
    let left = f.submit(0).await;
    f.claim("dead").await.unwrap();
    f.let_time_pass().await;
    f.sql("UPDATE live_job SET due_at = now() + interval '1 hour'").await;
    let busy = Fake::new(Deed::Wait);
    let pool = Pool::with_lease(&f.queue, &busy, 1000, Duration::from_secs(2));
    let long = f.submit(1).await;
    within(busy.started.notified()).await;
    assert_eq!(f.reap().await, 1);
    f.sql("UPDATE live_job SET due_at = now() WHERE suspect").await;
    f.until(left, |job| job.state == JobState::Running).await;
    let later = f.submit(2).await;
    busy.go.add_permits(1);
    f.until(long, |job| job.state == JobState::Succeeded).await;
    within(busy.started.notified()).await;
    busy.go.add_permits(1);
    f.until(left, |job| job.state == JobState::Succeeded).await;
    busy.go.add_permits(1);
    f.until(later, |job| job.state == JobState::Succeeded).await;
    assert!(f.get(left).await.finished_at <= f.get(later).await.started_at);
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_takes_no_more_than_its_slots() {
    let f = Fixture::new().await;
    let handler = Fake::new(Deed::Wait);
    let slots = BTreeMap::from([(JobKind::Pull, 1)]);
    let pool = Pool::with(&f.queue, &handler, |settings| WorkerSettings { slots, ..settings });
    let ids = [f.submit(1).await, f.submit(2).await, f.submit(3).await];
    handler.go.add_permits(3);
    for id in ids {
        f.until(id, |job| job.state == JobState::Succeeded).await;
    }
    assert_eq!(handler.most.load(Ordering::SeqCst), 1);
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_does_not_get_on_is_given_up() {
    let f = Fixture::new().await;
    let handler = Fake::new(Deed::Wait);
    let liveness = Liveness { stall: Duration::from_millis(100), ..Liveness::default() };
    let pool = Pool::with(&f.queue, &handler, |settings| WorkerSettings { liveness, ..settings });
    let id = f.submit(1).await;
    let job = f.until(id, |job| job.error.is_some()).await;
    assert_eq!(job.error.unwrap().read().unwrap().code, "stalled");
    assert_eq!(f.story(id).await[..3], ["queued", "started", "retrying"]);
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_the_database_refuses_fails_the_job_with_the_reason() {
    let f = Fixture::new().await;
    let pool = Pool::start(&f.queue, &Fake::new(Deed::SucceedAtLength), 1);
    let id = f.submit(1).await;
    let job = f.until(id, Job::is_final).await;
    let error = job.error.unwrap().read().unwrap();
    assert_eq!((job.state, error.code.as_str()), (JobState::Failed, "database_refused"));
    assert!(error.message.contains("expected at most"), "{}", error.message);
    assert_eq!(f.story(id).await, ["queued", "started", "failed"]);
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_job_keeps_a_short_lease() {
    let f = Fixture::new().await;
    let handler = Fake::new(Deed::Wait);
    let lease = Duration::from_secs(5);
    let pool = Pool::with_lease(&f.queue, &handler, 1, lease);
    let id = f.submit(1).await;
    within(handler.started.notified()).await;
    let expires = async || -> chrono::DateTime<chrono::Utc> {
        let expires = sqlx::query_scalar("SELECT lease_expires_at FROM live_job");
        expires.fetch_one(f.database.pool()).await.unwrap()
    };
    let first = expires().await;
    within(async {
        while expires().await <= first {
            tokio::task::yield_now().await;
        }
    })
    .await;
    handler.go.add_permits(1);
    assert_eq!(f.until(id, Job::is_final).await.attempt, 1);
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shutdown_gives_jobs_back() {
    let f = Fixture::new().await;
    let handler = Fake::new(Deed::Wait);
    let pool = Pool::start(&f.queue, &handler, 2);
    let ids = [f.submit(1).await, f.submit(2).await, f.submit(3).await];
    within(handler.started.notified()).await;
    pool.stop().await;
    for id in ids {
        let job = f.get(id).await;
        assert_eq!((job.state, job.attempt), (JobState::Queued, 0));
    }
    let pool = Pool::start(&f.queue, &Fake::new(Deed::Succeed), 1);
    for id in ids {
        f.until(id, |job| job.state == JobState::Succeeded).await;
    }
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chatter_is_thinned_and_warnings_are_not() {
    let f = Fixture::new().await;
    let pool = Pool::start(&f.queue, &Fake::new(Deed::Chatter), 1);
    let id = f.submit(1).await;
    f.until(id, |job| job.state == JobState::Succeeded).await;
    pool.stop().await;
    f.story(id).await;
    let events = f.events(id).await;
    let warnings: Vec<_> =
        events.iter().filter(|e| e.name() == "warning").map(|e| e.kind.clone()).collect();
    let expected = ["0", "100", "200", "300", "400"].map(|text| recorded(&warning(text)));
    assert_eq!(warnings, expected);
    let told: Vec<_> = events.iter().filter(|e| e.name() == "progress").collect();
    assert!((1..100).contains(&told.len()), "{}", told.len());
    assert_eq!(told.last().unwrap().kind, recorded(&progress(499)));
}
