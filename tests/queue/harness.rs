//! A queue over a database of its own, and what the tests say to it.

use std::time::Duration;

use clipwright::archive::{LayerPolicy, Summary};
use clipwright::digest::Digest;
use clipwright::error::Fault;
use clipwright::jobs::job::{
    ArchiveObject, EventKind, Job, JobError, JobEvent, JobKind, JobResult, JobSpec, PullSpec,
};
use clipwright::jobs::queue::{Lease, NewJob, Queue, QueueError, Vault, Wanted};
use clipwright::jobs::reconcile::{Leases, Reconciler as _};
use clipwright::jobs::recorded::Recorded;
use uuid::Uuid;

use crate::support::postgres::TestDatabase;

/// Long enough that nothing expires by itself; tests move the clock of a lease by SQL.
pub(crate) const LEASE: Duration = Duration::from_mins(10);
/// Whatever should happen has happened by then, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

pub(crate) struct Fixture {
    pub(crate) queue: Queue,
    pub(crate) database: TestDatabase,
}

impl Fixture {
    pub(crate) async fn new() -> Self {
        let database = TestDatabase::create().await;
        let vault = Vault::new(["ab".repeat(32).parse().unwrap()]);
        let queue = Queue::new(database.pool().clone(), vault);
        Self { queue, database }
    }

    /// Submits a job about image number `n`.
    pub(crate) async fn submit(&self, n: u64) -> Uuid {
        self.queue.submit(new_job(n)).await.unwrap().job.id
    }

    pub(crate) async fn claim(&self, worker: &str) -> Option<Lease> {
        claim(&self.queue, worker, false).await.unwrap()
    }

    /// Takes back what silent workers left: how many jobs it was.
    pub(crate) async fn reap(&self) -> u64 {
        Leases { queue: self.queue.clone(), every: LEASE }.run().await.unwrap()
    }

    /// The error of a job.
    pub(crate) async fn error(&self, id: Uuid) -> Option<JobError> {
        self.get(id).await.error.map(|error| error.read().unwrap())
    }

    pub(crate) async fn get(&self, id: Uuid) -> Job {
        self.queue.get(id).await.unwrap().unwrap()
    }

    pub(crate) async fn events(&self, id: Uuid) -> Vec<JobEvent> {
        self.queue.events(id, 0, 10_000).await.unwrap()
    }

    /// Names of a job's events, having checked that seqs have no gap and that exactly the last
    /// one is final if the job is.
    pub(crate) async fn story(&self, id: Uuid) -> Vec<String> {
        let job = self.get(id).await;
        let events = self.events(id).await;
        for (n, event) in (1..).zip(&events) {
            assert_eq!(event.seq, n, "{events:?}");
        }
        let is_final = |event: &JobEvent| {
            ["succeeded", "failed", "cancelled", "expired"].contains(&event.name())
        };
        let finals = events.iter().filter(|event| is_final(event)).count();
        assert_eq!(finals, usize::from(job.is_final()), "{events:?}");
        assert_eq!(is_final(events.last().unwrap()), job.is_final(), "{events:?}");
        events.iter().map(|event| event.name().to_owned()).collect()
    }

    pub(crate) async fn sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.database.pool()).await.unwrap();
    }

    /// Ends all leases and backoffs.
    pub(crate) async fn let_time_pass(&self) {
        self.sql(
            "UPDATE live_job SET due_at = now();
             UPDATE live_job SET lease_expires_at = now() WHERE worker_id IS NOT NULL",
        )
        .await;
    }

    /// Waits until some session waits for a lock that another one holds.
    pub(crate) async fn until_somebody_waits(&self) {
        let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'
                                      AND datname = current_database())";
        within(async {
            loop {
                let waits = sqlx::query_scalar(waiting).fetch_one(self.database.pool());
                if waits.await.unwrap() {
                    return;
                }
            }
        })
        .await;
    }

    /// Waits until the job is as `wanted`.
    pub(crate) async fn until(&self, id: Uuid, wanted: impl Fn(&Job) -> bool) -> Job {
        let mut wakes = self.queue.wakes(id);
        within(async {
            loop {
                let job = self.get(id).await;
                if wanted(&job) {
                    return job;
                }
                wakes.next().await;
            }
        })
        .await
    }
}

/// The value of a future that must come.
#[track_caller]
pub(crate) fn within<T>(future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let done = tokio::time::timeout(PATIENCE, future).await;
        done.unwrap_or_else(|_| panic!("nothing happened: {caller}"))
    }
}

/// Claims any job, or any whose worker fell silent.
pub(crate) async fn claim(
    queue: &Queue,
    worker_id: &str,
    suspects: bool,
) -> Result<Option<Lease>, QueueError> {
    queue.claim(&Wanted { worker_id, lasts: LEASE, kinds: &JobKind::ALL, suspects }).await
}

pub(crate) fn new_job(n: u64) -> NewJob {
    let spec = JobSpec::Pull(PullSpec {
        image_id: format!("{n:016x}").parse().unwrap(),
        source: "registry.example/app:1".parse().unwrap(),
        platform: "linux/amd64".parse().unwrap(),
        clip_version: None,
        layers: LayerPolicy::Refuse,
        fallback: None,
        force: false,
    });
    NewJob::new(spec)
}

pub(crate) fn result_for(job: &Job) -> JobResult {
    let digest = Digest::of(b"x");
    JobResult {
        image_id: job.spec.read().unwrap().image_id().clone(),
        summary: Summary {
            reference: format!("registry.example/app@{digest}"),
            manifest_digest: digest,
            platform: "linux/amd64".to_owned(),
            clip_version: 2,
            layers: Vec::new(),
            compressed_bytes: 1,
            plain_bytes: 2,
            files: 3,
            nodes: 4,
            warnings: Vec::new(),
        },
        archive: ArchiveObject { key: "x.rclip".to_owned(), size: 1, digest },
        migration: None,
        build: None,
        version: None,
        republished_from: None,
        seconds: 0.5,
    }
}

pub(crate) fn error(code: &str, transient: bool) -> JobError {
    JobError {
        code: code.to_owned(),
        message: format!("{code} happened"),
        fault: Fault::Upstream,
        transient,
        retry_after: None,
    }
}

pub(crate) fn warning(text: &str) -> EventKind {
    EventKind::Warning { message: text.to_owned() }
}

/// As it is recorded.
pub(crate) fn recorded(kind: &EventKind) -> Recorded<EventKind> {
    Recorded::of(kind).unwrap()
}
