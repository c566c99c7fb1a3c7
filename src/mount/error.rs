//! Why an archive could not be mounted, or not be unmounted.

use std::path::PathBuf;

use crate::content::ContentError;
use crate::error::{Classify, Fault};
use crate::local::IoError;

/// Why an archive could not be mounted, or not be unmounted.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// Its content can't be had.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The registry has not got a layer that the archive needs.
    #[error("{image} has no layer {layer}")]
    NoLayer {
        /// Where it was looked for.
        image: String,
        /// The layer.
        layer: String,
    },
    /// A bucket would be asked with the credentials of the surroundings, which nobody has allowed.
    #[error(
        "the archive's data are in S3: it takes an access key, or leave to use ambient credentials"
    )]
    NoKeys,
    /// The mount point is taken, or is none.
    #[error("{}: {detail}", path.display())]
    Point {
        /// The mount point.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Something local could not be done.
    #[error(transparent)]
    Io(#[from] IoError),
}

impl Classify for MountError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Content(error) => error.is_transient(),
            _ => false,
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Content(error) => error.fault(),
            Self::Io(error) => error.fault(),
            Self::NoLayer { .. } => Fault::Upstream,
            Self::NoKeys | Self::Point { .. } => Fault::User,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Content(error) => error.code(),
            Self::Io(error) => error.code(),
            Self::NoLayer { .. } => "layer_missing",
            Self::NoKeys => "no_credentials",
            Self::Point { .. } => "mount_point",
        }
    }
}
