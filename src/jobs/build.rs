//! Builds: what a job asks for becomes an image in the build registry, and then an archive. The image is
//! pinned in between: an attempt that follows finds it in the registry, rather than to build another that
//! differs in its times.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::Utc;
use secrecy::{ExposeSecret as _, SecretString};

use super::job::{
    BuildReport, BuildRun, BuildSpec, ContextOrigin, EventKind, JobKind, JobResult, PullSpec,
};
use super::phase::phase;
use super::pull::{PublishedArchive, PullError, Puller, may_pull_from};
use super::queue::QueueError;
use super::worker::Attempt;
use crate::archive::{ClipVersion, IndexOptions, LayerPolicy};
use crate::build::context::ContextLimits;
use crate::build::export::ExportStyle;
use crate::build::source::Git;
use crate::build::{
    BuildBackend, BuildError, BuildInput, DockerfileInput, Mask, Network, Pipeline, Site, Storages,
    Timings,
};
use crate::error::{Classify, Fault};
use crate::local::io_error;
use crate::memory::MemoryAccount;
use crate::oci::{Credentials, InvalidCredentials, OciError, Reference, ResolvedImage, Source};

/// Provenance beside its image.
mod attestation;
/// Contexts in the store.
pub mod contexts;
/// The way of a built image out of the builder's storage.
mod delivery;
/// The log, on its way to the database.
mod log;
/// How an image came to be.
pub mod provenance;
/// Where contexts come from.
mod source;
/// What is put right beside builds.
mod tidy;

pub use contexts::{Contexts, KeepError};
pub use log::LogRecord;
pub use provenance::{STATEMENT, Statement};
pub use source::Buckets;
pub use tidy::{TidyContexts, TidyStorages};

use delivery::{Delivery, GettingOn, charged, written};
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
    /// Why it isn't the one that the settings say, for the warnings of each build.
    pub network_obstacle: Option<String>,
    /// What a context may cost.
    pub context_limits: ContextLimits,
    /// What new layers are like, of builds that don't say.
    pub style: ExportStyle,
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
        let (options, oci) = (charged(&self.puller.index, account), self.puller.oci.of_operator());
        let delivery = Delivery {
            builder: self,
            spec,
            target: &target,
            attempt,
            oci: &oci,
            options: &options,
        };
        let delivery = is_pushed.then_some(&delivery);
        let built = match self.built_before(delivery, attempt).await? {
            Some(built) => Ok(built),
            None => {
                let allowed = chosen.allowed_registries.as_deref();
                self.build_anew(spec, delivery, &options, allowed, attempt, &log).await
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
        delivery: Option<&Delivery<'_>>,
        attempt: &Attempt,
    ) -> Result<Option<Built>, BuildJobError> {
        let pinned = attempt.job().resolved_digest.as_deref().and_then(|text| text.parse().ok());
        let Some((delivery, digest)) = delivery.zip(pinned) else { return Ok(None) };
        let mut report = BuildReport {
            reference: None,
            backend: None,
            network: None,
            context: None,
            bases: Vec::new(),
            run: None,
            steps: Vec::new(),
            cached_steps: 0,
            timings: Timings::default(),
        };
        let Some((source, image)) = delivery.find(digest, &mut report).await? else {
            return Ok(None);
        };
        Ok(Some(Built { source, image, report, _scratch: None }))
    }

    async fn build_anew(
        &self,
        spec: &BuildSpec,
        delivery: Option<&Delivery<'_>>,
        options: &IndexOptions,
        allowed: Option<&[String]>,
        attempt: &Attempt,
        log: &JobLog,
    ) -> Result<Built, BuildJobError> {
        let failed = || io_error(format!("can't make a directory in {}", self.scratch.display()));
        let cancel = &attempt.cancel;
        let scratch =
            tempfile::tempdir_in(&self.scratch).map_err(failed()).map_err(BuildError::from)?;
        let workspace = &attempt.job().workspace;
        let (started_at, fetching) = (Utc::now(), Instant::now());
        let input = Box::pin(self.input(spec, attempt, scratch.path()));
        let (input, context) = phase(&attempt.events, JobKind::Build, "context", input).await?;
        let fetched = fetching.elapsed().as_secs_f64();
        if spec.secrets_as_build_args && !input.secrets.is_empty() {
            let message =
                "the secrets are offered as build arguments: every program that the build runs \
                           can read them, and layers of the cache remember them"
                    .to_owned();
            attempt.events.send(EventKind::Warning { message });
        }
        if let Some(reason) = &self.network_obstacle {
            let message = format!("the build has no network, as it can't be filtered: {reason}");
            attempt.events.send(EventKind::Warning { message });
        }
        let site = Site::open(&self.storages.of(workspace), scratch.path()).await?;
        let pipeline = Pipeline {
            backend: &*self.backend,
            oci: &self.puller.oci,
            options,
            progress: Arc::new(GettingOn(attempt.events.clone())),
            network: self.network,
            context_limits: self.context_limits,
            style: self.style,
        };
        let may = |host: &str| may_pull_from(allowed, host);
        let building = pipeline.build(&site, &input, &may, log, cancel);
        let mut built = phase(&attempt.events, JobKind::Build, "build", building).await?;
        for message in std::mem::take(&mut built.warnings) {
            attempt.events.send(EventKind::Warning { message });
        }
        let steps = std::mem::take(&mut built.steps);
        let mut report = BuildReport {
            reference: None,
            backend: Some(self.backend.version().clone()),
            network: Some(self.network),
            context,
            bases: built.bases.iter().map(|base| base.told.clone()).collect(),
            run: Some(BuildRun {
                dockerfile: built.dockerfile,
                service_version: env!("CARGO_PKG_VERSION").to_owned(),
                started_at,
                finished_at: Utc::now(),
            }),
            cached_steps: steps.iter().filter(|step| step.cached).count(),
            steps,
            timings: Timings { context: built.timings.context + fetched, ..built.timings },
        };
        let (source, image) = match delivery {
            Some(delivery) => delivery.push(&built, &site, &mut report, log).await?,
            None => {
                let exporting = Instant::now();
                let delivered = written(&built, site.scratch("layout"), spec, attempt).await?;
                report.timings.export = exporting.elapsed().as_secs_f64();
                delivered
            }
        };
        Ok(Built { source, image, report, _scratch: delivery.is_none().then_some(scratch) })
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
