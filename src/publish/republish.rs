//! An image becomes another one that beta9's workers can read, in another repository: layers that
//! are not gzip are compressed, everything else stays as it is. Diff ids, and so the image config,
//! don't change.
//!
//! Layers go from one registry to the other as they are read; of each a few MiB are in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use futures_util::stream::{BoxStream, StreamExt as _, TryStreamExt as _};
use tokio_util::sync::CancellationToken;

use crate::archive::policy::LayerPolicy;
use crate::digest::Digest;
use crate::fetch::{Budget, largest_first};
use crate::layer::{Encoding, Limits};
use crate::oci::{
    Access, Compression, LayerDescriptor, OciError, Publisher, PushedBlob, Reference,
    ResolvedImage, Source,
};
use crate::progress::{Progress, Step};
use crate::publish::PublishError;

/// A layer on its way through the compressor.
mod gzip;
/// What the new image's manifest says.
mod manifest;

use gzip::compressed;
use manifest::rewritten;

/// What to re-publish, and where.
#[derive(Debug, Clone, Copy)]
pub struct Republication<'a> {
    /// Where the image's layers are.
    pub source: &'a Source,
    /// The image.
    pub image: &'a ResolvedImage,
    /// Where the new one goes.
    pub publisher: &'a Publisher,
    /// The tag it gets there.
    pub tag: &'a str,
    /// What a layer may cost.
    pub limits: Limits,
    /// How many layers are on their way at a time, by all who share it.
    pub budget: &'a Arc<Budget>,
}

/// An image that was re-published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepublishedImage {
    /// By tag and digest.
    pub reference: Reference,
    /// Layers that had to be compressed.
    pub compressed: usize,
}

impl Republication<'_> {
    /// Pushes the layers, the config and, when they are there, the manifest, which is read back.
    /// What fails half way leaves blobs that no manifest names, for the registry to collect.
    pub async fn publish(
        &self,
        progress: Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<RepublishedImage, PublishError> {
        let Self { source, image, publisher, .. } = self;
        LayerPolicy::AsIs.check(source, &image.layers, cancel).await?;
        progress.step(Step::Resolved {
            manifest: image.manifest_digest,
            layers: image.layers.len(),
            compressed_bytes: image.layers.iter().fold(0, |sum, l| sum.saturating_add(l.size)),
        });

        // The first failure stops the others.
        let stop = cancel.child_token();
        let _stop = stop.clone().drop_guard();
        let layers: BTreeMap<Digest, (&LayerDescriptor, Digest)> = image
            .layers
            .iter()
            .zip(&image.diff_ids)
            .map(|(layer, diff_id)| (layer.digest, (layer, *diff_id)))
            .collect();
        let mut layers: Vec<_> = layers.into_values().collect();
        largest_first(&mut layers, |(layer, _)| layer.size);
        let pushes = layers.into_iter().map(|(layer, diff_id)| {
            let (progress, stop) = (progress.clone(), &stop);
            async move {
                let pushed = self.layer(layer, diff_id, &progress, stop).await?;
                Ok::<_, PublishError>((layer.digest, pushed))
            }
        });
        let pushed: BTreeMap<Digest, PushedBlob> = stream::iter(pushes.collect::<Vec<_>>())
            .buffer_unordered(self.budget.begun())
            .try_collect()
            .await?;

        let config = &image.raw_config;
        let whole = || std::future::ready(Ok::<_, OciError>(stream::iter([Ok(config.clone())])));
        publisher.known_blob(&Digest::of(config), whole, cancel).await?;
        let broken = |reason| OciError::BrokenImage { image: image.reference.to_string(), reason };
        let replaced = self.replaced(&pushed);
        let (manifest, media_type) = rewritten(&image.raw_manifest, &replaced).map_err(broken)?;
        let digest = publisher.manifest(&manifest, &media_type, Some(self.tag), cancel).await?;
        let name = format!("{}:{}@{digest}", publisher.name(), self.tag);
        let compressed = pushed.iter().filter(|(old, new)| **old != new.digest).count();
        Ok(RepublishedImage { reference: name.parse().map_err(OciError::from)?, compressed })
    }

    /// The layers that are other bytes now, and those that were gzip under another name.
    fn replaced(&self, pushed: &BTreeMap<Digest, PushedBlob>) -> BTreeMap<Digest, PushedBlob> {
        let layers = self.image.layers.iter();
        let new = layers.filter_map(|layer| Some((layer, pushed.get(&layer.digest)?)));
        new.filter(|(layer, new)| {
            new.digest != layer.digest || layer.compression != Compression::Gzip
        })
        .map(|(layer, new)| (layer.digest, *new))
        .collect()
    }

    async fn layer(
        &self,
        layer: &LayerDescriptor,
        diff_id: Digest,
        progress: &Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<PushedBlob, PublishError> {
        let &LayerDescriptor { digest, size, .. } = layer;
        // Media types are often wrong. No digest speaks for these few bytes alone.
        let (prefix, access) = (size.min(Encoding::PREFIX as u64), Access::FromStart);
        let prefix = self.source.blob_range(&digest, size, 0, prefix, access, cancel).await?;
        if Encoding::of(&prefix) == Some(Encoding::Gzip) {
            let content = || self.copied(digest, size, progress, cancel);
            self.publisher.known_blob(&digest, content, cancel).await?;
            return Ok(PushedBlob { digest, size });
        }
        let content = || {
            let stream = compressed(
                self.source.clone(),
                (digest, size),
                diff_id,
                self.limits,
                self.budget.clone(),
                progress.clone(),
                cancel.clone(),
            );
            std::future::ready(Ok(stream))
        };
        self.publisher.blob(content, cancel).await
    }

    /// A layer as it is, verified on the way.
    async fn copied(
        &self,
        layer: Digest,
        size: u64,
        progress: &Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<BoxStream<'static, Result<Bytes, PublishError>>, PublishError> {
        let blob = self.source.blob(&layer, size, cancel).await?;
        let progress = progress.clone();
        let told = blob.inspect_ok(move |bytes| {
            progress.step(Step::LayerBytes { layer, bytes: bytes.len() as u64 });
        });
        Ok(told.map_err(PublishError::from).boxed())
    }
}
