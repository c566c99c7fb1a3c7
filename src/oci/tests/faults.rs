//! Registries that are slow, full, broken or lying.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;
use wiremock::{MockServer, ResponseTemplate};

use super::support::*;
use crate::digest::Digest;
use crate::error::{Classify, Fault};
use crate::oci::{Access, Credentials, OciError, OciSettings, Platform, Source};

#[tokio::test]
async fn resolves_and_reads() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    image.serve(&server).await;
    let source = open(server.address()).await;
    let found = resolve(&source).await.unwrap();
    assert_eq!(found.manifest_digest, Digest::of(&image.manifest));
    assert_eq!(found.reference.tag.as_deref(), Some("t"));
    assert_eq!(found.platform, amd64());
    assert_eq!((found.layers.len(), found.diff_ids.len()), (1, 1));
    assert_eq!(found.layers[0].digest, image.layer_digest());
    assert_eq!(layer(&source, &image).await.unwrap(), image.layer);
}

#[tokio::test]
async fn works_in_a_task_of_its_own() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    image.serve(&server).await;
    let source = open(server.address()).await;
    let task = tokio::spawn(async move {
        let cancel = CancellationToken::new();
        let image = source.resolve(&amd64(), &cancel).await?;
        let (digest, size) = (image.layers[0].digest, image.layers[0].size);
        source.blob_range(&digest, size, 1, 2, Access::Range, &cancel).await?;
        read(source.blob(&digest, size, &cancel).await?).await
    });
    assert_eq!(task.await.unwrap().unwrap(), image.layer);
}

#[tokio::test]
async fn chooses_the_platform_from_an_index() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    image.serve(&server).await;
    let platform = |os, architecture| json!({"os": os, "architecture": architecture});
    let entry = |digest, platform| json!({"mediaType": MANIFEST, "digest": digest, "size": image.manifest.len(), "platform": platform});
    let index = json!({"schemaVersion": 2, "manifests": [
        entry(Digest::of(b"arm"), platform("linux", "arm64")),
        entry(Digest::of(&image.manifest), platform("linux", "amd64")),
        entry(Digest::of(b"attestation"), platform("unknown", "unknown")),
    ]});
    let answer = ResponseTemplate::new(200).set_body_raw(index.to_string(), INDEX);
    get("manifests/multi").respond_with(answer).mount(&server).await;
    let source = format!("{}/r:multi", server.address()).parse().unwrap();
    let source =
        crate::oci::Source::open(&source, &settings(), Some(crate::oci::Credentials::Anonymous))
            .await
            .unwrap();
    assert_eq!(resolve(&source).await.unwrap().manifest_digest, Digest::of(&image.manifest));

    let wanted: Platform = "linux/s390x".parse().unwrap();
    let error = source.resolve(&wanted, &CancellationToken::new()).await.unwrap_err();
    assert_eq!(error.fault(), Fault::User);
    let text = error.to_string();
    assert!(text.ends_with("it has: linux/arm64, linux/amd64"), "{text}");
}

/// Serves an index under the tag `multi` and opens it.
async fn open_index(server: &MockServer, entries: &[Value]) -> Source {
    let index = json!({"schemaVersion": 2, "manifests": entries});
    let answer = ResponseTemplate::new(200).set_body_raw(index.to_string(), INDEX);
    get("manifests/multi").respond_with(answer).mount(server).await;
    let source = format!("{}/r:multi", server.address()).parse().unwrap();
    Source::open(&source, &settings(), Some(Credentials::Anonymous)).await.unwrap()
}

#[tokio::test]
async fn the_index_goes_before_the_config() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    image.serve(&server).await;
    let digest = Digest::of(&image.manifest);
    let arm =
        json!({"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": "arm64"}});
    let other = json!({"digest": Digest::of(b"other"), "size": 1, "platform": {"os": "linux", "architecture": "amd64"}});
    let source = open_index(&server, &[arm, other]).await;
    let cancel = CancellationToken::new();
    let wanted: Platform = "linux/arm64".parse().unwrap();
    let found = source.resolve(&wanted, &cancel).await.unwrap();
    assert_eq!((found.manifest_digest, &found.platform), (digest, &wanted));
    let told = "the index says linux/arm64, the image's config linux/amd64";
    assert_eq!(found.warnings, [told.to_owned()]);
    // The pinned one, whatever the platform.
    let found = source.resolve_pinned(Some(digest), &amd64(), &cancel).await.unwrap();
    assert_eq!(found.manifest_digest, digest);
    // By its digest alone the image is what its config says, or what it is known to be.
    let image = format!("{}/r@{digest}", server.address()).parse().unwrap();
    let source = Source::open(&image, &settings(), Some(Credentials::Anonymous)).await.unwrap();
    let error = source.resolve(&wanted, &cancel).await.unwrap_err();
    assert!(matches!(error, OciError::NoSuchPlatform { .. }), "{error}");
    source.resolve_pinned(Some(digest), &wanted, &cancel).await.unwrap();
}

