//! The queue's speed: `bench/queue.sh` starts a Postgres and runs it.
//!
//! Prints what a job costs with few and with many others waiting, and after a history, as ratios within
//! the same run: a claim must not depend on how many wait, nor on statistics that are out of date.
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clipwright::archive::LayerPolicy;
use clipwright::database::{Database, DatabaseSettings, Migrations};
use clipwright::error::Fault;
use clipwright::jobs::job::{JobError, JobKind, JobResult, JobSpec, PullSpec};
use clipwright::jobs::queue::{Lease, NewJob, Queue, Vault, Wanted};
use clipwright::jobs::worker::{Attempt, Handler, Liveness, WorkerPool, WorkerSettings};
use secrecy::SecretString;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

const ROUND: u32 = 300;
const LEASE: Duration = Duration::from_mins(10);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Ok(url) = std::env::var("DATABASE_URL") else {
        println!("no DATABASE_URL: bench/queue.sh sets one");
        return Ok(());
    };
    let settings = DatabaseSettings::Url(SecretString::from(url));
    let database = Database::start(&settings, Migrations::Apply, &CancellationToken::new()).await?;
    let bench = Bench { queue: Queue::new(database.work_pool().clone(), Vault::new([])) };
    let pool = database.pool();

    println!("{:<52} {:>9} {:>11} {:>8}", "figure", "value", "must", "reached");
    bench.round(0).await?;
    let fresh = bench.round(1).await?;
    println!("{:<52} {:>9.0}", "jobs a second, submitted, claimed and ended: fresh", fresh);
    let ratio = async |what: &str, number: u64, must: f64| -> anyhow::Result<()> {
        let rate = bench.round(number).await?;
        let reached = if rate / fresh >= must { "must" } else { "NO" };
        let figure = format!("the same, {what} / fresh");
        println!(
            "{figure:<52} {:>9.2} {:>11} {reached:>8}   {rate:.0} a second",
            rate / fresh,
            format!(">= {must}")
        );
        Ok(())
    };
    add(pool, 1 << 40, 1_000, true).await?;
    sqlx::raw_sql("ANALYZE").execute(pool).await?;
    ratio("1,000 waiting for a host", 2, 0.8).await?;
    add(pool, 2 << 40, 10_773, true).await?;
    ratio("10,773 more since the statistics", 3, 0.8).await?;
    add(pool, 3 << 40, 100_000, true).await?;
    ratio("100,000 more", 4, 0.7).await?;
    add(pool, 4 << 40, 1_000_000, false).await?;
    ratio("1,000,000 that ended", 5, 0.6).await?;

    let history = "1,000,000 that ended";
    under_load(&bench.queue, history).await?;
    latency(&bench.queue).await?;
    fairness(&bench, pool).await?;

    let leases = bench.hold(256).await?;
    let started = Instant::now();
    for _ in 0..20 {
        bench.queue.heartbeat(&leases.iter().collect::<Vec<_>>()).await?;
    }
    let beat = started.elapsed() / 20;
    println!("{:<52} {:>6.1} ms", "a heartbeat of 256 jobs", beat.as_secs_f64() * 1e3);
    database.stop().await;
    Ok(())
}

fn row(figure: &str, value: f64, unit: &str, must: &str, is_reached: bool) {
    let reached = if is_reached { "must" } else { "NO" };
    println!("{:<52} {:>9} {must:>11} {reached:>8}", figure, format!("{value:.1}{unit}"));
}

