//! `clipwright submit`, `jobs` and `images`: what the service's API does, for people and scripts. A command
//! that follows a job ends as the job did: 0 if it succeeded, 1 if not.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use indicatif::HumanBytes;
use reqwest::Method;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::admin::{Output, shown};
use super::client::Client;
use super::job_progress::JobProgress;
use super::run_async;
use super::say;
use super::submit_build::SubmitBuild;
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

/// Show and change jobs.
#[derive(Debug, Args)]
pub(super) struct JobsCommand {
    #[command(subcommand)]
    action: JobsAction,
    #[command(flatten)]
    output: Output,
}

/// Show images, and fetch their archives.
#[derive(Debug, Args)]
pub(super) struct ImagesCommand {
    #[command(subcommand)]
    action: ImagesAction,
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

fn job_id(text: &str) -> Result<Uuid, String> {
    text.parse().map_err(|_| "expected a job's id, as `clipwright jobs list` shows them".to_owned())
}

fn priority(text: &str) -> Result<Priority, String> {
    serde_json::from_value(json!(text)).map_err(|_| "expected low, normal or high".to_owned())
}

fn text_of(file: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(file).with_context(|| format!("can't read {}", file.display()))
}

fn credentials_in(file: &Path) -> anyhow::Result<Value> {
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
    fn body(&self) -> anyhow::Result<Value> {
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
            // It needs the service to be asked first.
            Self::Build(_) => Value::Null,
            Self::Migrate { image_id, to, discard_kept } => json!({
                "kind": "migrate", "image_id": image_id, "to": to, "discard_kept": discard_kept,
            }),
        })
    }
}

