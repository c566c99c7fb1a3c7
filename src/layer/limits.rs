//! What hostile or broken layers may cost. Each limit is one row of the table below; its setting, flag
//! and variable, the text of its error and the table in `docs/operations.md` follow from that.

use std::fmt;

use crate::memory::{MemoryAccount, MemoryShortage};

use super::{LayerError, LayerIndex};

/// What an entry or a node takes in memory beside its path, link target and extended attributes.
pub(super) const NODE_COST: u64 = 128;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

macro_rules! limits {
    ($($(#[doc = $doc:literal])*
       $field:ident, $limit:ident, $key:literal, $default:literal * $unit:expr, $max:literal, $code:literal,
       $counts:literal, $help:literal;)*) => {
        /// What a layer, and the tree that layers make, may cost.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $doc])* pub $field: u64,)*
        }

        impl Limits {
            /// None at all.
            pub const NONE: Self = Self { $($field: u64::MAX,)* };

            /// Those that `value` gives, each in the unit of its setting.
            pub fn from_settings<E>(
                value: impl Fn(Limit) -> Result<u64, E>,
            ) -> Result<Self, E> {
                Ok(Self { $($field: value(Limit::$limit)?.saturating_mul($unit),)* })
            }
        }

        /// Well beyond what images have, and within what a machine bears.
        impl Default for Limits {
            fn default() -> Self {
                Self { $($field: $default * $unit,)* }
            }
        }

        /// One of the [`Limits`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Limit {
            $(#[doc = concat!("[`Limits::", stringify!($field), "`].")] $limit,)*
        }

        impl Limit {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$limit),*];

            /// How it is set.
            pub fn row(self) -> LimitSetting {
                match self {
                    $(Self::$limit => LimitSetting {
                        key: $key, default: $default, max: $max, code: $code, counts: $counts,
                        help: $help,
                    },)*
                }
            }
        }
    };
}

/// How a limit is set, and what its error says.
#[derive(Debug, Clone, Copy)]
pub struct LimitSetting {
    /// Its key under `clipwright.limits`; the unit is a part of it.
    pub key: &'static str,
    /// What holds when nobody says anything, in that unit.
    pub default: u64,
    /// The largest value, in that unit.
    pub max: u64,
    /// The stable code of its error.
    pub code: &'static str,
    /// What it counts, as it stands in errors.
    pub counts: &'static str,
    /// What it is for.
    pub help: &'static str,
}

