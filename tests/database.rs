//! The private Postgres server and databases given by URL.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use clipwright::database::{Database, DatabaseError, DatabaseSettings, Migrations, is_transient};
use clipwright::error::Classify;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use secrecy::SecretString;
use sqlx::PgPool;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::postgres::TestDatabase;

/// A data directory that is removed afterwards.
struct Home {
    _root: TempDir,
    path: PathBuf,
}

impl Home {
    fn new() -> Self {
        Self::under("data")
    }

    fn under(name: &str) -> Self {
        let root = tempfile::Builder::new().prefix("cw-").tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o711)).unwrap();
        Self { path: root.path().join(name), _root: root }
    }

    fn settings(&self) -> DatabaseSettings {
        DatabaseSettings::Private { data_dir: self.path.clone() }
    }

    async fn start(&self) -> Database {
        Database::start(&self.settings(), Migrations::Apply, &CancellationToken::new())
            .await
            .unwrap()
    }

    fn pid(&self) -> Option<Pid> {
        let text = fs::read_to_string(self.path.join("postgres/postmaster.pid")).ok()?;
        Some(Pid::from_raw(text.lines().next()?.trim().parse().unwrap()))
    }
}

async fn count(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM note").fetch_one(pool).await.unwrap()
}

async fn note(pool: &PgPool) {
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS note (at timestamptz); INSERT INTO note VALUES (now())",
    )
    .execute(pool)
    .await
    .unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn stopping_and_starting_keeps_what_was_written() {
    let home = Home::new();
    let database = home.start().await;
    note(database.pool()).await;
    assert_eq!(mode(&home.path.join("postgres")), 0o700);
    assert_eq!(mode(&home.path.join("postgres-socket")), 0o700);
    assert_eq!(mode(&home.path.join("postgres.log")), 0o600);
    let network: String =
        sqlx::query_scalar("SHOW listen_addresses").fetch_one(database.pool()).await.unwrap();
    assert_eq!(network, "");
    let pid = home.pid().unwrap();
    database.stop().await;
    assert!(home.pid().is_none());
    assert!(kill(pid, None).is_err(), "the server still runs");

    let database = home.start().await;
    assert_eq!(count(database.pool()).await, 1);
    database.stop().await;
}

#[tokio::test]
async fn a_killed_server_comes_back_with_what_was_committed() {
    let home = Home::new();
    let database = home.start().await;
    note(database.pool()).await;
    let killed = home.pid().unwrap();
    kill(killed, Signal::SIGKILL).unwrap();
    // Bounded by the pool: queries fail while there is no server and work once it is back.
    let found = loop {
        match sqlx::query_scalar::<_, i64>("SELECT count(*) FROM note")
            .fetch_one(database.pool())
            .await
        {
            Ok(found) if home.pid() != Some(killed) => break found,
            Ok(_) => {}
            Err(error) => assert!(is_transient(&error), "{error}"),
        }
    };
    assert_eq!(found, 1);
    database.stop().await;
}

/// Another clipwright process: this test binary, running [`other_process`] alone.
struct OtherProcess(Child);

impl OtherProcess {
    fn start(home: &Home) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["other_process", "--ignored", "--nocapture"])
            .env(OTHER_DATA_DIR, &home.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains(READY)), "it did not start");
        Self(child)
    }
}

