//! A built image as an OCI layout of one image: what is done to it before it is published, and how it gets
//! into a registry.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::BuildError;
use super::log::Mask;
use crate::digest::Digest;
use crate::local::io_error;
use crate::oci::{
    ImageSource, OciError, OciSettings, Platform, Publisher, Reference, ResolvedImage, Source,
};

/// The name of the image in its layout.
const TAG: &str = "image";
/// Layers pushed at a time.
const AT_ONCE: usize = 4;

/// A built image on this machine.
#[derive(Debug, Clone)]
pub struct BuiltLayout {
    directory: PathBuf,
    /// Reads it.
    pub source: Source,
    /// The image.
    pub image: ResolvedImage,
}

impl BuiltLayout {
    /// Opens the layout of one image that readers will find under `published_as`.
    pub async fn open(
        directory: &Path,
        published_as: Option<&Reference>,
        platform: &Platform,
        cancel: &CancellationToken,
    ) -> Result<Self, BuildError> {
        let layout = ImageSource::Layout {
            dir: directory.to_owned(),
            tag: Some(TAG.to_owned()),
            published_as: published_as.cloned(),
        };
        let source = Source::open(&layout, &OciSettings::default(), None).await?;
        let image = source.resolve(platform, cancel).await?;
        Ok(Self { directory: directory.to_owned(), source, image })
    }

    /// Takes out of the image's history what the mask hides, which is where builders write the values of
    /// `ARG`s (`RUN |1 NAME=value ...`). Gives whether a value is in the rest of the config, which is what
    /// the image is to be: that stays.
    pub fn mask_history(directory: &Path, mask: &Mask) -> Result<bool, BuildError> {
        if mask.is_empty() {
            return Ok(false);
        }
        let blob = |digest: &str| directory.join("blobs").join(digest.replacen(':', "/", 1));
        let index_file = directory.join("index.json");
        let mut index = read(&index_file)?;
        let descriptor = &mut index["manifests"][0];
        let mut manifest = read(&blob(descriptor["digest"].as_str().unwrap_or_default()))?;
        let config_digest = manifest["config"]["digest"].as_str().unwrap_or_default().to_owned();
        let mut config = read(&blob(&config_digest))?;
        let before = config.clone();
        for entry in config["history"].as_array_mut().into_iter().flatten() {
            for field in ["created_by", "comment"] {
                if let Some(text) = entry[field].as_str() {
                    entry[field] = json!(mask.apply(text.to_owned()));
                }
            }
        }
        let rest = config.as_object().into_iter().flatten().filter(|(name, _)| *name != "history");
        let rest: BTreeMap<_, _> = rest.collect();
        let rest = json!(rest).to_string();
        let is_elsewhere = mask.apply(rest.clone()) != rest;
        if config != before {
            let write = |value: &Value| {
                let bytes = value.to_string();
                let digest = Digest::of(bytes.as_bytes());
                let path = blob(&digest.to_string());
                std::fs::write(&path, &bytes)
                    .map_err(io_error(format!("can't write {}", path.display())))?;
                Ok::<_, BuildError>((json!(digest.to_string()), json!(bytes.len())))
            };
            (manifest["config"]["digest"], manifest["config"]["size"]) = write(&config)?;
            (descriptor["digest"], descriptor["size"]) = write(&manifest)?;
            std::fs::write(&index_file, index.to_string())
                .map_err(io_error(format!("can't write {}", index_file.display())))?;
            // The one with the values must not be left for somebody to find.
            let _ = std::fs::remove_file(blob(&config_digest));
        }
        Ok(is_elsewhere)
    }

    /// Pushes what the registry lacks, and the manifest last, under its digest and `tag`.
    pub async fn push(
        &self,
        publisher: &Publisher,
        tag: &str,
        cancel: &CancellationToken,
    ) -> Result<Digest, BuildError> {
        let Self { image, source, .. } = self;
        // The first failure stops the others.
        let stop = cancel.child_token();
        let _stop = stop.clone().drop_guard();
        let layers: BTreeMap<Digest, u64> =
            image.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
        let pushes: Vec<_> = layers
            .iter()
            .map(|(digest, size)| {
                let content = || source.blob(digest, *size, &stop);
                publisher.known_blob::<OciError, _, _, _>(digest, content, &stop)
            })
            .collect();
        stream::iter(pushes).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        let config = &image.raw_config;
        let whole = || {
            let chunk = Ok::<_, OciError>(config.clone());
            std::future::ready(Ok::<_, OciError>(stream::iter([chunk])))
        };
        publisher.known_blob(&Digest::of(config), whole, cancel).await?;
        let manifest = &image.raw_manifest;
        let media_type = media_type(manifest);
        Ok(publisher.manifest(manifest, &media_type, Some(tag), cancel).await?)
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

fn media_type(manifest: &Bytes) -> String {
    let said = serde_json::from_slice::<Value>(manifest).ok();
    let said = said.and_then(|manifest| manifest["mediaType"].as_str().map(str::to_owned));
    said.unwrap_or_else(|| "application/vnd.oci.image.manifest.v1+json".to_owned())
}

fn read(path: &Path) -> Result<Value, BuildError> {
    let bytes = std::fs::read(path).map_err(io_error(format!("can't read {}", path.display())))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| BuildError::BadFile { path: path.to_owned(), reason: error.to_string() })
}
