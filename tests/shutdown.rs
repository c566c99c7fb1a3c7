//! A service that is told to stop while everything that it depends on is silent.

use std::time::{Duration, Instant};

use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::support::postgres::TestDatabase;
use crate::support::proxy::Proxy;
use crate::support::service::{Service, Settings};

/// What docs/operations.md promises.
const PROMISED: Duration = Duration::from_secs(30);

/// Somebody follows a job, its handler does not stop when it is told to, a thread hangs in the file
/// system, and the database gives no answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_ends_in_the_time_that_is_promised() {
    let database = TestDatabase::create().await;
    let near = PgConnectOptions::clone(&database.pool().connect_options());
    // The server of the tests listens on a socket alone.
    let proxy = Proxy::to_socket(near.get_socket().unwrap().join(".s.PGSQL.5432")).await;
    let far = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(proxy.address.port())
        .username(near.get_username())
        .database(near.get_database().unwrap())
        .ssl_mode(PgSslMode::Disable);
    let docker = tempfile::tempdir().unwrap();
    let pipe = docker.path().join("config.json");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let settings = Settings::default()
        .env("DATABASE_URL", far.to_url_lossy().as_ref())
        .env("CLIPWRIGHT_AMBIENT_CREDENTIALS", "all")
        .env("CLIPWRIGHT_SHUTDOWN_DELAY_SECONDS", "5")
        .env("DOCKER_CONFIG", docker.path().to_str().unwrap());
    let mut service = Service::start(settings).await;

    let job = service.pull("0123456789abcdef", "127.0.0.1:1/image:latest").await;
    // Whoever opens the other end of the pipe for writing waits for the one who reads.
    let reading =
        tokio::task::spawn_blocking(move || std::fs::File::options().write(true).open(pipe));
    let writer = tokio::time::timeout(Duration::from_mins(1), reading).await.unwrap().unwrap();
    let following = format!("{}/v1/jobs/{job}/events", service.url);
    let mut events = reqwest::get(following).await.unwrap();
    assert!(events.chunk().await.unwrap().is_some());
    proxy.fall_silent();

    let told = Instant::now();
    let (log, _) = tokio::task::block_in_place(|| service.stop());
    let took = told.elapsed();
    assert!(took < PROMISED, "it took {took:?}: {log}");
    assert!(log.contains("the handler did not stop in time"), "{log}");
    drop(writer);
}
