//! Artifacts: manifests that hold one blob and no image (OCI image-spec 1.1, "Guidelines for Artifact
//! Usage"). What the blob is, its user says.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::digest::Digest;
use crate::oci::descriptor::{Blob, Descriptor, bare, strings};
use crate::oci::error::OciError;

pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// What stands where an image has its config. Its media type is the artifact's: registries of before
/// image-spec 1.1 list artifacts by that.
pub(super) const EMPTY_JSON: Bytes = Bytes::from_static(b"{}");
/// When it was made, as a manifest's annotation (image-spec 1.1, "Pre-Defined Annotation Keys").
pub const CREATED: &str = "org.opencontainers.image.created";

/// A manifest that an artifact is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its media type.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
}

/// An artifact of one blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// What it is.
    pub artifact_type: String,
    /// The blob's media type.
    pub media_type: String,
    /// Digest of the blob.
    pub blob: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What it is about, so that it is found from there.
    pub subject: Option<Subject>,
    /// Of the manifest.
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<Map<String, Value>>,
}

impl Artifact {
    /// The manifest. Equal artifacts have the same bytes.
    pub(super) fn to_manifest(&self) -> Bytes {
        let blob = json!({ "mediaType": self.media_type, "digest": self.blob, "size": self.size });
        let empty = Digest::of(&EMPTY_JSON);
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": self.artifact_type,
            "config": { "mediaType": self.artifact_type, "digest": empty, "size": EMPTY_JSON.len() },
            "layers": [blob],
            "annotations": self.annotations,
        });
        if let (Some(subject), Some(manifest)) = (&self.subject, manifest.as_object_mut()) {
            let Subject { media_type, digest, size } = subject;
            let subject = json!({ "mediaType": media_type, "digest": digest, "size": size });
            manifest.insert("subject".to_owned(), subject);
        }
        manifest.to_string().into()
    }

    /// Reads a manifest that was verified. `None`: it is something else than an artifact of one blob
    /// whose type is one of `types`.
    pub(super) fn parse(manifest: &[u8], types: &[&str]) -> Option<Self> {
        let document: Document = serde_json::from_slice(manifest).ok()?;
        let Document { artifact_type, config, layers, subject, annotations } = document;
        // Registries and tools of before image-spec 1.1 have but the config to say it with.
        let artifact_type = artifact_type
            .filter(|told| !told.is_empty())
            .or_else(|| Some(config?.media_type().to_owned()))?;
        if !types.contains(&bare(&artifact_type).as_str()) {
            return None;
        }
        let [layer] = &layers?[..] else { return None };
        let Blob { digest: blob, size } = layer.blob().ok()?;
        let subject = match subject {
            None => None,
            Some(descriptor) => {
                let Blob { digest, size } = descriptor.blob().ok()?;
                let media_type = descriptor.media_type().to_owned();
                Some(Subject { media_type, digest, size })
            }
        };
        let (media_type, annotations) =
            (layer.media_type().to_owned(), strings(annotations.as_ref()));
        Some(Self { artifact_type, media_type, blob, size, subject, annotations })
    }
}

/// An artifact as it stands in the list of what refers to a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Its annotations, as far as the list has them.
    pub annotations: BTreeMap<String, String>,
}

/// The index of what refers to a manifest, which a registry gives or clients keep under a tag
/// (distribution-spec 1.1, "Listing Referrers", "Referrers Tag Schema"). What others have put in stays
/// as it is.
#[derive(Debug, Default)]
pub(super) struct ReferrersIndex(Vec<Value>);

impl ReferrersIndex {
    /// Reads one. The error is a reason without a subject.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Index {
            manifests: Option<Vec<Value>>,
        }
        let index: Index = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        Ok(Self(index.manifests.unwrap_or_default()))
    }

    pub(super) fn to_manifest(&self) -> Bytes {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": self.0 });
        index.to_string().into()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds entries of another page.
    pub(super) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(super) fn has(&self, manifest: Digest) -> bool {
        self.0.iter().any(|entry| digest_of(entry) == Some(manifest))
    }

    /// Adds an artifact whose manifest has this digest and size.
    pub(super) fn add(&mut self, manifest: Digest, size: usize, artifact: &Artifact) {
        self.remove(manifest);
        self.0.push(json!({
            "mediaType": MANIFEST,
            "digest": manifest,
            "size": size,
            "artifactType": artifact.artifact_type,
            "annotations": artifact.annotations,
        }));
    }

    pub(super) fn remove(&mut self, manifest: Digest) {
        self.0.retain(|entry| digest_of(entry) != Some(manifest));
    }

    /// Those of this type.
    pub(super) fn of_type(&self, artifact_type: &str) -> Vec<Referrer> {
        let is = |entry: &&Value| {
            entry["artifactType"].as_str().map(bare).as_deref() == Some(artifact_type)
        };
        let referrer = |entry: &Value| {
            let annotations = strings(entry["annotations"].as_object());
            Some(Referrer { digest: digest_of(entry)?, annotations })
        };
        self.0.iter().filter(is).filter_map(referrer).collect()
    }
}

pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn digest_of(entry: &Value) -> Option<Digest> {
    entry["digest"].as_str()?.parse().ok()
}

/// The tag under which clients keep the index of what refers to a manifest, where the registry doesn't.
pub(super) fn referrers_tag(subject: Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// The newest of several, by what they say of themselves.
pub(super) fn newest(mut referrers: Vec<Referrer>) -> Option<Referrer> {
    // RFC 3339 in UTC sorts as text as long as all have the same precision, which is ours to see to.
    referrers.sort_by(|a, b| a.annotations.get(CREATED).cmp(&b.annotations.get(CREATED)));
    referrers.pop()
}

/// The error for a document of a registry that is not what it should be.
pub(super) fn broken(repository: String, what: &str, reason: String) -> OciError {
    OciError::Unexpected { repository, what: what.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TYPE: &str = "application/vnd.test.v1";

    fn artifact() -> Artifact {
        Artifact {
            artifact_type: TYPE.to_owned(),
            media_type: "application/octet-stream".to_owned(),
            blob: Digest::of(b"blob"),
            size: 4,
            subject: Some(Subject {
                media_type: MANIFEST.to_owned(),
                digest: Digest::of(b"image"),
                size: 7,
            }),
            annotations: BTreeMap::from([(CREATED.to_owned(), "2026-01-01T00:00:00Z".to_owned())]),
        }
    }

    #[test]
    fn is_read_as_it_was_written() {
        for subject in [artifact().subject, None] {
            let artifact = Artifact { subject, ..artifact() };
            assert_eq!(Artifact::parse(&artifact.to_manifest(), &[TYPE]), Some(artifact.clone()));
            assert_eq!(Artifact::parse(&artifact.to_manifest(), &["application/other"]), None);
        }
    }

    #[test]
    fn what_has_another_type_or_more_blobs_is_none() {
        let mut manifest: Value = serde_json::from_slice(&artifact().to_manifest()).unwrap();
        manifest["artifactType"] = json!(null);
        manifest["config"]["mediaType"] = json!(TYPE);
        assert!(
            Artifact::parse(manifest.to_string().as_bytes(), &[TYPE]).is_some(),
            "by its config"
        );
        let layer = manifest["layers"][0].clone();
        for layers in [json!([]), json!(null), json!([layer, layer]), json!([{}])] {
            manifest["layers"] = layers;
            assert_eq!(Artifact::parse(manifest.to_string().as_bytes(), &[TYPE]), None);
        }
    }

    #[test]
    fn the_index_keeps_what_others_put_in() {
        let foreign = json!({"digest": "sha512:00", "odd": true});
        let text = json!({"manifests": [foreign]}).to_string();
        let mut index = ReferrersIndex::parse(text.as_bytes()).unwrap();
        let (first, second) = (Digest::of(b"1"), Digest::of(b"2"));
        let mut later = artifact();
        later.annotations.insert(CREATED.to_owned(), "2026-01-02T00:00:00Z".to_owned());
        index.add(second, 1, &later);
        index.add(first, 1, &artifact());
        index.add(first, 1, &artifact());
        let mut index = ReferrersIndex::parse(&index.to_manifest()).unwrap();
        assert!(index.has(first) && index.0.len() == 3);
        assert_eq!(newest(index.of_type(TYPE)).unwrap().digest, second);
        assert!(index.of_type("application/other").is_empty());
        index.remove(first);
        index.remove(second);
        assert_eq!(index.0, [foreign]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn never_panics(cut in 0usize..600, flip in any::<(usize, u8)>()) {
            let mut bytes = artifact().to_manifest().to_vec();
            let at = flip.0 % bytes.len();
            bytes[at] ^= flip.1;
            bytes.truncate(cut);
            let _ = Artifact::parse(&bytes, &[TYPE]);
            let _ = ReferrersIndex::parse(&bytes).map(|index| index.of_type(TYPE));
        }
    }
}
