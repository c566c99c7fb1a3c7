//! Pulls: what a job asks for, parsed and checked; how it is done is in `make`, and what is made in
//! `decide`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::job::{JobResult, PullSpec};
use super::progress::JobProgress;
use super::worker::EventSink;
use crate::archive::{ArchiveError, Fallback, IndexOptions};
use crate::config::BuildRegistry;
use crate::error::{Classify, Fault};
use crate::oci::{
    Credentials, ImageSource, InvalidCredentials, InvalidPlatform, InvalidReference, OciError,
    OciSettings, Platform, Reference, Source,
};
use crate::publish::PublishError;
use crate::store::{ArchiveStore, Overwrite, StoreError};

/// Which version an archive gets.
pub mod decide;
/// What speaks against v2.
mod findings;
/// The way of one pull.
mod run;

use decide::{ClipVersion, Finding, Policy};
use run::{PublishedArchive, PullRun, ResolvedSource};

/// Everything that pulls have in common.
#[derive(Debug)]
pub struct Puller {
    /// Where archives go.
    pub store: Arc<dyn ArchiveStore>,
    /// How registries are reached.
    pub oci: OciSettings,
    /// How images are indexed; limits and budget are those of packing too.
    pub index: IndexOptions,
    /// Archive version of jobs that don't ask for one.
    pub clip_version: u8,
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
    /// The source is not a reference.
    #[error(transparent)]
    Reference(#[from] InvalidReference),
    /// The platform is not one.
    #[error(transparent)]
    Platform(#[from] InvalidPlatform),
    /// The credentials can't be used.
    #[error(transparent)]
    Credentials(#[from] InvalidCredentials),
    /// There is no such version.
    #[error("clip_version {0} is none: expected 1 or 2")]
    ClipVersion(u8),
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
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
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
            Self::Store(error) => Some(error),
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

    fn code(&self) -> &'static str {
        match self {
            Self::Reference(_) => "invalid_reference",
            Self::Platform(_) => "invalid_platform",
            Self::Credentials(_) => "invalid_credentials",
            Self::ClipVersion(_) => "clip_version_unsupported",
            Self::NotV2 { finding } => finding.code(),
            Self::Scratch { .. } => "io",
            _ => self.cause().map_or("internal", Classify::code),
        }
    }
}

/// What a pull asks for, parsed.
#[derive(Debug)]
struct Request {
    reference: Reference,
    platform: Platform,
    policy: Policy,
}

impl Puller {
    fn parse(&self, spec: &PullSpec) -> Result<Request, PullError> {
        let wanted = spec.clip_version.unwrap_or(self.clip_version);
        let wanted = ClipVersion::try_from(wanted).map_err(PullError::ClipVersion)?;
        let policy = Policy {
            wanted,
            layers: spec.layers,
            fallback: spec.fallback.unwrap_or(self.fallback),
        };
        let reference = spec.source.parse()?;
        let platform = match &spec.platform {
            Some(platform) => platform.parse()?,
            None => Platform::host(),
        };
        Ok(Request { reference, platform, policy })
    }

    /// Does one pull.
    pub async fn pull(
        &self,
        spec: &PullSpec,
        credentials: Option<SecretString>,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<JobResult, PullError> {
        let started = Instant::now();
        let Request { reference, platform, policy } = self.parse(spec)?;
        let credentials = match credentials {
            Some(text) => Credentials::parse(text.expose_secret(), reference.registry())?,
            None => None,
        };
        let source =
            Source::open(&ImageSource::Registry(reference), &self.oci, credentials).await?;
        let image = source.resolve(&platform, cancel).await?;
        let making = PullRun {
            puller: self,
            id: &spec.image_id,
            policy,
            requested: spec.clip_version,
            overwrite: if spec.force { Overwrite::Replace } else { Overwrite::Never },
            events,
            progress: Arc::new(JobProgress::new(events.clone())),
            cancel,
        };
        let PublishedArchive { summary, archive, version, republished_from } =
            making.make(ResolvedSource { source, image }).await?;
        Ok(JobResult {
            image_id: spec.image_id.clone(),
            summary,
            archive,
            version: Some(version),
            republished_from,
            migration: None,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    fn no_scratch(&self, source: std::io::Error) -> PullError {
        PullError::Scratch { directory: self.scratch.clone(), source }
    }

    /// What can be said of a job before it is accepted; names the field that is wrong.
    pub fn check(
        &self,
        spec: &PullSpec,
        credentials: Option<&SecretString>,
    ) -> Result<(), (&'static str, String)> {
        let checked = self.parse(spec).and_then(|request| {
            if let Some(text) = credentials {
                Credentials::parse(text.expose_secret(), request.reference.registry())?;
            }
            Ok(())
        });
        checked.map_err(|error| {
            let field = match error {
                PullError::Platform(_) => "platform",
                PullError::ClipVersion(_) => "clip_version",
                PullError::Credentials(_) => "credentials",
                _ => "source",
            };
            (field, error.to_string())
        })
    }
}
