//! The bytes of files, wherever an archive says they live.

/// Archives that lie in a registry.
mod archive_artifact;
/// Archives that lie in a bucket.
mod archive_object;
/// The beginnings of many small files.
pub(crate) mod beginnings;
/// The data of a v1 archive.
pub(crate) mod blocks;
/// Why the content of files could not be read.
mod error;
/// An archive becomes files.
pub mod extract;
/// A layer of which only what is read is fetched.
pub mod lazy;
/// Parts of a file's content.
pub mod part;
/// Files that many read at once.
mod positional;
/// A file's content, wherever the archive says it lives.
pub mod read;
/// Plain bytes that were fetched, on disk.
pub mod span_cache;
/// A part of a layer by its spans.
pub mod spans;
/// What a v2 archive says of its layers.
pub(crate) mod stored_layers;

pub use archive_artifact::{ARCHIVE_BLOB, ARCHIVE_TYPE, ArchiveArtifact};
pub use archive_object::ArchiveObject;
pub use beginnings::Beginning;
pub use blocks::{BlockData, S3Override};
pub use error::ContentError;
pub use extract::{ExtractOptions, Extraction, extract};
pub use part::FileParts;
pub use read::{ReadSettings, image_source, open_file, resolve_stored};
pub use span_cache::SpanCache;
pub use spans::{SpanMemory, SpanReader};
