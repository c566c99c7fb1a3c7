//! Waiting for a server, pooling and migrating.

use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::DatabaseError;
use crate::retry::{RetrySettings, retry_within};

/// How long a server may take to come up.
const PATIENCE: Duration = Duration::from_secs(30);
const TRY_AGAIN: RetrySettings =
    RetrySettings::endless(Duration::from_millis(20), Duration::from_millis(500));
/// Statements are short, so few connections serve many workers.
const MAX_CONNECTIONS: u32 = 16;
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether the database was lost rather than the statement refused, so that another connection
/// may do better: broken connections, and a server that starts, stops or is full.
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => true,
        // PostgreSQL appendix A: class 08 is connection exceptions, 40 transaction rollbacks,
        // 53 insufficient resources; 57P01 to 57P03 are shutdowns, a crash and a start;
        // 25006 is what a primary that became a standby answers to writes.
        sqlx::Error::Database(e) => e.code().is_some_and(|code| {
            ["08", "40", "53"].iter().any(|class| code.starts_with(class))
                || matches!(&*code, "25006" | "57P01" | "57P02" | "57P03")
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

/// A pool over a database with all migrations applied.
pub(super) async fn pool(
    options: PgConnectOptions,
    cancel: &CancellationToken,
) -> Result<PgPool, DatabaseError> {
    let mut connection = wait(&options, PATIENCE, cancel).await?;
    migrate(&options, &mut connection).await?;
    // It did its work: a failure to say goodbye harms nobody.
    let _ = connection.close().await;
    Ok(PgPoolOptions::new()
        .max_connections(MAX_CONNECTIONS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(options))
}

/// Connects, trying for as long as `patience` while the server may be coming up.
pub(super) async fn wait(
    options: &PgConnectOptions,
    patience: Duration,
    cancel: &CancellationToken,
) -> Result<PgConnection, DatabaseError> {
    let failed = |source| DatabaseError::Unreachable { place: place(options), source };
    let silence = || failed(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
    let connect = || async { PgConnection::connect_with(options).await.map_err(failed) };
    retry_within(patience, &TRY_AGAIN, cancel, silence, connect).await
}

async fn migrate(
    options: &PgConnectOptions,
    connection: &mut PgConnection,
) -> Result<(), DatabaseError> {
    let mut migrator: Migrator = sqlx::migrate!("./migrations");
    // While a release rolls out, an older replica may start on a newer schema.
    migrator.set_ignore_missing(true);
    migrator
        .run(connection)
        .await
        .map_err(|source| DatabaseError::Migration { place: place(options), source })
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
