//! The images that a build begins with: found and fetched by our own registry client, verified and under
//! the egress policy, and then taken into the workspace's storage. What is there already isn't fetched
//! again. The builder is told which image a name means: a tag that moves meanwhile changes nothing.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::BuildError;
use super::backend::BuildBackend;
use super::dockerfile::ExternalImage;
use super::storage::Site;
use crate::archive::IndexOptions;
use crate::digest::Digest;
use crate::local::io_error;
use crate::oci::{
    Credentials, ImageSource, OciError, OciSettings, Platform, Reference, ResolvedImage, Source,
};
use crate::progress::Progress;

/// Layers of a base image on their way.
mod layers;

use layers::{OnTheWay, fetch_into};

/// An image that a build begins with, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BaseImage {
    /// As the Dockerfile names it.
    pub name: String,
    /// By its digest: `host/repository@sha256:...`.
    pub reference: String,
    /// Digest of the platform manifest.
    #[schema(value_type = String)]
    pub manifest_digest: Digest,
    /// Whether it was in the workspace's storage.
    pub cached: bool,
}

/// An image that a build begins with, in the workspace's storage and where it came from.
#[derive(Debug)]
pub struct FetchedBase {
    /// What is told of it.
    pub told: BaseImage,
    /// Digest of its config in the storage.
    pub(super) config: Digest,
    /// The image.
    pub image: ResolvedImage,
    /// Where its layers are.
    pub source: Source,
}

/// How base images are found.
pub struct BaseImages<'a> {
    /// What they are for.
    pub backend: &'a dyn BuildBackend,
    /// How registries are reached.
    pub oci: &'a OciSettings,
    /// How to log in, by host; the surroundings' where there is none.
    pub credentials: &'a BTreeMap<String, Credentials>,
    /// How what is built will be indexed: indexes of their layers go into the cache for that.
    pub options: &'a IndexOptions,
    /// Told of the layers that come.
    pub progress: Arc<dyn Progress>,
    /// Of what they should be, where the Dockerfile doesn't say.
    pub platform: &'a Platform,
    /// Whether the workspace lets its jobs pull from a host.
    pub may_pull_from: &'a (dyn Fn(&str) -> bool + Send + Sync),
}

impl std::fmt::Debug for BaseImages<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BaseImages").field("platform", &self.platform).finish_non_exhaustive()
    }
}

impl BaseImages<'_> {
    /// Sees to it that the storage has all of them.
    pub async fn fetch(
        &self,
        site: &Site,
        images: &[ExternalImage],
        cancel: &CancellationToken,
    ) -> Result<Vec<FetchedBase>, BuildError> {
        let mut fetched = Vec::new();
        for (number, image) in images.iter().enumerate() {
            let directory = site.scratch(&format!("base-{number}"));
            fetched.push(self.fetch_one(site, image, &directory, cancel).await?);
        }
        Ok(fetched)
    }

    fn on_the_way(&self) -> OnTheWay<'_> {
        OnTheWay { options: self.options, progress: &self.progress }
    }

    async fn fetch_one(
        &self,
        site: &Site,
        image: &ExternalImage,
        directory: &Path,
        cancel: &CancellationToken,
    ) -> Result<FetchedBase, BuildError> {
        let line = image.line;
        let failed = |error| BuildError::of_oci(format!("Dockerfile line {line}: "), error);
        let wrong = |reason: String| super::DockerfileError { line, reason };
        let reference: Reference =
            image.name.parse().map_err(|error| failed(OciError::from(error)))?;
        let registry = reference.registry().to_owned();
        if !(self.may_pull_from)(&registry) {
            return Err(BuildError::RegistryNotAllowed { line, registry });
        }
        let platform = match &image.platform {
            Some(text) => text.parse::<Platform>().map_err(|error| wrong(error.to_string()))?,
            None => self.platform.clone(),
        };
        let credentials = self.credentials.get(&registry).cloned();
        let source = ImageSource::Registry(reference);
        let source = Source::open(&source, self.oci, credentials).await.map_err(failed)?;
        let found = source.resolve(&platform.normalised(), cancel).await.map_err(failed)?;
        let found = with_history(found);
        let config = Digest::of(&found.raw_config);
        let cached = self.backend.has_image(site, config).await;
        if !cached {
            let known = site.known_layers();
            fetch_into(&source, &found, directory, &known, self.on_the_way(), cancel).await?;
            if let Err(error) = self.backend.import(site, directory, cancel).await {
                if known.is_empty() || !matches!(error, BuildError::Backend { .. }) {
                    return Err(error);
                }
                // The layers that it should have, it may have lost.
                fetch_into(&source, &found, directory, &[], self.on_the_way(), cancel).await?;
                self.backend.import(site, directory, cancel).await?;
            }
            tokio::fs::remove_dir_all(directory)
                .await
                .map_err(io_error("can't remove a base image's files"))?;
        }
        site.touch(&config.hex());
        let told = BaseImage {
            name: image.name.clone(),
            reference: found.reference.to_string(),
            manifest_digest: found.manifest_digest,
            cached,
        };
        Ok(FetchedBase { told, config, image: found, source })
    }
}

/// The image with an entry of history for each layer, where it has fewer or more: it may (image-spec,
/// "history" is optional), and buildah fails at its first commit on top of it then. Each has a time: without one buildah
/// writes another into what it makes on top, and never finds that again in its cache.
fn with_history(image: ResolvedImage) -> ResolvedImage {
    let parse = |bytes: &Bytes| serde_json::from_slice::<Value>(bytes).ok();
    let (Some(mut config), Some(mut manifest)) =
        (parse(&image.raw_config), parse(&image.raw_manifest))
    else {
        return image;
    };
    let mut history = config["history"].as_array().cloned().unwrap_or_default();
    let told = history.iter().filter(|entry| entry["empty_layer"] != true).count();
    let is_dated = history.iter().all(|entry| entry["created"].is_string());
    if told == image.layers.len() && is_dated || !config.is_object() {
        return image;
    }
    if told != image.layers.len() {
        history = vec![json!({ "created_by": "unknown" }); image.layers.len()];
    }
    for entry in history.iter_mut().filter(|entry| !entry["created"].is_string()) {
        entry["created"] = json!("1970-01-01T00:00:00Z");
    }
    config["history"] = history.into();
    let raw_config = Bytes::from(config.to_string());
    manifest["config"]["digest"] = json!(Digest::of(&raw_config).to_string());
    manifest["config"]["size"] = json!(raw_config.len());
    ResolvedImage { raw_config, raw_manifest: Bytes::from(manifest.to_string()), ..image }
}
