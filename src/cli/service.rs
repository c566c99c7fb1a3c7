//! Options for commands that work through a running service.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use secrecy::SecretString;

use super::client::Client;
use crate::workspace::WorkspaceId;

/// Which service, and as whom.
#[derive(Debug, Args)]
pub(super) struct ServiceArgs {
    /// Address of the service
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "CLIPWRIGHT_SERVER",
        default_value = "http://127.0.0.1:8080"
    )]
    server: String,
    /// File that holds the service's bearer token; `CLIPWRIGHT_TOKEN` is the token itself
    #[arg(long, global = true, value_name = "FILE", env = "CLIPWRIGHT_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// Act for this workspace; a token of a workspace acts for its own
    #[arg(long = "as-workspace", global = true, value_name = "ID", env = "CLIPWRIGHT_WORKSPACE")]
    workspace: Option<WorkspaceId>,
}

/// The service at an address, as whom the environment says: for commands whose main work is another.
pub(super) fn client_at(server: &str) -> anyhow::Result<Client> {
    let workspace = std::env::var("CLIPWRIGHT_WORKSPACE").ok();
    let workspace = workspace.map(|id| id.parse()).transpose()?;
    let token_file = std::env::var_os("CLIPWRIGHT_TOKEN_FILE").map(PathBuf::from);
    ServiceArgs { server: server.to_owned(), token_file, workspace }.client()
}

impl ServiceArgs {
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        Client::new(&self.server, self.token()?, self.workspace.clone())
    }

    fn token(&self) -> anyhow::Result<Option<SecretString>> {
        let Some(file) = &self.token_file else {
            return Ok(std::env::var("CLIPWRIGHT_TOKEN").ok().map(SecretString::from));
        };
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("can't read {}", file.display()))?;
        Ok(Some(text.trim().into()))
    }
}
