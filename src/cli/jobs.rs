//! `clipwright jobs`: what the service's API does, for people and scripts. A command that follows a job ends as
//! the job did: 0 if it succeeded, 1 if not.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::admin::{Output, shown};
use super::follow::{Lines, ended};
use super::submit::credentials_in;
use super::{run_async, say};
use crate::image_id::ImageId;

/// Show and change jobs.
#[derive(Debug, Args)]
pub(super) struct JobsCommand {
    #[command(subcommand)]
    action: JobsAction,
    #[command(flatten)]
    output: Output,
}

fn job_id(text: &str) -> Result<Uuid, String> {
    text.parse().map_err(|_| "expected a job's id, as `clipwright jobs list` shows them".to_owned())
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
                    let lines = Lines::of(&job);
                    let show = |line: &Value| say!("{}", lines.text(line, output));
                    if *follow {
                        return lines.follow(&client, &job, show, &cancel).await;
                    }
                    lines.show(&client, &id.to_string(), show, &cancel).await?;
                    Ok(job)
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

fn line_of(job: &Value) -> String {
    let spec = &job["spec"];
    let what = spec["source"].as_str().or(spec["image_id"].as_str()).unwrap_or_default();
    let [id, state, created, kind] =
        [&job["id"], &job["state"], &job["created_at"], &spec["kind"]].map(shown);
    format!("{id}  {state:9}  {created}  {kind} {}", super::printable(what.as_bytes()))
}
