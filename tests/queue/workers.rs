//! The worker pool with a handler that does as it is told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use clipwright::jobs::job::{EventKind, Job, JobError, JobResult, JobState};
use clipwright::jobs::queue::{NewJob, Queue};
use clipwright::jobs::worker::{EventSink, Handler, WorkerPool, WorkerSettings};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::harness::{Fixture, LEASE, error, name, new_job, result_for, warning, within};

/// What the handler does with every job.
#[derive(Clone, Copy)]
pub(crate) enum Deed {
    Succeed,
    Fail,
    Panic,
    /// Waits for a permit of `go` or for the cancel token.
    Wait,
    Chatter,
}

pub(crate) struct Fake {
    deed: Deed,
    pub(crate) started: Notify,
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
            go: Semaphore::new(0),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            credentials: std::sync::Mutex::default(),
        })
    }
}

#[async_trait]
impl Handler for Fake {
    async fn run(
        &self,
        job: &Job,
        credentials: Option<SecretString>,
        events: &EventSink,
        cancel: CancellationToken,
    ) -> Result<JobResult, JobError> {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        *self.credentials.lock().unwrap() = credentials.map(|c| c.expose_secret().to_owned());
        self.started.notify_one();
        let done = match self.deed {
            Deed::Succeed => Ok(result_for(job)),
            Deed::Fail => Err(error("image_not_found", false)),
            Deed::Panic => panic!("as told"),
            Deed::Wait => tokio::select! {
                go = self.go.acquire() => { go.unwrap().forget(); Ok(result_for(job)) }
                () = cancel.cancelled() => Err(error("stopped", false)),
            },
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

    fn with_lease(queue: &Queue, handler: &Arc<Fake>, workers: usize, lease: Duration) -> Self {
        let shutdown = CancellationToken::new();
        let settings = WorkerSettings {
            workers,
            lease,
            poll: Duration::from_millis(50),
            worker_id: "w".to_owned(),
        };
        let task = WorkerPool::start(queue.clone(), handler.clone(), settings, shutdown.clone());
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
    let new = NewJob { credentials: Some("u:p".into()), ..new_job(1) };
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
            let job = f.until(id, |job| job.state.is_final()).await;
            assert_eq!((job.state, job.error.unwrap().code.as_str()), (JobState::Failed, code));
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
    let pool = Pool::start(&f.queue, &handler, 1);
    let id = f.submit(1).await;
    within(handler.started.notified()).await;
    f.sql("UPDATE job SET worker_id = 'thief', fence = fence + 1").await;
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
async fn the_pool_takes_back_what_a_dead_worker_left() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    f.claim("dead").await.unwrap();
    f.let_time_pass().await;
    let pool = Pool::start(&f.queue, &Fake::new(Deed::Succeed), 1);
    let job = f.until(id, |job| job.state == JobState::Succeeded).await;
    assert_eq!(job.attempt, 2);
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
        let expires = sqlx::query_scalar("SELECT lease_expires_at FROM job");
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
    assert_eq!(f.until(id, |job| job.state.is_final()).await.attempt, 1);
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
        events.iter().filter(|e| name(&e.kind) == "warning").map(|e| e.kind.clone()).collect();
    let expected = ["0", "100", "200", "300", "400"].map(warning);
    assert_eq!(warnings, expected);
    let told: Vec<_> = events.iter().filter(|e| name(&e.kind) == "progress").collect();
    assert!((1..100).contains(&told.len()), "{}", told.len());
    assert_eq!(told.last().unwrap().kind, progress(499));
}
