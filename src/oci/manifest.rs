//! Manifests and indexes: OCI image-spec 1.1 and Docker image manifest version 2 schema 2.
//!
//! Parsing only. Documents come from outside: the readers of bytes bound their size, this bounds
//! their counts and checks every number. Images are read with oci-client's types. Indexes are not:
//! its `ImageIndexEntry` demands a media type, and its `Platform` both parts, so that one odd entry
//! would cost the whole index.

use std::collections::BTreeMap;

use bytes::Bytes;
use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor,
    OciImageManifest,
};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::digest::Digest;
use crate::oci::error::OciError;
use crate::oci::platform::Platform;

/// Largest manifest or index read, in bytes (the distribution specification's own advice).
pub(super) const MAX_MANIFEST: u64 = 4 << 20;
/// Largest image config read, in bytes.
pub(super) const MAX_CONFIG: u64 = 8 << 20;
const MAX_LAYERS: usize = 1024;
const MAX_INDEX: usize = 4096;

const INDEXES: [&str; 2] = [OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE];
const IMAGES: [&str; 2] = [OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE];
const CONFIGS: [&str; 3] = [
    IMAGE_CONFIG_MEDIA_TYPE,
    IMAGE_DOCKER_CONFIG_MEDIA_TYPE,
    // What registries made of Docker 1.9's uploads.
    "application/octet-stream",
];

/// What is sent as `Accept` when a manifest is asked for.
pub(super) fn accept() -> String {
    [INDEXES, IMAGES].concat().join(", ")
}

/// A manifest or index as it was read.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) bytes: Bytes,
    pub(super) content_type: Option<String>,
    pub(super) digest: Digest,
}

impl Document {
    /// Refuses bytes of another digest than `expected`, if one is; `what` names them.
    pub(super) fn verified(
        bytes: Bytes,
        content_type: Option<String>,
        expected: Option<Digest>,
        what: impl FnOnce() -> String,
    ) -> Result<Self, OciError> {
        let found = Digest::of(&bytes);
        match expected {
            Some(expected) if expected != found => {
                Err(OciError::DigestMismatch { what: what(), expected, found })
            }
            _ => Ok(Self { bytes, content_type, digest: found }),
        }
    }
}

/// How a layer's tar is compressed, by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
    /// A plain tar.
    None,
    /// The media type doesn't say.
    Unknown,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// Digest of the bytes as they are stored.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// As the manifest gives it.
    pub media_type: String,
    /// What the media type says of the compression.
    pub compression: Compression,
    /// As the manifest gives them.
    pub annotations: BTreeMap<String, String>,
    /// Whether the layer is kept outside the registry ("foreign", "non-distributable").
    pub foreign: bool,
}

/// A blob that a manifest points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// An entry of an index.
#[derive(Debug)]
pub(super) struct IndexEntry {
    pub(super) blob: Blob,
    /// `None` when the entry doesn't say.
    pub(super) platform: Option<Platform>,
    pub(super) annotations: BTreeMap<String, String>,
}

/// A manifest of one platform's image.
#[derive(Debug)]
pub(super) struct ImageManifest {
    pub(super) config: Blob,
    pub(super) layers: Vec<LayerDescriptor>,
}

#[derive(Debug)]
pub(super) enum Manifest {
    Index(Vec<IndexEntry>),
    Image(ImageManifest),
}

/// Why a document is not a manifest we can use.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ManifestError {
    /// It is something else, well-formed or not.
    Unsupported(String),
    /// It contradicts its own specification.
    Broken(String),
}

/// As much of a document as tells what it is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<i64>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: String,
    size: i64,
    annotations: Option<BTreeMap<String, String>>,
    platform: Option<EntryPlatform>,
}

#[derive(Deserialize)]
struct EntryPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    variant: Option<String>,
}

impl Manifest {
    /// Reads a document; `content_type` decides where the document itself doesn't.
    pub(super) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        use ManifestError::{Broken, Unsupported};