#[tokio::test]
async fn an_unreadable_entry_is_told_to_those_who_want_it() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    image.serve(&server).await;
    let entry = |digest: String, architecture| json!({"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": architecture}});
    let sha512 = format!("sha512:{}", "0".repeat(128));
    let right = Digest::of(&image.manifest).to_string();
    let source = open_index(&server, &[entry(sha512, "arm64"), entry(right, "amd64")]).await;
    resolve(&source).await.unwrap();
    let wanted: Platform = "linux/arm64".parse().unwrap();
    let error = source.resolve(&wanted, &CancellationToken::new()).await.unwrap_err().to_string();
    assert!(error.contains("is broken: its index's entry for linux/arm64: \"sha512:"), "{error}");
}

#[tokio::test]
async fn refuses_a_single_image_of_another_platform() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    image.serve(&server).await;
    let source = open(server.address()).await;
    let wanted: Platform = "linux/arm64".parse().unwrap();
    let error = source.resolve(&wanted, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, OciError::NoSuchPlatform { .. }), "{error}");
}

#[tokio::test]
async fn waits_out_429_and_503() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    for answer in
        [ResponseTemplate::new(429).insert_header("Retry-After", "0"), ResponseTemplate::new(503)]
    {
        get("manifests/t").respond_with(answer).up_to_n_times(1).mount(&server).await;
    }
    image.serve(&server).await;
    resolve(&open(server.address()).await).await.unwrap();
}

#[tokio::test]
async fn a_long_429_is_reported_at_once() {
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(429).insert_header("Retry-After", "3600");
    get("manifests/t").respond_with(answer).expect(1).mount(&server).await;
    let error = resolve(&open(server.address()).await).await.unwrap_err();
    assert!(matches!(error, OciError::RateLimited { .. }), "{error}");
    assert!(error.is_transient() && error.to_string().contains("3600 s"), "{error}");
    assert_eq!(error.retry_after(), Some(Duration::from_hours(1)));
}

