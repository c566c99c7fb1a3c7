//! What must hold of the storage info, so that beta9's workers take it (CONTRACT 0, B.3).

use std::collections::BTreeSet;

use super::Check;
use crate::clip::reader::Parts;
use crate::clip::storage_info::{OciStorageInfo, S3StorageInfo, StorageInfo};
use crate::clip::{MAX_INDEX_BYTES, WARN_INDEX_BYTES};
use crate::digest::Digest;

/// Top-level names that workers take for parts of a v1 archive (CONTRACT A.12).
const MISREAD: [&str; 3] = ["/rootfs", "/config.json", "/initial_config.json"];

/// Checks the storage info of an archive, and what depends on its kind.
pub fn storage(parts: &Parts) -> Check {
    let mut check = Check::new("storage", "layers");
    let kind = match &parts.storage {
        StorageInfo::Local => "",
        StorageInfo::S3(object) => {
            s3(object, &mut check);
            "s3"
        }
        StorageInfo::Oci(image) => {
            check.checked = image.layers.len() as u64;
            oci(image, &mut check);
            size(parts.size, &mut check);
            for node in &parts.nodes {
                if MISREAD.iter().any(|name| node.path.as_bytes() == name.as_bytes()) {
                    check.warning(format!("{}: workers misread the image as v1", node.path));
                }
            }
            "oci"
        }
    };
    if parts.header.storage_type != kind {
        let found = parts.header.storage_type;
        check.warning(format!("header: expected storage type {kind:?}, found {found:?}"));
    }
    check
}

fn size(size: u64, check: &mut Check) {
    if size > MAX_INDEX_BYTES {
        check.error(format!("the archive has {size} bytes: workers take {MAX_INDEX_BYTES}"));
    } else if size > WARN_INDEX_BYTES {
        check.warning(format!("the archive has {size} bytes of the {MAX_INDEX_BYTES} allowed"));
    }
}

fn s3(object: &S3StorageInfo, check: &mut Check) {
    for (name, value) in [("Bucket", &object.bucket), ("Key", &object.key)] {
        if value.is_empty() {
            check.error(format!("{name} is empty"));
        }
    }
}

fn oci(image: &OciStorageInfo, check: &mut Check) {
    for (name, value) in [
        ("RegistryURL", &image.registry_url),
        ("Repository", &image.repository),
        ("Reference", &image.reference),
    ] {
        if value.is_empty() {
            check.error(format!("{name} is empty"));
        }
    }
    if !image.reference.contains("sha256:") {
        check.warning(format!("Reference {:?} is a tag, which may move", image.reference));
    }
    if image.layers.is_empty() {
        check.error("Layers is empty: workers refuse that");
    }
    let layers: BTreeSet<&Digest> = image.layers.iter().collect();
    for layer in &layers {
        if !image.plain_digests.contains_key(layer) {
            check.error(format!("layer {layer}: has no DecompressedHashByLayer"));
        }
    }
    for layer in image.plain_digests.keys().filter(|layer| !layers.contains(layer)) {
        check.warning(format!("layer {layer}: has a DecompressedHashByLayer, but is none"));
    }
    if !image.gzip_checkpoints.is_empty() {
        let count: usize = image.gzip_checkpoints.values().map(Vec::len).sum();
        check.warning(format!("{count} checkpoints in upstream's form, which no reader can use"));
    }
    let Some(metadata) = &image.image_metadata else {
        check.error("ImageMetadata is missing: workers refuse that");
        return;
    };
    for layer in &layers {
        let text = layer.to_string();
        match metadata.layers_data.iter().find(|data| data.digest == text) {
            Some(data) if data.size > 0 => {}
            Some(data) => {
                check.error(format!("layer {layer}: LayersData says {} bytes", data.size));
            }
            None => check.error(format!("layer {layer}: is not in LayersData")),
        }
    }
    if !metadata.layers.iter().eq(image
        .layers
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .iter())
    {
        check.warning("ImageMetadata has other Layers than the storage info");
    }
}
