//! How the layers that the table speaks of are stored.

use std::fmt;

/// How a layer's tar is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// gzip, of one member or many.
    Gzip,
    /// As it is.
    Tar,
    /// Zstandard, of one frame or many.
    Zstd,
}

impl Encoding {
    /// The kind of a layer's record.
    pub(super) fn kind(self) -> u32 {
        match self {
            Self::Gzip => 1,
            Self::Tar => 2,
            Self::Zstd => 3,
        }
    }

    /// Kinds that a reader does not know it passes over.
    pub(super) fn of_kind(kind: u32) -> Option<Self> {
        [Self::Gzip, Self::Tar, Self::Zstd].into_iter().find(|encoding| encoding.kind() == kind)
    }
}

/// As it stands in sentences: "not valid gzip".
impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Tar => "tar",
            Self::Zstd => "zstd",
        })
    }
}
