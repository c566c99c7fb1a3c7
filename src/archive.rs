//! Use cases: an image becomes an archive, which is what it should be.
//!
//! Nothing here knows of jobs, the database or a terminal: progress leaves through
//! [`crate::progress::Progress`], and the finished archive is a local file that the caller
//! publishes.

/// An image becomes a v2 archive.
pub mod index;
/// Layer indexes that were made before.
pub mod layer_cache;
/// Who computes a layer index that several want at once.
pub mod layer_claims;
/// The index of a layer, known or made.
pub mod layers;
/// What the image's config and manifest say, as the archive keeps it.
mod metadata;
/// Many of a kind.
pub(crate) mod noted;
/// An image becomes a v1 archive.
pub mod pack;
/// Which layers are taken.
pub(crate) mod policy;
/// The OCI runtime spec of an image.
mod runtime_spec;
/// What an archive holds and cost.
pub mod summary;
/// Whether an archive is what it should be.
pub mod verify;
/// What the user should know of a tree.
mod warnings;

use std::time::Duration;

use crate::clip::ClipError;
use crate::digest::Digest;
use crate::error::{Classify, Fault};
use crate::layer::LayerError;
use crate::oci::{OciError, ResolvedImage};
use crate::progress::Step;
use crate::retry::Retryable;
use crate::store::StoreError;

pub use index::{IndexOptions, IndexedImage, Written, index_image};
pub use layer_cache::LayerCache;
pub use layer_claims::{Claim, LayerClaims};
pub use layers::{ImageLayer, KnownLayer};
pub use pack::{PackOptions, Packed, pack_image};
pub use policy::{InvalidLayerPolicy, LayerPolicy};
pub use summary::{LayerSummary, Summary};
pub use verify::{Verified, VerifyOptions, verify};
pub use warnings::MISREAD_NAMES;

/// The step that tells how much of an image there is to read.
pub(crate) fn resolved(image: &ResolvedImage) -> Step {
    // What a manifest claims need not fit a number.
    let compressed_bytes = image.layers.iter().fold(0, |sum: u64, l| sum.saturating_add(l.size));
    Step::Resolved { manifest: image.manifest_digest, layers: image.layers.len(), compressed_bytes }
}

/// Runs work that takes a while off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ArchiveError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ArchiveError::Io {
        what: "a helper thread died".into(),
        source: std::io::Error::other(error),
    })
}

/// Why an archive could not be made or read.
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
    /// The store that holds a v1 archive's data failed.
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
    /// beta9's workers refuse archives without layers (CONTRACT B.3).
    #[error("image {reference} has no layers, and beta9's workers refuse archives without any")]
    NoLayers {
        /// The pinned reference.
        reference: String,
    },
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
    Shared(std::sync::Arc<ArchiveError>),
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
        path: std::path::PathBuf,
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
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl Retryable for ArchiveError {
    fn cancelled() -> Self {
        Self::Cancelled
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Oci(error) => error.retry_after(),
            _ => None,
        }
    }
}

impl Classify for ArchiveError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Oci(error) => error.is_transient(),
            Self::SpanFetch { source, .. } => source.is_transient(),
            Self::Shared(error) => error.is_transient(),
            Self::Layer(error) => error.is_transient(),
            Self::Clip(error) => error.is_transient(),
            Self::Store(error) => error.is_transient(),
            Self::SpanDigest { .. } | Self::Io { .. } => true,
            _ => false,
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Oci(error) => error.fault(),
            Self::SpanFetch { source, .. } => source.fault(),
            Self::Shared(error) => error.fault(),
            Self::Layer(error) => error.fault(),
            Self::Clip(error) => error.fault(),
            Self::Store(error) => error.fault(),
            Self::SpanDigest { .. } | Self::Block { .. } => Fault::Upstream,
            Self::Io { .. } => Fault::Ours,
            _ => Fault::User,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Oci(error) => error.code(),
            Self::SpanFetch { source, .. } => source.code(),
            Self::Shared(error) => error.code(),
            Self::Layer(error) => error.code(),
            Self::Clip(error) => error.code(),
            Self::Store(error) => error.code(),
            Self::UnsupportedLayer { .. } => "layer_unsupported",
            Self::NoLayers { .. } => "no_layers",
            Self::SpanDigest { .. } => "span_digest_mismatch",
            Self::Span { .. } | Self::Claim { .. } => "archive_corrupt",
            Self::Target { .. } => "target_taken",
            Self::Block { .. } => "block_mismatch",
            Self::NotAFile { .. } => "not_a_file",
            Self::Io { .. } => "io",
            Self::Cancelled => "cancelled",
        }
    }
}

pub(crate) fn io_error(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ArchiveError {
    let what = what.into();
    |source| ArchiveError::Io { what, source }
}
