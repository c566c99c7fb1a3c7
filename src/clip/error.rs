//! Why bytes are not an archive, or can't be made one.

use super::gob::GobError;
use super::node::{InvalidPath, NodePath};
use crate::error::{Classify, Fault};

/// Why an archive could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ClipError {
    /// The file does not start as archives do.
    #[error("not a CLIP archive: {0}")]
    Header(String),
    /// The header points outside of the file, or to more than may be read.
    #[error("CLIP header: {part} of {length} bytes at {position} does not fit: {detail}")]
    Bounds {
        /// `index` or `storage info`.
        part: &'static str,
        /// Where the header says that it starts.
        position: i64,
        /// How long the header says that it is.
        length: i64,
        /// What it does not fit.
        detail: String,
    },
    /// A gob stream is malformed.
    #[error(transparent)]
    Gob(#[from] GobError),
    /// A node's path is not clean.
    #[error("index: {0}")]
    Path(#[source] InvalidPath),
    /// A node makes no sense.
    #[error("index: {path}: {detail}")]
    Node {
        /// The node's path.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// The nodes make no tree.
    #[error("tree: {path}: {detail}")]
    Tree {
        /// The path in question.
        path: String,
        /// What is wrong.
        detail: String,
    },
    /// The storage info makes no sense.
    #[error("storage info: {0}")]
    Storage(String),
    /// The seek table is damaged or contradicts itself.
    #[error("seek table: {place}: {detail}")]
    SeekTable {
        /// Which part: the trailer, the directory, a layer, one of its spans.
        place: String,
        /// What is wrong.
        detail: String,
    },
    /// A lookup found nothing.
    #[error("{path}: {detail}")]
    Lookup {
        /// As asked for.
        path: String,
        /// Why not.
        detail: String,
    },
    /// Upstream's readers refuse archives of this size (CONTRACT B.3).
    #[error("the archive would be {size} bytes: readers refuse more than {limit}")]
    TooLarge {
        /// What it would be.
        size: u64,
        /// What readers take.
        limit: u64,
    },
    /// A file could not be read or written.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, to which file.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ClipError {
    pub(super) fn tree(path: &NodePath, detail: impl Into<String>) -> Self {
        Self::Tree { path: shown(path.as_bytes()), detail: detail.into() }
    }

    pub(super) fn node(path: &NodePath, detail: impl Into<String>) -> Self {
        Self::Node { path: shown(path.as_bytes()), detail: detail.into() }
    }
}

/// The start of a path, lossily: a path may be as long as an index.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(200)]).into_owned()
}

impl Classify for ClipError {
    fn is_transient(&self) -> bool {
        matches!(self, Self::Io { .. })
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Io { .. } => Fault::Ours,
            _ => Fault::User,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "archive_too_large",
            Self::Lookup { .. } => "no_such_file",
            Self::Io { .. } => "io",
            _ => "archive_corrupt",
        }
    }
}
