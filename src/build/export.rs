//! What becomes of a built image after its last `RUN`: its new layers are read out of the builder's
//! storage once and, as they are compressed, indexed and pushed at the same time; nothing is written to
//! disk. What the base has, or an earlier build has pushed, is neither read nor compressed again.
//!
//! An image that is not to be pushed is written as a layout instead.
//!
//! `StoredImage` is an image in containers-storage, `Export` brings it into a repository, and the index
//! of each layer into the cache, where whoever makes the archive finds it.

/// Opening what builders can write to.
pub(super) mod beneath;
/// The config of an image as it is published.
mod config;
/// Layers in which nothing is younger than a moment.
mod epoch;
/// Why an image could not be exported.
mod error;
/// An image that is not to be pushed.
mod layout;
/// Layers that were exported before.
mod memory;
/// The image's way into a repository.
mod run;
/// An image in containers-storage.
mod storage;
/// The tar of a layer, put together from its files.
mod tar_split;

pub(super) use config::PublicConfig;
pub use epoch::MAX_EPOCH;
pub use error::ExportError;
pub use layout::LAYOUT_TAG;
pub use memory::ExportedLayers;
pub use run::{
    Base, DEFAULT_LEVEL, Export, ExportStyle, ExportedImage, ExportedLayer, MANIFEST, Origin,
};
pub use storage::{StoredImage, StoredLayer};
