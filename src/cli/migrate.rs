//! `clipwright migrate`: archives are brought to the other version, one or many, by jobs of a
//! service.
//!
//! Nothing is remembered between runs: which images are still to be migrated the store says, and a
//! job that an earlier run submitted is followed rather than submitted again.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::client::{Client, ClientError};
use super::run_async;
use super::service::ServiceArgs;
use crate::image_id::ImageId;
use crate::jobs::job::{Job, JobSpec, JobState, MigrateSpec};
use crate::jobs::recorded::Recorded;
use crate::publish::stored::ListedArchive;

/// What is told in the end.
mod report;

use report::{ImageReport, Report};

/// How often a job is asked for.
const POLL: Duration = Duration::from_millis(500);
const PAGE: usize = 200;

/// Bring archives to the other version, through a service.
///
/// Nothing is lost: the archive that was there is kept until it is discarded, and the content of
/// both is compared before the switch. Running it again goes on where it stopped.
#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Images to migrate
    #[arg(value_name = "IMAGE_ID", required_unless_present_any = ["prefix", "all"])]
    images: Vec<ImageId>,
    /// Migrate all images whose ids begin so
    #[arg(long, conflicts_with_all = ["images", "all"], value_parser = prefix)]
    prefix: Option<String>,
    /// Migrate all images of the store
    #[arg(long, conflicts_with = "images")]
    all: bool,
    /// The archive version wanted
    #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
    to: u8,
    /// Remove what this and earlier migrations kept
    #[arg(long)]
    discard_kept: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Migrations begun in a minute, at most
    #[arg(long, value_name = "N")]
    per_minute: Option<NonZeroU32>,
    /// Migrations under way at a time
    #[arg(long, value_name = "N", default_value = "2")]
    concurrency: NonZeroU32,
    #[command(flatten)]
    service: ServiceArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

fn prefix(text: &str) -> Result<String, String> {
    let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if (1..=16).contains(&text.len()) && text.bytes().all(hex) {
        Ok(text.to_owned())
    } else {
        Err("expected 1 to 16 lowercase hex digits".to_owned())
    }
}

#[derive(Deserialize)]
struct ArchivePage {
    archives: Vec<ListedArchive>,
    next: Option<ImageId>,
}

#[derive(Deserialize)]
struct JobPage {
    jobs: Vec<Job>,
}

