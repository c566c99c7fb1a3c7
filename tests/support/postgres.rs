//! Databases for tests: one private server a test process, one fresh migrated database a test.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{OnceLock, mpsc};

use clipwright::database::{Database, DatabaseSettings, Migrations};
use secrecy::SecretString;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgPool};
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// A migrated database of its own. Dropping removes it.
pub(crate) struct TestDatabase {
    database: Database,
    url: String,
    name: String,
}

impl TestDatabase {
    pub(crate) async fn create() -> Self {
        Self::start(Migrations::Apply).await
    }

    /// Without any table.
    pub(crate) async fn empty() -> Self {
        Self::start(Migrations::Leave).await
    }

    async fn start(migrations: Migrations) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let server = Server::get();
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        server.execute(format!("CREATE DATABASE {name}")).await;
        let url = server.options.clone().database(&name).to_url_lossy().to_string();
        let settings = DatabaseSettings::Url(SecretString::from(url.clone()));
        let never = CancellationToken::new();
        let database = Database::start(&settings, migrations, &never).await.unwrap();
        Self { database, url, name }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    pub(crate) fn work_pool(&self) -> &PgPool {
        self.database.work_pool()
    }

    /// For the binary's `DATABASE_URL`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let server = Server::get();
        let sql = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // The runtime of the test may be ending: the server's own never does.
        server.runtime.spawn(server.execute(sql));
    }
}

/// The server of this test process, on a thread and runtime that outlive every single test.
struct Server {
    runtime: Handle,
    pool: PgPool,
    options: PgConnectOptions,
    /// Its standard input closes when this process ends, however it ends.
    _watchdog: Child,
}

impl Server {
    fn get() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    fn start() -> Self {
        let directory = data_dir();
        let watchdog = watch(&directory);
        let settings = DatabaseSettings::Private { data_dir: directory };
        let (send, receive) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let never = CancellationToken::new();
                let database = Database::start(&settings, Migrations::Leave, &never);
                let database = database.await.unwrap();
                send.send((Handle::current(), database.pool().clone())).unwrap();
                std::future::pending::<()>().await;
            });
        });
        let (runtime, pool) = receive.recv().expect("the private server starts");
        let options = PgConnectOptions::clone(&pool.connect_options());
        Self { runtime, pool, options, _watchdog: watchdog }
    }

    /// Runs one statement on the server's own runtime, to which its connections belong.
    fn execute(&'static self, sql: String) -> impl Future<Output = ()> + Send {
        let done = self.runtime.spawn(async move {
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&self.pool).await.unwrap();
        });
        async move { done.await.unwrap() }
    }
}

/// A short new directory that the server's user may enter.
fn data_dir() -> std::path::PathBuf {
    let directory = tempfile::Builder::new().prefix("cw-test-").tempdir().unwrap().keep();
    std::fs::set_permissions(&directory, Permissions::from_mode(0o711)).unwrap();
    directory
}

/// A shell that waits for the end of this process, stops the server and removes its files.
fn watch(directory: &Path) -> Child {
    const SCRIPT: &str = r#"
        read -r _
        if read -r pid <"$0/postgres/postmaster.pid"; then
            kill -QUIT "$pid"
            n=0
            while [ -e "$0/postgres/postmaster.pid" ] && [ $n -lt 200 ]; do
                sleep 0.05
                n=$((n + 1))
            done
        fi
        rm -rf "$0"
    "#;
    Command::new("sh")
        .args(["-c", SCRIPT])
        .arg(directory)
        .stdin(Stdio::piped())
        // The test's own output ends with the test.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .unwrap()
}
