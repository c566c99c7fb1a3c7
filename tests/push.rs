//! Pushing to a real registry: blobs of unknown length, mounts, manifests, connections that break.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clipwright::digest::Digest;
use clipwright::error::Classify as _;
use clipwright::oci::{Credentials, OciError, OciSettings, Publisher, PushedBlob, Source};
use clipwright::retry::RetrySettings;
use futures_util::stream::{self, Stream, StreamExt as _};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::layout::{architecture, noise};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn settings() -> OciSettings {
    let retry = RetrySettings { base_delay: Duration::from_millis(10), ..RetrySettings::default() };
    OciSettings { retry, ..OciSettings::default() }
}

async fn publisher(address: &str, repository: &str, from: Option<&str>) -> Publisher {
    let nobody = Some(Credentials::Anonymous);
    Publisher::open(address, repository, from, &settings(), nobody).await.unwrap()
}

/// `content` in pieces, as often as it is asked for.
fn pieces(content: &[u8]) -> impl Stream<Item = Result<Bytes, OciError>> + Unpin + use<> {
    let pieces: Vec<_> =
        content.chunks(300_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    stream::iter(pieces)
}

async fn push(publisher: &Publisher, content: &[u8]) -> Result<PushedBlob, OciError> {
    let whole = || std::future::ready(Ok(pieces(content)));
    publisher.blob(whole, &CancellationToken::new()).await
}

/// The blob as the registry serves it.
async fn fetch(address: &str, repository: &str, content: &[u8]) -> Vec<u8> {
    let image = format!("{address}/{repository}:x").parse().unwrap();
    let source = Source::open(&image, &settings(), None).await.unwrap();
    let cancel = CancellationToken::new();
    let (digest, size) = (Digest::of(content), content.len() as u64);
    let mut stream = source.blob(&digest, size, &cancel).await.unwrap();
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.unwrap());
    }
    bytes
}

/// Uploads to a repository of which the registry keeps bytes. (Of one that is cancelled it forgets
/// the bytes, but writes the state of their hash once more.)
pub(crate) fn open_uploads(directory: &Path, repository: &str) -> usize {
    let repositories = directory.join("registry/docker/registry/v2/repositories");
    let uploads = std::fs::read_dir(repositories.join(repository).join("_uploads"));
    let kept = |upload: std::io::Result<std::fs::DirEntry>| {
        upload.is_ok_and(|upload| upload.path().join("data").exists())
    };
    uploads.map_or(0, |uploads| uploads.filter_map(|u| kept(u).then_some(())).count())
}

#[tokio::test]
async fn blobs_of_unknown_length() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let publisher = publisher(&registry.address, "a/b", None).await;
    for length in [0, 1, 100_000, 8 << 20, 20 << 20] {
        let content = noise(length as u64, length);
        let expected = PushedBlob { digest: Digest::of(&content), size: length as u64 };
        assert_eq!(push(&publisher, &content).await.unwrap(), expected);
        assert!(fetch(&registry.address, "a/b", &content).await == content, "{length}");
        let cancel = CancellationToken::new();
        assert_eq!(
            publisher.size_of(&expected.digest, &cancel).await.unwrap(),
            Some(length as u64)
        );
    }
    let cancel = CancellationToken::new();
    assert_eq!(publisher.size_of(&Digest::of(b"none"), &cancel).await.unwrap(), None);
    assert_eq!(open_uploads(dir.path(), "a/b"), 0);
}

#[tokio::test]
async fn what_the_registry_has_is_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let content = noise(7, 100_000);
    let digest = Digest::of(&content);
    push(&publisher(&registry.address, "from", None).await, &content).await.unwrap();

    let cancel = CancellationToken::new();
    let never = || std::future::ready(Err::<stream::Empty<_>, _>(OciError::Cancelled));
    let there = publisher(&registry.address, "from", None).await;
    there.known_blob(&digest, never, &cancel).await.unwrap();
    let to = publisher(&registry.address, "to", Some("from")).await;
    to.known_blob(&digest, never, &cancel).await.unwrap();
    assert!(fetch(&registry.address, "to", &content).await == content);

    // Not to be had there: the upload that the registry opens instead is not left behind.
    let other = noise(8, 100_000);
    let whole = || std::future::ready(Ok::<_, OciError>(pieces(&other)));
    to.known_blob(&Digest::of(&other), whole, &cancel).await.unwrap();
    assert!(fetch(&registry.address, "to", &other).await == other);
    assert_eq!(open_uploads(dir.path(), "to"), 0);
}

