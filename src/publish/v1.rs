//! An image is packed into a v1 archive on its way into a place for archives.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::archive::index::ArchiveFile;
use crate::archive::pack::{PackOptions, PackedImage, pack_image};
use crate::oci::{ResolvedImage, Source};
use crate::progress::Progress;
use crate::publish::PublishError;
use crate::publish::archives::{ArchiveName, ArchiveStore, Draft};
use crate::store::{Key, Overwrite, Put};

/// A v1 archive that is published.
#[derive(Debug)]
pub struct PublishedV1 {
    /// What was packed.
    pub packed: PackedImage,
    /// The archive's key.
    pub key: Key,
    /// The archive object. Where data lie beside it this is the index; [`PackedImage::size`] is that
    /// of the data.
    pub archive: ArchiveFile,
    /// Whether it had to be written.
    pub put: Put,
}

/// What to publish, and where.
#[derive(Debug, Clone)]
pub struct Publication<'a> {
    /// Where the image's layers are.
    pub source: &'a Source,
    /// The image.
    pub image: &'a ResolvedImage,
    /// How it is packed.
    pub options: &'a PackOptions,
    /// Where the archive goes.
    pub archives: &'a dyn ArchiveStore,
    /// The name it goes by.
    pub name: &'a ArchiveName,
    /// Whether it may replace another archive.
    pub overwrite: Overwrite,
}

impl Publication<'_> {
    /// Packs the image and publishes the archive. When it fails or is cancelled nothing partial stays
    /// behind, and what it was to replace is there. Only if a bucket has taken the data and then
    /// refuses the index do the data stay, for the next try or the garbage collection.
    pub async fn publish(
        &self,
        progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<PublishedV1, PublishError> {
        let (draft, packed) = self.pack(progress, cancel).await?;
        let (archive, put) = draft.finish(&packed).await?;
        Ok(PublishedV1 { packed, key: self.archives.key(self.name), archive, put })
    }

    /// Packs the image. Nothing is visible before the draft is finished.
    pub async fn pack(
        &self,
        progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<(Box<dyn Draft>, PackedImage), PublishError> {
        let Self { source, image, options, .. } = self;
        let mut draft = self.archives.draft(self.name, self.overwrite.clone(), cancel).await?;
        match pack_image(source, image, options, draft.sink(), progress, cancel).await {
            Ok(packed) => Ok((draft, packed)),
            // What the store itself failed with is the better reason.
            Err(error) => Err(draft.abort().await.unwrap_or_else(|| error.into())),
        }
    }
}
