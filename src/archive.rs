//! Use cases: an image becomes an archive, which is what it should be.
//!
//! Nothing here knows of jobs, the database or a terminal: progress leaves through
//! [`crate::progress::Progress`], and the finished archive is a local file that the caller
//! publishes.

/// Why an archive could not be made.
mod error;
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
/// How an image is indexed.
mod options;
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
/// Which of the two an archive is.
mod version;
/// What the user should know of a tree.
mod warnings;

use crate::oci::ResolvedImage;
use crate::progress::Step;

pub use error::ArchiveError;
pub use index::{ArchiveFile, IndexedImage, index_image};
pub use layer_cache::LayerCache;
pub use layer_claims::{Claim, LayerClaims};
pub use layers::{ImageLayer, KnownLayer, keep_index};
pub use options::IndexOptions;
pub use pack::{PackOptions, PackedImage, pack_image};
pub use policy::{Fallback, InvalidFallback, InvalidLayerPolicy, LayerPolicy};
pub use summary::{LayerSummary, Summary};
pub use verify::{Verification, VerifyOptions, verify};
pub use version::ClipVersion;
pub use warnings::MISREAD_NAMES;

/// The step that tells how much of an image there is to read.
fn resolved(image: &ResolvedImage) -> Step {
    // What a manifest claims need not fit a number.
    let compressed_bytes = image.layers.iter().fold(0, |sum: u64, l| sum.saturating_add(l.size));
    Step::Resolved { manifest: image.manifest_digest, layers: image.layers.len(), compressed_bytes }
}
