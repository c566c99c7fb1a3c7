//! Options for commands that reach registries.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::oci::{AmbientCredentials, Credentials, ImageSource, OciSettings};

/// How to reach registries and as whom. Credentials come from the environment or a file: what
/// stands on a command line can be read by every user of the machine.
#[derive(Debug, Args)]
pub(super) struct RegistryArgs {
    /// Registry host to be spoken to in plain HTTP (may be repeated); loopback and private addresses are anyway
    #[arg(long = "insecure", value_name = "HOST")]
    insecure_hosts: Vec<String>,
    /// File with credentials for the registry: user:password, or JSON. The variable `CLIPWRIGHT_CREDENTIALS` works too; without either, docker's config file is asked
    #[arg(long, value_name = "FILE")]
    credentials_file: Option<PathBuf>,
    /// Use no credentials at all
    #[arg(long, conflicts_with = "credentials_file")]
    anonymous: bool,
}

impl RegistryArgs {
    pub(super) fn settings(&self) -> OciSettings {
        OciSettings {
            insecure_hosts: self.insecure_hosts.clone(),
            credentials_file: self.credentials_file.clone(),
            ..OciSettings::default()
        }
    }

    /// The same; `ambient`: whether docker's config file is asked where no credentials are given.
    pub(super) fn settings_with(&self, ambient: bool) -> OciSettings {
        let ambient =
            if ambient { AmbientCredentials::All } else { AmbientCredentials::Of(Vec::new()) };
        OciSettings { ambient, ..self.settings() }
    }

    /// The credentials given for `source`; `None` leaves it to docker's config file.
    pub(super) fn credentials(&self, source: &ImageSource) -> anyhow::Result<Option<Credentials>> {
        self.credentials_if(source, |_| true)
    }

    /// The same for a source that nobody here has named: only what is meant for its registry.
    pub(super) fn credentials_for_stored(
        &self,
        source: &ImageSource,
    ) -> anyhow::Result<Option<Credentials>> {
        self.credentials_if(source, Credentials::names_registry)
    }

    fn credentials_if(
        &self,
        source: &ImageSource,
        is_wanted: fn(&str) -> bool,
    ) -> anyhow::Result<Option<Credentials>> {
        if self.anonymous {
            return Ok(Some(Credentials::Anonymous));
        }
        let (text, place) = match &self.credentials_file {
            Some(file) => {
                let place = file.display().to_string();
                (
                    std::fs::read_to_string(file).with_context(|| format!("can't read {place}"))?,
                    place,
                )
            }
            None => match std::env::var("CLIPWRIGHT_CREDENTIALS") {
                // A secret that did not arrive shall not turn into an anonymous request.
                Ok(text) if text.trim().is_empty() => {
                    bail!("CLIPWRIGHT_CREDENTIALS is set to nothing")
                }
                Ok(text) => (text, "CLIPWRIGHT_CREDENTIALS".to_owned()),
                Err(_) => return Ok(None),
            },
        };
        let registry = match source {
            ImageSource::Registry(reference) => reference.registry(),
            ImageSource::Layout { .. } => return Ok(None),
        };
        if !is_wanted(&text) {
            tracing::debug!("the credentials in {place} name no registry: not used");
            return Ok(None);
        }
        Credentials::parse(&text, registry).with_context(|| format!("credentials in {place}"))
    }
}