#[tokio::test]
async fn gives_up_on_a_registry_that_stays_down() {
    let server = MockServer::start().await;
    get("manifests/t").respond_with(ResponseTemplate::new(500)).expect(3).mount(&server).await;
    let error = resolve(&open(server.address()).await).await.unwrap_err();
    assert!(matches!(error, OciError::Unavailable { .. }), "{error}");
    assert_eq!((error.is_transient(), error.fault()), (true, Fault::Upstream));

    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = nobody.local_addr().unwrap();
    drop(nobody);
    let error = resolve(&open(address).await).await.unwrap_err();
    assert!(error.is_transient() && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn an_unknown_image_is_the_users_fault() {
    let server = MockServer::start().await;
    let error = resolve(&open(server.address()).await).await.unwrap_err();
    assert_eq!(error.to_string(), format!("image {}/r:t was not found", server.address()));
    assert_eq!((error.is_transient(), error.fault()), (false, Fault::User));
    let digest = Digest::of(b"x");
    let error =
        open(server.address()).await.blob(&digest, 1, &CancellationToken::new()).await.unwrap_err();
    assert!(matches!(error, OciError::BlobNotFound { .. }), "{error}");
}

#[tokio::test]
async fn refuses_an_oversized_manifest() {
    let server = MockServer::start().await;
    let body = vec![b' '; (4 << 20) + 1];
    let answer = ResponseTemplate::new(200).set_body_raw(body, MANIFEST);
    get("manifests/t").respond_with(answer).mount(&server).await;
    let error = resolve(&open(server.address()).await).await.unwrap_err();
    assert!(matches!(error, OciError::TooLarge { .. }), "{error}");

    // Without a Content-Length the limit must hold as well.
    let body = vec![b' '; (4 << 20) + 1];
    let server = ScriptedServer::start(vec![answer_until_close(&body)]).await;
    let error = resolve(&open(&server.address).await).await.unwrap_err();
    assert!(matches!(error, OciError::TooLarge { .. }), "{error}");
}

fn answer_until_close(body: &[u8]) -> Vec<u8> {
    answer(200, "", body)
}

#[tokio::test]
async fn refuses_a_manifest_of_another_digest() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    let other = Digest::of(b"other");
    let answer = ResponseTemplate::new(200)
        .set_body_raw(image.manifest.clone(), MANIFEST)
        .insert_header("Docker-Content-Digest", other.to_string());
    get("manifests/t").respond_with(answer.clone()).mount(&server).await;
    get(&format!("manifests/{other}")).respond_with(answer).mount(&server).await;
    for name in [":t".to_owned(), format!("@{other}"), format!(":t@{other}")] {
        let source = format!("{}/r{name}", server.address()).parse().unwrap();
        let credentials = Some(crate::oci::Credentials::Anonymous);
        let source = crate::oci::Source::open(&source, &settings(), credentials).await.unwrap();
        let error = resolve(&source).await.unwrap_err();
        assert!(matches!(error, OciError::DigestMismatch { .. }), "{error}");
    }
}

#[tokio::test]
async fn refuses_a_config_that_contradicts_the_manifest() {
    let (server, image) = (MockServer::start().await, TestImage::with_diff_ids(2));
    image.serve(&server).await;
    let error = resolve(&open(server.address()).await).await.unwrap_err();
    assert!(matches!(error, OciError::BrokenImage { .. }), "{error}");
    assert!(error.to_string().contains("1 layers, but its config has 2 diff ids"), "{error}");
}

#[tokio::test]
async fn refuses_the_wrong_blob() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    let mut wrong = image.layer.clone();
    wrong[7] ^= 1;
    let what = format!("blobs/{}", image.layer_digest());
    get(&what)
        .respond_with(ResponseTemplate::new(200).set_body_bytes(wrong))
        .up_to_n_times(1)
        .mount(&server)
        .await;
    get(&what)
        .respond_with(ResponseTemplate::new(200).set_body_bytes("short"))
        .mount(&server)
        .await;
    let source = open(server.address()).await;
    let error = layer(&source, &image).await.unwrap_err();
    assert!(matches!(error, OciError::DigestMismatch { .. }), "{error}");
    let error = layer(&source, &image).await.unwrap_err();
    assert!(matches!(error, OciError::WrongSize { found: 5, .. }), "{error}");
}

#[tokio::test]
async fn cancellation_ends_the_wait_for_an_answer() {
    let server = MockServer::start().await;
    let slow = ResponseTemplate::new(200).set_delay(Duration::from_hours(1));
    get("manifests/t").respond_with(slow).mount(&server).await;
    let source = open(server.address()).await;
    let cancel = CancellationToken::new();
    let platform = amd64();
    let (result, ()) = tokio::join!(source.resolve(&platform, &cancel), async {
        tokio::task::yield_now().await;
        cancel.cancel();
    });
    assert!(matches!(result, Err(OciError::Cancelled)));
}

/// Answers every request with bytes that come one by one, for as long as somebody listens.
async fn drip(head: &'static str) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let mut next = head.as_bytes();
                while stream.write_all(next).await.is_ok() {
                    next = b" ";
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn documents_do_not_come_drop_by_drop() {
    let realm = "HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer realm=\"http://{}/token\"\r\n\
                 Content-Length: 0\r\nConnection: close\r\n\r\n";
    let tokens = drip("HTTP/1.1 200 X\r\nContent-Type: application/json\r\n\r\n").await;
    let realm = realm.replace("{}", &tokens.to_string());
    let challenges = ScriptedServer::start(vec![realm.into_bytes(); 9]).await;
    let manifests = drip("HTTP/1.1 200 X\r\n\r\n").await.to_string();
    let refusals = drip("HTTP/1.1 410 X\r\n\r\n").await.to_string();
    for (address, expected) in [
        (challenges.address.as_str(), "it was not whole after 0.4 s"),
        (&manifests, "it was not whole after 0.4 s"),
        // What it says of its refusal is not waited for either.
        (&refusals, "410"),
    ] {
        let settings = OciSettings { idle_timeout: Duration::from_millis(100), ..settings() };
        let image = format!("{address}/r:t").parse().unwrap();
        let source = Source::open(&image, &settings, Some(Credentials::Anonymous)).await.unwrap();
        let error = tokio::time::timeout(Duration::from_secs(10), resolve(&source)).await;
        let text = error.expect("an end").unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}
