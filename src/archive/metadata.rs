//! What the image's config and manifest say, as the archive keeps it (CONTRACT A.9).

use crate::clip::storage_info::{ImageMetadata, LayerMetadata};
use crate::oci::ResolvedImage;

pub(super) fn image_metadata(image: &ResolvedImage) -> ImageMetadata {
    let config = &image.config;
    ImageMetadata {
        name: image.reference.to_string(),
        digest: image.manifest_digest.to_string(),
        repo_tags: Vec::new(),
        created: config.created,
        docker_version: config.docker_version.clone(),
        labels: config.labels.clone(),
        architecture: config.architecture.clone(),
        os: config.os.clone(),
        variant: config.variant.clone(),
        author: config.author.clone(),
        env: config.env.clone(),
        cmd: config.cmd.clone(),
        entrypoint: config.entrypoint.clone(),
        user: config.user.clone(),
        working_dir: config.working_dir.clone(),
        exposed_ports: config.exposed_ports.clone(),
        volumes: config.volumes.clone(),
        stop_signal: config.stop_signal.clone(),
        layers: image.layers.iter().map(|layer| layer.digest.to_string()).collect(),
        layers_data: image
            .layers
            .iter()
            .map(|layer| LayerMetadata {
                media_type: layer.media_type.clone(),
                digest: layer.digest.to_string(),
                size: i64::try_from(layer.size).unwrap_or(i64::MAX),
                annotations: layer.annotations.clone(),
            })
            .collect(),
    }
}
