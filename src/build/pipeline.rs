//! The way from a Dockerfile to an image: context, base images, build, export. What is published, and
//! where, is the caller's to say; the same for a job and for the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::BuildError;
use super::backend::{BuildBackend, BuildOrder, BuildStep};
use super::bases::{BaseImage, BaseImages};
use super::context::{self, ContextLimits};
use super::dockerfile::{Dockerfile, Scope};
use super::layout::BuiltLayout;
use super::log::{LogLine, LogSink, Mask, Stream};
use super::network::Network;
use super::storage::Site;
use crate::digest::Digest;
use crate::local::blocking;
use crate::oci::{Credentials, OciSettings, Platform, Reference};

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
    /// The image was written out of the builder's storage.
    pub export: f64,
    /// The image was pushed.
    #[serde(default)]
    pub publish: f64,
    /// The image was indexed and its archive stored.
    #[serde(default)]
    pub index: f64,
}

/// An image that was built and is on this machine.
#[derive(Debug)]
pub struct Finished {
    /// The image.
    pub layout: BuiltLayout,
    /// What it began with.
    pub bases: Vec<BaseImage>,
    /// What was done.
    pub steps: Vec<BuildStep>,
    /// How long it took so far.
    pub timings: Timings,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// What all builds have in common.
#[derive(Debug)]
pub struct Pipeline<'a> {
    /// The builder.
    pub backend: &'a dyn BuildBackend,
    /// How registries are reached.
    pub oci: &'a OciSettings,
    /// Which network there is.
    pub network: Network,
    /// What a context may cost.
    pub context_limits: ContextLimits,
}

impl Pipeline<'_> {
    /// Builds. Whatever comes of it, nothing that the builder made is left but layers in the storage and
    /// what is in the site's scratch directory, which is the caller's to remove.
    pub async fn build(
        &self,
        site: &Site,
        input: &BuildInput,
        published_as: Option<&Reference>,
        may_pull_from: &(dyn Fn(&str) -> bool + Send + Sync),
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Finished, BuildError> {
        let built = self.try_build(site, input, published_as, may_pull_from, log, cancel).await;
        if let Err(error) = self.backend.sweep(site).await {
            tracing::warn!(%error, "what a build left stays until nobody builds in its workspace");
        }
        built
    }

    async fn try_build(
        &self,
        site: &Site,
        input: &BuildInput,
        published_as: Option<&Reference>,
        may_pull_from: &(dyn Fn(&str) -> bool + Send + Sync),
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<Finished, BuildError> {
        let mut timings = Timings::default();
        let mut warnings = Vec::new();
        let say = async |text: String| {
            log.write(LogLine { step: None, stream: Stream::Service, text }).await;
        };

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
            platform,
            may_pull_from,
        };
        let bases = bases.fetch(site, &externals, cancel).await?;
        for base in &bases {
            let known = if base.cached { ", which is known" } else { "" };
            say(format!("{} is {}{known}", base.name, base.reference)).await;
        }
        timings.base = started.elapsed().as_secs_f64();

        let started = Instant::now();
        let by_name: BTreeMap<String, Digest> =
            bases.iter().map(|base| (base.name.clone(), base.config)).collect();
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

        let started = Instant::now();
        say("Exporting image layers once for publication and indexing...".to_owned()).await;
        let mask = Mask::of(input.secrets.values());
        let (layout, is_elsewhere) = self.export(site, built.config, &mask, cancel).await?;
        if is_elsewhere {
            warnings.push(
                "the image's config holds the value of a secret, where the Dockerfile put it"
                    .to_owned(),
            );
        }
        let layout = BuiltLayout::open(&layout, published_as, platform, cancel).await?;
        timings.export = started.elapsed().as_secs_f64();
        say(format!("Image layers exported in {:.1}s", timings.export)).await;
        Ok(Finished { layout, bases, steps: built.steps, timings, warnings })
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

    /// Everything after the last `RUN`: the image leaves the builder's storage.
    async fn export(
        &self,
        site: &Site,
        image: Digest,
        mask: &Mask,
        cancel: &CancellationToken,
    ) -> Result<(PathBuf, bool), BuildError> {
        let layout = site.scratch("layout");
        self.backend.export(site, image, &layout, cancel).await?;
        let is_elsewhere = BuiltLayout::mask_history(&layout, mask)?;
        Ok((layout, is_elsewhere))
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
