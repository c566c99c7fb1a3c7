//! Dockerfile and context -> image. It knows nothing of jobs.

/// What becomes of an image after its last `RUN`.
pub mod export;
