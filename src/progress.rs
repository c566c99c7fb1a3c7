//! How progress leaves the lower floors: a callback that knows nothing of jobs or terminals.

use crate::digest::Digest;

/// One step forward in making an archive.
#[derive(Debug, Clone)]
pub enum Step {
    /// The image was found: its platform manifest and how much there is to read.
    Resolved {
        /// Digest of the platform manifest.
        manifest: Digest,
        /// How many layers it has.
        layers: usize,
        /// Sum of the compressed layer sizes, in bytes.
        compressed_bytes: u64,
    },
    /// So many more compressed bytes of a layer were read.
    LayerBytes {
        /// Digest of the compressed layer.
        layer: Digest,
        /// Bytes read since the last step of this layer.
        bytes: u64,
    },
    /// A layer was read to its end and verified, or was known.
    LayerDone {
        /// Digest of the compressed layer.
        layer: Digest,
        /// Compressed bytes in it.
        compressed_bytes: u64,
        /// Uncompressed bytes in it.
        plain_bytes: u64,
        /// Tar entries in it.
        entries: usize,
        /// Whether its index was known, so that none of its bytes were read.
        cached: bool,
    },
    /// Something the user should know, such as a device node that readers can't show.
    Warning(String),
}

/// Receives steps; called from any thread and expected to return at once.
pub trait Progress: Send + Sync {
    /// Takes one step.
    fn step(&self, step: Step);
}

/// Ignores every step.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _step: Step) {}
}
