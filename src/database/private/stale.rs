//! Servers that an earlier run left behind: `kill -9` of us leaves one working, `kill -9` of it
//! leaves its children finishing.
//!
//! The caller holds the lock of the data directory, so whoever still works there is nobody's.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::DatabaseError;

/// Fast shutdown, immediate shutdown, none at all: how long each gets.
const ESCALATION: [(Signal, Duration); 3] = [
    (Signal::SIGINT, Duration::from_secs(30)),
    (Signal::SIGQUIT, Duration::from_secs(10)),
    (Signal::SIGKILL, Duration::from_secs(10)),
];

/// Stops every server process whose data directory `data` is and removes its pid file, which
/// would make Postgres refuse to start once another process has the same pid.
pub(super) async fn clear(data: &Path) -> Result<(), DatabaseError> {
    for (signal, patience) in ESCALATION {
        for pid in targets(data, signal) {
            tracing::warn!(%pid, %signal, data = %data.display(), "stopping a stale server");
            match kill(pid, signal) {
                // It may have gone by itself.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => return Err(DatabaseError::io("stopping its server", data)(e.into())),
            }
        }
        let deadline = Instant::now() + patience;
        while !workers(data).is_empty() && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
        }
    }
    if let Some(pid) = workers(data).first() {
        return Err(DatabaseError::Stale { path: data.to_owned(), pid: pid.as_raw() });
    }
    let file = data.join("postmaster.pid");
    match fs::remove_file(&file) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(DatabaseError::io("removing it", &file)(e))
        }
        _ => Ok(()),
    }
}

/// The main process stops the others; without it, or when it doesn't, they are all told.
fn targets(data: &Path, signal: Signal) -> Vec<Pid> {
    let workers = workers(data);
    match leader(data) {
        Some(leader) if signal != Signal::SIGKILL && workers.contains(&leader) => vec![leader],
        _ => workers,
    }
}

/// The server's main process, by the first line of its pid file.
fn leader(data: &Path) -> Option<Pid> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    text.lines().next()?.trim().parse().ok().map(Pid::from_raw)
}

/// Server processes work in their data directory. Where there is no `/proc` none are found, and
/// Postgres itself refuses to start beside them.
fn workers(data: &Path) -> Vec<Pid> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            let works_here = fs::read_link(entry.path().join("cwd")).ok()? == data;
            (works_here && name.trim_end() == "postgres").then(|| Pid::from_raw(pid))
        })
        .collect()
}
