//! Pulls: what a job asks for; how it is done is in `run`, and what is made in `decide`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;

use super::job::{JobKind, JobResult, PullSpec};
use super::phase::phase;
use super::progress::JobProgress;
use super::queue::QueueError;
use super::worker::Attempt;
use crate::archive::{ArchiveError, Fallback, IndexOptions};
use crate::config::BuildRegistry;
use crate::error::{Classify, Fault};
use crate::memory::MemoryAccount;
use crate::oci::{
    Credentials, ImageSource, InvalidCredentials, OciError, OciSettings, ResolvedImage, Source,
};
use crate::publish::PublishError;
use crate::publish::archives::ArchiveStore;

/// Who says which version a pull is to make.
pub mod choose;
/// Which version an archive gets.
pub mod decide;
/// What speaks against v2.
mod findings;
/// The way of one pull.
mod run;

use choose::{ChosenVersion, VersionChooser};
use decide::{Finding, Policy};
use run::{PullRun, ResolvedSource};

pub(super) use run::PublishedArchive;

/// What a job calls its credentials for the registry of its image.
pub const REGISTRY_SECRET: &str = "registry";

/// Everything that pulls have in common.
#[derive(Debug)]
pub struct Puller {
    /// Where archives go.
    pub archives: Arc<dyn ArchiveStore>,
    /// How registries are reached.
    pub oci: OciSettings,
    /// How images are indexed; limits and budget are those of packing too.
    pub index: IndexOptions,
    /// Says which version a pull is to make.
    pub versions: Arc<dyn VersionChooser>,
    /// What becomes of images that can't be served as v2, of jobs that don't say.
    pub fallback: Fallback,
    /// Where images go that are re-published.
    pub build_registry: BuildRegistry,
    /// Where archives are written before they are published.
    pub scratch: PathBuf,
}

/// Why a pull failed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The credentials can't be used.
    #[error(transparent)]
    Credentials(#[from] InvalidCredentials),
    /// The workspace doesn't let its jobs pull from there.
    #[error("the workspace does not let its jobs pull from {registry}")]
    RegistryNotAllowed {
        /// The registry's host.
        registry: String,
    },
    /// The image can't be served as v2, and the job wants nothing else.
    #[error("the image can't be served as v2: {finding}; {}", finding.ways_out())]
    NotV2 {
        /// Why not.
        finding: Finding,
    },
    /// The image could not be had.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// The archive could not be made.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive could not be published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The job was taken from its worker, or the database is away.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The archive under the image id belongs to another workspace, and has other content.
    #[error(
        "there is an archive of other content under this image id, and it is not the workspace's: choose \
         another image_id"
    )]
    Taken,
    /// Local disk trouble.
    #[error("can't make a file in {}: {source}", directory.display())]
    Scratch {
        /// Where.
        directory: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl PullError {
    fn cause(&self) -> Option<&dyn Classify> {
        match self {
            Self::Oci(error) => Some(error),
            Self::Archive(error) => Some(error),
            Self::Publish(error) => Some(error),
            Self::Queue(error) => Some(error),
            _ => None,
        }
    }
}

impl Classify for PullError {
    fn is_transient(&self) -> bool {
        self.cause().map_or(matches!(self, Self::Scratch { .. }), Classify::is_transient)
    }

    fn fault(&self) -> Fault {
        let own = if matches!(self, Self::Scratch { .. }) { Fault::Ours } else { Fault::User };
        self.cause().map_or(own, Classify::fault)
    }

    fn retry_after(&self) -> Option<Duration> {
        self.cause().and_then(Classify::retry_after)
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Credentials(_) => "invalid_credentials",
            Self::RegistryNotAllowed { .. } => "registry_not_allowed",
            Self::NotV2 { finding } => finding.code(),
            Self::Taken => "image_id_taken",
            Self::Scratch { .. } => "io",
            _ => self.cause().map_or("internal", Classify::code),
        }
    }
}

/// Whether a workspace means this registry by that name.
fn is_registry(named: &str, registry: &str) -> bool {
    let hub = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
    named.eq_ignore_ascii_case(registry) || hub(named) && hub(registry)
}

/// Whether a workspace lets its jobs pull from a registry.
pub(super) fn may_pull_from(allowed: Option<&[String]>, registry: &str) -> bool {
    allowed.is_none_or(|hosts| hosts.iter().any(|host| is_registry(host, registry)))
}

