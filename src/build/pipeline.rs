//! The way from a Dockerfile to an image in the builder's storage: context, base images, build. Where it goes
//! from there is the caller's to say; the same for a job and for the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::BuildError;
use super::backend::{BuildBackend, BuildOrder, BuildStep};
use super::bases::{BaseImages, FetchedBase};
use super::context::{self, ContextLimits};
use super::dockerfile::{Dockerfile, Scope};
use super::export::{ExportStyle, MAX_EPOCH, PublicConfig, StoredImage};
use super::log::{LogLine, LogSink, Mask, Stream};
use super::network::Network;
use super::storage::Site;
use crate::archive::IndexOptions;
use crate::digest::Digest;
use crate::local::blocking;
use crate::oci::{Credentials, OciSettings, PinnedReference, Platform};
use crate::progress::Progress;

/// Where the Dockerfile is.
#[derive(Debug, Clone)]
pub enum DockerfileInput {
    /// Its text.
    Text(String),
    /// A path in the context.
    Path(String),
}

/// Where the context is.
#[derive(Debug, Clone)]
pub enum ContextInput {
    /// There is none: it is an empty directory.
    Empty,
    /// A directory on this machine.
    Directory(PathBuf),
    /// An archive on this machine: a tar or a zip.
    Archive(PathBuf),
}

/// What is to be built.
#[derive(Debug, Clone)]
pub struct BuildInput {
    /// The Dockerfile.
    pub dockerfile: DockerfileInput,
    /// The context.
    pub context: ContextInput,
    /// Values of `ARG`s.
    pub arguments: BTreeMap<String, String>,
    /// By their ids.
    pub secrets: BTreeMap<String, SecretString>,
    /// Whether they are offered as `ARG`s too.
    pub secrets_as_arguments: bool,
    /// The stage to build.
    pub target: Option<String>,
    /// What the image is for.
    pub platform: Platform,
    /// Labels that it gets.
    pub labels: BTreeMap<String, String>,
    /// Whether no layers of earlier builds are used.
    pub no_cache: bool,
    /// How long the builder may take.
    pub timeout: Duration,
    /// How to log in to the base images' registries, by host.
    pub credentials: BTreeMap<String, Credentials>,
}

/// How long each part of a build took, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Timings {
    /// The context was fetched and unpacked.
    pub context: f64,
    /// Base images were found and fetched.
    pub base: f64,
    /// The builder ran.
    pub build: f64,
    /// The image's new layers were read out of the builder's storage, compressed, indexed and pushed.
    pub export: f64,
    /// The image got its tag.
    #[serde(default)]
    pub publish: f64,
    /// The image was indexed and its archive stored.
    #[serde(default)]
    pub index: f64,
}

/// An image that was built and is in the builder's storage.
#[derive(Debug)]
pub struct Finished {
    /// The image, with the config that it is to have.
    pub image: StoredImage,
    /// What it began with.
    pub bases: Vec<FetchedBase>,
    /// Digest of the Dockerfile's text.
    pub dockerfile: Digest,
    /// What its new layers are to be like.
    pub style: ExportStyle,
    /// What was done.
    pub steps: Vec<BuildStep>,
    /// How long it took so far.
    pub timings: Timings,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

impl Finished {
    /// A repository of this registry that has layers of the image.
    pub(super) fn mountable(&self, host: &str) -> Option<&str> {
        let diff_ids: BTreeSet<Digest> =
            self.image.layers.iter().map(|layer| layer.diff_id).collect();
        let mut mountable = self.bases.iter().filter(|base| {
            let PinnedReference { registry, .. } = &base.image.reference;
            registry == host && base.image.diff_ids.iter().any(|id| diff_ids.contains(id))
        });
        mountable.next().map(|base| base.image.reference.repository.as_str())
    }
}

/// What all builds have in common.
pub struct Pipeline<'a> {
    /// The builder.
    pub backend: &'a dyn BuildBackend,
    /// How registries are reached.
    pub oci: &'a OciSettings,
    /// How what is built will be indexed.
    pub options: &'a IndexOptions,
    /// Told of the layers of base images that come.
    pub progress: Arc<dyn Progress>,
    /// Which network there is.
    pub network: Network,
    /// What a context may cost.
    pub context_limits: ContextLimits,
    /// What new layers are like, unless a build says otherwise by its `ARG` [`EPOCH`].
    pub style: ExportStyle,
}

/// The `ARG` by which a build says what nothing of it is younger than, as with docker's builder.
pub const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The same as `style`, but for what these values of `ARG`s say.
fn style_of(
    style: ExportStyle,
    arguments: &BTreeMap<String, String>,
) -> Result<ExportStyle, BuildError> {
    let Some(text) = arguments.get(EPOCH) else { return Ok(style) };
    let epoch = text.parse().ok().filter(|epoch| *epoch <= MAX_EPOCH);
    let found = || text.chars().take(40).collect();
    let epoch = epoch.ok_or_else(|| BuildError::Epoch { found: found() })?;
    Ok(ExportStyle { epoch: Some(epoch), ..style })
}

