//! Where a built image goes: a repository, in which it is found by a tag once its manifest can be had by its
//! digest, and not before (CONTRACT D.3).

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::BuildError;
use super::export::{Base, Export, ExportedImage, MANIFEST};
use super::pipeline::Finished;
use super::storage::Site;
use crate::archive::IndexOptions;
use crate::digest::Digest;
use crate::oci::{
    Credentials, ImageSource, OciError, OciSettings, Platform, Publisher, Reference, ResolvedImage,
    Source,
};
use crate::progress::Progress;

/// The tag of images that are given none.
const LATEST: &str = "latest";

/// A place for an image in a registry.
pub struct Destination<'a> {
    /// Repository and tag.
    pub reference: &'a Reference,
    /// How registries are reached.
    pub oci: &'a OciSettings,
    /// How to log in there; as for [`Source::open`].
    pub credentials: Option<Credentials>,
    /// How the image will be indexed: indexes of its new layers go into the cache for that.
    pub options: &'a IndexOptions,
    /// Told of each layer.
    pub progress: Arc<dyn Progress>,
}

impl std::fmt::Debug for Destination<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Destination").field("reference", &self.reference).finish_non_exhaustive()
    }
}

impl Destination<'_> {
    /// Pushes what the repository lacks: layers, config, and the manifest under its digest; the tag is left as
    /// it is. What fails half way leaves blobs that no manifest names, for the registry to collect.
    pub async fn push(
        &self,
        built: &Finished,
        site: &Site,
        cancel: &CancellationToken,
    ) -> Result<ExportedImage, BuildError> {
        let bases: Vec<Base<'_>> = built
            .bases
            .iter()
            .map(|base| Base { image: &base.image, source: &base.source })
            .collect();
        let export = Export {
            image: &built.image,
            bases: &bases,
            publisher: &self.publisher(built.mountable(self.reference.registry())).await?,
            options: self.options,
            style: built.style,
            known: Some(&site.exported()),
            progress: self.progress.clone(),
        };
        Ok(export.push(cancel).await?)
    }

    /// The image whose manifest has this digest, as readers find it.
    pub async fn find(
        &self,
        manifest: Digest,
        platform: &Platform,
        cancel: &CancellationToken,
    ) -> Result<(Source, ResolvedImage), OciError> {
        let at = ImageSource::Registry(self.reference.clone().at(manifest));
        let source = Source::open(&at, self.oci, self.credentials.clone()).await?;
        let image = source.resolve_pinned(Some(manifest), platform, cancel).await?;
        Ok((source, image))
    }

    /// Puts the tag to an image that is there: from then on it is what that name means.
    pub async fn tag(
        &self,
        image: &ResolvedImage,
        cancel: &CancellationToken,
    ) -> Result<(), OciError> {
        let tag = self.reference.tag().unwrap_or(LATEST);
        let publisher = self.publisher(None).await?;
        publisher.manifest(&image.raw_manifest, MANIFEST, Some(tag), cancel).await?;
        Ok(())
    }

    /// Pushes there, and mounts layers from another repository.
    async fn publisher(&self, mounted: Option<&str>) -> Result<Publisher, OciError> {
        let (host, repository) = (self.reference.registry(), self.reference.repository());
        Publisher::open(host, repository, mounted, self.oci, self.credentials.clone()).await
    }
}
