//! Dockerfile and context -> image: the builder in its sandbox, base images, contexts, secrets, the log.
//! It knows nothing of jobs, and leaves what becomes of the image to the floors above.

/// What builds images.
mod backend;
/// The images that a build begins with.
mod bases;
/// buildah.
mod buildah;
/// What a build may take of the machine.
mod cgroup;
/// What `COPY` and `ADD` take from.
pub mod context;
/// What the service has to understand of a Dockerfile.
mod dockerfile;
/// Why an image could not be built.
mod error;
/// What becomes of an image after its last `RUN`.
pub mod export;
/// What is wrong with a Dockerfile or a context.
mod input_error;
/// A built image on this machine.
mod layout;
/// What a build says.
mod log;
/// Which names secrets may have.
mod names;
/// The way from a Dockerfile to an image.
mod pipeline;
/// Running a program in a sandbox.
mod process;
/// A process apart.
pub mod sandbox;
/// Contexts that nobody sent.
pub mod source;
/// Where builds keep their layers.
mod storage;

pub use backend::{BackendVersion, BuildBackend, BuildOrder, BuildStep, BuiltImage};
pub use bases::{BaseImage, BaseImages};
pub use buildah::{Buildah, Isolation};
pub use cgroup::Resources;
pub use dockerfile::{Dockerfile, ExternalImage, Features, MAX_DOCKERFILE, Scope};
pub use error::{BuildError, ContextError, DockerfileError, SandboxError};
pub use layout::BuiltLayout;
pub use log::{LogLine, LogSink, Mask, StepNumber, Stream};
pub use names::{ID_PATTERN, argument_id_pattern, is_id, secret_id_fault};
pub use pipeline::{BuildInput, ContextInput, DockerfileInput, Finished, Pipeline, Timings};
pub use process::Launcher;
pub use sandbox::Network;
pub use storage::{Site, Storages};
