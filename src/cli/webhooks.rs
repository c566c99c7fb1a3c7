//! `clipwright webhooks`: what became of those who were to be told when jobs ended.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::admin::Output;

/// Show webhooks, and send them again.
#[derive(Debug, Args)]
pub(super) struct WebhooksCommand {
    #[command(subcommand)]
    action: WebhooksAction,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Subcommand)]
enum WebhooksAction {
    /// List webhooks, the newest first
    List,
    /// Send a webhook again, now
    Redeliver {
        /// The webhook's id
        id: Uuid,
    },
}

impl WebhooksCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self.action {
            WebhooksAction::List => self.output.list("/v1/webhooks", "webhooks", "before"),
            WebhooksAction::Redeliver { id } => self.output.call((
                Method::POST,
                format!("/v1/webhooks/{id}/redeliver"),
                Some(json!({})),
            )),
        }
    }
}
