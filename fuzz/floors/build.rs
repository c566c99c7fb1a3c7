//! What of the floor `build` takes bytes alone.

pub mod context;
pub mod dockerfile;
pub mod input_error;
mod said;

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

/// The stage, the number and the instruction of the step that a line begins.
pub fn step_of(line: &str, stages: u32) -> Option<(u32, u32, &str)> {
    said::step_of(line, stages)
}

/// Whether a line is what the builder adds to a program's own words.
pub fn is_noise(line: &str) -> bool {
    said::is_noise(line)
}