        let document: Outline = read(bytes)?;
        let content_type =
            content_type.and_then(|value| value.split(';').next()).map_or("", str::trim);
        let media_type = document.media_type.as_deref().unwrap_or(content_type);
        if document.schema_version == Some(1)
            || document.fs_layers.is_some()
            || media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
        {
            return Err(Unsupported(
                "its manifest is of Docker's schema 1, which was withdrawn in 2017; push the \
                 image again with a current tool"
                    .to_owned(),
            ));
        }
        match (document.manifests, document.layers) {
            // It could mean one image to us and another to a reader.
            (Some(_), Some(_)) => {
                Err(Broken("its manifest is an index and an image at once".to_owned()))
            }
            (Some(_), None) if !IMAGES.contains(&media_type) => {
                index(read::<Index>(bytes)?.manifests)
            }
            (None, Some(_)) if !INDEXES.contains(&media_type) => image(read(bytes)?),
            _ => Err(Unsupported(format!(
                "its manifest of media type {:?} is neither an image nor an index",
                shorten(media_type)
            ))),
        }
    }
}

fn read<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ManifestError> {
    serde_json::from_slice(bytes)
        .map_err(|error| ManifestError::Broken(format!("its manifest is not valid: {error}")))
}

fn index(entries: Vec<Entry>) -> Result<Manifest, ManifestError> {
    if entries.len() > MAX_INDEX {
        return Err(ManifestError::Broken(format!(
            "its index has {} entries, more than {MAX_INDEX}",
            entries.len()
        )));
    }
    let mut kept = Vec::with_capacity(entries.len());
    for entry in entries {
        let annotations = entry.annotations.unwrap_or_default();
        let stated = entry.platform.as_ref().filter(|platform| !platform.os.is_empty());
        let platform = stated.map(|platform| {
            Platform::new(&platform.os, &platform.architecture, platform.variant.as_deref())
        });
        // buildx stores provenance and SBOMs beside the images that they are about.
        let attestation = annotations.contains_key("vnd.docker.reference.type")
            || platform.as_ref().is_some_and(|platform| platform.os == "unknown");
        if !attestation {
            let blob = blob(&entry.digest, entry.size)?;
            kept.push(IndexEntry { blob, platform, annotations });
        }
    }
    Ok(Manifest::Index(kept))
}

fn image(manifest: OciImageManifest) -> Result<Manifest, ManifestError> {
    let OciImageManifest { config, layers, .. } = manifest;
    if !CONFIGS.contains(&config.media_type.as_str()) {
        return Err(ManifestError::Unsupported(format!(
            "it is an artifact of type {:?}, not a container image",
            shorten(&config.media_type)
        )));
    }
    if layers.len() > MAX_LAYERS {
        return Err(ManifestError::Broken(format!(
            "it has {} layers, more than {MAX_LAYERS}",
            layers.len()
        )));
    }
    let layers = layers.into_iter().map(layer).collect::<Result<_, _>>()?;
    Ok(Manifest::Image(ImageManifest { config: blob(&config.digest, config.size)?, layers }))
}

fn layer(descriptor: OciDescriptor) -> Result<LayerDescriptor, ManifestError> {
    let Blob { digest, size } = blob(&descriptor.digest, descriptor.size)?;
    let media_type = descriptor.media_type;
    let foreign = media_type.contains(".foreign.")
        || media_type.contains(".nondistributable.")
        || descriptor.urls.is_some_and(|urls| !urls.is_empty());
    Ok(LayerDescriptor {
        digest,
        size,
        compression: compression(&media_type),
        media_type,
        annotations: descriptor.annotations.unwrap_or_default(),
        foreign,
    })
}

fn compression(media_type: &str) -> Compression {
    let Some((_, suffix)) = media_type.rsplit_once("tar") else { return Compression::Unknown };
    match suffix {
        "" => Compression::None,
        "+gzip" | ".gzip" => Compression::Gzip,
        "+zstd" | ".zstd" => Compression::Zstd,
        _ => Compression::Unknown,
    }
}

fn blob(digest: &str, size: i64) -> Result<Blob, ManifestError> {
    let digest = digest.parse().map_err(|error| {
        ManifestError::Broken(format!("a descriptor in its manifest is not valid: {error}"))
    })?;
    let size = u64::try_from(size).map_err(|_| {
        ManifestError::Broken(format!("its manifest gives {digest} the size {size}"))
    })?;
    Ok(Blob { digest, size })
}

fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn digest() -> String {
        Digest::of(b"x").to_string()
    }

    fn descriptor(media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": digest(), "size": 3})
    }

    fn parse(document: &Value) -> Result<Manifest, ManifestError> {
        Manifest::parse(document.to_string().as_bytes(), None)
    }

    fn image_of(layers: &[Value]) -> Value {
        json!({"schemaVersion": 2, "config": descriptor(CONFIGS[0]), "layers": layers})
    }

    #[test]
    fn layers_by_media_type() {
        for (media_type, compression, foreign) in [
            ("application/vnd.oci.image.layer.v1.tar", Compression::None, false),
            ("application/vnd.oci.image.layer.v1.tar+gzip", Compression::Gzip, false),
            ("application/vnd.oci.image.layer.v1.tar+zstd", Compression::Zstd, false),
            ("application/vnd.docker.image.rootfs.diff.tar.gzip", Compression::Gzip, false),
            ("application/vnd.docker.image.rootfs.diff.tar", Compression::None, false),
            ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", Compression::Gzip, true),
            (
                "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                Compression::Gzip,
                true,
            ),
            ("application/vnd.oci.image.layer.v1.tar+xz", Compression::Unknown, false),
            ("application/x-other", Compression::Unknown, false),
        ] {
            let Manifest::Image(image) = parse(&image_of(&[descriptor(media_type)])).unwrap()
            else {
                panic!("not an image")
            };
            let layer = &image.layers[0];
            assert_eq!((layer.compression, layer.foreign), (compression, foreign), "{media_type}");
            assert_eq!(layer.size, 3);
        }
    }

    #[test]
    fn indexes_without_attestations() {
        let entry = |os: &str| json!({"digest": digest(), "size": 1, "platform": {"os": os, "architecture": "amd64"}});
        let mut attestation = entry("linux");
        attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
        let Manifest::Index(entries) = parse(&json!({
            "schemaVersion": 2,
            "manifests": [entry("linux"), entry("unknown"), attestation, descriptor(IMAGES[0])],
        }))
        .unwrap() else {
            panic!("not an index")
        };
        let platforms: Vec<_> =
            entries.iter().map(|e| e.platform.as_ref().map(ToString::to_string)).collect();
        assert_eq!(platforms, [Some("linux/amd64".to_owned()), None]);
    }

    #[test]
    fn refuses_what_is_no_image() {
        let helm = descriptor("application/vnd.cncf.helm.config.v1+json");
        for document in [
            json!({"schemaVersion": 1, "fsLayers": []}),
            json!({"schemaVersion": 2}),
            json!({"schemaVersion": 2, "mediaType": INDEXES[0], "config": descriptor(CONFIGS[0]), "layers": []}),
            json!({"schemaVersion": 2, "mediaType": IMAGES[0], "manifests": []}),
            json!({"schemaVersion": 2, "config": helm, "layers": []}),
        ] {
            assert!(matches!(parse(&document), Err(ManifestError::Unsupported(_))), "{document}");
        }
    }

    #[test]
    fn refuses_contradictions() {
        let mut negative = descriptor("t");
        negative["size"] = json!(-1);
        let mut short = descriptor("t");
        short["digest"] = json!("sha256:12");
        for document in [
            image_of(&[negative]),
            image_of(&[short]),
            image_of(&vec![descriptor("t"); MAX_LAYERS + 1]),
            json!({"manifests": [], "config": descriptor(CONFIGS[0]), "layers": []}),
            json!([]),
            json!({"layers": 7}),
        ] {
            assert!(matches!(parse(&document), Err(ManifestError::Broken(_))), "{document}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn never_panics(cut in 0usize..400, flip in any::<(usize, u8)>()) {
            let mut bytes = image_of(&[descriptor("a.tar+gzip")]).to_string().into_bytes();
            let at = flip.0 % bytes.len();
            bytes[at] ^= flip.1;
            let _ = Manifest::parse(&bytes, None);
            bytes.truncate(cut);
            let _ = Manifest::parse(&bytes, Some("application/json; charset=utf-8"));
        }
    }
}
