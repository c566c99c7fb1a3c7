//! What becomes of a built image after its last `RUN`: its new layers are read out of the builder's
//! storage once and, as they are compressed, indexed and pushed at the same time; nothing is written to
//! disk. What the base has, or an earlier build has pushed, is neither read nor compressed again.
//!
//! `StoredImage` is an image in containers-storage, `Export` brings it into a repository, and the index
//! of each layer into the cache, where whoever makes the archive finds it.

/// Layers in which nothing is younger than a moment.
mod epoch;
/// Why an image could not be exported.
mod error;
/// Layers that were exported before.
mod memory;
/// The image's way into a repository.
mod run;
/// An image in containers-storage.
mod storage;
/// The tar of a layer, put together from its files.
mod tar_split;

pub use error::ExportError;
pub use memory::ExportedLayers;
pub use run::{Base, DEFAULT_LEVEL, Export, ExportedImage, ExportedLayer, Origin};
pub use storage::{StoredImage, StoredLayer};