/// No-op jobs by four workers as fast as they go, and beside them 300 submits a second.
async fn under_load(queue: &Queue, history: &str) -> anyhow::Result<()> {
    const SECONDS: u32 = 10;
    const WORKERS: u64 = 4;
    let until = Instant::now() + Duration::from_secs(SECONDS.into());
    let workers = (0..WORKERS).map(|worker| {
        let bench = Bench { queue: queue.clone() };
        tokio::spawn(async move {
            let mut done = 0u32;
            while Instant::now() < until {
                bench.queue.submit(job((20 + worker) << 32 | u64::from(done))?).await?;
                let lease = bench.claim().await?;
                bench.queue.fail(&lease, &failure()).await?;
                done += 1;
            }
            anyhow::Ok(done)
        })
    });
    let workers: Vec<_> = workers.collect();
    let clients = queue.clone();
    let submits = tokio::spawn(async move {
        let mut every = tokio::time::interval(Duration::from_micros(3333));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut pending = Vec::new();
        for n in 0..300 * u64::from(SECONDS) {
            every.tick().await;
            let (queue, new) = (clients.clone(), job(30 << 32 | n)?);
            pending.push(tokio::spawn(async move {
                let started = Instant::now();
                queue.submit(new).await.map(|_| started.elapsed())
            }));
        }
        let mut took = Vec::new();
        for submit in pending {
            took.push(submit.await??);
        }
        anyhow::Ok(took)
    });
    let mut done = 0;
    for worker in workers {
        done += worker.await??;
    }
    let mut took = submits.await??;
    took.sort();
    let rate = f64::from(done) / f64::from(SECONDS);
    let figure = format!("jobs a second by {WORKERS} workers, {history}");
    row(&figure, rate, "", ">= 1000", rate >= 1000.0);
    let p99 = milliseconds(took[took.len() * 99 / 100]);
    row("submit at 300 a second meanwhile, p99", p99, " ms", "<= 25 ms", p99 <= 25.0);
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Says when it was given which job, and does nothing.
struct Stopwatch(tokio::sync::mpsc::UnboundedSender<Instant>);

#[async_trait::async_trait]
impl Handler for Stopwatch {
    fn kinds(&self) -> Vec<JobKind> {
        JobKind::ALL.to_vec()
    }

    async fn run(&self, _: &Attempt) -> Result<JobResult, JobError> {
        let _ = self.0.send(Instant::now());
        Err(failure())
    }
}

/// From when a job was accepted to when a worker that was idle has it.
async fn latency(queue: &Queue) -> anyhow::Result<()> {
    // What is left of the rows before is done first.
    let (send, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let settings = WorkerSettings {
        workers: 4,
        slots: std::collections::BTreeMap::new(),
        lease: LEASE,
        // So seldom that only a notification can be the reason.
        poll: Duration::from_secs(30),
        liveness: Liveness::default(),
        worker_id: "stopwatch".to_owned(),
    };
    let stop = CancellationToken::new();
    let pool = WorkerPool::start(queue.clone(), Arc::new(Stopwatch(send)), settings, stop.clone());
    while tokio::time::timeout(Duration::from_secs(1), begun.recv()).await.is_ok() {}
    let mut took = Vec::new();
    for n in 0..300u64 {
        queue.submit(job(40 << 32 | n)?).await?;
        let accepted = Instant::now();
        let begun = begun.recv().await.context("the workers run")?;
        took.push(begun.saturating_duration_since(accepted));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stop.cancel();
    pool.await?;
    took.sort();
    let [p50, p99] = [50, 99].map(|share| milliseconds(took[took.len() * share / 100]));
    row("from accepted to begun, p50", p50, " ms", "<= 10 ms", p50 <= 10.0);
    row("from accepted to begun, p99", p99, " ms", "<= 50 ms", p99 <= 50.0);
    Ok(())
}

/// Claims until the single job of a workspace is served beside another's 10,000.
async fn fairness(bench: &Bench, pool: &PgPool) -> anyhow::Result<()> {
    sqlx::raw_sql("INSERT INTO workspace (id) VALUES ('single')").execute(pool).await?;
    for n in 0..10_000u64 {
        bench.queue.submit(job(50 << 32 | n)?).await?;
    }
    let single = NewJob { workspace: "single".parse()?, ..job(60 << 32)? };
    let single = bench.queue.submit(single).await?.job.id;
    let mut claims = 1u32;
    while bench.claim().await?.job.id != single {
        claims += 1;
    }
    row("claims until a single job beside 10,000", f64::from(claims), "", "<= 8", claims <= 8);
    Ok(())
}

struct Bench {
    queue: Queue,
}

impl Bench {
    /// Jobs a second that are submitted, claimed and ended one after the other.
    async fn round(&self, number: u64) -> anyhow::Result<f64> {
        let started = Instant::now();
        for n in 0..ROUND {
            self.queue.submit(job(number << 32 | u64::from(n))?).await?;
            let lease = self.claim().await?;
            self.queue.fail(&lease, &failure()).await?;
        }
        Ok(f64::from(ROUND) / started.elapsed().as_secs_f64())
    }

    async fn hold(&self, jobs: u64) -> anyhow::Result<Vec<Lease>> {
        let mut leases = Vec::new();
        for n in 0..jobs {
            self.queue.submit(job(9 << 32 | n)?).await?;
            leases.push(self.claim().await?);
        }
        Ok(leases)
    }

    async fn claim(&self) -> anyhow::Result<Lease> {
        let kinds = JobKind::ALL;
        let wanted = Wanted { worker_id: "bench", lasts: LEASE, kinds: &kinds, suspects: false };
        self.queue.claim(&wanted).await?.context("there is a job to claim")
    }
}

fn job(n: u64) -> anyhow::Result<NewJob> {
    Ok(NewJob::new(JobSpec::Pull(PullSpec {
        image_id: format!("{n:016x}").parse()?,
        source: "registry.example/app:1".parse()?,
        platform: "linux/amd64".parse()?,
        clip_version: None,
        layers: LayerPolicy::Refuse,
        fallback: None,
        force: false,
    })))
}

fn failure() -> JobError {
    JobError {
        code: "bench".to_owned(),
        message: "it is measured, not done".to_owned(),
        fault: Fault::User,
        transient: false,
        retry_after: None,
    }
}

/// Jobs that wait for an hour, or that ended: rows as a service leaves them.
async fn add(pool: &PgPool, from: i64, count: i64, live: bool) -> anyhow::Result<()> {
    let state = if live { "queued" } else { "failed" };
    let sql = format!(
        "SET statement_timeout = 0;
         ALTER TABLE live_job DISABLE TRIGGER USER;
         WITH added AS (
             INSERT INTO job (id, workspace_id, kind, spec_version, spec, spec_digest, image_id,
                              priority, state, max_attempts, finished_at, error)
             SELECT gen_random_uuid(), 'default', 'pull', 1, '{{}}',
                    decode(repeat('00', 32), 'hex'), lpad(to_hex(n), 16, '0'), 0, '{state}', 3,
                    CASE WHEN {live} THEN NULL ELSE now() END,
                    CASE WHEN {live} THEN NULL ELSE '{{}}'::jsonb END
             FROM generate_series({from}, {from} + {count} - 1) AS n
             RETURNING id, image_id)
         INSERT INTO live_job (job_id, workspace_id, kind, spec_version, image_id, priority, head, due_at)
         SELECT id, 'default', 'pull', 1, image_id, 0, true, now() + interval '1 hour' FROM added
         WHERE {live};
         ALTER TABLE live_job ENABLE TRIGGER USER;
         SET statement_timeout = '30s'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(pool).await?;
    Ok(())
}
