//! Why an image could not be built.

use std::path::PathBuf;
use std::time::Duration;

use super::export::ExportError;
pub use super::input_error::{ContextError, DockerfileError};
use super::source::SourceError;
use crate::digest::Digest;
use crate::error::{Classify, Fault};
use crate::local::IoError;
use crate::oci::OciError;

/// A sandbox could not be made.
#[derive(Debug, thiserror::Error)]
#[error("can't {what}: {reason}")]
pub struct SandboxError {
    /// What was being done.
    pub what: String,
    /// What the system said.
    pub reason: String,
}

impl SandboxError {
    /// For `map_err`: says what was being done.
    pub(super) fn of<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> Self {
        let what = what.to_owned();
        move |error| Self { what, reason: error.to_string() }
    }
}

/// Why an image could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The Dockerfile is wrong.
    #[error(transparent)]
    Dockerfile(#[from] DockerfileError),
    /// A step failed.
    #[error("{place}: {reason}{}", tail_of(.tail))]
    Step {
        /// Such as `Dockerfile line 5: RUN make`.
        place: String,
        /// Such as `exited with code 2`.
        reason: String,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// The builder failed, and not at a step.
    #[error("the build failed: {reason}{}", tail_of(.tail))]
    Failed {
        /// What it said.
        reason: String,
        /// The last lines of its output.
        tail: Vec<String>,
    },
    /// Memory ran out.
    #[error("the build took more memory than the {mib} MiB that it may have{}", at(.place.as_deref()))]
    OutOfMemory {
        /// The limit.
        mib: u64,
        /// Where it was.
        place: Option<String>,
    },
    /// It wrote too much.
    #[error("the build took more of the disk than the {mib} MiB that it may have{}", at(.place.as_deref()))]
    OutOfDisk {
        /// The limit.
        mib: u64,
        /// Where it was.
        place: Option<String>,
    },
    /// It took too long.
    #[error("the build took longer than the {} seconds that it may take{}", .limit.as_secs(), at(.place.as_deref()))]
    TimedOut {
        /// The limit.
        limit: Duration,
        /// Where it was.
        place: Option<String>,
    },
    /// Builds can't be done here.
    #[error("this machine can't build images: {reason}")]
    Impossible {
        /// Why not.
        reason: String,
    },
    /// The builder behaved as it should not.
    #[error("{program} {action}: {reason}")]
    Backend {
        /// Such as `buildah`.
        program: &'static str,
        /// What was asked of it.
        action: &'static str,
        /// What it said.
        reason: String,
    },
    /// The context can't be used.
    #[error(transparent)]
    Context(#[from] ContextError),
    /// The store does not give a context.
    #[error("the context can't be had: {reason}")]
    Store {
        /// What the store said.
        reason: String,
    },
    /// The context is not there.
    #[error("there is no context {digest} in the workspace: send it first")]
    NoContext {
        /// By which it was asked for.
        digest: Digest,
    },
    /// A base image could not be had, or the image not be pushed.
    #[error("{place}{error}")]
    Oci {
        /// Such as `Dockerfile line 1: `.
        place: String,
        /// Why not.
        #[source]
        error: Box<OciError>,
    },
    /// A registry that the workspace does not allow.
    #[error("Dockerfile line {line}: the workspace does not let its jobs pull from {registry}")]
    RegistryNotAllowed {
        /// Counts from 1.
        line: usize,
        /// The registry's host.
        registry: String,
    },
    /// What was written is not what was read.
    #[error("{}: {reason}", path.display())]
    BadFile {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The image can't be brought out of the builder's storage to where it is to be.
    #[error("the image can't be exported: {0}")]
    Export(#[source] Box<ExportError>),
    /// `SOURCE_DATE_EPOCH` is no time.
    #[error("SOURCE_DATE_EPOCH: expected seconds since 1970, found {found:?}")]
    Epoch {
        /// What was found, cut to 40 characters.
        found: String,
    },
    /// The context could not be fetched.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Local trouble.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Somebody wanted it to end.
    #[error("the build was cancelled")]
    Cancelled,
}

fn tail_of(tail: &[String]) -> String {
    if tail.is_empty() { String::new() } else { format!("; its last lines: {}", tail.join(" | ")) }
}

fn at(place: Option<&str>) -> String {
    place.map(|place| format!(", at {place}")).unwrap_or_default()
}

impl BuildError {
    /// What a registry has to do with, at a place such as `Dockerfile line 1: `.
    pub(super) fn of_oci(place: String, error: OciError) -> Self {
        match error {
            OciError::Cancelled => Self::Cancelled,
            error => Self::Oci { place, error: Box::new(error) },
        }
    }
}

impl From<OciError> for BuildError {
    fn from(error: OciError) -> Self {
        Self::of_oci(String::new(), error)
    }
}

impl From<ExportError> for BuildError {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Cancelled | ExportError::Oci(OciError::Cancelled) => Self::Cancelled,
            error => Self::Export(Box::new(error)),
        }
    }
}

impl Classify for BuildError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Oci { error, .. } => error.is_transient(),
            Self::Export(error) => error.is_transient(),
            Self::Source(error) => error.is_transient(),
            Self::Impossible { .. }
            | Self::Backend { .. }
            | Self::Io(_)
            | Self::Store { .. }
            | Self::BadFile { .. } => true,
            _ => false,
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Oci { error, .. } => error.fault(),
            Self::Export(error) => error.fault(),
            Self::Source(error) => error.fault(),
            Self::Impossible { .. } | Self::Backend { .. } | Self::Io(_) | Self::BadFile { .. } => {
                Fault::Ours
            }
            Self::Store { .. } => Fault::Upstream,
            _ => Fault::User,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Oci { error, .. } => error.retry_after(),
            Self::Export(error) => error.retry_after(),
            _ => None,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Dockerfile(_) => "invalid_dockerfile",
            Self::Step { .. } => "build_step_failed",
            Self::Failed { .. } => "build_failed",
            Self::OutOfMemory { .. } => "build_out_of_memory",
            Self::OutOfDisk { .. } => "build_out_of_disk",
            Self::TimedOut { .. } => "build_timed_out",
            Self::Impossible { .. } => "builds_impossible",
            Self::Backend { .. } | Self::BadFile { .. } => "builder_failed",
            Self::Context(_) => "invalid_context",
            Self::Store { .. } => "store_unavailable",
            Self::NoContext { .. } => "context_not_found",
            Self::Oci { error, .. } => error.code(),
            Self::Export(error) => error.code(),
            Self::Epoch { .. } => "invalid_source_date_epoch",
            Self::Source(error) => error.code(),
            Self::RegistryNotAllowed { .. } => "registry_not_allowed",
            Self::Io(_) => "io",
            Self::Cancelled => "cancelled",
        }
    }
}
