//! What hostile or broken layers may cost us. Each limit has a name, an error code and a setting.

use std::fmt;

/// What a layer, and the tree that layers make, may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Tar entries in a layer.
    pub entries: u64,
    /// Bytes of a path or link target.
    pub path_bytes: u64,
    /// Components of a path.
    pub path_depth: u64,
    /// Uncompressed bytes of a layer.
    pub plain_bytes: u64,
    /// Uncompressed bytes for each compressed one.
    pub ratio: u64,
    /// Layers of fewer uncompressed bytes may have any ratio: files full of zeros are common.
    pub ratio_from: u64,
    /// Bytes of one entry's extended attributes, names and values.
    pub xattr_bytes: u64,
    /// Bytes of one entry's extension headers (PAX records or a GNU long name).
    pub extension_bytes: u64,
    /// Bytes that a zstd frame may have decoders remember.
    pub zstd_window: u64,
    /// Nodes that the layers make together.
    pub nodes: u64,
    /// Bytes that paths, link targets and extended attributes of a layer, or of the tree, may take
    /// in memory.
    pub tree_bytes: u64,
}

/// What an entry or a node takes in memory beside its path, link target and extended attributes.
pub(super) const NODE_COST: u64 = 128;

impl Default for Limits {
    /// Well beyond what images have, and within what a machine bears.
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            path_bytes: 4096, // Linux's
            path_depth: 256,
            plain_bytes: 256 << 30,
            // Deflate can't pass 1032, so that no gzip is refused; zstd can pass 30,000.
            ratio: 1100,
            ratio_from: 1 << 30,
            xattr_bytes: 128 << 10, // Linux has 64 KiB for a value and 64 KiB for all names
            extension_bytes: 1 << 20,
            zstd_window: 128 << 20, // what zstd's own tools take without being told to
            nodes: 4_000_000,
            tree_bytes: 1 << 30,
        }
    }
}

impl Limits {
    /// None at all.
    pub const NONE: Self = Self {
        entries: u64::MAX,
        path_bytes: u64::MAX,
        path_depth: u64::MAX,
        plain_bytes: u64::MAX,
        ratio: u64::MAX,
        ratio_from: u64::MAX,
        xattr_bytes: u64::MAX,
        extension_bytes: u64::MAX,
        zstd_window: u64::MAX,
        nodes: u64::MAX,
        tree_bytes: u64::MAX,
    };
}

/// One of the [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::entries`].
    Entries,
    /// [`Limits::path_bytes`].
    PathBytes,
    /// [`Limits::path_depth`].
    PathDepth,
    /// [`Limits::plain_bytes`].
    PlainBytes,
    /// [`Limits::ratio`].
    Ratio,
    /// [`Limits::xattr_bytes`].
    XattrBytes,
    /// [`Limits::extension_bytes`].
    ExtensionBytes,
    /// [`Limits::zstd_window`].
    ZstdWindow,
    /// [`Limits::nodes`].
    Nodes,
    /// [`Limits::tree_bytes`].
    TreeBytes,
}

impl Limit {
    /// The setting that raises it.
    pub fn setting(self) -> &'static str {
        match self {
            Self::Entries => "clipwright.limits.entries",
            Self::PathBytes => "clipwright.limits.pathBytes",
            Self::PathDepth => "clipwright.limits.pathDepth",
            Self::PlainBytes => "clipwright.limits.plainMib",
            Self::Ratio => "clipwright.limits.ratio",
            Self::XattrBytes => "clipwright.limits.xattrKib",
            Self::ExtensionBytes => "clipwright.limits.extensionKib",
            Self::ZstdWindow => "clipwright.limits.zstdWindowMib",
            Self::Nodes => "clipwright.limits.nodes",
            Self::TreeBytes => "clipwright.limits.treeMib",
        }
    }

    /// The stable code of its error.
    pub fn code(self) -> &'static str {
        match self {
            Self::Entries => "limit_entries",
            Self::PathBytes => "limit_path_bytes",
            Self::PathDepth => "limit_path_depth",
            Self::PlainBytes => "limit_plain_bytes",
            Self::Ratio => "limit_ratio",
            Self::XattrBytes => "limit_xattr_bytes",
            Self::ExtensionBytes => "limit_extension_bytes",
            Self::ZstdWindow => "limit_zstd_window",
            Self::Nodes => "limit_nodes",
            Self::TreeBytes => "limit_tree_bytes",
        }
    }

    /// Fails if `found`, at `place` (a path, an offset or nothing), is over `allowed`.
    pub(super) fn check(
        self,
        found: u64,
        allowed: u64,
        place: impl FnOnce() -> String,
    ) -> Result<(), Excess> {
        if found <= allowed {
            return Ok(());
        }
        Err(Excess { limit: self, found, allowed, place: place() })
    }
}

/// What it counts, as it stands in sentences.
impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entries => "tar entries",
            Self::PathBytes => "bytes of a path or link target",
            Self::PathDepth => "components of a path",
            Self::PlainBytes => "uncompressed bytes",
            Self::Ratio => "uncompressed bytes for each compressed one",
            Self::XattrBytes => "bytes of extended attributes",
            Self::ExtensionBytes => "bytes of extension headers",
            Self::ZstdWindow => "bytes of a zstd frame's window",
            Self::Nodes => "nodes in the tree",
            Self::TreeBytes => "bytes of paths, links and attributes",
        })
    }
}

/// A limit was passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}{}{found} {limit}, of which {} allows {allowed}", if place.is_empty() { "" } else { ": " }, limit.setting())]
pub struct Excess {
    /// Which.
    pub limit: Limit,
    /// How much there is, at the least.
    pub found: u64,
    /// How much there may be.
    pub allowed: u64,
    /// Where: a path, an offset; empty for the layer as a whole.
    pub place: String,
}
