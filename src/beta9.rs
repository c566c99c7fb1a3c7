//! beta9's words for what the service does: its requests, the messages of a build, exit codes, and how
//! it names images. It translates to jobs and back; it must not know HTTP, and asks nobody.

/// A build as beta9 asks after it.
mod build;
/// How a build ended, in numbers.
mod exit_code;
/// How beta9 names images.
mod image_id;
/// What a build says as it goes on.
mod message;
/// What beta9 asks for.
mod request;
/// The same for documents.
mod schema;

pub use build::Build;
pub use exit_code::ExitCode;
pub use image_id::{BaseImage, BuildStep, Recipe};
pub use message::{Message, Narrator, PythonVersion};
pub use request::{BuildOptions, BuildRequest, ContainerId, InvalidContainerId, VerifyRequest};
