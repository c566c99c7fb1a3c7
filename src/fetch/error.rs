//! Why a layer could not be fetched.

use std::time::Duration;

use crate::error::{Classify, Fault};
use crate::layer::LayerError;
use crate::oci::OciError;
use crate::retry::Retryable;

/// Why a layer could not be fetched, or not be taken apart on its way.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The source did not give it.
    #[error(transparent)]
    Oci(#[from] OciError),
    /// It could not be used.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
}

impl FetchError {
    /// The lower floor's error that this is.
    fn lower(&self) -> Option<&dyn Classify> {
        match self {
            Self::Oci(error) => Some(error),
            Self::Layer(error) => Some(error),
            Self::Cancelled => None,
        }
    }
}

impl Retryable for FetchError {
    fn cancelled() -> Self {
        Self::Cancelled
    }
}

impl Classify for FetchError {
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Oci(error) => error.retry_after(),
            _ => None,
        }
    }

    fn is_transient(&self) -> bool {
        self.lower().is_some_and(Classify::is_transient)
    }

    fn fault(&self) -> Fault {
        self.lower().map_or(Fault::User, Classify::fault)
    }

    fn code(&self) -> &'static str {
        self.lower().map_or("cancelled", Classify::code)
    }
}
