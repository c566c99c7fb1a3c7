//! A Postgres server of our own, for those who name no database: made from the machine's
//! binaries, kept under the data directory, reached through a unix socket only.
//!
//! ```text
//! <data_dir>/postgres         the server's data, made on first use
//! <data_dir>/postgres-socket  where it listens; only its user and root may enter
//! <data_dir>/postgres.log     what it says
//! <data_dir>/postgres.lock    held by the clipwright process that runs it
//! ```

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::DatabaseError;
use crate::retry::RetrySettings;

/// Which user runs it.
mod account;
/// Which programs run it.
mod binaries;
/// Which process may run it.
mod lock;
/// One run of it.
mod running;
/// Where it listens.
mod socket;
/// What earlier runs left behind.
mod stale;

use account::MemoryAccount;
use binaries::{Binaries, Search};
use lock::Lock;
use running::Running;
use socket::Socket;

/// Role and superuser of the private server, which has no other.
const ROLE: &str = "clipwright";
/// The database that every server has.
const DATABASE: &str = "postgres";
const MAX_LOG: u64 = 16 << 20;
const LAUNCH_AGAIN: RetrySettings =
    RetrySettings::endless(Duration::from_millis(200), Duration::from_secs(30));

/// A server that runs, and is started again should it die. Dropping tells it to stop.
#[derive(Debug)]
pub(super) struct PrivateServer {
    options: PgConnectOptions,
    stop: DropGuard,
    task: JoinHandle<()>,
}

/// All that it takes to start a server.
#[derive(Debug)]
struct Site {
    binaries: Binaries,
    account: MemoryAccount,
    data: PathBuf,
    log: PathBuf,
    socket: Socket,
    // Last, so that it is released last.
    _lock: Lock,
}

impl PrivateServer {
    /// Starts it, after stopping what is left of earlier runs and making its data on first use.
    pub(super) async fn start(
        data_dir: &Path,
        cancel: &CancellationToken,
    ) -> Result<Self, DatabaseError> {
        let site = Site::prepare(data_dir).await?;
        let options = site.connect_options();
        let running = site.launch(cancel).await?;
        let token = CancellationToken::new();
        let task = tokio::spawn(supervise(site, running, token.clone()));
        Ok(Self { options, stop: token.drop_guard(), task })
    }

    pub(super) fn connect_options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// Shuts it down, breaking off what its clients do, and waits for that.
    pub(super) async fn stop(self) {
        drop(self.stop);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the task that runs the private PostgreSQL server failed");
        }
    }
}

/// Keeps the server running until `stop`.
async fn supervise(site: Site, mut running: Running, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return running.stop().await,
            status = running.exited() => {
                tracing::error!(%status, log = %site.log.display(),
                    "the private PostgreSQL server died: starting it again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            again = relaunch(&site, &stop) => running = again,
        }
    }
}

async fn relaunch(site: &Site, stop: &CancellationToken) -> Running {
    let mut failures = 0;
    loop {
        match site.launch(stop).await {
            Ok(running) => return running,
            Err(error) => tracing::error!(%error, "the private PostgreSQL server did not start"),
        }
        failures += 1;
        sleep(LAUNCH_AGAIN.delay(failures)).await;
    }
}

impl Site {
    async fn prepare(data_dir: &Path) -> Result<Self, DatabaseError> {
        fs::create_dir_all(data_dir).map_err(DatabaseError::io("making it", data_dir))?;
        let data_dir =
            &data_dir.canonicalize().map_err(DatabaseError::io("resolving it", data_dir))?;
        let lock = Lock::take(data_dir)?;
        let data = data_dir.join("postgres");
        let account = MemoryAccount::choose(&data)?;
        account.check_reach(data_dir)?;
        let binaries = Search::of_this_machine().find(&data)?;
        if !data.try_exists().map_err(DatabaseError::io("looking at it", &data))? {
            initialise(&binaries, &account, data_dir, &data).await?;
        }
        let log = data_dir.join("postgres.log");
        if fs::metadata(&log).is_ok_and(|metadata| metadata.len() > MAX_LOG) {
            let old = data_dir.join("postgres.log.old");
            fs::rename(&log, &old).map_err(DatabaseError::io("renaming it", &log))?;
        }
        let socket = Socket::prepare(data_dir, &account)?;
        Ok(Self { binaries, account, data, log, socket, _lock: lock })
    }

    /// Starts the server and waits until it accepts connections.
    async fn launch(&self, cancel: &CancellationToken) -> Result<Running, DatabaseError> {
        stale::clear(&self.data).await?;
        let mut running = Running::spawn(self)?;
        running.ready(self, cancel).await?;
        Ok(running)
    }

    fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.socket.path())
            .port(socket::PORT)
            .username(ROLE)
            .database(DATABASE)
            .application_name("clipwright")
            .ssl_mode(PgSslMode::Disable)
    }
}

/// Makes `data`: elsewhere first, so that it is either missing or complete.
async fn initialise(
    binaries: &Binaries,
    account: &MemoryAccount,
    data_dir: &Path,
    data: &Path,
) -> Result<(), DatabaseError> {
    let draft = data_dir.join("postgres.new");
    if draft.try_exists().map_err(DatabaseError::io("looking at it", &draft))? {
        fs::remove_dir_all(&draft).map_err(DatabaseError::io("removing it", &draft))?;
    }
    fs::create_dir(&draft).map_err(DatabaseError::io("making it", &draft))?;
    account.hand_over(&draft)?;
    let program = binaries.initdb();
    let mut command = Command::new(&program);
    account.lower(&mut command);
    let output = command
        .args(["--encoding=UTF8", "--locale=C", "--data-checksums", "--username", ROLE])
        // Who gets at the socket is decided by its directory.
        .args(["--auth-local=trust", "--auth-host=reject", "--pgdata"])
        .arg(&draft)
        .current_dir("/")
        .kill_on_drop(true)
        .output()
        .await
        .map_err(DatabaseError::io("running it", &program))?;
    if !output.status.success() {
        let message = running::last_words(&output.stderr);
        return Err(DatabaseError::Program { program, status: output.status.to_string(), message });
    }
    fs::rename(&draft, data)
        .and_then(|()| fs::File::open(data_dir)?.sync_all())
        .map_err(DatabaseError::io("moving it into place", &draft))
}
