//! A v1 archive becomes an image: one layer made of its tree, and a config made of its runtime
//! configuration. Only what is needed to go from one version to the other; where the results go,
//! and which archive an image id names in the end, it must not know.

/// Whether two trees hold the same.
pub mod compare;
/// The SHA-256 of every file.
mod contents;
/// A v1 archive becomes an image and a v2 archive.
mod forward;
/// The config of an image, from the configuration of a container.
pub mod image_config;
/// A tree as one layer.
pub mod layer_tar;
/// An image goes to a registry.
mod push;
/// A v2 archive becomes a v1 archive.
mod reverse;
/// Which part of a v1 archive is the image.
pub mod root;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::archive::{ArchiveError, IndexOptions, IndexedImage, index_image};
use crate::clip::ClipError;
use crate::clip::storage_info::StorageInfo;
use crate::clip::tree::Tree;
use crate::content::blocks::BlockData;
use crate::content::{ContentError, image_source, resolve_stored};
use crate::error::{Classify, Fault};
use crate::local::IoError;
use crate::oci::{
    Credentials, InvalidCredentials, InvalidReference, OciError, OciSettings, ResolvedImage, Source,
};
use crate::progress::Progress;
use crate::publish::PublishError;
use crate::publish::archives::ArchiveStore;
use crate::publish::stored::StoredArchive;
use crate::retry::Retryable;
use crate::store::{Key, StoreError};

pub use compare::Comparison;
pub use forward::{Destination, NewV2, to_v2};
pub use reverse::{StagedV1, to_v1};

use compare::{Contents, compare};
use root::BundledImage;

/// A v1 archive and where its data are.
#[derive(Debug, Clone)]
pub struct V1 {
    tree: Tree,
    data: BlockData,
}

impl V1 {
    /// The v1 archive `stored` of `archives`.
    pub fn of(archives: &dyn ArchiveStore, stored: &StoredArchive) -> Result<Self, MigrateError> {
        Ok(Self { tree: stored.archive.tree.clone(), data: archives.data(stored)? })
    }
}

/// A v2 archive's tree and the image that it points into.
#[derive(Debug, Clone)]
pub struct V2 {
    tree: Tree,
    source: Source,
    image: ResolvedImage,
}

impl V2 {
    /// Finds the image of the v2 archive `stored`.
    pub async fn open(
        stored: &StoredArchive,
        oci: &OciSettings,
        credentials: impl FnOnce(&str) -> Result<Option<Credentials>, InvalidCredentials>,
        cancel: &CancellationToken,
    ) -> Result<Self, MigrateError> {
        let StorageInfo::Oci(image) = &stored.archive.storage else {
            let detail = "expected a v2 archive, found version 1".to_owned();
            return Err(PublishError::Unexpected { key: stored.key.clone(), detail }.into());
        };
        let credentials = credentials(&image.registry_url)?;
        let source = Source::open(&image_source(image)?, oci, credentials).await?;
        let found = resolve_stored(&source, image, cancel).await?;
        if found.layers.iter().map(|layer| layer.digest).ne(image.layers.iter().copied()) {
            let detail = format!("{} has other layers than it says", found.reference);
            return Err(PublishError::Unexpected { key: stored.key.clone(), detail }.into());
        }
        Ok(Self { tree: stored.archive.tree.clone(), source, image: found })
    }

    /// The image.
    pub fn image(&self) -> &ResolvedImage {
        &self.image
    }

    /// The image's index as it would be made now.
    pub async fn index(
        &self,
        options: &IndexOptions,
        progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<IndexedImage, MigrateError> {
        Ok(index_image(&self.source, &self.image, options, progress, cancel).await?)
    }
}

/// Compares what a v1 archive holds with what a v2 archive shows, reading all of both.
pub async fn compare_archives(
    v1: &V1,
    v2: &V2,
    options: &IndexOptions,
    progress: &Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<Comparison, MigrateError> {
    let bundled = BundledImage::find(&v1.tree)?;
    let before = contents::of_blocks(&bundled.tree, &v1.data, cancel).await?;
    let V2 { tree, source, image } = v2;
    let after = contents::of_layers(source, image, options, progress, cancel).await?;
    let after = contents::of_remote(tree, &after)?;
    let before = Contents { tree: &bundled.tree, files: &before };
    compare(before, Contents { tree, files: &after })
}

/// Why an archive could not be brought to another version.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// An archive, or what it points to, could not be read, made or published.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The credentials can't be used.
    #[error(transparent)]
    Credentials(#[from] InvalidCredentials),
    /// A node that an image can't hold.
    #[error("{path} can't become part of an image: {detail}")]
    Node {
        /// The node.
        path: String,
        /// Why not.
        detail: String,
    },
    /// The archive's own description of its container makes no sense.
    #[error("{file}: {detail}")]
    Config {
        /// Which file in the archive.
        file: String,
        /// What is wrong.
        detail: String,
    },
    /// What was made is not what there was; nothing was switched.
    #[error("the archives differ at {path}: {detail}; nothing was switched")]
    Different {
        /// The first path that differs.
        path: String,
        /// Both sides.
        detail: String,
    },
    /// Somebody else has put another archive in its place meanwhile.
    #[error("{key} is no longer the archive that this migration began with; nothing was switched")]
    Superseded {
        /// The archive.
        key: Key,
    },
    /// What was made could not be written, or what it is made from not be read.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// What the other side said.
        source: std::io::Error,
    },
}

macro_rules! lower_errors {
    ($($error:ty),*) => {
        $(impl From<$error> for MigrateError {
            fn from(error: $error) -> Self {
                Self::Publish(error.into())
            }
        })*
    };
}

lower_errors!(ArchiveError, ContentError, ClipError, IoError, OciError, StoreError);

impl From<InvalidReference> for MigrateError {
    fn from(error: InvalidReference) -> Self {
        ClipError::Storage(error.to_string()).into()
    }
}

impl Retryable for MigrateError {
    fn cancelled() -> Self {
        PublishError::cancelled().into()
    }
}

impl Classify for MigrateError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Publish(error) => error.is_transient(),
            other => matches!(other, Self::Io { .. } | Self::Superseded { .. }),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Publish(error) => error.fault(),
            Self::Different { .. } | Self::Superseded { .. } => Fault::Ours,
            Self::Io { .. } => Fault::Upstream,
            _ => Fault::User,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Publish(error) => error.code(),
            Self::Credentials(_) => "invalid_credentials",
            Self::Node { .. } => "not_migratable",
            Self::Config { .. } => "invalid_runtime_config",
            Self::Different { .. } => "archives_differ",
            Self::Superseded { .. } => "archive_superseded",
            Self::Io { .. } => "io",
        }
    }
}