impl SubmitCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let (client, body) = (self.output.client()?, self.job.body()?);
        let key = Uuid::now_v7().to_string();
        let job = run_async(async |cancel| {
            let body = match &self.job {
                NewJobArgs::Build(build) => build.body(&client, &cancel).await?,
                _ => body,
            };
            let job: Value = client.post("/v1/jobs", &body, &key, &cancel).await?;
            if self.no_wait {
                return Ok(job);
            }
            // Another one's, whose archive is there already.
            if !job["finished_at"].is_null() {
                let [id, at] = [&job["id"], &job["finished_at"]].map(shown);
                eprintln!("it was done before, by job {id} at {at}: --force does it anew");
                return Ok(job);
            }
            let id = shown(&job["id"]);
            if matches!(self.job, NewJobArgs::Build(_)) {
                return follow_log(&client, &job, self.output.json, false, &cancel).await;
            }
            // What happens is told beside what the command prints.
            let progress = JobProgress::on_stderr(self.output.json);
            let say = |event: &Value| progress.show(event, &self.output);
            let followed = self.output.follow(&client, &job, say, &cancel).await;
            if cancel.is_cancelled() {
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

#[derive(Debug, Subcommand)]
enum JobsAction {
    /// List jobs, the newest first
    List {
        /// Only jobs in this state
        #[arg(long)]
        state: Option<String>,
        /// Only jobs about this image
        #[arg(long, value_name = "ID")]
        image_id: Option<ImageId>,
        /// At most this many
        #[arg(long, default_value = "50", value_parser = clap::value_parser!(u16).range(1..=200))]
        limit: u16,
    },
    /// Show a job
    Show {
        /// The job's id
        #[arg(value_parser = job_id)]
        id: Uuid,
    },
    /// Print what happened to a job; of a build, what it says
    Logs {
        /// The job's id
        #[arg(value_parser = job_id)]
        id: Uuid,
        /// Go on until it ends, and end as it did
        #[arg(short, long)]
        follow: bool,
    },
    /// Cancel a job
    Cancel {
        /// The job's id
        #[arg(value_parser = job_id)]
        id: Uuid,
    },
    /// Do a job that ended once more
    Retry {
        /// The job's id
        #[arg(value_parser = job_id)]
        id: Uuid,
        /// File that holds the credentials for the image's registry
        #[arg(long, value_name = "FILE")]
        credentials_file: Option<PathBuf>,
    },
}

impl JobsCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let output = &self.output;
        match &self.action {
            JobsAction::List { state, image_id, limit } => {
                let client = output.client()?;
                let mut path = format!("/v1/jobs?limit={limit}");
                if let Some(state) = state {
                    let plain = state.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                    anyhow::ensure!(plain, "{state:?} is no state of a job");
                    path = format!("{path}&state={state}");
                }
                if let Some(id) = image_id {
                    path = format!("{path}&image_id={id}");
                }
                let page: Value = run_async(async |cancel| Ok(client.get(&path, &cancel).await?))?;
                if output.json {
                    say!("{}", page["jobs"]);
                    return Ok(());
                }
                for job in page["jobs"].as_array().into_iter().flatten() {
                    say!("{}", line_of(job));
                }
                Ok(())
            }
            JobsAction::Show { id } => output.call((Method::GET, format!("/v1/jobs/{id}"), None)),
            JobsAction::Logs { id, follow } => {
                let client = output.client()?;
                let job = run_async(async |cancel| {
                    let job: Value = client.get(&format!("/v1/jobs/{id}"), &cancel).await?;
                    if job["spec"]["kind"] == "build" {
                        let json = output.json;
                        if *follow {
                            return follow_log(&client, &job, json, true, &cancel).await;
                        }
                        let path = format!("/v1/jobs/{id}/log?follow=false");
                        client
                            .lines(&path, &cancel, |line| say!("{}", log_line(line, json)))
                            .await?;
                        return Ok(Value::Null);
                    }
                    if *follow {
                        let say = |event: &Value| say!("{}", output.event(event));
                        return output.follow(&client, &json!({ "id": id }), say, &cancel).await;
                    }
                    let path = format!("/v1/jobs/{id}/events?follow=false");
                    client.lines(&path, &cancel, |line| say!("{}", output.event(line))).await?;
                    Ok(Value::Null)
                })?;
                if *follow { ended(&job) } else { Ok(()) }
            }
            JobsAction::Cancel { id } => {
                let client = output.client()?;
                let path = format!("/v1/jobs/{id}/cancel");
                let job: Value = run_async(async |cancel| {
                    Ok(client.call(Method::POST, &path, Some(&json!({})), &cancel).await?)
                })?;
                output.print(&job);
                let state = job["state"].as_str().unwrap_or_default();
                if !job["finished_at"].is_null() && state != "cancelled" {
                    eprintln!("it had ended as {state} already: nothing was cancelled");
                }
                Ok(())
            }
            JobsAction::Retry { id, credentials_file } => {
                let mut body = json!({});
                if let Some(file) = credentials_file {
                    body["credentials"] = credentials_in(file)?;
                }
                output.call((Method::POST, format!("/v1/jobs/{id}/retry"), Some(body)))
            }
        }
    }
}

#[derive(Debug, Subcommand)]
enum ImagesAction {
    /// List images
    List,
    /// Show an image
    Show {
        /// Its id
        id: ImageId,
    },
    /// List the files in an image
    Ls {
        /// Its id
        id: ImageId,
        /// Directory or file in the image
        #[arg(default_value = "/")]
        path: String,
    },
    /// Write a file's content to standard output
    Cat {
        /// The image's id
        id: ImageId,
        /// Path in the image; symbolic links are followed
        path: String,
    },
    /// Delete an image and its archive
    Rm {
        /// Its id
        id: ImageId,
    },
}

impl ImagesCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match &self.action {
            ImagesAction::List => self.output.list("/v1/images", "images", "after"),
            ImagesAction::Show { id } => {
                self.output.call((Method::GET, format!("/v1/images/{id}"), None))
            }
            ImagesAction::Ls { id, path } => self.files(id, path),
            ImagesAction::Cat { id, path } => {
                let client = self.output.client()?;
                let path = format!("/v1/images/{id}/files/content?path_hex={}", hex::encode(path));
                run_async(async |cancel| {
                    client.download(&path, &mut std::io::stdout(), &cancel).await
                })
            }
            ImagesAction::Rm { id } => {
                self.output.call((Method::DELETE, format!("/v1/images/{id}"), None))
            }
        }
    }
}

