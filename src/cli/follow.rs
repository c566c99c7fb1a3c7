//! What happens to a job of the service, line by line, to its end.

use std::time::Duration;

use anyhow::Context as _;
use indicatif::HumanBytes;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::admin::{Output, shown};
use super::client::Client;

/// Before the service is asked again that broke off.
const PAUSE: Duration = Duration::from_millis(500);

/// What there is to be followed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lines {
    /// The events of a job.
    Events,
    /// What a build says.
    Log,
}

impl Lines {
    /// Those of a build are what it says.
    pub(super) fn of(job: &Value) -> Self {
        if job["spec"]["kind"] == "build" { Self::Log } else { Self::Events }
    }

    /// Where they are, from a place on.
    fn path(self, id: &str, from: i64) -> String {
        match self {
            Self::Events => format!("/v1/jobs/{id}/events?after={from}"),
            Self::Log => format!("/v1/jobs/{id}/log?offset={from}"),
        }
    }

    /// The place behind a line.
    fn place(self, line: &Value) -> Option<i64> {
        match self {
            Self::Events => line["seq"].as_i64(),
            Self::Log => line["next"].as_i64(),
        }
    }

    /// Those that there are by now.
    pub(super) async fn show(
        self,
        client: &Client,
        id: &str,
        show: impl FnMut(&Value),
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        let path = format!("{}&follow=false", self.path(id, 0));
        Ok(client.lines(&path, cancel, show).await?)
    }

    /// Shows them until the job ends; the job as it is then.
    pub(super) async fn follow(
        self,
        client: &Client,
        job: &Value,
        mut show: impl FnMut(&Value),
        cancel: &CancellationToken,
    ) -> anyhow::Result<Value> {
        let id = job["id"].as_str().context("the service named no job")?;
        let mut from = 0;
        loop {
            let path = self.path(id, from);
            let seen = |line: &Value| {
                from = self.place(line).unwrap_or(from);
                show(line);
            };
            let broken = client.lines(&path, cancel, seen).await;
            let job: Value = client.get(&format!("/v1/jobs/{id}"), cancel).await?;
            if !job["finished_at"].is_null() {
                return Ok(job);
            }
            // Cut off, or the service stops: another replica goes on from there.
            if let Err(error) = broken {
                tracing::debug!(%error, "asking for the rest");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// One of them, for people or as it is.
    pub(super) fn text(self, line: &Value, output: &Output) -> String {
        if output.json {
            return line.to_string();
        }
        match self {
            Self::Events => event(line),
            Self::Log => {
                let mark = if line["stream"] == "service" { "=> " } else { "" };
                let text = line["text"].as_str().unwrap_or_default();
                format!("{mark}{}", super::printable(text.as_bytes()))
            }
        }
    }
}

/// Success if the job succeeded; else its own words.
pub(super) fn ended(job: &Value) -> anyhow::Result<()> {
    match job["state"].as_str() {
        Some("succeeded") => Ok(()),
        Some("failed") => {
            let (code, message) = (shown(&job["error"]["code"]), shown(&job["error"]["message"]));
            anyhow::bail!("the job failed: {message} ({code})")
        }
        state => anyhow::bail!("the job ended as {}", state.unwrap_or("nothing known")),
    }
}

/// One thing that happened, in a line.
fn event(event: &Value) -> String {
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
