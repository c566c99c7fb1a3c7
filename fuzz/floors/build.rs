//! What of the floor `build` takes bytes alone.

pub mod context;
pub mod dockerfile;
pub mod input_error;
pub mod said;

pub mod error {
    pub use super::input_error::{ContextError, DockerfileError};
}

use crate::local::IoError;
pub use dockerfile::MAX_DOCKERFILE;

/// As much of the floor's error as reading a context needs.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    Context(#[from] error::ContextError),
    #[error(transparent)]
    Io(#[from] IoError),
}