impl Migrate {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let client = self.service.client()?;
        let report = run_async(async |cancel| self.migrate(&client, &cancel).await)?;
        report.print(self.json)?;
        let failed = report.failed();
        anyhow::ensure!(failed == 0, "{failed} of {} images were not migrated", report.len());
        Ok(())
    }

    async fn migrate(&self, client: &Client, cancel: &CancellationToken) -> anyhow::Result<Report> {
        let mut report = Report::new(self.to, self.dry_run);
        let mut todo = Vec::new();
        for archive in self.archives(client, cancel).await? {
            match archive {
                Ok(archive) if self.is_done(&archive) => {
                    report.add(archive.image_id.clone(), Some(&archive), ImageReport::PassedOver);
                }
                Ok(archive) => todo.push(archive),
                Err(missing) => {
                    let reason = "the store has no archive of it".to_owned();
                    report.add(missing, None, ImageReport::Failed(reason));
                }
            }
        }
        if self.dry_run {
            for archive in todo {
                let outcome = match &archive.problem {
                    Some(problem) => ImageReport::Failed(problem.clone()),
                    None => ImageReport::Planned,
                };
                report.add(archive.image_id.clone(), Some(&archive), outcome);
            }
            return Ok(report);
        }
        let run = Uuid::now_v7();
        let pace = self.per_minute.map(|n| Duration::from_mins(1) / n.get());
        let mut ticks = interval(pace.unwrap_or(Duration::from_nanos(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let begun = stream::unfold((ticks, todo.into_iter()), async |(mut ticks, mut todo)| {
            let archive = todo.next()?;
            if pace.is_some() {
                cancel.run_until_cancelled(ticks.tick()).await;
            }
            Some((archive, (ticks, todo)))
        });
        let concurrency = usize::try_from(self.concurrency.get()).unwrap_or(usize::MAX);
        let mut ends = std::pin::pin!(
            begun
                .map(async |archive| {
                    let outcome = self.migrate_one(client, &archive, run, cancel).await;
                    (archive, outcome)
                })
                .buffer_unordered(concurrency)
        );
        while let Some((archive, outcome)) = ends.next().await {
            let outcome = outcome.unwrap_or_else(|error| ImageReport::Failed(error.to_string()));
            report.tell(&archive.image_id, &outcome);
            report.add(archive.image_id.clone(), Some(&archive), outcome);
        }
        Ok(report)
    }

    /// Nothing would come of a job.
    fn is_done(&self, archive: &ListedArchive) -> bool {
        let discards = self.discard_kept && !archive.kept.is_empty();
        archive.clip_version == Some(self.to) && !discards
    }

    /// What is asked for, as the store has it; ids that it doesn't have are errors.
    async fn archives(
        &self,
        client: &Client,
        cancel: &CancellationToken,
    ) -> Result<Vec<Result<ListedArchive, ImageId>>, ClientError> {
        let mut found = Vec::new();
        for image in &self.images {
            let path = format!("/v1/archives?prefix={image}&limit=1");
            let page: ArchivePage = client.get(&path, cancel).await?;
            found.push(page.archives.into_iter().next().ok_or_else(|| image.clone()));
        }
        if !self.images.is_empty() {
            return Ok(found);
        }
        let prefix = self.prefix.as_deref().unwrap_or_default();
        let mut after = String::new();
        loop {
            let path = format!("/v1/archives?prefix={prefix}&limit={PAGE}{after}");
            let page: ArchivePage = client.get(&path, cancel).await?;
            found.extend(page.archives.into_iter().map(Ok));
            match page.next {
                Some(next) => after = format!("&after={next}"),
                None => return Ok(found),
            }
        }
    }

    async fn migrate_one(
        &self,
        client: &Client,
        archive: &ListedArchive,
        run: Uuid,
        cancel: &CancellationToken,
    ) -> Result<ImageReport, ClientError> {
        if cancel.is_cancelled() {
            return Err(ClientError::Cancelled);
        }
        let mut job = match self.under_way(client, &archive.image_id, cancel).await? {
            Some(job) => job,
            None => self.submit(client, &archive.image_id, run, cancel).await?,
        };
        let mut told = None;
        while !job.is_final() {
            // One that is tried again says why, once for each reason.
            let error = job.error.as_ref().and_then(Recorded::known).map(|error| error.message);
            if error.is_some() && error != told {
                report::tell_waiting(
                    &archive.image_id,
                    job.id,
                    error.as_deref().unwrap_or_default(),
                );
                told = error;
            }
            if cancel.run_until_cancelled(sleep(POLL)).await.is_none() {
                return Ok(ImageReport::Failed(format!("interrupted; job {} goes on", job.id)));
            }
            job = client.get(&format!("/v1/jobs/{}", job.id), cancel).await?;
        }
        let result = job.result.as_ref().and_then(Recorded::known);
        let error = job.error.as_ref().and_then(Recorded::known);
        Ok(match (job.state, result, error) {
            (JobState::Succeeded, Some(result), _) => {
                let migration = result.migration;
                ImageReport::Migrated {
                    compared: migration.as_ref().and_then(|migration| migration.compared),
                    kept: migration.and_then(|migration| migration.kept),
                }
            }
            (_, _, Some(error)) => ImageReport::Failed(error.message),
            (state, ..) => ImageReport::Failed(format!("job {} is {}", job.id, state.as_str())),
        })
    }

    /// A job that asks for the same and hasn't ended.
    async fn under_way(
        &self,
        client: &Client,
        image: &ImageId,
        cancel: &CancellationToken,
    ) -> Result<Option<Job>, ClientError> {
        for state in ["running", "queued"] {
            let path = format!("/v1/jobs?image_id={image}&state={state}");
            let page: JobPage = client.get(&path, cancel).await?;
            let wanted = JobSpec::Migrate(self.spec(image));
            if let Some(job) =
                page.jobs.into_iter().find(|job| job.spec.known().as_ref() == Some(&wanted))
            {
                return Ok(Some(job));
            }
        }
        Ok(None)
    }

    async fn submit(
        &self,
        client: &Client,
        image: &ImageId,
        run: Uuid,
        cancel: &CancellationToken,
    ) -> Result<Job, ClientError> {
        let MigrateSpec { image_id, to, discard_kept } = self.spec(image);
        let body = json!({
            "kind": "migrate", "image_id": image_id, "to": to, "discard_kept": discard_kept,
        });
        client.post("/v1/jobs", &body, &format!("migrate-{run}-{image}"), cancel).await
    }

    fn spec(&self, image: &ImageId) -> MigrateSpec {
        MigrateSpec { image_id: image.clone(), to: self.to, discard_kept: self.discard_kept }
    }
}
