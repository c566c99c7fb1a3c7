//! Streams that break off, ranges that are ignored or wrong.

use tokio_util::sync::CancellationToken;
use wiremock::matchers::header;
use wiremock::{MockServer, ResponseTemplate};

use super::support::*;
use crate::oci::{Access, OciError, Source};

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
    source
        .blob_range(&digest, size, offset, len, Access::Range, &cancel)
        .await
        .map(|bytes| bytes.to_vec())
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
async fn a_resumed_stream_finds_its_place_in_another_range() {
    let image = TestImage::new();
    let size = image.layer.len();
    let answers = vec![whole(&image, 70_000), part(&image, 60_000, size, size - 60_000)];
    let server = ScriptedServer::start(answers).await;
    assert_eq!(layer(&open(&server.address).await, &image).await.unwrap(), image.layer);
    // Those that don't help are asked for again, and in the end there is no more talk of ranges.
    let answers = vec![
        whole(&image, 70_000),
        part(&image, 0, 60_000, 60_000),
        part(&image, 80_000, size, 100),
        whole(&image, size),
    ];
    let server = ScriptedServer::start(answers).await;
    assert_eq!(layer(&open(&server.address).await, &image).await.unwrap(), image.layer);
    let asked: Vec<_> = server.ranges().iter().map(Option::is_some).collect();
    assert_eq!(asked, [false, true, true, false]);
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

/// 206 with `headers` and some bytes of the layer.
fn spelled(image: &TestImage, headers: &str, bytes: std::ops::Range<usize>) -> Vec<u8> {
    let headers = format!("Content-Length: {}\r\n{headers}", bytes.len());
    answer(206, &headers, &image.layer[bytes])
}

#[tokio::test]
async fn every_spelling_of_a_range() {
    let image = TestImage::new();
    let total = image.layer.len();
    for headers in [
        String::new(),
        "Content-Range: bytes=1000-1499\r\n".to_owned(),
        format!("Content-Range: bytes=1000-1499/{total}\r\n"),
        format!("CONTENT-RANGE:   Bytes   1000 - 1499/{total}\r\n"),
        "Content-Range: bytes 1000-1499/*\r\n".to_owned(),
        "Content-Range: 1000-1499\r\n".to_owned(),
        "Content-Range: nonsense\r\n".to_owned(),
        "Content-Range: bytes 1000-1499/500\r\n".to_owned(),
    ] {
        let server = ScriptedServer::start(vec![spelled(&image, &headers, 1000..1500)]).await;
        let source = open(&server.address).await;
        let found = range(&source, &image, 1000, 500).await;
        let found = found.unwrap_or_else(|error| panic!("{headers:?}: {error}"));
        assert_eq!(found, image.layer[1000..1500], "{headers:?}");
    }
}

#[tokio::test]
async fn more_than_was_asked_for_is_cut() {
    let image = TestImage::new();
    let size = image.layer.len();
    let chunked = format!("Content-Range: bytes 900-1999/{size}\r\n");
    for sent in [
        part(&image, 900, 2000, 1100),
        answer(206, &chunked, &image.layer[900..2000]),
        spelled(&image, "", 0..size),
        answer(200, "", &image.layer),
        answer(
            200,
            "Content-Length: 500\r\nContent-Range: bytes 1000-1499/*\r\n",
            &image.layer[1000..1500],
        ),
    ] {
        let server = ScriptedServer::start(vec![sent]).await;
        let source = open(&server.address).await;
        assert_eq!(range(&source, &image, 1000, 500).await.unwrap(), image.layer[1000..1500]);
    }
}

#[tokio::test]
async fn wrong_ranges_end_in_reading_from_the_start() {
    let image = TestImage::new();
    let size = image.layer.len();
    let multipart = "Content-Type: multipart/byteranges; boundary=x\r\n";
    for wrong in [
        part(&image, 0, 500, 500),
        part(&image, 2000, 2500, 500),
        spelled(&image, multipart, 1000..1500),
        answer(416, "Content-Length: 0\r\nContent-Range: bytes */7\r\n", b""),
        answer(200, "Content-Length: 500\r\n", &image.layer[1000..1500]),
    ] {
        let answers = vec![wrong.clone(), wrong.clone(), whole(&image, size)];
        let server = ScriptedServer::start(answers).await;
        let source = open(&server.address).await;
        assert_eq!(range(&source, &image, 1000, 500).await.unwrap(), image.layer[1000..1500]);
        let asked: Vec<_> = server.ranges().iter().map(Option::is_some).collect();
        assert_eq!(asked, [true, true, false]);
    }
    // One that never sends the right bytes at all.
    let wrong = part(&image, 0, 500, 500);
    let answers = vec![wrong.clone(), wrong, answer(200, "Content-Length: 500\r\n", &[0; 500])];
    let server = ScriptedServer::start(answers).await;
    let error = range(&open(&server.address).await, &image, 1000, 500).await.unwrap_err();
    assert!(matches!(error, OciError::WrongSize { found: 500, .. }), "{error}");
    let several = answer(206, multipart, &image.layer[1000..1500]);
    let server = ScriptedServer::start(vec![several; 3]).await;
    let source = open_with_attempts(&server.address, 1).await;
    let error = range(&source, &image, 1000, 500).await.unwrap_err();
    let named = format!("asked for bytes=1000-1499 of {size}, was sent no Content-Range");
    assert!(error.to_string().ends_with(&named), "{error}");
}

#[tokio::test]
async fn a_short_range_goes_on_where_it_ended() {
    let image = TestImage::new();
    let size = image.layer.len();
    // So many short answers would be too many failures.
    let step = 70_000;
    let short = |start: usize| part(&image, start, size.min(start + step), step.min(size - start));
    let starts: Vec<usize> = (1000..size).step_by(step).collect();
    let server = ScriptedServer::start(starts.iter().map(|start| short(*start)).collect()).await;
    let source = open(&server.address).await;
    let read = range(&source, &image, 1000, size as u64 - 1000).await.unwrap();
    assert_eq!(read, image.layer[1000..]);
    let asked: Vec<_> = server.ranges().into_iter().flatten().collect();
    let wanted: Vec<_> = starts.iter().map(|start| format!("bytes={start}-{}", size - 1)).collect();
    assert_eq!(asked, wanted);
    // Less than that is a failure, of which there may be a few.
    let answers = vec![part(&image, 1000, 1100, 100), part(&image, 1100, 1500, 400)];
    let server = ScriptedServer::start(answers).await;
    let source = open(&server.address).await;
    assert_eq!(range(&source, &image, 1000, 500).await.unwrap(), image.layer[1000..1500]);
    let answers = (0..3).map(|at| part(&image, 1000 + at, 1001 + at, 1)).collect();
    let server = ScriptedServer::start(answers).await;
    let source = open(&server.address).await;
    let error = range(&source, &image, 1000, 500).await.unwrap_err();
    assert!(matches!(error, OciError::TruncatedBlob { found: 1003, .. }), "{error}");
}
