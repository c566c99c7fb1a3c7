//! A v1 archive becomes an image: one layer made of its tree, and a config made of its runtime
//! configuration. Only what is needed to go from one version to the other; where the results go,
//! and which archive an image id names in the end, it must not know.

/// Whether two trees hold the same.
pub mod compare;
/// The config of an image, from the configuration of a container.
pub mod image_config;
/// A tree as one layer.
pub mod layer_tar;
/// Which part of a v1 archive is the image.
pub mod root;

use super::ArchiveError;
use crate::clip::ClipError;
use crate::error::{Classify, Fault};

/// Why an archive could not be brought to another version.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// An archive, or what it points to, could not be read.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A node that an image can't hold.
    #[error("{path} can't become part of an image: {detail}")]
    Node {
        /// The node.
        path: String,
        /// Why not.
        detail: String,
    },
    /// The archive's own description of its container makes no sense.
    #[error("{file}: {detail}")]
    Config {
        /// Which file in the archive.
        file: String,
        /// What is wrong.
        detail: String,
    },
    /// What was made is not what there was; nothing was switched.
    #[error("the archives differ at {path}: {detail}; nothing was switched")]
    Different {
        /// The first path that differs.
        path: String,
        /// Both sides.
        detail: String,
    },
    /// What was made could not be written, or what it is made from not be read.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the other side said.
        source: std::io::Error,
    },
}

impl From<ClipError> for MigrateError {
    fn from(error: ClipError) -> Self {
        Self::Archive(error.into())
    }
}

impl Classify for MigrateError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Archive(error) => error.is_transient(),
            other => matches!(other, Self::Io { .. }),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Archive(error) => error.fault(),
            Self::Different { .. } => Fault::Ours,
            Self::Io { .. } => Fault::Upstream,
            _ => Fault::User,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Archive(error) => error.code(),
            Self::Node { .. } => "not_migratable",
            Self::Config { .. } => "invalid_runtime_config",
            Self::Different { .. } => "archives_differ",
            Self::Io { .. } => "io",
        }
    }
}
