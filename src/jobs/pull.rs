//! The way of one pull: reference, manifest, layers, tree, archive, store. The archive goes into
//! the store last: its presence there is the commit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::job::{ArchiveObject, EventKind, JobError, JobResult, PullSpec};
use super::progress::JobProgress;
use super::worker::EventSink;
use crate::archive::{ArchiveError, IndexOptions, Summary, index_image};
use crate::clip::{MAX_INDEX_BYTES, WARN_INDEX_BYTES};
use crate::error::{Classify, Fault};
use crate::oci::{
    Credentials, ImageSource, InvalidCredentials, InvalidPlatform, InvalidReference, OciError,
    OciSettings, Platform, Reference, Source,
};
use crate::store::{ArchiveStore, Key, Overwrite, StoreError};

/// Everything that pulls have in common.
#[derive(Debug)]
pub struct Puller {
    /// Where archives go.
    pub store: Arc<dyn ArchiveStore>,
    /// How registries are reached.
    pub oci: OciSettings,
    /// How images are indexed.
    pub index: IndexOptions,
    /// Archive version of jobs that don't ask for one.
    pub clip_version: u8,
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
    /// The job wants an archive that can't be made yet.
    #[error("clip_version {0} can't be made yet: expected 2")]
    ClipVersion(u8),
    /// The image could not be had.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// The archive could not be made.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive could not be published.
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
            Self::Scratch { .. } => "io",
            _ => self.cause().map_or("internal", Classify::code),
        }
    }
}

impl From<PullError> for JobError {
    fn from(error: PullError) -> Self {
        Self {
            code: error.code().to_owned(),
            message: error.to_string(),
            fault: error.fault(),
            transient: error.is_transient(),
        }
    }
}

/// What a pull asks for, parsed.
#[derive(Debug)]
struct Request {
    reference: Reference,
    platform: Platform,
}

impl Puller {
    fn parse(&self, spec: &PullSpec) -> Result<Request, PullError> {
        match spec.clip_version.unwrap_or(self.clip_version) {
            2 => {}
            other => return Err(PullError::ClipVersion(other)),
        }
        let reference = spec.source.parse()?;
        let platform = match &spec.platform {
            Some(platform) => platform.parse()?,
            None => Platform::host(),
        };
        Ok(Request { reference, platform })
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
        let Request { reference, platform } = self.parse(spec)?;
        let credentials = match credentials {
            Some(text) => Credentials::parse(text.expose_secret(), reference.registry())?,
            None => None,
        };
        let source =
            Source::open(&ImageSource::Registry(reference), &self.oci, credentials).await?;
        let image = source.resolve(&platform, cancel).await?;
        let progress = Arc::new(JobProgress::new(events.clone()));
        let indexed = index_image(&source, &image, &self.index, progress, cancel).await?;

        let no_scratch = |source| PullError::Scratch { directory: self.scratch.clone(), source };
        let scratch = tempfile::tempdir_in(&self.scratch).map_err(no_scratch)?;
        let file = scratch.path().join("archive");
        let target = file.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let written = indexed.write(&target)?;
            Ok::<_, ArchiveError>((Summary::of(&image, &indexed), written))
        });
        let (mut summary, written) =
            writing.await.map_err(|died| no_scratch(std::io::Error::other(died)))??;
        if written.size > WARN_INDEX_BYTES {
            let warning = format!(
                "the archive is {} bytes; beta9's workers refuse more than {MAX_INDEX_BYTES}",
                written.size
            );
            events.send(EventKind::Warning { message: warning.clone() });
            summary.warnings.push(warning);
        }
        let key = Key::archive(&spec.image_id, self.store.extension());
        let overwrite = if spec.force { Overwrite::Replace } else { Overwrite::Never };
        self.store.put(&key, &file, written.digest, overwrite, cancel).await?;
        Ok(JobResult {
            image_id: spec.image_id.clone(),
            summary,
            archive: ArchiveObject {
                key: key.to_string(),
                size: written.size,
                digest: written.digest,
            },
            migration: None,
            seconds: started.elapsed().as_secs_f64(),
        })
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
