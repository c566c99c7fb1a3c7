//! What is under a key, so that only that is replaced.

use std::fmt;

/// What a store says of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectStat {
    /// Bytes.
    pub size: u64,
    /// Which object it is.
    pub version: ObjectVersion,
}

/// Tells an object from all others that were or will be under its key: an entity tag in S3; in a
/// directory the file's number, size and time of modification; in a registry the manifest's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion(pub(super) String);

impl fmt::Display for ObjectVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
