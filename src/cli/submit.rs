//! `clipwright submit`: a job for the service, followed to its end. The command ends as the job did: 0 if it
//! succeeded, 1 if not.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::admin::{Output, shown};
use super::client::Client;
use super::follow::{Lines, ended};
use super::job_progress::JobProgress;
use super::submit_build::SubmitBuild;
use super::{run_async, say};
use crate::archive::{Fallback, LayerPolicy};
use crate::digest::Digest;
use crate::image_id::ImageId;
use crate::jobs::job::Priority;

/// Submit a job, and follow it to its end.
#[derive(Debug, Args)]
pub(super) struct SubmitCommand {
    #[command(subcommand)]
    job: NewJobArgs,
    /// Print the job's id and don't wait for its end
    #[arg(long, global = true)]
    no_wait: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum NewJobArgs {
    /// Index an image that is in a registry
    Pull {
        /// Image reference, such as alpine:3.20
        source: String,
        /// Names the archive; made of the reference when absent
        #[arg(long, value_name = "ID")]
        image_id: Option<ImageId>,
        /// os/architecture; the service's own when absent
        #[arg(long)]
        platform: Option<String>,
        /// The archive version wanted; decided by the service when absent
        #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
        clip_version: Option<u8>,
        /// What becomes of an image that can't be served as v2: v1 or none
        #[arg(long, value_name = "v1|none")]
        fallback: Option<Fallback>,
        /// Layers that workers can't read: refuse, as-is or gzip
        #[arg(long)]
        layers: Option<LayerPolicy>,
        /// Replace an archive of this image id that has other content
        #[arg(long)]
        force: bool,
        /// low, normal or high
        #[arg(long, value_parser = priority, default_value = "normal")]
        priority: Priority,
        /// File that holds the credentials for the image's registry
        #[arg(long, value_name = "FILE")]
        credentials_file: Option<PathBuf>,
        /// File that holds the address to tell when the job ends, and in a second line the secret to sign with
        #[arg(long, value_name = "FILE")]
        webhook_file: Option<PathBuf>,
    },
    /// Build an image from a Dockerfile: the context is sent once, and the log followed
    Build(Box<SubmitBuild>),
    /// Bring an archive to the other version
    Migrate {
        /// Names the archive
        image_id: ImageId,
        /// The archive version wanted
        #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
        to: u8,
        /// Remove what this and earlier migrations kept
        #[arg(long)]
        discard_kept: bool,
    },
}

fn priority(text: &str) -> Result<Priority, String> {
    serde_json::from_value(json!(text)).map_err(|_| "expected low, normal or high".to_owned())
}

fn text_of(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))
}

pub(super) fn credentials_in(file: &Path) -> anyhow::Result<Value> {
    Ok(json!(text_of(file)?.trim()))
}

fn webhook_in(file: &Path) -> anyhow::Result<Value> {
    let text = text_of(file)?;
    let mut lines = text.lines().map(str::trim);
    let url = lines.next().unwrap_or_default();
    Ok(match lines.next().filter(|secret| !secret.is_empty()) {
        Some(secret) => json!({ "url": url, "secret": secret }),
        None => json!({ "url": url }),
    })
}

impl NewJobArgs {
    /// The job's body. A build's context is sent first, if the service doesn't have it.
    async fn body(&self, client: &Client, cancel: &CancellationToken) -> anyhow::Result<Value> {
        Ok(match self {
            Self::Pull {
                source,
                image_id,
                platform,
                clip_version,
                fallback,
                layers,
                force,
                priority,
                credentials_file,
                webhook_file,
            } => {
                let named = || Digest::of(source.as_bytes()).hex()[..16].to_owned();
                let id = image_id.as_ref().map_or_else(named, ToString::to_string);
                let credentials = credentials_file.as_deref().map(credentials_in);
                let webhook = webhook_file.as_deref().map(webhook_in);
                let optional = [
                    ("platform", platform.as_ref().map(|platform| json!(platform))),
                    ("clip_version", clip_version.map(Value::from)),
                    ("fallback", fallback.map(|fallback| json!(fallback))),
                    ("layers", layers.map(|layers| json!(layers))),
                    ("credentials", credentials.transpose()?),
                    ("webhook", webhook.transpose()?),
                ];
                let mut body: Map<String, Value> = optional
                    .into_iter()
                    .filter_map(|(name, value)| Some((name.to_owned(), value?)))
                    .collect();
                body.extend([
                    ("kind".to_owned(), json!("pull")),
                    ("image_id".to_owned(), json!(id)),
                    ("source".to_owned(), json!(source)),
                    ("force".to_owned(), json!(force)),
                    ("priority".to_owned(), json!(priority)),
                ]);
                Value::Object(body)
            }
            Self::Build(build) => build.body(client, cancel).await?,
            Self::Migrate { image_id, to, discard_kept } => json!({
                "kind": "migrate", "image_id": image_id, "to": to, "discard_kept": discard_kept,
            }),
        })
    }

    /// How another job's archive that is there already is done anew, if it can be.
    fn force(&self) -> &'static str {
        match self {
            Self::Pull { .. } | Self::Build(_) => ": --force does it anew",
            Self::Migrate { .. } => "",
        }
    }
}

impl SubmitCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let client = self.output.client()?;
        let key = Uuid::now_v7().to_string();
        let job = run_async(async |cancel| {
            let body = self.job.body(&client, &cancel).await?;
            let job: Value = client.post("/v1/jobs", &body, &key, &cancel).await?;
            if self.no_wait {
                return Ok(job);
            }
            // Another one's, whose archive is there already.
            if !job["finished_at"].is_null() {
                let [id, at] = [&job["id"], &job["finished_at"]].map(shown);
                eprintln!("it was done before, by job {id} at {at}{}", self.job.force());
                return Ok(job);
            }
            // What happens is told beside what the command prints.
            let lines = Lines::of(&job);
            let progress = JobProgress::on_stderr(&self.output, lines);
            let followed = lines.follow(&client, &job, |line| progress.show(line), &cancel).await;
            if cancel.is_cancelled() {
                let id = shown(&job["id"]);
                anyhow::bail!(
                    "interrupted: job {id} goes on; `clipwright jobs cancel {id}` ends it"
                );
            }
            followed
        })?;
        match (self.output.json, self.no_wait) {
            (true, _) => self.output.print(&job),
            (false, true) => say!("{}", shown(&job["id"])),
            (false, false) => outcome(&job),
        }
        if self.no_wait { Ok(()) } else { ended(&job) }
    }
}

/// What came of a job that succeeded, in a line for each thing that its users go on with.
fn outcome(job: &Value) {
    let result = &job["result"];
    let archive = &result["archive"];
    let lines = [
        ("job", &job["id"]),
        ("image id", &job["spec"]["image_id"]),
        ("version", &result["clip_version"]),
        ("decided by", &result["decided_by"]),
        ("rollout", &result["rollout"]),
        ("archive", &archive["key"]),
    ];
    for (name, value) in lines {
        if !value.is_null() {
            say!("{name:10}  {}", shown(value));
        }
    }
    if let Some(bytes) = archive["size"].as_u64() {
        say!("{:10}  {}", "size", HumanBytes(bytes));
    }
}
