//! Why a store could not do what was asked, whose fault that is and whether waiting helps.

use std::io;
use std::path::{Path, PathBuf};

use super::Key;
use crate::digest::Digest;
use crate::error::{Classify, Fault};

/// Why a store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{store} has no object {key}")]
    NotFound {
        /// The object.
        key: Key,
        /// The store's description.
        store: String,
    },
    /// The key is taken by other content, which was left as it is.
    #[error("{key} in {store} has other content: expected {expected}, found {found}")]
    Conflict {
        /// The object.
        key: Key,
        /// The store's description.
        store: String,
        /// Digest of the content to be published.
        expected: Digest,
        /// Digest of the content that is there.
        found: Digest,
    },
    /// The local file is not the content that was announced; nothing was published.
    #[error("{} is not the file to be published as {key}: expected {expected}, found {found}", file.display())]
    Mismatch {
        /// The object.
        key: Key,
        /// The local file.
        file: PathBuf,
        /// The announced digest.
        expected: Digest,
        /// The file's digest.
        found: Digest,
    },
    /// The store can't be reached, is overloaded or broke off.
    #[error("{store} could not {action}: {reason}")]
    Unavailable {
        /// The store's description.
        store: String,
        /// What was to be done, such as `write x.rclip`.
        action: String,
        /// What the network or the store said.
        reason: String,
    },
    /// The store doesn't let us.
    #[error("{store} does not allow us to {action}: {reason}")]
    Denied {
        /// The store's description.
        store: String,
        /// What was to be done.
        action: String,
        /// What the store said.
        reason: String,
    },
    /// The store refuses for another reason, such as a missing bucket.
    #[error("{store} refused to {action}: {reason}")]
    Rejected {
        /// The store's description.
        store: String,
        /// What was to be done.
        action: String,
        /// What the store said.
        reason: String,
    },
    /// No space is left.
    #[error("no space is left to {action} at {}", path.display())]
    Full {
        /// What was to be done.
        action: String,
        /// Where.
        path: PathBuf,
    },
    /// A local file or directory failed.
    #[error("could not {action} at {}: {source}", path.display())]
    Io {
        /// What was to be done.
        action: String,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The put was cancelled; nothing was published.
    #[error("publishing {key} was cancelled")]
    Cancelled {
        /// The object.
        key: Key,
    },
}

impl StoreError {
    /// Makes the error for a local failure at `path`.
    pub(super) fn io(action: impl Into<String>, path: &Path, source: io::Error) -> Self {
        let (action, path) = (action.into(), path.to_owned());
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Self::Full { action, path }
            }
            _ => Self::Io { action, path, source },
        }
    }
}

/// Whether the machine or the file system is out of something that others will give back.
fn is_shortage(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let shortages = [
        Errno::EMFILE,
        Errno::ENFILE,
        Errno::ENOMEM,
        Errno::EAGAIN,
        Errno::EINTR,
        Errno::EBUSY,
        Errno::ESTALE,
        Errno::ETIMEDOUT,
    ];
    error.raw_os_error().is_some_and(|code| shortages.contains(&Errno::from_raw(code)))
}

impl Classify for StoreError {
    fn is_transient(&self) -> bool {
        match self {
            // A key that was rotated is known everywhere in a while.
            Self::Unavailable { .. } | Self::Full { .. } | Self::Denied { .. } => true,
            Self::Io { source, .. } => is_shortage(source),
            _ => false,
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::NotFound { .. } | Self::Conflict { .. } | Self::Cancelled { .. } => Fault::User,
            Self::Unavailable { .. } => Fault::Upstream,
            Self::Mismatch { .. }
            | Self::Denied { .. }
            | Self::Rejected { .. }
            | Self::Full { .. }
            | Self::Io { .. } => Fault::Ours,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "store_object_not_found",
            Self::Conflict { .. } => "store_conflict",
            Self::Mismatch { .. } => "store_mismatch",
            Self::Unavailable { .. } => "store_unavailable",
            Self::Denied { .. } => "store_denied",
            Self::Rejected { .. } => "store_rejected",
            Self::Full { .. } => "store_full",
            Self::Io { .. } => "store_io",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}
