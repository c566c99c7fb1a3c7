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
/// Where a built image goes.
mod destination;
/// What a build takes of the disk.
mod disk;
/// What the service has to understand of a Dockerfile.
mod dockerfile;
/// Why an image could not be built.
mod error;
/// What becomes of an image after its last `RUN`.
pub mod export;
/// What is wrong with a Dockerfile or a context.
mod input_error;
/// What a build says.
mod log;
/// Which names secrets may have.
mod names;
/// What a build can reach.
mod network;
/// The way from a Dockerfile to an image.
mod pipeline;
/// Running a program in a sandbox.
mod process;
/// Where programs are.
mod programs;
/// A process apart.
pub mod sandbox;
/// Contexts that nobody sent.
pub mod source;
/// Where builds keep their layers.
mod storage;

pub use backend::{BackendVersion, BuildBackend, BuildOrder, BuildStep, BuiltImage};
pub use bases::{BaseImage, BaseImages, FetchedBase};
pub use buildah::{Buildah, Isolation};
pub use cgroup::Resources;
pub use destination::Destination;
pub use dockerfile::{Dockerfile, ExternalImage, Features, MAX_DOCKERFILE, Scope};
pub use error::{BuildError, ContextError, DockerfileError, SandboxError};
pub use log::{LogLine, LogSink, Mask, StepNumber, Stream};
pub use names::{ID_PATTERN, argument_id_pattern, is_id, secret_id_fault};
pub use network::{InvalidException, Network, NetworkException};
pub use pipeline::{BuildInput, ContextInput, DockerfileInput, EPOCH, Finished, Pipeline, Timings};
pub use process::Launcher;
pub use storage::{Site, Storages};
