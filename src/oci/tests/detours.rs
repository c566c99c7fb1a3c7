//! Answers on a detour: redirects, storage behind the registry, what shows late, and documents that
//! come compressed.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use wiremock::matchers::{header, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::support::*;
use crate::digest::Digest;
use crate::oci::OciError;

fn found(body: &[u8]) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_bytes(body)
}

fn to(location: &str) -> ResponseTemplate {
    ResponseTemplate::new(307).insert_header("Location", location)
}

#[tokio::test]
async fn an_expired_signature_is_asked_for_again() {
    for status in [400, 401, 403] {
        for outside in [true, false] {
            let (server, image) = (MockServer::start().await, TestImage::new());
            let other = MockServer::start().await;
            // Storage may be behind the registry's own name.
            let storage = if outside { &other } else { &server };
            for (number, answer) in
                [ResponseTemplate::new(status), found(&image.layer)].into_iter().enumerate()
            {
                let target = format!("{}/signed/{number}?sig=x", storage.uri());
                get(&format!("blobs/{}", image.layer_digest()))
                    .respond_with(to(&target))
                    .up_to_n_times(1)
                    .expect(1)
                    .mount(&server)
                    .await;
                let signed = Mock::given(path(format!("/signed/{number}")));
                signed.respond_with(answer).expect(1).mount(storage).await;
            }
            let read = layer(&open(server.address()).await, &image).await;
            let read = read.unwrap_or_else(|error| panic!("{status}, {outside}: {error}"));
            assert_eq!(read, image.layer);
        }
    }
}

#[tokio::test]
async fn a_refusal_of_storage_is_not_the_registrys() {
    let (server, storage, image) =
        (MockServer::start().await, MockServer::start().await, TestImage::new());
    let target = format!("{}/signed?sig=secret", storage.uri());
    let what = format!("blobs/{}", image.layer_digest());
    get(&what).respond_with(to(&target)).expect(3).mount(&server).await;
    Mock::given(path("/signed")).respond_with(ResponseTemplate::new(403)).mount(&storage).await;
    let error = layer(&open(server.address()).await, &image).await.unwrap_err();
    assert!(matches!(error, OciError::Unavailable { .. }), "{error}");
    let text = format!("{error} {error:?}");
    assert!(text.contains("storage it points to answered 403") && !text.contains("sig"), "{text}");
    // The registry's own 400 is no reason to go on asking.
    let server = MockServer::start().await;
    get(&what).respond_with(ResponseTemplate::new(400)).expect(1).mount(&server).await;
    let error = layer(&open(server.address()).await, &image).await.unwrap_err();
    assert!(matches!(error, OciError::Unexpected { .. }), "{error}");
}

#[tokio::test]
async fn relative_redirects() {
    let image = TestImage::new();
    let digest = image.layer_digest();
    for (location, place) in [
        ("/data/x?sig=a%2Fb", "/data/x?sig=a%2fb"),
        ("../../../data/x", "/data/x"),
        ("x", "/v2/r/blobs/x"),
        ("./x?y=1#z", "/v2/r/blobs/x?y=1"),
        ("?again=1", "/v2/r/blobs/{digest}?again=1"),
        ("//{host}/data/x", "/data/x"),
    ] {
        for status in [301, 302, 303, 307, 308] {
            // The address is known only once the server runs: it redirects to itself by `Host`.
            let server = MockServer::start().await;
            let location = location.replace("{host}", &server.address().to_string());
            let place = place.replace("{digest}", &digest.to_string());
            let answer = ResponseTemplate::new(status).insert_header("Location", location.as_str());
            let blob = format!("/v2/r/blobs/{digest}");
            Mock::given(path(&blob))
                .and(|request: &wiremock::Request| request.url.query().is_none())
                .respond_with(answer)
                .mount(&server)
                .await;
            let wanted = place.clone();
            Mock::given(move |request: &wiremock::Request| {
                let query =
                    request.url.query().map(|query| format!("?{query}")).unwrap_or_default();
                format!("{}{query}", request.url.path()).to_ascii_lowercase() == wanted
            })
            .and(header("Range", "bytes=10-19"))
            .respond_with(
                ResponseTemplate::new(206)
                    .set_body_bytes(&image.layer[10..20])
                    .insert_header("Content-Range", "bytes 10-19/*"),
            )
            .mount(&server)
            .await;
            let source = open(server.address()).await;
            let size = image.layer.len() as u64;
            let cancel = tokio_util::sync::CancellationToken::new();
            let access = crate::oci::Access::Range;
            let read = source.blob_range(&digest, size, 10, 10, access, &cancel).await;
            let read = read.unwrap_or_else(|error| panic!("{status} {location}: {error}"));
            assert_eq!(read, image.layer[10..20]);
        }
    }
}

