//! How bytes of blobs come from where they are to the thread that wants them.
//!
//! It knows sources and layers as streams of bytes, and nothing of archives.

/// What reading layers may take of the machine.
pub mod budget;
/// A layer on its way from a source to a thread that takes it apart.
pub(crate) mod download;
/// Why a layer could not be fetched.
mod error;
/// How many connections to a registry are open at a time.
mod link;
/// A blob's bytes in order, from several ranges of it at once.
mod stream;

pub use budget::Budget;
pub(crate) use budget::largest_first;
pub use error::FetchError;
