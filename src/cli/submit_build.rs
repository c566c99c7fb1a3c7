//! `clipwright submit build`: the context is packed, and sent if the service doesn't have it.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::build::{BuildOptions, dockerfile_text};
use super::client::Client;
use crate::build::context::pack::pack;
use crate::digest::Digest;
use crate::image_id::ImageId;

/// A build by the service.
#[derive(Debug, Args)]
pub(super) struct SubmitBuild {
    /// Directory that COPY and ADD take from; without it the context is empty
    context: Option<PathBuf>,
    /// The Dockerfile; CONTEXT/Dockerfile by default
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Names the archive; made of the Dockerfile and the context when absent
    #[arg(long, value_name = "ID")]
    image_id: Option<ImageId>,
    /// The archive version wanted; decided by the service when absent
    #[arg(long, value_name = "1|2", value_parser = clap::value_parser!(u8).range(1..=2))]
    clip_version: Option<u8>,
    /// Replace an archive of this image id that has other content
    #[arg(long)]
    force: bool,
    /// File with credentials for a base image's registry (may be repeated)
    #[arg(long = "registry-credentials-file", value_name = "HOST=FILE")]
    registry_credentials: Vec<String>,
    #[command(flatten)]
    options: BuildOptions,
}

impl SubmitBuild {
    /// The job's body, once the context is where the service finds it.
    pub(super) async fn body(
        &self,
        client: &Client,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Value> {
        let directory =
            self.context.clone().or_else(|| self.file.is_none().then(|| PathBuf::from(".")));
        let text =
            dockerfile_text(self.file.as_deref(), directory.as_deref().unwrap_or(".".as_ref()))?;
        let context = match &directory {
            Some(directory) => Some(self.send(directory, client, cancel).await?),
            None => None,
        };
        let options = &self.options;
        let mut credentials = Map::new();
        for given in &self.registry_credentials {
            let (host, file) =
                given.split_once('=').with_context(|| format!("{given:?}: expected HOST=FILE"))?;
            let text =
                std::fs::read_to_string(file).with_context(|| format!("can't read {file}"))?;
            credentials.insert(host.to_owned(), json!(text.trim()));
        }
        let secrets = options.secrets()?;
        let secrets: Map<String, Value> =
            secrets.iter().map(|(id, value)| (id.clone(), json!(value.expose_secret()))).collect();
        let made_of =
            format!("{text}\0{context:?}\0{:?}\0{:?}", options.arguments(), options.target());
        let named = || Digest::of(made_of.as_bytes()).hex()[..16].to_owned();
        let id = self.image_id.as_ref().map_or_else(named, ToString::to_string);
        let mut body = options.body();
        body.extend([
            ("kind".to_owned(), json!("build")),
            ("image_id".to_owned(), json!(id)),
            ("dockerfile".to_owned(), json!(text)),
            ("force".to_owned(), json!(self.force)),
        ]);
        let optional = [
            ("context", context.map(|digest| json!(digest))),
            ("clip_version", self.clip_version.map(Value::from)),
            ("secrets", (!secrets.is_empty()).then_some(Value::Object(secrets))),
            ("credentials", (!credentials.is_empty()).then_some(Value::Object(credentials))),
        ];
        body.extend(
            optional.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))),
        );
        Ok(Value::Object(body))
    }

    /// Sends the context, unless the service has it.
    async fn send(
        &self,
        directory: &std::path::Path,
        client: &Client,
        cancel: &CancellationToken,
    ) -> anyhow::Result<Digest> {
        let packed = tempfile::NamedTempFile::new()?;
        let digest = {
            let (directory, output) = (directory.to_owned(), packed.path().to_owned());
            // The Dockerfile itself is in the job.
            tokio::task::spawn_blocking(move || {
                pack(&directory, &[], &output)?;
                let (digest, _) = Digest::of_reader(&mut std::fs::File::open(&output)?)?;
                anyhow::Ok(digest)
            })
            .await??
        };
        let path = format!("/v1/contexts/{digest}");
        if client.exists(&path, cancel).await? {
            eprintln!("=> the context is known: {digest}");
        } else {
            let size = packed.as_file().metadata()?.len();
            eprintln!("=> sending the context, {}", indicatif::HumanBytes(size));
            let _: Value = client.upload("/v1/contexts", packed.path(), cancel).await?;
        }
        Ok(digest)
    }
}
