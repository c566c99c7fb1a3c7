//! The lazy mount: an archive becomes a file system, of whose content only what is read is fetched.
//! It knows no command line and no database.

/// An archive as a mount takes it.
mod archive;
/// Where the bytes of files come from.
mod content;
/// Why an archive could not be mounted.
mod error;
/// What the kernel asks, answered.
mod filesystem;
/// What a start is going to read, when nobody has told.
mod guess;
/// The large files that somebody has open.
mod large_files;
/// Files that the kernel reads past us.
mod passthrough;
/// Mount points of this machine.
pub mod points;
/// Readers that go through a file from its beginning.
mod sequence;
/// An archive, mounted.
mod session;
/// What the answers of a mount take.
mod shared;
/// The tree that the kernel is shown.
pub mod tree;

pub use archive::MountArchive;
pub use content::{ContentSettings, MountContent};
pub use error::MountError;
pub use guess::Needs;
pub use session::{Mount, MountEnding, MountHandle, MountOptions};
pub use tree::{FileTree, Ino, Place};