impl Puller {
    /// What the pull is allowed to become, and who says so.
    async fn policy(
        &self,
        spec: &PullSpec,
        attempt: &Attempt,
    ) -> Result<(Policy, ChosenVersion), PullError> {
        let (policy, chosen) = self.version(spec, attempt).await?;
        let registry = spec.source.registry();
        if !may_pull_from(chosen.allowed_registries.as_deref(), registry) {
            return Err(PullError::RegistryNotAllowed { registry: registry.to_owned() });
        }
        Ok((policy, chosen))
    }

    /// The same, wherever the image comes from.
    pub(super) async fn version(
        &self,
        spec: &PullSpec,
        attempt: &Attempt,
    ) -> Result<(Policy, ChosenVersion), PullError> {
        let chosen = self.versions.choose(attempt.job(), spec).await?;
        let fallback = spec.fallback.or(chosen.fallback).unwrap_or(self.fallback);
        Ok((Policy { wanted: chosen.version, layers: spec.layers, fallback }, chosen))
    }

    /// Does one pull. `account` pays for the memory that layers and tree take.
    pub async fn pull(
        &self,
        spec: &PullSpec,
        attempt: &Attempt,
        account: &MemoryAccount,
    ) -> Result<JobResult, PullError> {
        let started = Instant::now();
        let (policy, chosen) = self.policy(spec, attempt).await?;
        let (source, image) =
            phase(&attempt.events, JobKind::Pull, "resolve", self.resolve(spec, attempt)).await?;
        let run = self.run(spec, (policy, chosen), attempt, account);
        let PublishedArchive { summary, archive, version, republished_from } =
            run.make(ResolvedSource { source, image }).await?;
        Ok(JobResult {
            image_id: spec.image_id.clone(),
            summary,
            archive,
            version: Some(version),
            republished_from,
            migration: None,
            build: None,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Finds the image. What a tag meant at the first attempt it means at all of them: another one
    /// would meet the archive of the first.
    async fn resolve(
        &self,
        spec: &PullSpec,
        attempt: &Attempt,
    ) -> Result<(Source, ResolvedImage), PullError> {
        let pinned = attempt.job().resolved_digest.as_deref().and_then(|text| text.parse().ok());
        let reference = match pinned {
            Some(digest) => spec.source.clone().at(digest),
            None => spec.source.clone(),
        };
        let credentials = match attempt.secrets().get(REGISTRY_SECRET) {
            Some(text) => Credentials::parse(text.expose_secret(), reference.registry())?,
            None => None,
        };
        let registry = reference.registry().to_owned();
        let found = async {
            let source =
                Source::open(&ImageSource::Registry(reference), &self.oci, credentials).await?;
            let image = source.resolve(&spec.platform, &attempt.cancel).await?;
            Ok((source, image))
        };
        let found: Result<_, OciError> = found.await;
        match &found {
            Err(OciError::Cancelled) => {}
            // Whatever else it says, it is there.
            found => {
                let answers = !matches!(found, Err(OciError::Unavailable { .. }));
                attempt.fence.registry_answers(&registry, answers).await;
            }
        }
        let (source, image) = found?;
        if pinned.is_none() {
            attempt.fence.pin(image.named_digest).await?;
        }
        Ok((source, image))
    }

    /// Makes the archive of an image that is at hand: `asked` is the pull that it would be if it were
    /// in a registry only.
    pub(super) async fn archive(
        &self,
        asked: &PullSpec,
        (policy, chosen): (Policy, ChosenVersion),
        (source, image): (Source, ResolvedImage),
        attempt: &Attempt,
        account: &MemoryAccount,
    ) -> Result<PublishedArchive, PullError> {
        let run = self.run(asked, (policy, chosen), attempt, account);
        run.make(ResolvedSource { source, image }).await
    }

    fn run<'a>(
        &'a self,
        spec: &'a PullSpec,
        (policy, chosen): (Policy, ChosenVersion),
        attempt: &'a Attempt,
        account: &MemoryAccount,
    ) -> PullRun<'a> {
        PullRun {
            puller: self,
            index: IndexOptions { account: account.clone(), ..self.index.clone() },
            kind: attempt.spec().kind(),
            id: &spec.image_id,
            policy,
            requested: spec.clip_version,
            chosen,
            force: spec.force,
            fence: &attempt.fence,
            events: &attempt.events,
            progress: Arc::new(JobProgress::new(attempt.events.clone())),
            cancel: &attempt.cancel,
        }
    }

    fn no_scratch(&self, source: std::io::Error) -> PullError {
        PullError::Scratch { directory: self.scratch.clone(), source }
    }
}
