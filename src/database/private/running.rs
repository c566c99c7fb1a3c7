//! One run of the server: from its start to its end.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::Connection;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::super::connect;
use super::{DatabaseError, Site, socket};
use crate::error::Classify;

/// Recovery after a crash reads at most `max_wal_size`.
const READY: Duration = Duration::from_mins(2);
/// Fast shutdown writes a checkpoint; immediate shutdown does nothing.
const FAST: Duration = Duration::from_secs(30);
const IMMEDIATE: Duration = Duration::from_secs(5);
/// How much of the end of a log is looked at.
const TAIL: u64 = 8 << 10;

/// Small: it keeps a queue, not a warehouse.
const SETTINGS: [&str; 17] = [
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "max_connections=100",
    "shared_buffers=32MB",
    "huge_pages=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "min_wal_size=32MB",
    "max_wal_size=256MB",
    "max_logical_replication_workers=0",
    "max_parallel_workers_per_gather=0",
    "autovacuum_max_workers=1",
    "jit=off",
    "log_checkpoints=off",
    "log_timezone=UTC",
    "timezone=UTC",
    "logging_collector=off",
];

/// A server process, told to shut down when dropped.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    program: PathBuf,
    /// Length of the log when it started.
    log_start: u64,
}

impl Running {
    pub(super) fn spawn(site: &Site) -> Result<Self, DatabaseError> {
        let failed = |e| DatabaseError::io("opening it", &site.log)(e);
        let log = File::options()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&site.log)
            .map_err(failed)?;
        let log_start = log.metadata().map_err(failed)?.len();
        let second = log.try_clone().map_err(failed)?;
        let program = site.binaries.postgres();
        let mut command = Command::new(&program);
        site.account.lower(&mut command);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        let child = command
            .arg("-c")
            .arg(site.socket.setting())
            .args(["-p", &socket::PORT.to_string(), "-D"])
            .arg(&site.data)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(second)
            // Ctrl-C in a terminal is for us: the server has to outlive our own shutdown.
            .process_group(0)
            .spawn()
            .map_err(DatabaseError::io("running it", &program))?;
        Ok(Self { child, program, log_start })
    }

    /// Returns when it accepts connections.
    pub(super) async fn ready(
        &mut self,
        site: &Site,
        cancel: &CancellationToken,
    ) -> Result<(), DatabaseError> {
        let options = site.connect_options();
        tokio::select! {
            status = self.child.wait() => Err(DatabaseError::Program {
                program: self.program.clone(),
                status: described(status),
                message: self.last_words(&site.log),
            }),
            connected = connect::wait(&options, READY, cancel) => match connected {
                Ok(connection) => {
                    // It was only to see whether it works.
                    let _ = connection.close().await;
                    Ok(())
                }
                Err(error) if error.is_transient() => Err(DatabaseError::NotReady {
                    seconds: READY.as_secs(),
                    log: site.log.clone(),
                }),
                Err(error) => Err(error),
            },
        }
    }

    /// Returns when it has ended, and how.
    pub(super) async fn exited(&mut self) -> String {
        described(self.child.wait().await)
    }

    /// Ends it, gently if that works in time.
    pub(super) async fn stop(mut self) {
        for (signal, patience) in [(Signal::SIGINT, FAST), (Signal::SIGQUIT, IMMEDIATE)] {
            self.signal(signal);
            if timeout(patience, self.child.wait()).await.is_ok() {
                return;
            }
        }
        if let Err(error) = self.child.kill().await {
            tracing::error!(%error, "the private PostgreSQL server can't be stopped");
        }
    }

    fn signal(&self, signal: Signal) {
        // There is no id any more once it has ended.
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = pid
            && let Err(error) = kill(Pid::from_raw(pid), signal)
        {
            tracing::warn!(%error, %signal, "the private PostgreSQL server can't be signalled");
        }
    }

    /// What this run wrote last.
    fn last_words(&self, log: &Path) -> String {
        let tail = || {
            let mut file = File::open(log)?;
            let start = fs::metadata(log)?.len().saturating_sub(TAIL).max(self.log_start);
            file.seek(SeekFrom::Start(start))?;
            let mut tail = Vec::new();
            file.take(TAIL).read_to_end(&mut tail)?;
            Ok(tail)
        };
        match tail() {
            Ok(tail) => format!("{}; its log is {}", last_words(&tail), log.display()),
            Err(error @ std::io::Error { .. }) => format!("{}: {error}", log.display()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(Signal::SIGINT);
    }
}

fn described(status: std::io::Result<std::process::ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
}

/// The line that tells most in what a Postgres program said: the last fatal one, else the last.
pub(super) fn last_words(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let mut lines = text.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    let telling =
        |line: &&str| ["FATAL:", "PANIC:", "error:"].iter().any(|mark| line.contains(mark));
    let line = lines.clone().find(telling).or_else(|| lines.next());
    line.unwrap_or("it said nothing").chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fatal_line_is_the_telling_one() {
        let log = b"LOG:  starting\nFATAL:  no room\n\nLOG:  database system is shut down\n";
        assert_eq!(last_words(log), "FATAL:  no room");
        assert_eq!(last_words(b"one\n two \n\n"), "two");
        assert_eq!(last_words(b""), "it said nothing");
    }
}
