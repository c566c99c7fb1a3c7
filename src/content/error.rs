//! Why the content of files could not be read.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::clip::ClipError;
use crate::digest::Digest;
use crate::error::{Classify, Fault};
use crate::fetch::FetchError;
use crate::layer::LayerError;
use crate::local::IoError;
use crate::oci::OciError;
use crate::retry::Retryable;
use crate::store::StoreError;

/// Why the content of files could not be read, or not be put where it was to go.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The layer that it is in could not be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The archive is broken.
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// The store that holds a v1 archive's data failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The compressed bytes of spans could not be had.
    #[error("layer {layer} {}: {source}", if first == last { format!("span {first}") } else { format!("spans {first} to {last}") })]
    SpanFetch {
        /// Digest of the compressed layer.
        layer: Digest,
        /// The first span asked for; counts from 0.
        first: usize,
        /// The last one.
        last: usize,
        /// What the source said.
        source: Box<OciError>,
    },
    /// What several readers waited for failed.
    #[error(transparent)]
    Shared(Arc<ContentError>),
    /// A registry, or whoever is between, gave other bytes than those that were indexed.
    #[error("layer {layer} span {span}: expected digest {expected}, found {found}")]
    SpanDigest {
        /// Digest of the compressed layer.
        layer: Digest,
        /// Counts from 0.
        span: usize,
        /// As the seek table says.
        expected: Digest,
        /// Of the bytes that came.
        found: Digest,
    },
    /// A span can't be decoded, though its bytes are right: the seek table doesn't fit the layer.
    #[error("layer {layer} span {span}: {detail}")]
    Span {
        /// Digest of the compressed layer.
        layer: Digest,
        /// Counts from 0.
        span: usize,
        /// What is wrong.
        detail: String,
    },
    /// The archive claims what can't be.
    #[error("{path}: {detail}")]
    Claim {
        /// The path in the archive.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// There is something where the files should go.
    #[error("{}: {detail}", path.display())]
    Target {
        /// As asked for.
        path: PathBuf,
        /// What is there.
        detail: &'static str,
    },
    /// What was asked for is not a regular file in the archive.
    #[error("{path}: {detail}")]
    NotAFile {
        /// As asked for.
        path: String,
        /// What it is instead.
        detail: String,
    },
    /// A block of a v1 archive's data is not what it should be.
    #[error("{path}: block at {position}: expected {what} {expected}, found {found}")]
    Block {
        /// The file whose content it is.
        path: String,
        /// Where its content begins in the data.
        position: u64,
        /// What is wrong: the type, the CRC-64, the SHA-256, the place.
        what: &'static str,
        /// As the archive says.
        expected: String,
        /// As it is.
        found: String,
    },
    /// A local file could not be read or written.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl From<OciError> for ContentError {
    fn from(error: OciError) -> Self {
        Self::Fetch(error.into())
    }
}

impl From<LayerError> for ContentError {
    fn from(error: LayerError) -> Self {
        Self::Fetch(error.into())
    }
}

impl ContentError {
    /// The lower floor's error that this is, or that all who waited for the same were given.
    fn lower(&self) -> Option<&dyn Classify> {
        match self {
            Self::Fetch(error) => Some(error),
            Self::Clip(error) => Some(error),
            Self::Store(error) => Some(error),
            Self::SpanFetch { source, .. } => Some(&**source),
            Self::Shared(error) => Some(&**error),
            Self::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl Retryable for ContentError {
    fn cancelled() -> Self {
        Self::Cancelled
    }
}

impl Classify for ContentError {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Fetch(error) => error.retry_after(),
            Self::SpanFetch { source, .. } => source.retry_after(),
            Self::Shared(error) => error.retry_after(),
            _ => None,
        }
    }

    fn is_transient(&self) -> bool {
        let lower = self.lower().map(Classify::is_transient);
        lower.unwrap_or(matches!(self, Self::SpanDigest { .. }))
    }

    fn fault(&self) -> Fault {
        self.lower().map_or_else(
            || match self {
                Self::SpanDigest { .. } | Self::Block { .. } => Fault::Upstream,
                _ => Fault::User,
            },
            Classify::fault,
        )
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Fetch(error) => error.code(),
            Self::Clip(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::SpanFetch { source, .. } => source.code(),
            Self::Shared(error) => error.code(),
            Self::SpanDigest { .. } => "span_digest_mismatch",
            Self::Span { .. } | Self::Claim { .. } => "archive_corrupt",
            Self::Target { .. } => "target_taken",
            Self::NotAFile { .. } => "not_a_file",
            Self::Block { .. } => "block_mismatch",
            Self::Io(error) => error.code(),
            Self::Cancelled => "cancelled",
        }
    }
}
