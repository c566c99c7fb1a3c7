//! Why an archive could not be made.

use std::time::Duration;

use crate::clip::ClipError;
use crate::content::ContentError;
use crate::digest::Digest;
use crate::error::{Classify, Fault};
use crate::fetch::FetchError;
use crate::layer::LayerError;
use crate::local::IoError;
use crate::oci::OciError;
use crate::retry::Retryable;
use crate::store::StoreError;

/// Why an archive could not be made or verified.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The image, or a part of it, could not be had.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// A layer could not be used.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The archive is broken, or can't be written.
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// What an archive holds or points to could not be read.
    #[error(transparent)]
    Content(Box<ContentError>),
    /// The store that the archive goes to, or layer indexes come from, failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layer of a kind that is not taken.
    #[error("layer {layer} is {kind} ({media_type}): {reason}")]
    UnsupportedLayer {
        /// Digest of the compressed layer.
        layer: Digest,
        /// What it is.
        kind: &'static str,
        /// As the manifest says.
        media_type: String,
        /// Why such layers are not taken.
        reason: &'static str,
    },
    /// A layer that may be kept outside of registries, and is.
    #[error(
        "layer {layer} ({media_type}) is kept outside of the registry: push the image with its \
         non-distributable layers"
    )]
    ForeignLayer {
        /// Digest of the compressed layer.
        layer: Digest,
        /// As the manifest says.
        media_type: String,
    },
    /// beta9's workers refuse archives without layers (CONTRACT B.3).
    #[error("image {reference} has no layers, and beta9's workers refuse archives without any")]
    NoLayers {
        /// The pinned reference.
        reference: String,
    },
    /// A local file could not be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl From<ContentError> for ArchiveError {
    fn from(error: ContentError) -> Self {
        Self::Content(Box::new(error))
    }
}

impl From<FetchError> for ArchiveError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Oci(error) => Self::Oci(error),
            FetchError::Layer(error) => Self::Layer(error),
            FetchError::Cancelled => Self::Cancelled,
        }
    }
}

impl ArchiveError {
    /// The lower floor's error that this is.
    fn lower(&self) -> Option<&dyn Classify> {
        match self {
            Self::Oci(error) => Some(error),
            Self::Layer(error) => Some(error),
            Self::Clip(error) => Some(error),
            Self::Content(error) => Some(&**error),
            Self::Store(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::UnsupportedLayer { .. }
            | Self::ForeignLayer { .. }
            | Self::NoLayers { .. }
            | Self::Cancelled => None,
        }
    }
}

impl Retryable for ArchiveError {
    fn cancelled() -> Self {
        Self::Cancelled
    }
}

impl Classify for ArchiveError {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Oci(error) => error.retry_after(),
            Self::Content(error) => error.retry_after(),
            _ => None,
        }
    }

    fn is_transient(&self) -> bool {
        self.lower().is_some_and(Classify::is_transient)
    }

    fn fault(&self) -> Fault {
        self.lower().map_or(Fault::User, Classify::fault)
    }

    fn code(&self) -> &'static str {
        self.lower().map_or_else(
            || match self {
                Self::UnsupportedLayer { .. } => "layer_unsupported",
                Self::ForeignLayer { .. } => "layer_not_held",
                Self::NoLayers { .. } => "no_layers",
                _ => "cancelled",
            },
            Classify::code,
        )
    }
}
