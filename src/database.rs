//! The Postgres pool, its migrations, and the private server used when none is configured.
//!
//! What tables there are and what is in them is none of this module's business: queries live
//! beside the types that they load.

use std::path::PathBuf;

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

/// A migrated database, and the server when it is ours.
///
/// Dropped rather than stopped, a private server is still told to shut down, but not waited for.
#[derive(Debug)]
pub struct Database {
    pool: PgPool,
    server: Option<PrivateServer>,
}

impl Database {
    /// Connects, starting the private server where that is asked for, and migrates.
    ///
    /// A server that is just starting is waited for, 30 seconds at most; a private one that
    /// recovers from a crash 2 minutes.
    pub async fn start(
        settings: &DatabaseSettings,
        cancel: &CancellationToken,
    ) -> Result<Self, DatabaseError> {
        let (options, server) = match settings {
            DatabaseSettings::Url(url) => (connect::parse(url)?, None),
            DatabaseSettings::Private { data_dir } => {
                let server = PrivateServer::start(data_dir, cancel).await?;
                (server.connect_options(), Some(server))
            }
        };
        match connect::pool(options, cancel).await {
            Ok(pool) => Ok(Self { pool, server }),
            Err(error) => {
                if let Some(server) = server {
                    server.stop().await;
                }
                Err(error)
            }
        }
    }

    /// Connections to it.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Closes all connections, waiting for those in use, then stops the private server.
    pub async fn stop(self) {
        self.pool.close().await;
        if let Some(server) = self.server {
            server.stop().await;
        }
    }
}
