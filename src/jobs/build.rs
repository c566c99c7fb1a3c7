//! Builds: what a job asks for becomes an image in the build registry, and then an archive. The image is
//! pinned in between: an attempt that follows finds it in the registry, rather than to build another that
//! differs in its times.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};

use super::job::{BuildReport, BuildSpec, ContextOrigin, EventKind, JobKind, JobResult, PullSpec};
use super::phase::phase;
use super::pull::{PublishedArchive, PullError, Puller, may_pull_from};
use super::queue::QueueError;
use super::worker::Attempt;
use crate::archive::{ClipVersion, LayerPolicy};
use crate::build::context::ContextLimits;
use crate::build::source::Git;
use crate::build::{
    BuildBackend, BuildError, BuildInput, DockerfileInput, Finished, Mask, Network, Pipeline, Site,
    Storages, Timings,
};
use crate::error::{Classify, Fault};
use crate::local::io_error;
use crate::memory::MemoryAccount;
use crate::oci::{
    Credentials, ImageSource, InvalidCredentials, OciError, Publisher, Reference, ResolvedImage,
    Source,
};

/// Contexts in the store.
pub mod contexts;
/// The log, on its way to the database.
mod log;
/// Where contexts come from.
mod source;
/// What is put right beside builds.
mod tidy;

pub use contexts::{Contexts, KeepError};
pub use log::LogRecord;
pub use source::Buckets;
pub use tidy::{TidyContexts, TidyStorages};

use log::JobLog;

/// What a job's credentials for pushing are called among its secrets.
pub const PUSH_SECRET: &str = "push";
/// What a job's credentials for a git repository are called among its secrets.
pub const GIT_SECRET: &str = "git";
/// What comes before a host among a job's secrets: credentials for the registry of a base image.
pub const REGISTRY_PREFIX: &str = "registry:";
/// What comes before the id of a secret among a job's secrets.
pub const SECRET_PREFIX: &str = "secret:";

/// Everything that builds have in common.
#[derive(Debug)]
pub struct Builder {
    /// What builds.
    pub backend: Arc<dyn BuildBackend>,
    /// What makes the archives.
    pub puller: Arc<Puller>,
    /// Where layers are kept.
    pub storages: Storages,
    /// Where contexts are.
    pub contexts: Contexts,
    /// Which buckets workspaces have.
    pub buckets: Arc<dyn Buckets>,
    /// What fetches contexts out of git repositories.
    pub git: Git,
    /// Which network there is.
    pub network: Network,
    /// What a context may cost.
    pub context_limits: ContextLimits,
    /// Where builds have their directories.
    pub scratch: PathBuf,
}

