//! The CLIP archive format (CONTRACT section A). No async, no network, no database, no clock.
//!
//! An archive is a fixed header, an index (a gob stream of path-sorted nodes) and, unless it is
//! local, storage info that says where file content lives. A seek table may follow.

/// Files that appear whole or not at all.
pub mod atomic;
/// What must hold in an archive.
pub mod check;
mod error;
pub(crate) mod fields;
mod gob;
/// The fixed header.
pub mod header;
mod index_codec;
/// Inode numbers.
pub mod inode;
/// What a path in an archive names.
pub mod node;
/// Opening archives.
pub mod reader;
/// Where reading can begin inside layers.
pub mod seek_table;
mod storage_codec;
/// Where file content lives.
pub mod storage_info;
/// The tree of nodes.
pub mod tree;
/// What makes a directory big.
pub mod usage;
/// Writing archives.
pub mod writer;

pub use error::ClipError;
pub use gob::GobError;

/// Upstream's workers refuse larger v2 archives (CONTRACT B.3).
pub const MAX_INDEX_BYTES: u64 = 128 << 20;
/// Upstream sets no bound to the index of a v1 archive; this one keeps our memory.
pub const MAX_V1_INDEX_BYTES: u64 = 1 << 30;
/// Beyond this the user is warned.
pub const WARN_INDEX_BYTES: u64 = 64 << 20;
