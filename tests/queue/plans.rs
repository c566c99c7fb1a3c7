//! No statement depends on the planner's mood: what it reads is counted in rows, with statistics that
//! say nothing of how many there are.
//!
//! `CLIPWRIGHT_FULL=1` makes the history a million jobs long.

#![allow(clippy::large_futures, reason = "one step is awaited at a time")]

use std::time::Duration;

use clipwright::jobs::job::{JobKind, JobState};
use clipwright::jobs::queue::{JobFilter, Queue, Vault};
use clipwright::jobs::reconcile::{Expiry, Hosts, Images, Leases, Reconciler as _, Retention};
use clipwright::publish::archives::Stores;
use clipwright::store::StoreSettings;
use clipwright::workspace::WorkspaceId;
use sqlx::PgPool;

use crate::support::postgres::TestDatabase;

use super::harness::{Fixture, LEASE, claim, error, result_for, warning};

/// Jobs that wait, most of them for a host that doesn't answer.
const WAITING: i64 = 100_000;
/// Rows that one step of a job may read, all tables together.
const STEP: i64 = 60;

/// Adds jobs as they are when their statistics were never taken: `live` of them wait.
async fn add(pool: &PgPool, from: i64, count: i64, live: bool) {
    let state = if live { "queued" } else { "failed" };
    let sql = format!(
        "SET statement_timeout = 0;
         ALTER TABLE live_job DISABLE TRIGGER USER;
         WITH added AS (
             INSERT INTO job (id, workspace_id, kind, spec_version, spec, spec_digest, image_id,
                              priority, state, max_attempts, finished_at, error)
             SELECT gen_random_uuid(), 'default', 'pull', 1, '{{\"kind\": \"pull\"}}',
                    decode(repeat('00', 32), 'hex'), lpad(to_hex(n), 16, '0'), 0, '{state}', 3,
                    CASE WHEN {live} THEN NULL ELSE now() END,
                    CASE WHEN {live} THEN NULL ELSE '{{}}'::jsonb END
             FROM generate_series({from}, {from} + {count} - 1) AS n
             RETURNING id, image_id)
         INSERT INTO live_job (job_id, workspace_id, kind, spec_version, image_id, priority, head, due_at, key_id)
         SELECT id, 'default', 'pull', 1, image_id, 0, true,
                -- Half of them are due, but their key is nowhere.
                CASE WHEN hashtext(image_id) % 2 = 0 THEN now() ELSE now() + interval '1 hour' END,
                CASE WHEN hashtext(image_id) % 2 = 0 THEN 'nowhere' ELSE '' END
         FROM added WHERE {live};
         ALTER TABLE live_job ENABLE TRIGGER USER;
         INSERT INTO archive_owner (image_id, workspace_id, since)
         SELECT lpad(to_hex(n), 16, '0'), 'default', now()
         FROM generate_series({from}, {from} + {count} - 1) AS n WHERE NOT {live};
         SET statement_timeout = '30s'"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(pool).await.unwrap();
}

/// Rows read so far, by whatever way.
async fn rows_read(database: &TestDatabase) -> i64 {
    // Each session keeps its counts for a while: all of them are asked to hand them in, those too that
    // are in use at the moment.
    for pool in [database.pool(), database.work_pool()] {
        let mut sessions = Vec::new();
        for _ in 0..pool.options().get_max_connections() {
            sessions.push(pool.acquire().await.unwrap());
        }
        for session in &mut sessions {
            for flush in ["SELECT pg_stat_force_next_flush()", "SELECT 1"] {
                sqlx::raw_sql(flush).execute(&mut **session).await.unwrap();
            }
        }
    }
    let read =
        "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables
                WHERE relname IN ('job', 'live_job', 'job_event', 'job_secret', 'image',
                                  'idempotency_key', 'archive_owner')";
    sqlx::query_scalar(read).fetch_one(database.pool()).await.unwrap()
}

/// Fails if a step reads more rows than it may.
async fn within_bounds(f: &Fixture, name: &str, may: i64, step: impl Future<Output = ()>) {
    let before = rows_read(&f.database).await;
    step.await;
    let read = rows_read(&f.database).await - before;
    assert!(read <= may, "{name} read {read} rows: expected at most {may}");
}

/// Every statement of a job's way, some of them often enough for a plan to be kept.
async fn walk(f: &Fixture, first: u64, bounded: bool) {
    let directory = tempfile::tempdir().unwrap();
    let settings = StoreSettings::Directory(directory.path().to_owned());
    let archives = Stores::open(&settings, |objects| objects).await.unwrap().archives;
    let images = Images::new(f.queue.clone(), archives);
    let may = |rows: i64| if bounded { rows } else { i64::MAX };
    for n in first..first + 8 {
        let queue = &f.queue;
        within_bounds(f, "submit", may(STEP), async {
            f.submit(n).await;
        })
        .await;
        let mut lease = None;
        within_bounds(f, "claim", may(STEP), async { lease = f.claim("w").await }).await;
        let lease = lease.unwrap();
        within_bounds(f, "heartbeat", may(STEP), async {
            queue.heartbeat(&[&lease]).await.unwrap();
        })
        .await;
        within_bounds(f, "append", may(STEP), async {
            queue.append(&lease, 1, &warning("x")).await.unwrap();
        })
        .await;
        within_bounds(f, "fence", may(STEP), async {
            assert!(queue.own_archive(&lease).await.unwrap());
        })
        .await;
        within_bounds(f, "end", may(STEP), async {
            match n % 4 {
                0 => queue.succeed(&lease, &result_for(&lease.job)).await.unwrap(),
                1 => queue.fail(&lease, &error("x", false)).await.unwrap(),
                2 => queue.release(&lease).await.unwrap(),
                _ => queue.fail(&lease, &error("x", true)).await.unwrap(),
            };
        })
        .await;
        within_bounds(f, "cancel", may(STEP), async {
            queue.cancel(lease.job.id).await.unwrap();
        })
        .await;
        within_bounds(f, "nothing to claim", may(STEP), async {
            assert!(f.claim("w").await.is_none());
            assert!(claim(queue, "w", true).await.unwrap().is_none());
            assert!(!queue.suspect_waits(&JobKind::ALL).await.unwrap());
        })
        .await;
        within_bounds(f, "lists", may(3 * STEP), async {
            let small = "small".parse::<WorkspaceId>().unwrap();
            for state in [None, Some(JobState::Queued), Some(JobState::Running)] {
                let all = JobFilter { state, limit: 20, ..JobFilter::default() };
                let image_id = Some(lease.spec.image_id().clone());
                let of_image = JobFilter { image_id, ..all.clone() };
                // Nothing is there: all that is read is of others.
                let of_other = JobFilter { workspace: small.clone(), ..all.clone() };
                assert!(queue.list(of_other).await.unwrap().jobs.is_empty());
                assert!(queue.list(of_image).await.unwrap().jobs.len() <= 1);
                queue.list(all).await.unwrap();
            }
            queue.events(lease.job.id, 0, 20).await.unwrap();
        })
        .await;
        within_bounds(f, "keys", may(1000 + STEP), async {
            let unknown = queue.unknown_keys().await.unwrap();
            assert!(unknown.iter().all(|(key, jobs)| key == "nowhere" && *jobs <= 1000));
        })
        .await;
        within_bounds(f, "depth", may(10_000 + STEP), async {
            let depth = queue.depth().await.unwrap();
            assert!(depth.kinds[0].ready <= 10_000 && depth.kinds[0].running < 100);
        })
        .await;
        within_bounds(f, "images", may(20_000), async {
            assert_eq!(images.run().await.unwrap(), 0);
        })
        .await;
        within_bounds(f, "reconcilers", may(STEP), async {
            let queue = || f.queue.clone();
            assert_eq!(Leases { queue: queue(), every: LEASE }.run().await.unwrap(), 0);
            assert_eq!(Expiry { queue: queue() }.run().await.unwrap(), 0);
            assert_eq!(Hosts { queue: queue() }.run().await.unwrap(), 0);
            let keep = Duration::from_hours(24);
            assert_eq!(Retention { queue: queue(), keep }.run().await.unwrap(), 0);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_that_are_stale_change_nothing() {
    let history = if std::env::var_os("CLIPWRIGHT_FULL").is_some() { 1_000_000 } else { 50_000 };
    let tests = [0, 50, 1000].map(async |known| {
        let f = Fixture::new().await;
        // Nobody is to take statistics in the middle of it.
        let quiet = "ALTER TABLE job SET (autovacuum_enabled = false);
                     ALTER TABLE live_job SET (autovacuum_enabled = false);
                     ALTER TABLE job_event SET (autovacuum_enabled = false)";
        f.sql(quiet).await;
        add(f.database.pool(), 1 << 40, known, true).await;
        f.sql("INSERT INTO workspace (id) VALUES ('small'); ANALYZE").await;
        // Plans are made and kept.
        walk(&f, 1, false).await;
        add(f.database.pool(), 2 << 40, WAITING, true).await;
        add(f.database.pool(), 3 << 40, history, false).await;
        walk(&f, 101, true).await;
        // Sessions that come later plan anew.
        let work = f.database.work_pool().clone();
        let queue = Queue::new(work, Vault::new(["ab".repeat(32).parse().unwrap()]));
        let f = Fixture { queue, ..f };
        walk(&f, 201, true).await;
        // Nor are statistics that are right any worse.
        f.sql("ANALYZE").await;
        walk(&f, 301, true).await;
    });
    for test in tests {
        test.await;
    }
}
