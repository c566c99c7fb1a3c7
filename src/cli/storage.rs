//! `clipwright workspace storage`: the bucket of a workspace. Its secret key comes from a file or the environment,
//! never from the command line, which others can read.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use reqwest::Method;
use serde_json::json;

use super::client::Call;
use crate::workspace::WorkspaceId;

/// Holds the secret key, if no file does.
const SECRET_KEY: &str = "CLIPWRIGHT_STORAGE_SECRET_KEY";

#[derive(Debug, Subcommand)]
pub(super) enum StorageAction {
    /// Give a workspace a bucket, in place of the one that it had
    Set {
        /// The workspace
        id: WorkspaceId,
        /// The bucket's name
        #[arg(long)]
        bucket: String,
        /// Its region; us-east-1 when absent
        #[arg(long)]
        region: Option<String>,
        /// Base address of a server that is not AWS
        #[arg(long, value_name = "URL")]
        endpoint: Option<String>,
        /// Names the key
        #[arg(long, value_name = "KEY")]
        access_key: String,
        /// File with the secret key; `CLIPWRIGHT_STORAGE_SECRET_KEY` in the environment when absent
        #[arg(long, value_name = "FILE")]
        secret_key_file: Option<PathBuf>,
    },
    /// Show the bucket of a workspace, without its secret key
    Show {
        /// The workspace
        id: WorkspaceId,
    },
    /// Forget the bucket of a workspace
    Remove {
        /// The workspace
        id: WorkspaceId,
    },
}

impl StorageAction {
    /// The request that does it.
    pub(super) fn call(&self) -> anyhow::Result<Call> {
        let of = |id: &WorkspaceId| format!("/v1/workspaces/{id}/storage");
        Ok(match self {
            Self::Set { id, bucket, region, endpoint, access_key, secret_key_file } => {
                let secret_key = match secret_key_file {
                    Some(file) => std::fs::read_to_string(file)
                        .with_context(|| format!("can't read {}", file.display()))?,
                    None => std::env::var(SECRET_KEY).with_context(|| {
                        format!("there is no secret key: name its file, or set {SECRET_KEY}")
                    })?,
                };
                let body = json!({
                    "bucket": bucket, "region": region, "endpoint": endpoint,
                    "access_key": access_key, "secret_key": secret_key.trim(),
                });
                (Method::PUT, of(id), Some(body))
            }
            Self::Show { id } => (Method::GET, of(id), None),
            Self::Remove { id } => (Method::DELETE, of(id), None),
        })
    }
}
