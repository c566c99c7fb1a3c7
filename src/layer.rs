//! One layer: a compressed tar becomes a `LayerIndex` in one pass. Many layers: `merge()` puts
//! their indexes together by the rules of the OCI image-spec ("Image Layer Filesystem Changeset").
//!
//! Bytes come in through [`std::io::BufRead`]; nothing here knows of registries, jobs or clocks.

/// A layer index as bytes.
pub mod codec;
/// Who takes the content of files as a layer goes by.
mod contents;
/// Compressed bytes in, plain bytes out, whatever the encoding.
pub mod decode;
/// How a layer's tar is stored.
mod encoding;
/// What a layer's tar says, entry by entry.
pub mod entry;
/// Why a layer could not be used.
mod error;
/// What a layer may cost.
mod limits;
/// The tree that a stack of layers makes.
pub mod merge;
/// PAX extended headers.
mod pax;
/// From compressed bytes to a `LayerIndex`.
pub mod read;
/// Sparse files.
mod sparse;
/// Tar framing.
pub mod tar_scan;
/// From a tar to compressed bytes and a `LayerIndex`.
pub mod write;

use crate::digest::Digest;
use crate::gzip::Span;

pub use contents::{Contents, NoContents};
pub use encoding::Encoding;
pub use entry::{Entry, EntryKind, Meta};
pub use error::LayerError;
pub use limits::{Excess, Limit, LimitSetting, Limits};
pub use merge::{merge, merge_whole};
pub use read::{LayerRead, copy_layer, copy_range, read_layer};
pub use write::{LayerWrite, write_layer};

/// All that is learnt from reading a layer once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerIndex {
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// How its tar is stored.
    pub encoding: Encoding,
    /// Digest of the whole uncompressed stream, tar trailer and padding included.
    pub diff_id: Digest,
    /// Compressed bytes.
    pub compressed_size: u64,
    /// Uncompressed bytes.
    pub plain_size: u64,
    /// The tar's entries in their order.
    pub entries: Vec<Entry>,
    /// What was left out and why, one sentence each.
    pub notes: Vec<String>,
    /// Where reading can begin: the whole of the layer, in order. None if none were asked for.
    ///
    /// Spans of a tar and of zstd frames begin on a byte, with [`CheckpointKind::Start`] and no
    /// window.
    ///
    /// [`CheckpointKind::Start`]: crate::gzip::CheckpointKind::Start
    pub spans: Vec<Span>,
}

/// Of `have` things, those among the first `want`.
pub(crate) fn at_most(have: usize, want: u64) -> usize {
    usize::try_from(want).map_or(have, |want| have.min(want))
}
