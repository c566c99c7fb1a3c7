//! Manifests and indexes: OCI image-spec 1.1 and Docker image manifest version 2 schema 2.
//!
//! Parsing only. Documents come from outside: the readers of bytes bound their size, this bounds
//! their counts and checks every number. The types are our own: oci-client's demand what builders
//! and registries leave out, such as media types and lists that are null.

use std::collections::BTreeMap;

use bytes::Bytes;
use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

use crate::digest::Digest;
use crate::oci::descriptor::{Blob, Descriptor, bare, is_generic};
use crate::oci::error::OciError;
use crate::oci::image_index::IndexEntry;

/// Largest manifest or index read, in bytes (the distribution specification's own advice).
pub(super) const MAX_MANIFEST: u64 = 4 << 20;
/// Largest image config read, in bytes.
pub(super) const MAX_CONFIG: u64 = 8 << 20;
const MAX_LAYERS: usize = 1024;
const MAX_INDEX: usize = 4096;

const INDEXES: [&str; 2] = [OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE];
const IMAGES: [&str; 2] = [OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE];
const CONFIGS: [&str; 2] = [IMAGE_CONFIG_MEDIA_TYPE, IMAGE_DOCKER_CONFIG_MEDIA_TYPE];

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
    /// Whether the layer may be kept outside the registry ("foreign", "non-distributable"), as its
    /// media type says. Many registries hold it all the same.
    pub foreign: bool,
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

/// As much of a document as tells what it is. What is null is not there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<Value>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Option<Vec<Value>>,
}

#[derive(Deserialize)]
struct Image {
    config: Descriptor,
    layers: Option<Vec<Descriptor>>,
}

