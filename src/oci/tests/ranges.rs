//! Streams that break off, ranges that are ignored or wrong.

use tokio_util::sync::CancellationToken;
use wiremock::matchers::header;
use wiremock::{MockServer, ResponseTemplate};

use super::support::*;
use crate::oci::{OciError, Source};

/// 206 with the bytes of `image`'s layer from `offset` to `end`, cut to `sent` bytes.
fn part(image: &TestImage, offset: usize, end: usize, sent: usize) -> Vec<u8> {
    let headers = format!(
        "Content-Length: {}\r\nContent-Range: bytes {offset}-{}/{}\r\n",
        end - offset,
        end - 1,
        image.layer.len()
    );
    answer(206, &headers, &image.layer[offset..offset + sent])
}

/// 200 with the whole layer, cut to `sent` bytes.
fn whole(image: &TestImage, sent: usize) -> Vec<u8> {
    let headers = format!("Content-Length: {}\r\n", image.layer.len());
    answer(200, &headers, &image.layer[..sent])
}

async fn range(
    source: &Source,
    image: &TestImage,
    offset: u64,
    len: u64,
) -> Result<Vec<u8>, OciError> {
    let cancel = CancellationToken::new();
    let (digest, size) = (image.layer_digest(), image.layer.len() as u64);
    source.blob_range(&digest, size, offset, len, &cancel).await.map(|bytes| bytes.to_vec())
}

#[tokio::test]
async fn a_cut_stream_goes_on_where_it_broke() {
    let image = TestImage::new();
    let size = image.layer.len();
    let server = ScriptedServer::start(vec![
        whole(&image, 70_000),
        part(&image, 70_000, size, 0),
        part(&image, 70_000, size, 100_000),
        part(&image, 170_000, size, size - 170_000),
    ])
    .await;
    // It breaks three times: one attempt fewer would not do.
    let source = open_with_attempts(&server.address, 4).await;
    assert_eq!(layer(&source, &image).await.unwrap(), image.layer);
    let ranges: Vec<_> = server.ranges().into_iter().map(Option::unwrap_or_default).collect();
    let last = size - 1;
    let from = |offset: usize| format!("bytes={offset}-{last}");
    assert_eq!(ranges, [String::new(), from(70_000), from(70_000), from(170_000)]);
}

async fn open_with_attempts(address: &str, attempts: u32) -> Source {
    let mut settings = settings();
    settings.retry.attempts = attempts;
    let image = format!("{address}/r:t").parse().unwrap();
    Source::open(&image, &settings, Some(crate::oci::Credentials::Anonymous)).await.unwrap()
}

#[tokio::test]
async fn a_registry_without_ranges_is_read_again_from_the_start() {
    let image = TestImage::new();
    let answers = vec![whole(&image, 70_000), whole(&image, image.layer.len())];
    let server = ScriptedServer::start(answers).await;
    assert_eq!(layer(&open(&server.address).await, &image).await.unwrap(), image.layer);
}

#[tokio::test]
async fn a_stream_that_always_breaks_is_given_up() {
    let image = TestImage::new();
    let size = image.layer.len();
    let server = ScriptedServer::start(vec![
        whole(&image, 1000),
        part(&image, 1000, size, 1000),
        part(&image, 2000, size, 1000),
    ])
    .await;
    let error = layer(&open(&server.address).await, &image).await.unwrap_err();
    assert!(matches!(error, OciError::Unavailable { .. }), "{error}");
    assert_eq!(server.ranges().len(), 3);
}

#[tokio::test]
async fn a_resumed_stream_with_the_wrong_range_is_refused() {
    let image = TestImage::new();
    let size = image.layer.len();
    let answers = vec![whole(&image, 70_000), part(&image, 60_000, size, size - 60_000)];
    let server = ScriptedServer::start(answers).await;
    let error = layer(&open(&server.address).await, &image).await.unwrap_err();
    assert!(matches!(error, OciError::WrongRange { .. }), "{error}");
}

#[tokio::test]
async fn ranges() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    let body = image.layer[1000..1500].to_vec();
    let total = image.layer.len();
    get(&format!("blobs/{}", image.layer_digest()))
        .and(header("Range", "bytes=1000-1499"))
        .respond_with(
            ResponseTemplate::new(206)
                .set_body_bytes(body.clone())
                .insert_header("Content-Range", format!("bytes 1000-1499/{total}")),
        )
        .mount(&server)
        .await;
    // Every other range is ignored.
    image.serve(&server).await;
    let source = open(server.address()).await;
    assert_eq!(range(&source, &image, 1000, 500).await.unwrap(), body);
    assert_eq!(range(&source, &image, 5, 10).await.unwrap(), image.layer[5..15]);
    assert_eq!(range(&source, &image, 0, total as u64).await.unwrap(), image.layer);
    assert_eq!(range(&source, &image, total as u64, 0).await.unwrap(), b"");
    for (offset, len) in [(total as u64, 1), (1, total as u64), (u64::MAX, 2)] {
        let error = range(&source, &image, offset, len).await.unwrap_err();
        assert!(matches!(error, OciError::InvalidRange { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_wrong_range_is_refused_and_a_short_one_asked_for_again() {
    let image = TestImage::new();
    let answers = vec![part(&image, 0, 500, 500), part(&image, 0, 10, 10)];
    let server = ScriptedServer::start(answers).await;
    let source = open(&server.address).await;
    let error = range(&source, &image, 1000, 500).await.unwrap_err();
    let expected =
        format!("asked for bytes 1000-1499/{0}, was sent bytes 0-499/{0}", image.layer.len());
    assert!(error.to_string().ends_with(&expected), "{error}");
    let error = range(&source, &image, 0, 500).await.unwrap_err();
    assert!(matches!(error, OciError::WrongRange { .. }), "{error}");

    let answers = vec![part(&image, 1000, 1500, 100), part(&image, 1000, 1500, 500)];
    let server = ScriptedServer::start(answers).await;
    let source = open(&server.address).await;
    assert_eq!(range(&source, &image, 1000, 500).await.unwrap(), image.layer[1000..1500]);
}
