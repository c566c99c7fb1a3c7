//! Why a rollout could not be read or changed.

use std::time::Duration;

use crate::error::{Classify, Fault};
use crate::jobs::queue::QueueError;

/// Why a rollout could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// There is one of that name.
    #[error("there is a rollout {0} already")]
    Exists(String),
    /// The database.
    #[error(transparent)]
    Database(#[from] QueueError),
}

impl Classify for RolloutError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Database(error) if error.is_transient())
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Exists(_) => Fault::User,
            Self::Database(error) => error.fault(),
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Exists(_) => None,
            Self::Database(error) => error.retry_after(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Exists(_) => "rollout_exists",
            Self::Database(error) => error.code(),
        }
    }
}