impl ImagesCommand {
    /// Prints what is in a directory, or a file alone, page by page.
    fn files(&self, id: &ImageId, path: &str) -> anyhow::Result<()> {
        let client = self.output.client()?;
        let first = format!("/v1/images/{id}/files?limit=200&path_hex={}", hex::encode(path));
        run_async(async |cancel| {
            let mut page_path = first.clone();
            loop {
                let page: Value = client.get(&page_path, &cancel).await?;
                let alone = std::slice::from_ref(&page["entry"]);
                for entry in page["entries"].as_array().map_or(alone, Vec::as_slice) {
                    if self.output.json {
                        say!("{entry}");
                        continue;
                    }
                    let [kind, mode, size, path] =
                        [&entry["type"], &entry["mode"], &entry["size"], &entry["path"]].map(shown);
                    let target = entry["target"].as_str().map(|to| format!(" -> {to}"));
                    let name = format!("{path}{}", target.unwrap_or_default());
                    let name = super::printable(name.as_bytes());
                    say!("{kind:7} {mode} {size:>11} {name}");
                }
                let Some(next) = page["next"].as_str() else { return Ok(()) };
                page_path = format!("{first}&after={next}");
            }
        })
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

/// Prints what a build says until it ends; the job as it is then.
async fn follow_log(
    client: &Client,
    job: &Value,
    json: bool,
    is_output: bool,
    cancel: &CancellationToken,
) -> anyhow::Result<Value> {
    let id = job["id"].as_str().context("the service named no job")?;
    let mut offset = 0;
    loop {
        let path = format!("/v1/jobs/{id}/log?offset={offset}");
        let seen = |line: &Value| {
            offset = line["next"].as_i64().unwrap_or(offset);
            let text = log_line(line, json);
            if is_output { say!("{text}") } else { eprintln!("{text}") }
        };
        let broken = client.lines(&path, cancel, seen).await;
        let job: Value = client.get(&format!("/v1/jobs/{id}"), cancel).await?;
        if !job["finished_at"].is_null() {
            return Ok(job);
        }
        // Cut off, or the service stops: another replica goes on from there.
        if let Err(error) = broken {
            tracing::debug!(%error, "asking for the rest");
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    }
}

/// One line of a build's log.
fn log_line(line: &Value, json: bool) -> String {
    if json {
        return line.to_string();
    }
    let mark = if line["stream"] == "service" { "=> " } else { "" };
    format!("{mark}{}", super::printable(line["text"].as_str().unwrap_or_default().as_bytes()))
}

/// Success if the job succeeded; else its own words.
fn ended(job: &Value) -> anyhow::Result<()> {
    match job["state"].as_str() {
        Some("succeeded") => Ok(()),
        Some("failed") => {
            let (code, message) = (shown(&job["error"]["code"]), shown(&job["error"]["message"]));
            anyhow::bail!("the job failed: {message} ({code})")
        }
        state => anyhow::bail!("the job ended as {}", state.unwrap_or("nothing known")),
    }
}

fn line_of(job: &Value) -> String {
    let spec = &job["spec"];
    let what = spec["source"].as_str().or(spec["image_id"].as_str()).unwrap_or_default();
    let [id, state, created, kind] =
        [&job["id"], &job["state"], &job["created_at"], &spec["kind"]].map(shown);
    format!("{id}  {state:9}  {created}  {kind} {}", super::printable(what.as_bytes()))
}

impl Output {
    /// Says what happens to a job until it ends; the job as it is then.
    async fn follow(
        &self,
        client: &Client,
        job: &Value,
        say: impl Fn(&Value),
        cancel: &CancellationToken,
    ) -> anyhow::Result<Value> {
        let id = job["id"].as_str().context("the service named no job")?;
        let mut after = 0;
        loop {
            let path = format!("/v1/jobs/{id}/events?after={after}");
            let seen = |line: &Value| {
                after = line["seq"].as_i64().unwrap_or(after);
                say(line);
            };
            let broken = client.lines(&path, cancel, seen).await;
            let job: Value = client.get(&format!("/v1/jobs/{id}"), cancel).await?;
            if !job["finished_at"].is_null() {
                return Ok(job);
            }
            // Cut off, or the service stops: another replica goes on from there.
            if let Err(error) = broken {
                tracing::debug!(%error, "asking for the rest");
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        }
    }

    /// One thing that happened, in a line.
    pub(super) fn event(&self, event: &Value) -> String {
        if self.json {
            return event.to_string();
        }
        let name = event["event"].as_str().unwrap_or_default();
        let data = &event["data"];
        let detail = match name {
            "progress" => {
                let [done, all] = ["bytes_done", "bytes_total"].map(|field| data[field].as_u64());
                done.zip(all)
                    .map(|(done, all)| format!("{} of {}", HumanBytes(done), HumanBytes(all)))
                    .unwrap_or_default()
            }
            "succeeded" => String::new(),
            "failed" | "retrying" => {
                let [code, message] = ["code", "message"].map(|field| shown(&data["error"][field]));
                match data["not_before"].as_str() {
                    Some(time) => format!("not before {time}: {message} ({code})"),
                    None => format!("{message} ({code})"),
                }
            }
            _ => match data {
                Value::Null => String::new(),
                Value::Object(fields) => fields
                    .iter()
                    .filter(|(_, value)| !value.is_object() && !value.is_array())
                    .map(|(name, value)| format!("{name}={}", shown(value)))
                    .collect::<Vec<_>>()
                    .join(" "),
                other => shown(other),
            },
        };
        let line = format!("{} {name} {detail}", shown(&event["at"]));
        line.trim_end().to_owned()
    }
}
