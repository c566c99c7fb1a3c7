//! Why a tenant's thing could not be read or changed.

use std::time::Duration;

use crate::error::{Classify, Fault};
use crate::jobs::queue::QueueError;
use crate::publish::PublishError;
use crate::workspace::WorkspaceId;

/// Why a tenant's thing could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// There is a workspace of that name.
    #[error("there is a workspace {0} already")]
    Exists(WorkspaceId),
    /// There is none.
    #[error("there is no workspace {0}")]
    NoWorkspace(WorkspaceId),
    /// The machine gives no random bits.
    #[error("no token can be made: {0}")]
    NoRandomness(String),
    /// The database.
    #[error(transparent)]
    Database(#[from] QueueError),
    /// The store.
    #[error(transparent)]
    Archive(#[from] PublishError),
}

impl Classify for WorkspaceError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Database(error) => error.is_transient(),
            Self::Archive(error) => error.is_transient(),
            _ => false,
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Exists(_) | Self::NoWorkspace(_) => Fault::User,
            Self::NoRandomness(_) => Fault::Ours,
            Self::Database(error) => error.fault(),
            Self::Archive(error) => error.fault(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Database(error) => error.retry_after(),
            Self::Archive(error) => error.retry_after(),
            _ => None,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Exists(_) => "workspace_exists",
            Self::NoWorkspace(_) => "workspace_not_found",
            Self::NoRandomness(_) => "internal",
            Self::Database(error) => error.code(),
            Self::Archive(error) => error.code(),
        }
    }
}
