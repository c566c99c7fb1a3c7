//! One layer: a compressed tar becomes a [`LayerIndex`] in one pass. Many layers: [`merge()`] puts
//! their indexes together by the rules of the OCI image-spec ("Image Layer Filesystem Changeset").
//!
//! Bytes come in through [`std::io::BufRead`]; nothing here knows of registries, jobs or clocks.

/// A layer index as bytes.
pub mod codec;
/// Who takes the content of files as a layer goes by.
mod contents;
/// What a layer's tar says, entry by entry.
pub mod entry;
/// The tree that a stack of layers makes.
pub mod merge;
/// PAX extended headers.
mod pax;
/// From compressed bytes to a `LayerIndex`.
pub mod read;
/// Tar framing.
pub mod tar_scan;

use crate::digest::Digest;
use crate::error::{Classify, Fault};
use crate::gzip::Span;

pub use contents::{Contents, NoContents};
pub use entry::{Entry, EntryKind, Meta};
pub use merge::merge;
pub use read::{LayerRead, copy_range, read_layer};

/// How a layer's tar is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// gzip, of one member or many.
    Gzip,
    /// As it is.
    Tar,
    /// Zstandard, of one frame or many.
    Zstd,
}

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
    pub spans: Vec<Span>,
}

/// What a layer may cost us.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Tar entries in a layer.
    pub entries: usize,
    /// Bytes of a path or link target.
    pub path_bytes: usize,
    /// Bytes of one entry's extension headers (PAX records or a GNU long name).
    pub extension_bytes: u64,
    /// Uncompressed bytes of a layer.
    pub plain_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            path_bytes: 4096,
            extension_bytes: 1 << 20,
            plain_bytes: 1 << 40,
        }
    }
}

/// Why a layer, or a stack of layers, could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The compressed bytes could not be had; the reader's own error is kept.
    #[error("layer {layer}: {source}")]
    Source {
        /// Digest of the compressed layer.
        layer: Digest,
        /// What the reader said.
        source: std::io::Error,
    },
    /// The compressed bytes are not valid gzip.
    #[error("layer {layer}: not valid gzip at byte {offset}: {detail}")]
    Gzip {
        /// Digest of the compressed layer.
        layer: Digest,
        /// Offset in the compressed bytes, near where it was seen.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// The uncompressed bytes are not a tar.
    #[error("layer {layer}: tar header at offset {offset}: {detail}")]
    Tar {
        /// Digest of the compressed layer.
        layer: Digest,
        /// Offset in the uncompressed stream.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// The uncompressed stream is not the one that the image's config promises.
    #[error("layer {layer}: uncompressed content is {found}, the image config says {expected}")]
    DiffId {
        /// Digest of the compressed layer.
        layer: Digest,
        /// From `rootfs.diff_ids`.
        expected: Digest,
        /// Of the bytes.
        found: Digest,
    },
    /// A limit was passed.
    #[error("layer {layer}: {what} is over the limit of {limit}")]
    Limit {
        /// Digest of the compressed layer.
        layer: Digest,
        /// What there is too much of.
        what: String,
        /// The limit.
        limit: u64,
    },
    /// Entries that can't be put into the tree.
    #[error("layer {layer}: {path}: {detail}")]
    Merge {
        /// Digest of the compressed layer.
        layer: Digest,
        /// The entry's path.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// A range of the content could not be copied.
    #[error("layer {layer}: {detail}")]
    Copy {
        /// Digest of the compressed layer.
        layer: Digest,
        /// What happened.
        detail: String,
    },
    /// A helper thread could not be started or died.
    #[error("layer {layer}: {detail}")]
    Thread {
        /// Digest of the compressed layer.
        layer: Digest,
        /// What happened.
        detail: String,
    },
}

impl Classify for LayerError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Source { .. } | Self::Copy { .. } | Self::Thread { .. })
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Source { .. } => Fault::Upstream,
            Self::Copy { .. } | Self::Thread { .. } => Fault::Ours,
            _ => Fault::User,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Source { .. } => "layer_unreadable",
            Self::Gzip { .. } => "layer_corrupt",
            Self::Tar { .. } => "layer_not_tar",
            Self::DiffId { .. } => "diff_id_mismatch",
            Self::Limit { .. } => "limit_exceeded",
            Self::Merge { .. } => "layer_inconsistent",
            Self::Copy { .. } | Self::Thread { .. } => "internal",
        }
    }
}