impl Drop for OtherProcess {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

const OTHER_DATA_DIR: &str = "CLIPWRIGHT_TEST_OTHER_DATA_DIR";
const READY: &str = "the other process is ready";

#[tokio::test]
#[ignore = "run by other tests as a process of its own"]
async fn other_process() {
    let Some(data_dir) = std::env::var_os(OTHER_DATA_DIR) else { return };
    let settings = DatabaseSettings::Private { data_dir: data_dir.into() };
    let database =
        Database::start(&settings, Migrations::Apply, &CancellationToken::new()).await.unwrap();
    note(database.pool()).await;
    println!("{READY}");
    // Until it is killed, or whoever runs it has gone.
    std::io::stdin().read_line(&mut String::new()).unwrap();
    database.stop().await;
}

#[tokio::test]
async fn another_process_is_named_and_what_it_leaves_when_killed_is_taken_over() {
    let home = Home::new();
    let other = OtherProcess::start(&home);
    let error = Database::start(&home.settings(), Migrations::Apply, &CancellationToken::new())
        .await
        .unwrap_err();
    let holder = format!("in use by another clipwright process (pid {})", other.0.id());
    assert!(error.to_string().contains(&holder), "{error}");
    assert!(matches!(error, DatabaseError::Busy { .. }));

    let left = home.pid().unwrap();
    drop(other);
    kill(left, None).expect("its server was left behind");
    let database = home.start().await;
    assert_ne!(home.pid(), Some(left));
    assert_eq!(count(database.pool()).await, 1);
    database.stop().await;
}

#[tokio::test]
async fn a_pid_file_that_names_somebody_else_is_no_obstacle() {
    let home = Home::new();
    let database = home.start().await;
    note(database.pool()).await;
    let file = home.path.join("postgres/postmaster.pid");
    let text = fs::read_to_string(&file).unwrap();
    database.stop().await;
    let (_, rest) = text.split_once('\n').unwrap();
    fs::write(&file, format!("{}\n{rest}", std::process::id())).unwrap();

    let database = home.start().await;
    assert_eq!(count(database.pool()).await, 1);
    database.stop().await;
}

#[tokio::test]
async fn long_and_odd_data_directories_work() {
    let home = Home::under(&format!("a \"quoted\", long {}", "path/".repeat(30)));
    let database = home.start().await;
    note(database.pool()).await;
    let socket = database.pool().connect_options().get_socket().unwrap().clone();
    assert!(!socket.starts_with(&home.path) && socket.exists(), "{}", socket.display());
    database.stop().await;
    assert!(!socket.exists());

    let home = Home::under("a \"quoted\", 'one'");
    home.start().await.stop().await;
}

#[tokio::test]
async fn a_half_made_data_directory_is_made_again() {
    let home = Home::new();
    fs::create_dir_all(home.path.join("postgres.new/base")).unwrap();
    home.start().await.stop().await;
    assert!(!home.path.join("postgres.new").exists());
}

#[tokio::test]
async fn a_server_that_ends_at_once_says_why() {
    let home = Home::new();
    home.start().await.stop().await;
    let settings = home.path.join("postgres/postgresql.conf");
    let text = fs::read_to_string(&settings).unwrap();
    fs::write(&settings, format!("{text}\nnonsense = 1\n")).unwrap();
    let error = Database::start(&home.settings(), Migrations::Apply, &CancellationToken::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("contains errors") && error.contains("postgres.log"), "{error}");
}

#[tokio::test]
async fn root_is_told_which_directory_is_closed() {
    if !Uid::effective().is_root() {
        return;
    }
    let home = Home::under("closed/data");
    let closed = home.path.parent().unwrap();
    fs::create_dir(closed).unwrap();
    fs::set_permissions(closed, Permissions::from_mode(0o700)).unwrap();
    let error = Database::start(&home.settings(), Migrations::Apply, &CancellationToken::new())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("may not enter") && error.contains("closed:"), "{error}");
    assert!(!home.path.join("postgres.new").exists());
}

#[tokio::test]
async fn dropping_stops_the_server_too() {
    let home = Home::new();
    let database = home.start().await;
    let pid = home.pid().unwrap();
    drop(database);
    // The lock is released after the server has ended: whoever gets it finds no server.
    let database = loop {
        match Database::start(&home.settings(), Migrations::Apply, &CancellationToken::new()).await
        {
            Ok(database) => break database,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        tokio::task::yield_now().await;
    };
    assert!(kill(pid, None).is_err(), "the first server still runs");
    database.stop().await;
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, two) = tokio::join!(TestDatabase::create(), TestDatabase::create());
    note(one.pool()).await;
    let missing = sqlx::query("SELECT * FROM note").fetch_one(two.pool()).await.unwrap_err();
    assert!(!is_transient(&missing), "{missing}");
    // Migrating again is nothing: every replica does it at its start.
    let settings = DatabaseSettings::Url(SecretString::from(one.url().to_owned()));
    let again =
        Database::start(&settings, Migrations::Apply, &CancellationToken::new()).await.unwrap();
    assert_eq!(count(again.pool()).await, 1);
    again.stop().await;
}

#[tokio::test]
async fn a_newer_schema_is_no_obstacle() {
    let database = TestDatabase::create().await;
    sqlx::raw_sql(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (99999999999999, 'of a later release', true, '', 0)",
    )
    .execute(database.pool())
    .await
    .unwrap();
    let settings = DatabaseSettings::Url(SecretString::from(database.url().to_owned()));
    Database::start(&settings, Migrations::Apply, &CancellationToken::new())
        .await
        .unwrap()
        .stop()
        .await;
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_no_reason_to_wait() {
    let database = TestDatabase::create().await;
    let url = format!("{}&dbname=missing", database.url());
    let error = Database::start(
        &DatabaseSettings::Url(SecretString::from(url)),
        Migrations::Apply,
        &CancellationToken::new(),
    )
    .await
    .unwrap_err();
    assert!(!error.is_transient());
    assert!(error.to_string().contains("\"missing\" does not exist"), "{error}");
}
