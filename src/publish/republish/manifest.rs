//! The manifest of an image whose layers have become gzip. What it says beside the layers stays.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::digest::Digest;
use crate::oci::PushedBlob;

/// Annotations that describe the bytes of a layer in another encoding.
const OF_THE_BYTES: [&str; 1] = ["io.github.containers.zstd-chunked."];
const DOCKER: &str = "application/vnd.docker.";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// The manifest with some layers replaced by gzip ones, and its media type. The error is a reason
/// without a subject.
pub(super) fn rewritten(
    manifest: &[u8],
    replaced: &BTreeMap<Digest, PushedBlob>,
) -> Result<(Bytes, String), String> {
    let invalid = || "its manifest can't be rewritten".to_owned();
    let mut document: Map<String, Value> =
        serde_json::from_slice(manifest).map_err(|error| format!("its manifest: {error}"))?;
    let config = document.get("config").and_then(|config| config["mediaType"].as_str());
    // A manifest that doesn't say what it is says it by its config.
    let is_docker = config.is_some_and(|config| config.starts_with(DOCKER));
    let (own, layer_type) =
        if is_docker { (DOCKER_MANIFEST, DOCKER_LAYER) } else { (OCI_MANIFEST, OCI_LAYER) };
    let media_type = document.get("mediaType").and_then(Value::as_str).unwrap_or(own).to_owned();
    let descriptors = document.get_mut("layers").and_then(Value::as_array_mut);
    for descriptor in descriptors.ok_or_else(invalid)? {
        let descriptor = descriptor.as_object_mut().ok_or_else(invalid)?;
        let digest = descriptor.get("digest").and_then(Value::as_str);
        let digest: Option<Digest> = digest.and_then(|digest| digest.parse().ok());
        let digest = digest.ok_or_else(invalid)?;
        let Some(new) = replaced.get(&digest) else { continue };
        descriptor.insert("mediaType".to_owned(), json!(layer_type));
        descriptor.insert("digest".to_owned(), json!(new.digest));
        descriptor.insert("size".to_owned(), json!(new.size));
        if let Some(Value::Object(annotations)) = descriptor.get_mut("annotations") {
            annotations.retain(|name, _| !OF_THE_BYTES.iter().any(|of| name.starts_with(of)));
        }
    }
    let bytes = serde_json::to_vec(&document).map_err(|error| error.to_string())?;
    Ok((bytes.into(), media_type))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_change_and_nothing_else() {
        let (kept, old, new) = (Digest::of(b"kept"), Digest::of(b"old"), Digest::of(b"new"));
        let zstd = "application/vnd.oci.image.layer.v1.tar+zstd";
        let manifest = |digest: Digest, size: u64, media_type: &str, annotations: Value| {
            json!({
                "schemaVersion": 2, "annotations": {"a": "b"},
                "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                           "digest": Digest::of(b"c"), "size": 1},
                "layers": [{"mediaType": OCI_LAYER, "digest": kept, "size": 3},
                           {"mediaType": media_type, "digest": digest, "size": size,
                            "annotations": annotations}],
            })
        };
        let chunked = json!({"io.github.containers.zstd-chunked.manifest-position": "1", "k": "v"});
        let replaced = BTreeMap::from([(old, PushedBlob { digest: new, size: 9 })]);
        let before = manifest(old, 4, zstd, chunked).to_string();
        let (bytes, media_type) = rewritten(before.as_bytes(), &replaced).unwrap();
        let after: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(after, manifest(new, 9, OCI_LAYER, json!({"k": "v"})));
        assert_eq!(media_type, OCI_MANIFEST);
        assert!(rewritten(b"{}", &replaced).is_err());
    }

    #[test]
    fn dockers_words_stay_dockers() {
        let layer = Digest::of(b"l");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": DOCKER_MANIFEST,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json",
                       "digest": layer, "size": 1},
            "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar",
                        "digest": layer, "size": 3}],
        });
        // It was gzip all the time, and only its name was wrong.
        let replaced = BTreeMap::from([(layer, PushedBlob { digest: layer, size: 3 })]);
        let (bytes, media_type) = rewritten(manifest.to_string().as_bytes(), &replaced).unwrap();
        let after: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            (media_type.as_str(), &after["layers"][0]["mediaType"]),
            (DOCKER_MANIFEST, &json!(DOCKER_LAYER))
        );
    }
}
