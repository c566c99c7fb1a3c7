//! `clipwright schema`: brings the schema of a database to this version, and ends.

use clap::Args;

use super::{run_async, say};
use crate::config::{Config, DatabaseSettings, SettingsArgs};
use crate::database::{Database, DatabaseError, Migrations};

/// Bring the schema of the database to this version, and end.
///
/// Takes the settings of `serve`, which does the same at its start; before an upgrade it shows whether that will go well.
/// One process at a time does it, the others wait.
#[derive(Debug, Args)]
pub(super) struct Schema {
    #[command(flatten)]
    settings: SettingsArgs,
}

impl Schema {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let config = Config::load(&self.settings)?;
        anyhow::ensure!(
            matches!(config.database, DatabaseSettings::Url(_)),
            "there is no database to bring up to date: DATABASE_URL is not set, and a private one is brought up to date by serve",
        );
        run_async(async |cancel| {
            let database = Database::start(&config.database, Migrations::Apply, &cancel).await;
            match database {
                Err(DatabaseError::Cancelled) => anyhow::bail!("cancelled"),
                started => started?.stop().await,
            }
            say!("the schema is that of clipwright {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        })
    }
}
