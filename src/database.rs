//! The Postgres pool, its migrations, and the private server used when none is configured.
//!
//! What tables there are and what is in them is none of this module's business: queries live
//! beside the types that they load.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// Waiting for a server, pooling and migrating.
mod connect;
/// Why there is no database.
mod error;
/// A Postgres server of our own.
mod private;

pub use connect::is_transient;
pub use error::DatabaseError;

use private::PrivateServer;

/// Which database.
#[derive(Debug, Clone)]
pub enum DatabaseSettings {
    /// A Postgres server that somebody else runs.
    Url(SecretString),
    /// A private server that we run.
    Private {
        /// The data directory of Clipwright, under which it lives; absolute.
        data_dir: PathBuf,
    },
}

/// Whether the schema is brought up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migrations {
    /// It is.
    Apply,
    /// It is taken as it is: the service sees to it.
    Leave,
}

/// How long connections in use are waited for at the end.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A database, and the server when it is ours.
///
/// There are two pools, so that what clients ask for, however much it is, never keeps a heartbeat
/// waiting. Dropped rather than stopped, a private server is still told to shut down, but not waited
/// for.
#[derive(Debug)]
pub struct Database {
    pool: PgPool,
    work: PgPool,
    server: Option<PrivateServer>,
}

impl Database {
    /// Connects, starting the private server where that is asked for, and migrates.
    ///
    /// A server that is just starting is waited for, 30 seconds at most; a private one that
    /// recovers from a crash 2 minutes.
    pub async fn start(
        settings: &DatabaseSettings,
        migrations: Migrations,
        cancel: &CancellationToken,
    ) -> Result<Self, DatabaseError> {
        let (options, server) = match settings {
            DatabaseSettings::Url(url) => (connect::parse(url)?, None),
            DatabaseSettings::Private { data_dir } => {
                let server = PrivateServer::start(data_dir, cancel).await?;
                (server.connect_options(), Some(server))
            }
        };
        match connect::prepare(&options, migrations, cancel).await {
            Ok(()) => {
                let (pool, work) = (connect::pool(options.clone()), connect::pool(options));
                Ok(Self { pool, work, server })
            }
            Err(error) => {
                if let Some(server) = server {
                    server.stop().await;
                }
                Err(error)
            }
        }
    }

    /// Connections for clients.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Connections for workers and all that they depend on.
    pub fn work_pool(&self) -> &PgPool {
        &self.work
    }

    /// Closes all connections, waiting for those in use for 5 seconds, then stops the private server.
    pub async fn stop(self) {
        let closing = async { tokio::join!(self.pool.close(), self.work.close()) };
        if tokio::time::timeout(CLOSE_LIMIT, closing).await.is_err() {
            tracing::warn!("connections to the database were left in use");
        }
        if let Some(server) = self.server {
            server.stop().await;
        }
    }
}
