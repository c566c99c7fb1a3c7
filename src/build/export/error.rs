//! Why an image could not be exported.

use std::path::PathBuf;
use std::time::Duration;

use crate::archive::ArchiveError;
use crate::error::{Classify, Fault};
use crate::layer::LayerError;
use crate::local::IoError;
use crate::oci::OciError;
use crate::retry::Retryable;

/// Why an image could not be exported.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The builder's storage does not hold the image as it should.
    #[error("{}: {reason}", path.display())]
    Storage {
        /// The file or directory.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// A layer is not what it should be, or may not be.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The registry failed.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// A layer's index could not be kept.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A local file could not be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl ExportError {
    fn lower(&self) -> Option<&dyn Classify> {
        match self {
            Self::Storage { .. } | Self::Cancelled => None,
            Self::Layer(error) => Some(error),
            Self::Oci(error) => Some(error),
            Self::Archive(error) => Some(error),
            Self::Io(error) => Some(error),
        }
    }
}

impl Retryable for ExportError {
    fn cancelled() -> Self {
        Self::Cancelled
    }
}

impl Classify for ExportError {
    fn retry_after(&self) -> Option<Duration> {
        self.lower().and_then(Classify::retry_after)
    }

    fn is_transient(&self) -> bool {
        self.lower().is_some_and(Classify::is_transient)
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Cancelled => Fault::User,
            Self::Storage { .. } => Fault::Ours,
            _ => self.lower().map_or(Fault::Ours, Classify::fault),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            _ => self.lower().map_or("builder_storage", Classify::code),
        }
    }
}