impl Manifest {
    /// Reads a document; `content_type` decides where the document itself doesn't.
    pub(super) fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Self, ManifestError> {
        use ManifestError::{Broken, Unsupported};

        let document: Outline = read(bytes)?;
        let stated = document.media_type.as_deref().map(bare).filter(|stated| !stated.is_empty());
        let media_type = stated.unwrap_or_else(|| bare(content_type.unwrap_or_default()));
        let media_type = media_type.as_str();
        if document.schema_version.is_some_and(|version| version == 1)
            || document.fs_layers.is_some()
            || media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
        {
            return Err(Unsupported(
                "its manifest is of Docker's schema 1, which was withdrawn in 2017; push the \
                 image again with a current tool"
                    .to_owned(),
            ));
        }
        let like_index = document.manifests.is_some();
        let like_image = document.config.is_some() || document.layers.is_some();
        match (like_index, like_image) {
            // It could mean one image to us and another to a reader.
            (true, true) => Err(Broken("its manifest is an index and an image at once".to_owned())),
            (true, false) if !IMAGES.contains(&media_type) => index(&read(bytes)?),
            (false, false) if INDEXES.contains(&media_type) => index(&read(bytes)?),
            (false, true) if !INDEXES.contains(&media_type) => image(read(bytes)?),
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

fn index(index: &Index) -> Result<Manifest, ManifestError> {
    let entries = index.manifests.as_deref().unwrap_or_default();
    if entries.len() > MAX_INDEX {
        return Err(ManifestError::Broken(format!(
            "its index has {} entries, more than {MAX_INDEX}",
            entries.len()
        )));
    }
    Ok(Manifest::Index(entries.iter().filter_map(IndexEntry::read).collect()))
}

fn image(manifest: Image) -> Result<Manifest, ManifestError> {
    let Image { config, layers } = manifest;
    let media_type = bare(config.media_type());
    // Where that says nothing, as in what registries made of Docker 1.9's uploads, the config's
    // content will.
    if !CONFIGS.contains(&media_type.as_str()) && !is_generic(&media_type) {
        return Err(ManifestError::Unsupported(format!(
            "it is an artifact of type {:?}, not a container image",
            shorten(&media_type)
        )));
    }
    let layers = layers.unwrap_or_default();
    if layers.len() > MAX_LAYERS {
        return Err(ManifestError::Broken(format!(
            "it has {} layers, more than {MAX_LAYERS}",
            layers.len()
        )));
    }
    let layers = layers.iter().map(layer).collect::<Result<_, _>>()?;
    Ok(Manifest::Image(ImageManifest { config: blob(&config)?, layers }))
}

fn layer(descriptor: &Descriptor) -> Result<LayerDescriptor, ManifestError> {
    let Blob { digest, size } = blob(descriptor)?;
    let media_type = descriptor.media_type().to_owned();
    Ok(LayerDescriptor {
        digest,
        size,
        compression: compression(&media_type),
        foreign: media_type.contains(".foreign.") || media_type.contains(".nondistributable."),
        media_type,
        annotations: descriptor.annotations(),
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

fn blob(descriptor: &Descriptor) -> Result<Blob, ManifestError> {
    descriptor.blob().map_err(|reason| {
        ManifestError::Broken(format!("a descriptor in its manifest is not valid: {reason}"))
    })
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
    fn configs_by_media_type() {
        for media_type in [
            json!(null),
            json!(""),
            json!("application/json"),
            json!("application/json; charset=utf-8"),
            json!("application/octet-stream"),
            json!(CONFIGS[0]),
            json!(CONFIGS[1]),
            json!("Application/vnd.OCI.image.config.v1+json"),
        ] {
            let mut document = image_of(&[]);
            document["config"]["mediaType"] = media_type;
            assert!(matches!(parse(&document), Ok(Manifest::Image(_))), "{document}");
        }
        let mut document = image_of(&[]);
        document["config"].as_object_mut().unwrap().remove("mediaType");
        assert!(matches!(parse(&document), Ok(Manifest::Image(_))));
    }

    #[test]
    fn lists_may_be_null_or_absent() {
        for layers in [Some(json!(null)), Some(json!([])), None] {
            for media_type in [None, Some(IMAGES[0]), Some(IMAGES[1])] {
                let mut document = image_of(&[]);
                let fields = document.as_object_mut().unwrap();
                fields.remove("layers");
                fields.extend(layers.clone().map(|layers| ("layers".to_owned(), layers)));
                fields.insert("manifests".to_owned(), json!(null));
                fields.extend(media_type.map(|name| ("mediaType".to_owned(), json!(name))));
                let parsed = parse(&document);
                let Ok(Manifest::Image(image)) = parsed else { panic!("{document}: {parsed:?}") };
                assert!(image.layers.is_empty());
            }
        }
        for index in
            [json!({"mediaType": INDEXES[0]}), json!({"mediaType": INDEXES[1], "manifests": null})]
        {
            assert!(matches!(parse(&index), Ok(Manifest::Index(entries)) if entries.is_empty()));
        }
    }

    #[test]
    fn oddities_of_layers() {
        let mut odd = descriptor("application/vnd.oci.image.layer.v1.tar+gzip");
        odd["urls"] = json!(["https://elsewhere/x"]);
        odd["annotations"] = json!({"a": "b", "c": null, "d": 1});
        let mut nameless = descriptor("");
        nameless["mediaType"] = json!(null);
        nameless["annotations"] = json!(null);
        let Ok(Manifest::Image(image)) = parse(&image_of(&[odd, nameless])) else {
            panic!("not an image")
        };
        let [odd, nameless] = image.layers.as_slice() else { panic!("not two layers") };
        assert!(!odd.foreign, "addresses elsewhere don't make a layer foreign");
        assert_eq!(odd.annotations, BTreeMap::from([("a".to_owned(), "b".to_owned())]));
        assert_eq!((nameless.compression, nameless.foreign), (Compression::Unknown, false));
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
            json!({"manifests": [], "config": descriptor(CONFIGS[0])}),
            json!({"manifests": [], "layers": []}),
            json!({"mediaType": IMAGES[0], "layers": []}),
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
