//! Layout directories, good and bad.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::support::*;
use crate::digest::Digest;
use crate::oci::{Access, ImageSource, OciError, OciSettings, ReferenceForm, Source};

fn write(directory: &Path, bytes: &[u8]) -> Digest {
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let digest = Digest::of(bytes);
    std::fs::write(blobs.join(digest.hex()), bytes).unwrap();
    digest
}

fn entry(digest: Digest, size: usize, name: Option<&str>) -> Value {
    let mut entry = json!({"mediaType": MANIFEST, "digest": digest, "size": size});
    if let Some(name) = name {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    entry
}

/// A layout with `image`'s blobs and an index of `entries` made from its manifest.
fn layout(image: &TestImage, entries: impl Fn(Digest, usize) -> Vec<Value>) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for blob in [&image.layer, &image.config, &image.manifest] {
        write(directory.path(), blob);
    }
    let entries = entries(Digest::of(&image.manifest), image.manifest.len());
    let index = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    std::fs::write(directory.path().join("index.json"), index).unwrap();
    directory
}

async fn source(directory: &TempDir, tag: Option<&str>) -> Source {
    let image = ImageSource::Layout {
        dir: directory.path().to_owned(),
        tag: tag.map(str::to_owned),
        published_as: None,
    };
    Source::open(&image, &OciSettings::default(), None).await.unwrap()
}

#[tokio::test]
async fn by_name_or_as_the_only_one() {
    let image = TestImage::new();
    let directory = layout(&image, |digest, size| vec![entry(digest, size, Some("1.0"))]);
    for tag in [Some("1.0"), None] {
        let source = source(&directory, tag).await;
        let found = resolve(&source).await.unwrap();
        assert_eq!(found.manifest_digest, Digest::of(&image.manifest));
        assert_eq!(layer(&source, &image).await.unwrap(), image.layer);
        let (digest, size) = (image.layer_digest(), image.layer.len() as u64);
        let cancel = CancellationToken::new();
        let range =
            source.blob_range(&digest, size, 300_000, 77, Access::Range, &cancel).await.unwrap();
        assert_eq!(range, image.layer[300_000..300_077]);
    }
    let error = resolve(&source(&directory, Some("2.0")).await).await.unwrap_err();
    assert!(error.to_string().ends_with(r#"it has no image "2.0", but 1.0"#), "{error}");
}

#[tokio::test]
async fn published_under_another_name() {
    let image = TestImage::new();
    let directory = layout(&image, |digest, size| vec![entry(digest, size, None)]);
    let source = ImageSource::Layout {
        dir: directory.path().to_owned(),
        tag: None,
        published_as: Some("h:5000/app:v1".parse().unwrap()),
    };
    let source = Source::open(&source, &OciSettings::default(), None).await.unwrap();
    let found = resolve(&source).await.unwrap();
    let digest = Digest::of(&image.manifest);
    assert_eq!(found.reference.to_string(), format!("h:5000/app@{digest}"));
    assert_eq!(found.reference.stored(ReferenceForm::TagAndDigest), format!("v1@{digest}"));
}

#[tokio::test]
async fn several_images_need_a_name() {
    let image = TestImage::new();
    let directory = layout(&image, |digest, size| {
        vec![entry(digest, size, Some("a")), entry(digest, size, Some("b"))]
    });
    let error = resolve(&source(&directory, None).await).await.unwrap_err();
    assert!(error.to_string().ends_with("it has several images, name one of: a, b"), "{error}");
    resolve(&source(&directory, Some("b")).await).await.unwrap();
}

#[tokio::test]
async fn nested_indexes_but_not_without_end() {
    let image = TestImage::new();
    for (depth, fine) in [(3, true), (9, false)] {
        let directory = layout(&image, |_, _| vec![]);
        let (mut digest, mut size) = (Digest::of(&image.manifest), image.manifest.len());
        for _ in 0..depth {
            let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry(digest, size, None)]});
            let index = index.to_string();
            (digest, size) = (write(directory.path(), index.as_bytes()), index.len());
        }
        let index = json!({"schemaVersion": 2, "manifests": [entry(digest, size, None)]});
        std::fs::write(directory.path().join("index.json"), index.to_string()).unwrap();
        let result = resolve(&source(&directory, None).await).await;
        assert_eq!(result.is_ok(), fine, "{result:?}");
    }
}

#[tokio::test]
async fn damage_is_noticed() {
    let image = TestImage::new();
    let blob = |digest: Digest| format!("blobs/sha256/{}", digest.hex());
    let fresh = || layout(&image, |digest, size| vec![entry(digest, size, None)]);

    let directory = fresh();
    let mut wrong = image.layer.clone();
    wrong[0] ^= 1;
    std::fs::write(directory.path().join(blob(image.layer_digest())), &wrong).unwrap();
    let error = layer(&source(&directory, None).await, &image).await.unwrap_err();
    assert!(matches!(error, OciError::DigestMismatch { .. }), "{error}");

    std::fs::write(directory.path().join(blob(image.layer_digest())), &wrong[1..]).unwrap();
    let error = layer(&source(&directory, None).await, &image).await.unwrap_err();
    assert!(matches!(error, OciError::WrongSize { .. }), "{error}");

    std::fs::remove_file(directory.path().join(blob(image.layer_digest()))).unwrap();
    let error = layer(&source(&directory, None).await, &image).await.unwrap_err();
    assert!(matches!(error, OciError::BlobNotFound { .. }), "{error}");

    let manifest = directory.path().join(blob(Digest::of(&image.manifest)));
    std::fs::write(manifest, &image.config).unwrap();
    let error = resolve(&source(&directory, None).await).await.unwrap_err();
    assert!(matches!(error, OciError::DigestMismatch { .. }), "{error}");

    let empty = tempfile::tempdir().unwrap();
    let error = resolve(&source(&empty, None).await).await.unwrap_err();
    assert!(error.to_string().contains("index.json: No such file"), "{error}");
}
