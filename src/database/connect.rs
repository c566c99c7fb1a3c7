//! Waiting for a server, pooling and migrating.

use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, Executor as _, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::{DatabaseError, Migrations};
use crate::retry::{RetrySettings, retry_within};

/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);
const TRY_AGAIN: RetrySettings =
    RetrySettings::endless(Duration::from_millis(20), Duration::from_millis(500));
/// Statements are short, so that few connections serve many workers or clients.
const MAX_CONNECTIONS: u32 = 8;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that was in use so lately is not asked whether its server is there: it would be said twice.
const FRESH: Duration = Duration::from_secs(1);
/// A connection that was idle and doesn't answer in this time is given up: after a failover all of them
/// are so, and one call has to get past some.
const PING_LIMIT: Duration = Duration::from_secs(1);

/// Names the lock that whoever migrates holds.
const MIGRATION_LOCK: i64 = 0x636c_6970_7772;

/// What each session is told. Statements, waits for locks and transactions end by themselves, also when
/// we are no longer there to end them; the server finds out that we are gone; and each statement is
/// planned by its index alone, however wrong the statistics of a table are that has just grown. That makes
/// all plans of a statement one, which is made once: planning a claim takes longer than the claim.
const SESSION: &str = "SELECT set_config(name, value, false) FROM (VALUES
    ('statement_timeout', '30s'),
    ('lock_timeout', '10s'),
    ('idle_in_transaction_session_timeout', '30s'),
    ('tcp_keepalives_idle', '15'),
    ('tcp_keepalives_interval', '5'),
    ('tcp_keepalives_count', '3'),
    ('enable_seqscan', 'off'),
    ('enable_bitmapscan', 'off'),
    ('enable_hashjoin', 'off'),
    ('enable_mergejoin', 'off'),
    ('enable_sort', 'off'),
    ('enable_incremental_sort', 'off'),
    ('jit', 'off'),
    ('plan_cache_mode', 'force_generic_plan')) AS setting (name, value)";

/// Whether the database was lost rather than the statement refused, so that another connection
/// may do better: broken connections, and a server that starts, stops, is full or too slow.
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        // PostgreSQL appendix A: class 08 is connection exceptions, 40 transaction rollbacks,
        // 53 insufficient resources; 57P01 to 57P03 are shutdowns, a crash and a start;
        // 55P03 is a lock that was not to be had in time, 57014 a statement that took too long or that
        // somebody ended; 25006 is what a primary that became a standby answers to writes.
        sqlx::Error::Database(e) => e.code().is_some_and(|code| {
            ["08", "40", "53"].iter().any(|class| code.starts_with(class))
                || matches!(&*code, "25006" | "55P03" | "57014" | "57P01" | "57P02" | "57P03")
        }),
        _ => false,
    }
}

/// The driver's own error would quote parts of the URL.
pub(super) fn parse(url: &SecretString) -> Result<PgConnectOptions, DatabaseError> {
    PgConnectOptions::from_str(url.expose_secret())
        .map(|options| options.application_name("clipwright"))
        .map_err(|_| DatabaseError::BadUrl)
}

/// Waits for the server, and applies all migrations if that is asked for.
pub(super) async fn prepare(
    options: &PgConnectOptions,
    migrations: Migrations,
    cancel: &CancellationToken,
) -> Result<(), DatabaseError> {
    let mut connection = wait(options, PATIENCE, cancel).await?;
    if migrations == Migrations::Apply {
        migrate(options, &mut connection, cancel).await?;
    }
    // It did its work: a failure to say goodbye harms nobody.
    let _ = connection.close().await;
    Ok(())
}

/// A pool of connections that are made when they are needed.
pub(super) fn pool(options: PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        // As the driver would ask, but with an end.
        .test_before_acquire(false)
        .before_acquire(|connection, of| {
            Box::pin(async move {
                if of.idle_for < FRESH {
                    return Ok(true);
                }
                let answer = tokio::time::timeout(PING_LIMIT, connection.ping()).await;
                answer.unwrap_or_else(|_| Err(silence())).map(|()| true)
            })
        })
        .after_connect(|connection, _| {
            Box::pin(async move { connection.execute(SESSION).await.map(drop) })
        })
        .connect_lazy_with(options)
}

/// Connects, trying for as long as `patience` while the server may be coming up.
pub(super) async fn wait(
    options: &PgConnectOptions,
    patience: Duration,
    cancel: &CancellationToken,
) -> Result<PgConnection, DatabaseError> {
    let failed = |source| DatabaseError::Unreachable { place: place(options), source };
    let silence = || failed(silence());
    let connect = || async { PgConnection::connect_with(options).await.map_err(failed) };
    retry_within(patience, &TRY_AGAIN, cancel, silence, connect).await
}

/// Replicas migrate one after the other. They ask for the lock again and again: a statement that waits
/// for it would be in the way of an index that the holder builds concurrently.
async fn migrate(
    options: &PgConnectOptions,
    connection: &mut PgConnection,
    cancel: &CancellationToken,
) -> Result<(), DatabaseError> {
    let mut migrator: Migrator = sqlx::migrate!("./migrations");
    // While a release rolls out, an older replica may start on a newer schema.
    migrator.set_ignore_missing(true).set_locking(false);
    let failed = |source| DatabaseError::Migration { place: place(options), source };
    let asked = |source| DatabaseError::Unreachable { place: place(options), source };
    let migrated = async {
        while !try_lock(connection).await.map_err(asked)? {
            tokio::time::sleep(TRY_AGAIN.max_delay).await;
        }
        // However long that takes. The lock goes with the connection.
        migrator.run(connection).await.map_err(failed)
    };
    cancel.run_until_cancelled(migrated).await.unwrap_or(Err(DatabaseError::Cancelled))
}

/// Whether the lock was to be had. A server that is silent by now is not waited for.
async fn try_lock(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let lock = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(MIGRATION_LOCK);
    let locked = tokio::time::timeout(ACQUIRE_TIMEOUT, lock.fetch_one(connection)).await;
    locked.unwrap_or_else(|_| Err(silence()))
}

fn silence() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

/// What a user may read of `options`.
fn place(options: &PgConnectOptions) -> String {
    let name = options.get_database().unwrap_or_else(|| options.get_username());
    match options.get_socket() {
        Some(socket) => format!("{name} at {}", socket.display()),
        None => format!("{name} at {}:{}", options.get_host(), options.get_port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_errors_keep_the_password() {
        let url = SecretString::from("postgres://me:hunter2@db.example:6543/jobs");
        assert_eq!(place(&parse(&url).unwrap()), "jobs at db.example:6543");
        let bad = SecretString::from("postgres://me:hunter2@db.example:port/jobs");
        let error = parse(&bad).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn nobody_there_is_transient_and_bounded() {
        let socket = tempfile::tempdir().unwrap();
        let options = PgConnectOptions::new_without_pgpass().socket(socket.path()).database("x");
        let cancel = CancellationToken::new();
        let error = wait(&options, Duration::from_millis(30), &cancel).await.unwrap_err();
        assert!(crate::error::Classify::is_transient(&error), "{error}");
        assert!(error.to_string().contains("x at "), "{error}");
        cancel.cancel();
        let error = wait(&options, Duration::from_hours(1), &cancel).await.unwrap_err();
        assert!(matches!(error, DatabaseError::Cancelled), "{error}");
    }
}
