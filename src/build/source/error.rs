//! Why a context could not be fetched.

use std::time::Duration;

use crate::egress::AddressRefused;
use crate::error::{Classify, Fault};

/// Why a context could not be fetched. `what` is such as `object objects/1 of bucket b`.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not there.
    #[error("there is no {what}: {reason}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// What the other side said.
        reason: String,
    },
    /// The other side wants other credentials, or any.
    #[error("{what} is refused: {reason}")]
    Denied {
        /// What was asked for.
        what: String,
        /// What the other side said.
        reason: String,
    },
    /// It is where this service doesn't go.
    #[error(transparent)]
    Address(#[from] AddressRefused),
    /// It has more bytes than a context may have.
    #[error("{what} has more than the {most} bytes that a context may have")]
    TooLarge {
        /// What was asked for.
        what: String,
        /// So much may be.
        most: u64,
    },
    /// The other side doesn't answer as it should, or not at all.
    #[error("{what} can't be fetched: {reason}")]
    Unavailable {
        /// What was asked for.
        what: String,
        /// What happened.
        reason: String,
    },
    /// It took too long.
    #[error("{what} was not fetched within {} seconds", .limit.as_secs())]
    TimedOut {
        /// What was asked for.
        what: String,
        /// The limit.
        limit: Duration,
    },
    /// The workspace has no bucket.
    #[error("the workspace {workspace} has no storage: set it, or send the context itself")]
    NoStorage {
        /// The workspace.
        workspace: String,
    },
    /// Nothing here can fetch it.
    #[error("this machine can't fetch {what}: {reason}")]
    Impossible {
        /// What was asked for.
        what: String,
        /// Why not.
        reason: String,
    },
}

impl Classify for SourceError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::TimedOut { .. } | Self::Impossible { .. })
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Unavailable { .. } | Self::TimedOut { .. } => Fault::Upstream,
            Self::Impossible { .. } => Fault::Ours,
            _ => Fault::User,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::NotFound { .. } => "context_not_found",
            Self::Denied { .. } => "context_denied",
            Self::Address(_) => "address_refused",
            Self::TooLarge { .. } => "context_too_large",
            Self::Unavailable { .. } | Self::TimedOut { .. } => "context_unavailable",
            Self::NoStorage { .. } => "no_storage",
            Self::Impossible { .. } => "context_impossible",
        }
    }
}