impl std::fmt::Debug for Pipeline<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("backend", &self.backend).finish_non_exhaustive()
    }
}

impl Pipeline<'_> {
    /// Builds. Whatever comes of it, nothing that the builder made is left but layers in the storage and
    /// what is in the site's scratch directory, which is the caller's to remove. The image is there as long as
    /// the site is open.
    pub async fn build(
        &self,
        site: &Site,
        input: &BuildInput,
        may_pull_from: &(dyn Fn(&str) -> bool + Send + Sync),
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Finished, BuildError> {
        let built = self.try_build(site, input, may_pull_from, log, cancel).await;
        if let Err(error) = self.backend.sweep(site).await {
            tracing::warn!(%error, "what a build left stays until nobody builds in its workspace");
        }
        built
    }

    async fn try_build(
        &self,
        site: &Site,
        input: &BuildInput,
        may_pull_from: &(dyn Fn(&str) -> bool + Send + Sync),
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Finished, BuildError> {
        let mut timings = Timings::default();
        let mut warnings = Vec::new();
        let say = async |text: String| {
            log.write(LogLine { step: None, stream: Stream::Service, text }).await;
        };

        let style = style_of(self.style, &input.arguments)?;
        let started = Instant::now();
        let context = self.context(site, &input.context).await?;
        let text = dockerfile_text(&input.dockerfile, &context).await?;
        let dockerfile = Dockerfile::parse(&text, self.backend.features())?;
        timings.context = started.elapsed().as_secs_f64();

        let started = Instant::now();
        let platform = &input.platform;
        let scope =
            Scope { arguments: &input.arguments, target: input.target.as_deref(), platform };
        let externals = dockerfile.externals(&scope)?;
        let bases = BaseImages {
            backend: self.backend,
            oci: self.oci,
            credentials: &input.credentials,
            options: self.options,
            progress: self.progress.clone(),
            platform,
            may_pull_from,
        };
        let bases = bases.fetch(site, &externals, cancel).await?;
        for base in bases.iter().map(|base| &base.told) {
            let known = if base.cached { ", which is known" } else { "" };
            say(format!("{} is {}{known}", base.name, base.reference)).await;
        }
        timings.base = started.elapsed().as_secs_f64();

        let started = Instant::now();
        let by_name: BTreeMap<String, Digest> =
            bases.iter().map(|base| (base.told.name.clone(), base.config)).collect();
        let order = BuildOrder {
            text: &text,
            dockerfile: &dockerfile,
            context,
            bases: &by_name,
            arguments: &input.arguments,
            secrets: &input.secrets,
            secrets_as_arguments: input.secrets_as_arguments,
            target: input.target.as_deref(),
            platform,
            labels: &input.labels,
            no_cache: input.no_cache,
            timeout: input.timeout,
            network: self.network,
        };
        let built = self.backend.build(site, &order, log, cancel).await?;
        timings.build = started.elapsed().as_secs_f64();
        say(format!("Image built in {:.1}s", timings.build)).await;

        let mut image = site.image(built.config).await?;
        let mask = Mask::of(input.secrets.values());
        let PublicConfig { json, has_secret } = PublicConfig::of(&image.config, &mask)?;
        image.config = json;
        if has_secret {
            warnings.push(
                "the image's config holds the value of a secret, where the Dockerfile put it"
                    .to_owned(),
            );
        }
        let (dockerfile, steps) = (Digest::of(text.as_bytes()), built.steps);
        Ok(Finished { image, bases, dockerfile, style, steps, timings, warnings })
    }

    /// The directory that `COPY` takes from.
    async fn context(&self, site: &Site, input: &ContextInput) -> Result<PathBuf, BuildError> {
        let directory = site.scratch("context");
        match input {
            ContextInput::Empty => Ok(directory),
            ContextInput::Directory(path) => Ok(path.clone()),
            ContextInput::Archive(file) => {
                let (file, into, limits) = (file.clone(), directory.clone(), self.context_limits);
                blocking(move || context::unpack(&file, &into, limits)).await??;
                Ok(directory)
            }
        }
    }
}

async fn dockerfile_text(input: &DockerfileInput, context: &Path) -> Result<String, BuildError> {
    match input {
        DockerfileInput::Text(text) => Ok(text.clone()),
        DockerfileInput::Path(path) => {
            let (context, path) = (context.to_owned(), path.clone());
            Ok(blocking(move || context::read_text(&context, &path)).await??)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_says_what_nothing_is_younger_than() {
        let settings = ExportStyle { epoch: Some(7), ..ExportStyle::default() };
        let style = |text: &str| style_of(settings, &BTreeMap::from([(EPOCH.into(), text.into())]));
        assert_eq!(style_of(settings, &BTreeMap::new()).unwrap(), settings);
        assert_eq!(style("1700000000").unwrap().epoch, Some(1_700_000_000));
        for text in ["", "-1", "now", "8589934592", "99999999999999999999999"] {
            let error = style(text).unwrap_err().to_string();
            assert!(error.starts_with("SOURCE_DATE_EPOCH: expected seconds"), "{error}");
        }
    }
}
