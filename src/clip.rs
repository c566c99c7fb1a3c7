//! The CLIP archive format (CONTRACT section A). No async, no network, no database, no clock.
//!
//! An archive is a fixed header, an index (a gob stream of path-sorted nodes) and, unless it is
//! local, storage info that says where file content lives.

/// Inode numbers.
pub mod inode;
/// What a path in an archive names.
pub mod node;
/// Where file content lives.
pub mod storage_info;
