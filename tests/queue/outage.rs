//! Postgres goes away and comes back.

use clipwright::database::{Database, DatabaseSettings, Migrations};
use clipwright::jobs::job::JobState;
use clipwright::jobs::queue::{Queue, Vault};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio_util::sync::CancellationToken;

use super::harness::{Fixture, new_job, within};
use super::workers::{Deed, Fake, Pool};

/// A primary became a standby, and the name leads to another server by now.
#[tokio::test(flavor = "multi_thread")]
async fn connections_to_a_server_that_takes_no_writes_are_replaced() {
    let f = Fixture::new().await;
    let pool = f.database.pool();
    let mut sessions = Vec::new();
    for _ in 0..pool.options().get_max_connections() {
        let mut session = pool.acquire().await.unwrap();
        let standby = "SET default_transaction_read_only = on";
        sqlx::query(standby).execute(&mut *session).await.unwrap();
        sessions.push(session);
    }
    drop(sessions);
    let id = f.submit(1).await;
    assert_eq!(f.claim("w").await.unwrap().job.id, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_are_replaced_unnoticed() {
    let f = Fixture::new().await;
    let handler = Fake::new(Deed::Wait);
    let pool = Pool::start(&f.queue, &handler, 1);
    let id = f.submit(1).await;
    within(handler.started.notified()).await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
               WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::query(cut).fetch_all(f.database.pool()).await.unwrap();
    handler.go.add_permits(1);
    f.until(id, |job| job.state == JobState::Succeeded).await;
    assert_eq!(f.story(id).await, ["queued", "started", "succeeded"]);
    pool.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_ends_while_postgres_restarts_ends_once() {
    let directory = tempfile::Builder::new().prefix("cw-test-").tempdir().unwrap();
    open_to_the_servers_user(directory.path());
    let settings = DatabaseSettings::Private { data_dir: directory.path().to_owned() };
    let never = CancellationToken::new();
    let server = Database::start(&settings, Migrations::Apply, &never).await.unwrap();
    // A pool that outlives the server.
    let options = PgConnectOptions::clone(&server.pool().connect_options());
    let connections = PgPoolOptions::new().connect_lazy_with(options);
    let queue = Queue::new(connections.clone(), Vault::new([]));

    let handler = Fake::new(Deed::Wait);
    let pool = Pool::start(&queue, &handler, 1);
    let id = queue.submit(new_job(1)).await.unwrap().job.id;
    within(handler.started.notified()).await;
    server.stop().await;
    assert!(queue.ping().await.is_err());
    handler.go.add_permits(1);

    let server = Database::start(&settings, Migrations::Apply, &never).await.unwrap();
    let mut wakes = queue.wakes(id);
    let job = within(async {
        loop {
            match queue.get(id).await {
                Ok(Some(job)) if job.is_final() => return job,
                _ => wakes.next().await,
            }
        }
    })
    .await;
    assert_eq!((job.state, job.attempt), (JobState::Succeeded, 1));
    let events = queue.events(id, 0, 10).await.unwrap();
    assert_eq!(events.len(), 3, "{events:?}");
    pool.stop().await;
    connections.close().await;
    server.stop().await;
}

fn open_to_the_servers_user(directory: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let open = std::fs::Permissions::from_mode(0o711);
    std::fs::set_permissions(directory, open).unwrap();
}