/// Why a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildJobError {
    /// The credentials can't be used.
    #[error(transparent)]
    Credentials(#[from] InvalidCredentials),
    /// The image could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The image could not be pushed.
    #[error("the image can't be pushed: {0}")]
    Push(#[source] OciError),
    /// The archive could not be made.
    #[error(transparent)]
    Archive(Box<PullError>),
    /// The job was taken from its worker, or the database is away.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

impl From<PullError> for BuildJobError {
    fn from(error: PullError) -> Self {
        Self::Archive(Box::new(error))
    }
}

impl BuildJobError {
    fn cause(&self) -> Option<&dyn Classify> {
        match self {
            Self::Credentials(_) => None,
            Self::Build(error) => Some(error),
            Self::Push(error) => Some(error),
            Self::Archive(error) => Some(&**error),
            Self::Queue(error) => Some(error),
        }
    }
}

impl Classify for BuildJobError {
    fn is_transient(&self) -> bool {
        self.cause().is_some_and(Classify::is_transient)
    }

    fn fault(&self) -> Fault {
        self.cause().map_or(Fault::User, Classify::fault)
    }

    fn retry_after(&self) -> Option<Duration> {
        self.cause().and_then(Classify::retry_after)
    }

    fn code(&self) -> &'static str {
        self.cause().map_or("invalid_credentials", Classify::code)
    }
}

/// An image, and how it came to be.
struct Built {
    source: Source,
    image: ResolvedImage,
    report: BuildReport,
    /// Holds the image, if it is on this machine.
    _scratch: Option<tempfile::TempDir>,
}

impl Builder {
    /// Does one build. `account` pays for the memory that layers and tree take.
    pub async fn build(
        &self,
        spec: &BuildSpec,
        attempt: &Attempt,
        account: &MemoryAccount,
    ) -> Result<JobResult, BuildJobError> {
        let started = Instant::now();
        let target = self.target(spec)?;
        let asked = pull_of(spec, &target);
        let (policy, chosen) = self.puller.version(&asked, attempt).await?;
        let is_pushed = policy.wanted == ClipVersion::V2;
        let log = JobLog::open(attempt).await?;
        let built = match self.built_before(spec, &target, is_pushed, attempt).await? {
            Some(built) => Ok(built),
            None => {
                let allowed = chosen.allowed_registries.as_deref();
                self.build_anew(spec, is_pushed.then_some(&target), allowed, attempt, &log).await
            }
        };
        log.close().await;
        let Built { source, image, mut report, _scratch } = built?;
        let indexing = Instant::now();
        let chosen = (policy, chosen);
        let archived =
            self.puller.archive(&asked, chosen, (source, image), attempt, account).await?;
        report.timings.index = indexing.elapsed().as_secs_f64();
        let PublishedArchive { summary, archive, version, republished_from } = archived;
        Ok(JobResult {
            image_id: spec.image_id.clone(),
            summary,
            archive,
            version: Some(version),
            republished_from,
            migration: None,
            build: Some(report),
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Where the image goes (CONTRACT D.3): the tag is the image id.
    fn target(&self, spec: &BuildSpec) -> Result<Reference, BuildJobError> {
        let registry = &self.puller.build_registry;
        let name = format!("{}/{}:{}", registry.host, registry.repository, spec.image_id);
        Ok(name.parse().map_err(|error| BuildError::from(OciError::from(error)))?)
    }

    /// The image that an earlier attempt has pushed.
    async fn built_before(
        &self,
        spec: &BuildSpec,
        target: &Reference,
        is_pushed: bool,
        attempt: &Attempt,
    ) -> Result<Option<Built>, BuildJobError> {
        let pinned = attempt.job().resolved_digest.as_deref().and_then(|text| text.parse().ok());
        let Some(digest) = pinned.filter(|_| is_pushed) else { return Ok(None) };
        let credentials = self.push_credentials(attempt)?;
        let operator = self.puller.oci.of_operator();
        let at = ImageSource::Registry(target.clone().at(digest));
        let source =
            Source::open(&at, &operator, credentials).await.map_err(BuildJobError::Push)?;
        match source.resolve(&spec.platform, &attempt.cancel).await {
            Ok(image) => {
                let report = BuildReport {
                    reference: Some(pushed_name(target, &image)),
                    backend: None,
                    context: None,
                    bases: Vec::new(),
                    steps: Vec::new(),
                    cached_steps: 0,
                    timings: Timings::default(),
                };
                Ok(Some(Built { source, image, report, _scratch: None }))
            }
            Err(OciError::ImageNotFound { .. }) => Ok(None),
            Err(error) => Err(BuildJobError::Push(error)),
        }
    }

    async fn build_anew(
        &self,
        spec: &BuildSpec,
        target: Option<&Reference>,
        allowed: Option<&[String]>,
        attempt: &Attempt,
        log: &JobLog,
    ) -> Result<Built, BuildJobError> {
        let failed = || io_error(format!("can't make a directory in {}", self.scratch.display()));
        let cancel = &attempt.cancel;
        let scratch =
            tempfile::tempdir_in(&self.scratch).map_err(failed()).map_err(BuildError::from)?;
        let workspace = &attempt.job().workspace;
        let fetching = Instant::now();
        let input = self.input(spec, attempt, scratch.path());
        let (input, context) = phase(JobKind::Build, "context", input).await?;
        let fetched = fetching.elapsed().as_secs_f64();
        if spec.secrets_as_build_args && !input.secrets.is_empty() {
            let message =
                "the secrets are offered as build arguments: every program that the build runs \
                           can read them, and layers of the cache remember them"
                    .to_owned();
            attempt.events.send(EventKind::Warning { message });
        }
        let site = Site::open(&self.storages.of(workspace), scratch.path()).await?;
        let pipeline = Pipeline {
            backend: &*self.backend,
            oci: &self.puller.oci,
            network: self.network,
            context_limits: self.context_limits,
        };
        let may = |host: &str| may_pull_from(allowed, host);
        let building = pipeline.build(&site, &input, target, &may, log, cancel);
        let Finished { layout, bases, steps, mut timings, warnings } =
            phase(JobKind::Build, "build", building).await?;
        drop(site);
        timings.context += fetched;
        for message in warnings {
            attempt.events.send(EventKind::Warning { message });
        }
        let reference = match target {
            Some(target) => {
                let pushing = Instant::now();
                log.say("Publishing image...").await;
                let registry = &self.puller.build_registry;
                let operator = self.puller.oci.of_operator();
                let credentials = self.push_credentials(attempt)?;
                let (host, repository) = (&registry.host, &registry.repository);
                let publisher = Publisher::open(host, repository, None, &operator, credentials);
                let publisher = publisher.await.map_err(BuildJobError::Push)?;
                // Whoever has the job by now may be about to push the same tag.
                attempt.fence.check().await?;
                let push = layout.push(&publisher, spec.image_id.as_str(), cancel);
                phase(JobKind::Build, "push", push).await?;
                attempt.fence.pin(layout.image.manifest_digest).await?;
                timings.publish = pushing.elapsed().as_secs_f64();
                log.say(&format!("Image published in {:.1}s", timings.publish)).await;
                Some(pushed_name(target, &layout.image))
            }
            None => None,
        };
        let report = BuildReport {
            reference,
            backend: Some(self.backend.version().clone()),
            context,
            bases,
            cached_steps: steps.iter().filter(|step| step.cached).count(),
            steps,
            timings,
        };
        let (source, image) = (layout.source.clone(), layout.image.clone());
        Ok(Built { source, image, report, _scratch: Some(scratch) })
    }

    async fn input(
        &self,
        spec: &BuildSpec,
        attempt: &Attempt,
        scratch: &std::path::Path,
    ) -> Result<(BuildInput, Option<ContextOrigin>), BuildJobError> {
        let (context, origin) = self.context(spec, attempt, scratch).await?;
        let dockerfile = match &spec.dockerfile {
            Some(text) => DockerfileInput::Text(text.clone()),
            None => {
                let path = spec.dockerfile_path.clone();
                DockerfileInput::Path(path.unwrap_or_else(|| "Dockerfile".to_owned()))
            }
        };
        let mut credentials = BTreeMap::new();
        for (host, text) in with_prefix(attempt, REGISTRY_PREFIX) {
            if let Some(parsed) = Credentials::parse(text.expose_secret(), host)? {
                credentials.insert(host.to_owned(), parsed);
            }
        }
        let input = BuildInput {
            dockerfile,
            context,
            arguments: spec.build_args.clone(),
            secrets: with_prefix(attempt, SECRET_PREFIX)
                .map(|(id, value)| (id.to_owned(), value.clone()))
                .collect(),
            secrets_as_arguments: spec.secrets_as_build_args,
            target: spec.target.clone(),
            platform: spec.platform.clone(),
            labels: spec.labels.clone(),
            no_cache: spec.no_cache,
            timeout: Duration::from_secs(spec.timeout),
            credentials,
        };
        Ok((input, origin))
    }

    fn push_credentials(&self, attempt: &Attempt) -> Result<Option<Credentials>, BuildJobError> {
        let registry = &self.puller.build_registry;
        match attempt.secrets().get(PUSH_SECRET) {
            Some(text) => Ok(Credentials::parse(text.expose_secret(), &registry.host)?),
            None => Ok(registry.credentials.clone()),
        }
    }
}

fn with_prefix<'a>(
    attempt: &'a Attempt,
    prefix: &'static str,
) -> impl Iterator<Item = (&'a str, &'a SecretString)> {
    let secrets = attempt.secrets().iter();
    secrets.filter_map(move |(name, value)| Some((name.strip_prefix(prefix)?, value)))
}

/// What must not be in a job's log.
fn mask_of(attempt: &Attempt) -> Mask {
    Mask::of(attempt.secrets().values())
}

fn pushed_name(target: &Reference, image: &ResolvedImage) -> String {
    target.clone().at(image.manifest_digest).to_string()
}

/// The pull that a build is once its image is pushed.
fn pull_of(spec: &BuildSpec, target: &Reference) -> PullSpec {
    PullSpec {
        image_id: spec.image_id.clone(),
        source: target.clone(),
        platform: spec.platform.clone(),
        clip_version: spec.clip_version,
        layers: LayerPolicy::default(),
        fallback: spec.fallback,
        force: spec.force,
    }
}