#[tokio::test]
async fn what_was_just_pushed_may_show_late() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    for what in [
        "manifests/t".to_owned(),
        format!("blobs/{}", Digest::of(&image.config)),
        format!("blobs/{}", image.layer_digest()),
    ] {
        let answer = ResponseTemplate::new(404);
        get(&what).respond_with(answer).up_to_n_times(1).expect(1).mount(&server).await;
    }
    image.serve(&server).await;
    let source = open(server.address()).await;
    resolve(&source).await.unwrap();
    assert_eq!(layer(&source, &image).await.unwrap(), image.layer);
    // But not much later.
    let server = MockServer::start().await;
    let answer = ResponseTemplate::new(404);
    let what = format!("blobs/{}", image.layer_digest());
    get(&what).respond_with(answer).expect(2).mount(&server).await;
    let error = layer(&open(server.address()).await, &image).await.unwrap_err();
    assert!(matches!(error, OciError::BlobNotFound { .. }), "{error}");
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn documents_that_come_compressed() {
    let image = TestImage::new();
    for said in [true, false] {
        let packed = |plain: &[u8]| {
            let answer = ResponseTemplate::new(200).set_body_raw(gzip(plain), MANIFEST);
            if said { answer.insert_header("Content-Encoding", "gzip") } else { answer }
        };
        for stated in [Some(Digest::of(&image.manifest)), None] {
            let server = MockServer::start().await;
            let mut manifest = packed(&image.manifest);
            if let Some(stated) = stated {
                manifest = manifest.insert_header("Docker-Content-Digest", stated.to_string());
            }
            get("manifests/t").respond_with(manifest).mount(&server).await;
            let config = packed(&image.config);
            let what = format!("blobs/{}", Digest::of(&image.config));
            get(&what).respond_with(config).mount(&server).await;
            let found = resolve(&open(server.address()).await).await.unwrap();
            assert_eq!(found.manifest_digest, Digest::of(&image.manifest));
            assert_eq!(found.raw_manifest, image.manifest);
            assert_eq!(found.raw_config, image.config);
        }
    }
}

#[tokio::test]
async fn compression_hides_no_other_document() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    let other = gzip(&TestImage::with_diff_ids(2).config);
    let what = format!("blobs/{}", Digest::of(&image.config));
    let answer = found(&other).insert_header("Content-Encoding", "gzip");
    get(&what).respond_with(answer).mount(&server).await;
    image.serve(&server).await;
    let error = resolve(&open(server.address()).await).await.unwrap_err();
    assert!(
        matches!(error, OciError::DigestMismatch { .. })
            || matches!(error, OciError::TruncatedBlob { .. }),
        "{error}"
    );
    // Layers are left alone: they are compressed by nature, and some storage says so.
    let server = MockServer::start().await;
    let answer = found(&image.layer).insert_header("Content-Encoding", "gzip");
    let what = format!("blobs/{}", image.layer_digest());
    get(&what).respond_with(answer).mount(&server).await;
    assert_eq!(layer(&open(server.address()).await, &image).await.unwrap(), image.layer);
}

#[tokio::test]
async fn nobody_hears_of_a_signed_address_before() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    let [first, second] = [MockServer::start().await, MockServer::start().await];
    let what = format!("blobs/{}", image.layer_digest());
    let signed = format!("{}/first?sig=secret", first.uri());
    get(&what).respond_with(to(&signed)).mount(&server).await;
    let further = to(&format!("{}/second", second.uri()));
    Mock::given(path("/first")).respond_with(further).mount(&first).await;
    Mock::given(path("/second")).respond_with(found(&image.layer)).mount(&second).await;
    assert_eq!(layer(&open(server.address()).await, &image).await.unwrap(), image.layer);
    let asked = &second.received_requests().await.unwrap()[0];
    assert!(!format!("{asked:?}").contains("secret"), "{asked:?}");
}
