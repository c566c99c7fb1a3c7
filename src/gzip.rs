//! Random access into gzip (RFC 1952): one pass inflates a stream and records where inflating can
//! begin again, and later any part of the plain bytes comes from the compressed bytes of one span.
//!
//! - `GzipReader` takes compressed chunks and lends out the plain bytes; asked to, it also makes
//!   `Span`s on the way.
//! - `Span` is the stretch from one `Checkpoint` to the next, with the digest of its compressed
//!   bytes, out of which `GzipReader::resume` reads the plain ones.
//! - `compress_member` and `MemberSpans` write a stream of which the spans are known without reading it.
//! - `Inflate` is raw deflate (RFC 1951) behind a small trait: `Engine::Own` is ours,
//!   `Engine::Zlib` the reference that it is tested against.
//!
//! This module knows bytes alone: nothing of tar, layers, archives, files or the network.

#![allow(
    clippy::cast_possible_truncation,
    reason = "bit fields are cut on purpose, and lengths are bounded by buffers of a few hundred KiB"
)]

mod checkpoint;
mod error;
mod header;
mod inflate;
mod members;
mod plain;
mod reader;
#[cfg(test)]
mod tests;
mod window;

pub use checkpoint::{Checkpoint, CheckpointKind, DEFAULT_SPAN, Span};
pub use error::{DeflateError, GzipError, Problem};
pub use inflate::{Advance, Engine, Inflate, Output, Pause, References, WINDOW};
pub use members::{MemberSpans, compress_member, member_size};
pub use plain::PlainBytes;
pub use reader::{GzipOptions, GzipReader, Summary, Trailing};
pub use window::{SparseWindow, WindowError};
