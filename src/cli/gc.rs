//! `clipwright gc`: finds what lies in the store and serves nobody, and removes it if told to.

use std::time::{Duration, SystemTime};

use clap::Args;
use indicatif::HumanBytes;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::run_async;
use super::say;
use crate::config::{Config, DatabaseSettings, SettingsArgs};
use crate::database::{Database, Migrations};
use crate::jobs::queue::{Queue, Vault};
use crate::publish::archives::Stores;
use crate::publish::garbage::{self, Garbage, GarbageKind};
use crate::store::StoreSettings;

/// Find what lies in the store and serves nobody, and remove it if told to.
///
/// Takes the settings of `serve`, and may run beside it. What is younger than a day stays.
#[derive(Debug, Args)]
#[group(id = "what_to_do", required = true, multiple = false, args = ["dry_run", "apply"])]
pub(super) struct Gc {
    /// Say what could go, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Remove it
    #[arg(long)]
    apply: bool,
    /// Days after which a layer index that nobody used can go
    #[arg(long, value_name = "DAYS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(2..))]
    unused_days: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    settings: SettingsArgs,
}

#[derive(Serialize)]
struct Report {
    applied: bool,
    /// Bytes of all that was found, as far as the store says.
    bytes: u64,
    found: Vec<Finding>,
}

#[derive(Serialize)]
struct Finding {
    kind: GarbageKind,
    name: String,
    size: Option<u64>,
    age_seconds: u64,
    removed: bool,
}

impl Gc {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let config = Config::load(&self.settings)?;
        let report = run_async(async |cancel| {
            match cancel.run_until_cancelled(Box::pin(self.collect(&config, &cancel))).await {
                Some(report) => report,
                None => anyhow::bail!("interrupted; what was removed is gone, the rest is there"),
            }
        })?;
        self.print(&report)
    }

    async fn collect(&self, config: &Config, cancel: &CancellationToken) -> anyhow::Result<Report> {
        // One that isn't there would be made, and found empty.
        if let StoreSettings::Directory(directory) = &config.store {
            let there = directory.is_dir();
            anyhow::ensure!(there, "there is no store at {}", directory.display());
        }
        let stores = Stores::open(&config.store, |objects| objects).await?;
        let unused = Duration::from_hours(24 * u64::from(self.unused_days));
        let found = garbage::find(&stores, unused).await?;
        // The private database, which a running service keeps to itself, has no other users.
        let database = match &config.database {
            settings @ DatabaseSettings::Url(_) if self.apply => {
                Some(Database::start(settings, Migrations::Leave, cancel).await?)
            }
            _ => None,
        };
        let queue = database.as_ref().map(|db| Queue::new(db.pool().clone(), Vault::new([])));
        let mut report = Report { applied: self.apply, bytes: 0, found: Vec::new() };
        for garbage in found {
            let removed = self.apply
                && !is_worked_on(queue.as_ref(), &garbage).await?
                && garbage::remove(&stores, &garbage, unused).await?;
            report.bytes += garbage.size.unwrap_or(0);
            report.found.push(Finding {
                kind: garbage.kind,
                name: garbage.name().to_owned(),
                size: garbage.size,
                age_seconds: SystemTime::now()
                    .duration_since(garbage.since)
                    .unwrap_or_default()
                    .as_secs(),
                removed,
            });
        }
        if let Some(database) = database {
            database.stop().await;
        }
        Ok(report)
    }

    fn print(&self, report: &Report) -> anyhow::Result<()> {
        if self.json {
            say!("{}", serde_json::to_string(report)?);
            return Ok(());
        }
        for Finding { kind, name, size, age_seconds, removed } in &report.found {
            let what = match kind {
                GarbageKind::DataWithoutIndex => "data without index",
                GarbageKind::ReplacedData => "replaced data",
                GarbageKind::UnusedLayerIndex => "unused layer index",
                GarbageKind::Unfinished => "unfinished",
            };
            let size = size.map_or_else(|| "-".to_owned(), |size| HumanBytes(size).to_string());
            let days = age_seconds / 86_400;
            let fate = if *removed { "removed" } else { "kept" };
            say!("{fate:8} {what:19} {days:>5} days {size:>11}  {name}");
        }
        let (count, bytes) = (report.found.len(), HumanBytes(report.bytes));
        let removed = report.found.iter().filter(|finding| finding.removed).count();
        say!("{count} found, {bytes}; {removed} removed");
        if !report.applied && count > 0 {
            say!("nothing was removed: that takes --apply");
        }
        Ok(())
    }
}

/// Whether there is a job about its image, which may be about to complete it.
async fn is_worked_on(queue: Option<&Queue>, garbage: &Garbage) -> anyhow::Result<bool> {
    match (queue, garbage.image()) {
        (Some(queue), Some(image)) => Ok(queue.is_worked_on(&image).await?),
        _ => Ok(false),
    }
}