#[tokio::test]
async fn an_image_by_tag_and_by_digest() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let publisher = publisher(&registry.address, "image", None).await;
    let layer = push(&publisher, b"no tar, and nobody looks").await.unwrap();
    let config = json!({ "os": "linux", "architecture": architecture(),
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] } });
    let config = push(&publisher, config.to_string().as_bytes()).await.unwrap();
    let manifest = |config: PushedBlob| {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
                        "digest": config.digest, "size": config.size },
            "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                         "digest": layer.digest, "size": layer.size }],
        });
        Bytes::from(manifest.to_string())
    };
    let cancel = CancellationToken::new();
    let whole = manifest(config);
    let digest = publisher.manifest(&whole, MANIFEST, Some("v1"), &cancel).await.unwrap();
    for name in ["image:v1".to_owned(), format!("image@{digest}")] {
        let image = format!("{}/{name}", registry.address).parse().unwrap();
        let source = Source::open(&image, &settings(), None).await.unwrap();
        let platform = clipwright::oci::Platform::host();
        let image = source.resolve(&platform, &cancel).await.unwrap();
        assert_eq!(image.manifest_digest, digest);
    }
    let lacking = manifest(PushedBlob { digest: Digest::of(b"not there"), size: 9 });
    let error = publisher.manifest(&lacking, MANIFEST, None, &cancel).await.unwrap_err();
    assert_eq!(error.code(), "registry_unexpected_answer", "{error}");
}

#[tokio::test]
async fn only_who_may_push_can() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::with_password(dir.path());
    let content = noise(1, 10 << 20);
    for (login, may) in [("clipper:correct horse", true), ("clipper:wrong", false), ("{}", false)] {
        let credentials = Credentials::parse(login, &registry.address).unwrap();
        let settings = settings();
        let publisher = Publisher::open(&registry.address, "private", None, &settings, credentials);
        let pushed = push(&publisher.await.unwrap(), &content).await;
        match pushed {
            Ok(pushed) => assert!(may && pushed.digest == Digest::of(&content), "{login}"),
            Err(error) => {
                assert!(!may && error.code() == "registry_unauthorized", "{login}: {error}");
            }
        }
    }
}

/// The registry's answers are cut at many places; what was pushed is right all the same, and
/// nothing half-written stays.
#[tokio::test]
async fn connections_that_break_between_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    let content = noise(3, 20 << 20);
    // An answer has some 450 bytes: to the POST, three PATCHes and the PUT.
    for cut in [0, 300, 600, 1000, 1500, 2000] {
        let repository = format!("cut{cut}");
        let publisher = publisher(&proxy.address.to_string(), &repository, None).await;
        proxy.cut_after(cut);
        let pushed = push(&publisher, &content).await.unwrap_or_else(|e| panic!("{cut}: {e}"));
        assert_eq!(pushed.digest, Digest::of(&content), "{cut}");
        assert!(fetch(&registry.address, &repository, &content).await == content, "{cut}");
    }
}

#[tokio::test]
async fn a_connection_that_breaks_in_the_middle_of_a_chunk() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    let content = noise(4, 20 << 20);
    let publisher = publisher(&proxy.address.to_string(), "middle", None).await;
    let asked = AtomicUsize::new(0);
    let cut = || {
        let first = asked.fetch_add(1, Ordering::SeqCst) == 0;
        let proxy = &proxy;
        let mut count = 0;
        let pieces = pieces(&content).inspect(move |_| {
            count += 1;
            if first && count == 50 {
                proxy.cut_open_connections(); // the first chunk is there, and an idle connection
            }
        });
        std::future::ready(Ok::<_, OciError>(pieces))
    };
    let pushed = publisher.blob(cut, &CancellationToken::new()).await.unwrap();
    assert_eq!(pushed.digest, Digest::of(&content));
    assert!(fetch(&registry.address, "middle", &content).await == content);
}

#[tokio::test]
async fn what_is_given_up_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let publisher = publisher(&registry.address, "stopped", None).await;
    let cancel = CancellationToken::new();
    // One chunk goes up, then nothing more comes.
    let endless = || {
        let first = Ok(Bytes::from(noise(5, 9 << 20)));
        let stop = cancel.clone();
        let then = stream::once(async move {
            stop.cancel();
            std::future::pending::<Result<Bytes, OciError>>().await
        });
        std::future::ready(Ok::<_, OciError>(Box::pin(stream::iter([first]).chain(then))))
    };
    let error = publisher.blob(endless, &cancel).await.unwrap_err();
    assert!(matches!(error, OciError::Cancelled), "{error}");
    let gone = async {
        while open_uploads(dir.path(), "stopped") > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone).await.expect("the upload is cancelled");
}
