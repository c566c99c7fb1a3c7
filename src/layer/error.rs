//! Why a layer, or a stack of layers, could not be used.

use super::{Encoding, Excess};
use crate::digest::Digest;
use crate::error::{Classify, Fault};

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
    /// The bytes are neither gzip nor zstd nor a tar.
    #[error("layer {layer}: neither gzip, zstd nor tar: it begins with {prefix:02x?}")]
    Unrecognised {
        /// Digest of the compressed layer.
        layer: Digest,
        /// Its first bytes.
        prefix: Vec<u8>,
    },
    /// The compressed bytes are not valid in their encoding.
    #[error("layer {layer}: not valid {encoding} at byte {offset}: {detail}")]
    Corrupt {
        /// Digest of the compressed layer.
        layer: Digest,
        /// What it seems to be.
        encoding: Encoding,
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
    #[error("layer {layer}: {excess}")]
    Limit {
        /// Digest of the compressed layer; for a tree, the one that made it too large.
        layer: Digest,
        /// Which, and by how much.
        excess: Excess,
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
    /// A sparse file in a tree whose content is pointed to.
    #[error("layer {layer}: {path} is a sparse file: its content can't be pointed to")]
    Sparse {
        /// Digest of the compressed layer.
        layer: Digest,
        /// The file.
        path: String,
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

impl LayerError {
    /// Whether bytes other than those that were asked for would explain it.
    pub fn is_of_content(&self) -> bool {
        matches!(self, Self::Unrecognised { .. } | Self::Corrupt { .. } | Self::Tar { .. })
    }
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
            Self::Unrecognised { .. } => "layer_unsupported",
            Self::Corrupt { .. } => "layer_corrupt",
            Self::Tar { .. } => "layer_not_tar",
            Self::DiffId { .. } => "diff_id_mismatch",
            Self::Limit { excess, .. } => excess.limit.code(),
            Self::Merge { .. } => "layer_inconsistent",
            Self::Sparse { .. } => "layer_sparse",
            Self::Copy { .. } | Self::Thread { .. } => "internal",
        }
    }
}
