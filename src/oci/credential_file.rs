//! Files that credentials stand in, read again when the registry refuses what was read before: passwords are
//! changed, and tokens run out, while an image is mounted.

use std::path::PathBuf;

use crate::oci::credentials::Credentials;
use crate::oci::docker_config;

/// Bytes of a file with credentials at most.
const MAX_FILE: u64 = 64 << 10;

/// A file with credentials for one registry (normalised).
#[derive(Debug)]
pub(super) enum CredentialFile {
    /// In one of the forms of [`Credentials::parse`] that name the registry: what names none may by now be meant
    /// for another.
    Given { path: PathBuf, registry: String },
    /// Docker's; `None` is where Docker keeps it.
    Docker { path: Option<PathBuf>, registry: String },
}

impl CredentialFile {
    /// What stands there now; `None` if there is nothing that can be used, which is logged: what was read
    /// before may do yet.
    pub(super) async fn read(&self) -> Option<Credentials> {
        let (registry, read) = match self {
            Self::Given { path, registry } => {
                let text = read_text(path).await.map_err(|error| error.to_string());
                let parse = |text: String| {
                    if !Credentials::names_registry(&text) {
                        return Err(format!("{} names no registry", path.display()));
                    }
                    Credentials::parse(&text, registry).map_err(|error| error.to_string())
                };
                (registry, text.and_then(parse))
            }
            Self::Docker { path, registry } => {
                let found = docker_config::look_up(path.as_deref(), registry).await;
                (registry, found.map_err(|error| error.to_string()))
            }
        };
        read.unwrap_or_else(|error| {
            tracing::warn!("the credentials for {registry} can't be read again: {error}");
            None
        })
    }
}

async fn read_text(path: &std::path::Path) -> std::io::Result<String> {
    let size = tokio::fs::metadata(path).await?.len();
    if size > MAX_FILE {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    tokio::fs::read_to_string(path).await
}
