//! A database that falls silent: no reset, no answer, just nothing.

use std::time::{Duration, Instant};

use clipwright::database::{Database, DatabaseError, DatabaseSettings, Migrations};
use clipwright::jobs::job::JobState;
use clipwright::jobs::queue::{Queue, Vault};
use futures_util::future::join_all;
use secrecy::SecretString;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio_util::sync::CancellationToken;

use super::harness::{Fixture, claim, new_job, within};
use super::workers::{Deed, Fake, Pool};
use crate::support::proxy::Proxy;

/// A queue that reaches its database through a proxy.
struct Far {
    near: Fixture,
    proxy: Proxy,
    settings: DatabaseSettings,
    database: Database,
    queue: Queue,
}

impl Far {
    async fn new() -> Self {
        let near = Fixture::new().await;
        let options = PgConnectOptions::clone(&near.database.pool().connect_options());
        // The server of the tests listens on a socket alone.
        let proxy = Proxy::to_socket(options.get_socket().unwrap().join(".s.PGSQL.5432")).await;
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(proxy.address.port())
            .username(options.get_username())
            .database(options.get_database().unwrap())
            .ssl_mode(sqlx::postgres::PgSslMode::Disable);
        let url = SecretString::from(options.to_url_lossy().to_string());
        let settings = DatabaseSettings::Url(url);
        let never = CancellationToken::new();
        let database = Database::start(&settings, Migrations::Leave, &never).await.unwrap();
        let queue = Queue::new(database.work_pool().clone(), Vault::new([]));
        Self { near, proxy, settings, database, queue }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_give_up_in_time_and_new_connections_serve_when_it_is_over() {
    let far = Far::new().await;
    let id = far.queue.submit(new_job(1)).await.unwrap().job.id;
    far.proxy.fall_silent();
    let started = Instant::now();
    assert!(far.queue.ping().await.is_err());
    assert!(far.queue.get(id).await.is_err());
    assert!(claim(&far.queue, "w", false).await.is_err());
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    // The old connections stay silent for ever; nobody waits for them.
    far.proxy.cut_off_old_connections();
    far.proxy.speak();
    assert_eq!(far.queue.get(id).await.unwrap().unwrap().state, JobState::Queued);
    assert!(claim(&far.queue, "w", false).await.unwrap().is_some());
}

/// However busy they were when it fell silent.
#[tokio::test(flavor = "multi_thread")]
async fn all_connections_are_to_be_had_again_after_a_silence() {
    let far = Far::new().await;
    let id = far.queue.submit(new_job(1)).await.unwrap().job.id;
    let pool = far.database.work_pool();
    let all = pool.options().get_max_connections();
    let busy = (0..all).map(|_| {
        let queue = far.queue.clone();
        tokio::spawn(async move { while queue.get(id).await.is_ok() {} })
    });
    let busy: Vec<_> = busy.collect();
    within(async {
        while pool.size() < all {
            tokio::task::yield_now().await;
        }
    })
    .await;
    far.proxy.fall_silent();
    within(join_all(busy)).await;
    far.proxy.cut_off_old_connections();
    far.proxy.speak();
    let acquired = join_all((0..all).map(|_| pool.acquire())).await;
    let failed = acquired.iter().filter(|acquired| acquired.is_err()).count();
    assert_eq!(failed, 0, "of {all}");
}

/// As after a failover: the database is there, but whoever asks over an old connection hears nothing.
#[tokio::test(flavor = "multi_thread")]
async fn one_call_gets_past_connections_that_went_stale() {
    let far = Far::new().await;
    let id = far.queue.submit(new_job(1)).await.unwrap().job.id;
    let pool = far.database.work_pool();
    drop(join_all((0..4).map(|_| pool.acquire())).await);
    within(async {
        while pool.num_idle() < 4 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // Not those that were in use a moment ago: these are not asked whether their server is there.
    tokio::time::sleep(Duration::from_secs(1)).await;
    far.proxy.fall_silent();
    far.proxy.cut_off_old_connections();
    far.proxy.speak();
    assert_eq!(far.queue.get(id).await.unwrap().unwrap().state, JobState::Queued);
}

/// Another replica migrates; while this one waits for its turn the network goes, and then somebody wants
/// the service to stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_hears_nothing_more_can_be_stopped() {
    let far = Far::new().await;
    let mut other = far.near.database.pool().acquire().await.unwrap();
    // The lock of `database::connect`.
    sqlx::query("SELECT pg_advisory_lock(109317276596082)").execute(&mut *other).await.unwrap();
    let stop = CancellationToken::new();
    let starting = Database::start(&far.settings, Migrations::Apply, &stop);
    let stopping = async {
        // It asks now and then.
        let before = far.proxy.passed();
        while far.proxy.passed() < before + 1000 {
            tokio::task::yield_now().await;
        }
        far.proxy.fall_silent();
        far.proxy.held_back(1).await;
        stop.cancel();
    };
    let (started, ()) = within(Box::pin(async { tokio::join!(starting, stopping) })).await;
    let error = started.unwrap_err();
    assert!(matches!(error, DatabaseError::Cancelled), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_lets_go_before_its_lease_ends_and_takes_jobs_again_afterwards() {
    let far = Far::new().await;
    let handler = Fake::new(Deed::Wait);
    let pool = Pool::with_lease(&far.queue, &handler, 1, Duration::from_secs(3));
    let id = far.queue.submit(new_job(1)).await.unwrap().job.id;
    within(handler.started.notified()).await;
    let silent_from = Instant::now();
    far.proxy.fall_silent();
    within(handler.stopped.notified()).await;
    assert!(silent_from.elapsed() < Duration::from_secs(3), "{:?}", silent_from.elapsed());
    far.proxy.cut_off_old_connections();
    far.proxy.speak();
    // It was still ours: nobody else could take it meanwhile.
    handler.go.add_permits(2);
    far.near.until(id, |job| job.state == JobState::Succeeded).await;
    far.near.story(id).await;
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_on_after_its_lease() {
    let far = Far::new().await;
    let handler = Fake::new(Deed::Deaf);
    let pool = Pool::with_lease(&far.queue, &handler, 1, Duration::from_secs(3));
    far.queue.submit(new_job(1)).await.unwrap();
    within(handler.started.notified()).await;
    let silent_from = Instant::now();
    far.proxy.fall_silent();
    within(handler.stopped.notified()).await;
    // And some more, on a busy machine.
    assert!(silent_from.elapsed() < Duration::from_secs(7), "{:?}", silent_from.elapsed());
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_in_use_do_not_hold_up_the_end() {
    let far = Far::new().await;
    far.queue.ping().await.unwrap();
    let held = far.database.pool().acquire().await.unwrap();
    far.proxy.fall_silent();
    let started = Instant::now();
    within(far.database.stop()).await;
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    drop(held);
}
