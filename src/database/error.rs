//! Why there is no database.

use std::io;
use std::path::{Path, PathBuf};

use sqlx::migrate::MigrateError;

use crate::error::{Classify, Fault};
use crate::retry::Retryable;

use super::connect::is_transient;

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The URL is never shown: it may hold a password.
    #[error("DATABASE_URL can't be used: expected postgres://user:password@host:port/database")]
    BadUrl,
    /// No connection.
    #[error("no connection to the database {place}: {source}")]
    Unreachable {
        /// Host, port and name.
        place: String,
        /// Why.
        source: sqlx::Error,
    },
    /// Connected, but the schema is not what this version needs.
    #[error("the database {place} can't be migrated: {source}")]
    Migration {
        /// Host, port and name.
        place: String,
        /// Why.
        source: MigrateError,
    },
    /// Nothing to run a private server with.
    #[error(
        "no PostgreSQL server on this machine (looked in PATH, in {versions} and where pg_config \
         points): install it (apt-get install postgresql) or set DATABASE_URL"
    )]
    NotInstalled {
        /// Where distributions put their versions.
        versions: String,
    },
    /// Servers there are, but none that can read the data.
    #[error(
        "{path} was made by PostgreSQL {expected}, but this machine has {found}: install version \
         {expected} (apt-get install postgresql-{expected})"
    )]
    WrongVersion {
        /// The server's data directory.
        path: PathBuf,
        /// Its major version.
        expected: String,
        /// What is installed.
        found: String,
    },
    /// Another process has the data directory.
    #[error(
        "{path} is in use by another clipwright process{holder}: stop it or set another data directory"
    )]
    Busy {
        /// The data directory.
        path: PathBuf,
        /// ` (pid N)` when known.
        holder: String,
    },
    /// Root can't run a Postgres server, and the user that can is kept out.
    #[error(
        "PostgreSQL can't run as root, and user {user}, as which it would, may not enter {path}: \
         allow it (chmod o+x) or set a data directory elsewhere, such as /var/lib/clipwright"
    )]
    NotTraversable {
        /// The directory that is closed.
        path: PathBuf,
        /// The unprivileged user.
        user: String,
    },
    /// Not root, and the files are another user's.
    #[error("{path} belongs to uid {found}, but this process runs as uid {expected}")]
    Foreign {
        /// The server's data directory.
        path: PathBuf,
        /// Us.
        expected: u32,
        /// Its owner.
        found: u32,
    },
    /// Unix sockets have short names.
    #[error("the socket directory {path} is too long: expected at most {limit} bytes, set TMPDIR")]
    LongSocketPath {
        /// What we would have used.
        path: PathBuf,
        /// The most that fits.
        limit: usize,
    },
    /// A file operation failed.
    #[error("{path}: {action} failed: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("{program} failed ({status}): {message}")]
    Program {
        /// Which.
        program: PathBuf,
        /// How it ended.
        status: String,
        /// The end of what it said.
        message: String,
    },
    /// A server of an earlier run does not go away.
    #[error(
        "the PostgreSQL server {pid} of an earlier run still works on {path} and can't be stopped"
    )]
    Stale {
        /// The server's data directory.
        path: PathBuf,
        /// One of its processes.
        pid: i32,
    },
    /// The private server runs, but does not accept connections.
    #[error("the private PostgreSQL server was not ready within {seconds} s; its log is {log}")]
    NotReady {
        /// How long we waited.
        seconds: u64,
        /// Where it logs.
        log: PathBuf,
    },
    /// The caller's token was cancelled.
    #[error("interrupted")]
    Cancelled,
}

impl DatabaseError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

impl Retryable for DatabaseError {
    fn cancelled() -> Self {
        Self::Cancelled
    }
}

impl Classify for DatabaseError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => is_transient(source),
            Self::Migration {
                source: MigrateError::Execute(e) | MigrateError::ExecuteMigration(e, _),
                ..
            } => is_transient(e),
            Self::Busy { .. } | Self::Stale { .. } | Self::NotReady { .. } => true,
            _ => false,
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Unreachable { .. } => Fault::Upstream,
            _ => Fault::Ours,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "database_unreachable",
            Self::Migration { .. } => "database_migration_failed",
            Self::Busy { .. } => "data_directory_busy",
            Self::BadUrl => "database_url_invalid",
            Self::Cancelled => "cancelled",
            _ => "private_database_failed",
        }
    }
}