limits! {
    /// Tar entries in a layer.
    entries, Entries, "entries", 4_000_000 * 1, 1_000_000_000, "limit_entries",
    "tar entries", "Tar entries that a layer may have";

    /// Bytes of a path or link target; Linux's own limit.
    path_bytes, PathBytes, "pathBytes", 4096 * 1, 1_000_000_000, "limit_path_bytes",
    "bytes of a path or link target", "Bytes that a path or link target may have";

    /// Components of a path.
    path_depth, PathDepth, "pathDepth", 256 * 1, 1_000_000_000, "limit_path_depth",
    "components of a path", "Components that a path may have";

    /// Uncompressed bytes of a layer.
    plain_bytes, PlainBytes, "plainMib", 262_144 * MIB, 1_000_000_000, "limit_plain_bytes",
    "uncompressed bytes", "MiB that a layer may have when uncompressed";

    /// Uncompressed bytes for each compressed one. Deflate can't pass 1032, so that no gzip is refused;
    /// zstd can pass 30,000.
    ratio, Ratio, "ratio", 1100 * 1, 1_000_000_000, "limit_ratio",
    "uncompressed bytes for each compressed one",
    "Uncompressed bytes that a layer may have for each compressed one";

    /// Layers of fewer uncompressed bytes may have any ratio: files full of zeros are common.
    ratio_from, RatioFrom, "ratioFromMib", 1024 * MIB, 1_000_000_000, "limit_ratio",
    "uncompressed bytes", "MiB up to which an uncompressed layer may have any ratio";

    /// Bytes of one entry's extended attributes, names and values. Linux has 64 KiB for a value and as
    /// much for all names.
    xattr_bytes, XattrBytes, "xattrKib", 128 * KIB, 1_000_000_000, "limit_xattr_bytes",
    "bytes of extended attributes",
    "KiB of extended attributes that an entry may have, names and values";

    /// Bytes of one entry's extension headers (PAX records or a GNU long name).
    extension_bytes, ExtensionBytes, "extensionKib", 1024 * KIB, 1_000_000_000,
    "limit_extension_bytes", "bytes of extension headers",
    "KiB of PAX records or GNU long names that an entry may have";

    /// Bytes that a zstd frame may have decoders remember; the default is what zstd's own tools take.
    zstd_window, ZstdWindow, "zstdWindowMib", 128 * MIB, 2048, "limit_zstd_window",
    "bytes of a zstd frame's window", "MiB that decoding a zstd layer may take";

    /// Nodes that the layers make together.
    nodes, Nodes, "nodes", 4_000_000 * 1, 1_000_000_000, "limit_nodes",
    "nodes in the tree", "Nodes that all layers together may make";

    /// Bytes that paths, link targets and extended attributes of a layer, or of the tree, may take in
    /// memory.
    tree_bytes, TreeBytes, "treeMib", 1024 * MIB, 1_000_000_000, "limit_tree_bytes",
    "bytes of paths, links and attributes",
    "MiB of memory for the paths, link targets and attributes of a layer or of the tree";

    /// Bytes that the layers and trees of all jobs of a process together may take in memory. A job that
    /// finds none left runs again alone.
    memory_bytes, MemoryBytes, "memoryMib", 4096 * MIB, 1_000_000_000, "limit_memory",
    "bytes of layers and trees in memory",
    "MiB of memory for the layers and trees of all jobs of a process together";
}

/// What the entries of a layer or the nodes of a tree take in memory.
#[derive(Debug)]
pub(super) struct TreeCost {
    bytes: u64,
    allowed: u64,
    /// Pays for it, in steps.
    account: MemoryAccount,
    paid: u64,
}

impl LayerIndex {
    /// Has `account` pay for an index that was made by somebody else.
    pub fn charge(&self, account: &MemoryAccount) -> Result<(), LayerError> {
        let bytes = self.entries.iter().map(|entry| NODE_COST + entry.variable_bytes()).sum();
        let mut cost = TreeCost { bytes: 0, allowed: u64::MAX, account: account.clone(), paid: 0 };
        let layer = self.digest;
        cost.add(bytes, String::new).map_err(|excess| LayerError::Limit { layer, excess })
    }
}

impl TreeCost {
    /// The account is asked for so many bytes at a time.
    const STEP: u64 = MIB;

    pub(super) fn new(limits: &Limits, account: &MemoryAccount) -> Self {
        Self { bytes: 0, allowed: limits.tree_bytes, account: account.clone(), paid: 0 }
    }

    /// Counts more. Fails if that is more than may be, or than the process has.
    pub(super) fn add(&mut self, bytes: u64, place: impl Fn() -> String) -> Result<(), Excess> {
        self.bytes = self.bytes.saturating_add(bytes);
        Limit::TreeBytes.check(self.bytes, self.allowed, &place)?;
        if self.bytes > self.paid {
            let step = (self.bytes - self.paid).max(Self::STEP);
            let short = |short: MemoryShortage| Excess {
                limit: Limit::MemoryBytes,
                found: short.wanted,
                allowed: short.limit,
                place: place(),
            };
            self.account.take(step).map_err(short)?;
            self.paid += step;
        }
        Ok(())
    }
}

impl Limit {
    /// The stable code of its error.
    pub fn code(self) -> &'static str {
        self.row().code
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
        f.write_str(self.row().counts)
    }
}

/// A limit was passed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}{}{found} {limit}, of which clipwright.limits.{} allows {allowed}", if place.is_empty() { "" } else { ": " }, limit.row().key)]
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
