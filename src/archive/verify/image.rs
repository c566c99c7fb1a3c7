//! The image that a v2 archive points to, without reading its layers.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::table::PlainSizes;
use crate::archive::ArchiveError;
use crate::clip::check::{Check, Grade};
use crate::clip::node::{FileContent, NodeKind};
use crate::clip::reader::Parts;
use crate::clip::storage_info::OciStorageInfo;
use crate::content::read::{ReadSettings, image_source, resolve_stored};
use crate::content::stored_layers::StoredLayer;
use crate::digest::Digest;
use crate::oci::{ResolvedImage, Source};

/// Every file's content lies inside its layer, as far as the layer's size is known.
pub(super) fn ranges(parts: &Parts, sizes: &PlainSizes) -> Check {
    let mut check = Check::new("ranges", "files");
    for node in &parts.nodes {
        let NodeKind::File(FileContent::Remote(remote)) = &node.kind else { continue };
        let Some(size) = sizes.get(&remote.layer) else { continue };
        check.checked += 1;
        let (offset, length) = (remote.offset, remote.length);
        if offset.checked_add(length).is_none_or(|end| end > *size) {
            let (path, layer) = (&node.path, remote.layer);
            check.error(format!(
                "{path}: {offset}+{length} is outside of layer {layer}, of {size} bytes"
            ));
        }
    }
    check
}

/// The manifest is where the archive says, and has the layers that the archive has.
pub(super) async fn published(
    image: &OciStorageInfo,
    settings: &ReadSettings,
    cancel: &CancellationToken,
) -> Check {
    let mut check = Check::new("registry", "layers");
    match resolve(image, settings, cancel).await {
        Ok(found) => compare(image, &found, &mut check),
        Err(error) => check.error(error.to_string()),
    }
    check
}

async fn resolve(
    image: &OciStorageInfo,
    settings: &ReadSettings,
    cancel: &CancellationToken,
) -> Result<ResolvedImage, ArchiveError> {
    let source = match &settings.source {
        Some(source) => source.clone(),
        None => image_source(image)?,
    };
    let source = Source::open(&source, &settings.oci, settings.credentials.clone()).await?;
    Ok(resolve_stored(&source, image, cancel).await?)
}

fn compare(image: &OciStorageInfo, found: &ResolvedImage, check: &mut Check) {
    check.checked = found.layers.len() as u64;
    if let Some(metadata) = &image.image_metadata
        && metadata.digest != found.manifest_digest.to_string()
    {
        let (expected, found) = (&metadata.digest, found.manifest_digest);
        check.error(format!("manifest: expected {expected}, found {found}"));
    }
    let theirs: Vec<Digest> = found.layers.iter().map(|layer| layer.digest).collect();
    if image.layers != theirs {
        check.error(format!(
            "manifest {}: its {} layers are not the {} of the archive",
            found.manifest_digest,
            theirs.len(),
            image.layers.len()
        ));
    }
    let sizes: BTreeMap<Digest, (u64, Digest)> = found
        .layers
        .iter()
        .zip(&found.diff_ids)
        .map(|(layer, diff_id)| (layer.digest, (layer.size, *diff_id)))
        .collect();
    for (digest, (size, diff_id)) in sizes {
        let Ok(ours) = StoredLayer::of(image, digest) else { continue };
        let mut differs = |what: &str, ours: String, theirs: String| {
            let text = format!("layer {digest}: its {what} is {theirs}, the archive says {ours}");
            check.find(Grade::Error, text);
        };
        if ours.size != size {
            differs("size", ours.size.to_string(), size.to_string());
        }
        if ours.diff_id != diff_id {
            differs("diff id", ours.diff_id.to_string(), diff_id.to_string());
        }
    }
}
