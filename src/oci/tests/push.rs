//! Pushing: tokens, mounts, chunks that break off, registries that are busy or lying.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::stream;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use wiremock::matchers::{any, method, path, query_param};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use super::support::*;
use crate::digest::Digest;
use crate::error::{Classify, Fault};
use crate::oci::{Credentials, OciError, Publisher, PushedBlob};

const CHUNK: usize = 8 << 20;

/// What goes wrong with one PATCH.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    /// It is refused for a while.
    Busy,
    /// So much is taken before it fails.
    TakesPart(usize),
    /// So much is taken, and it says so.
    AdmitsPart(usize),
    /// The upload is forgotten.
    Forgets,
}

/// A repository `r` as far as pushing needs one.
#[derive(Default)]
struct Repository {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    troubles: Vec<Trouble>,
    upload: Option<Vec<u8>>,
    blobs: Vec<Vec<u8>>,
    seen: Vec<String>,
}

struct Serves(Arc<Repository>);

impl Respond for Serves {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        let mut state = self.0.state.lock().unwrap();
        let (verb, path) = (request.method.as_str(), request.url.path());
        state.seen.push(format!("{verb} {}", path.trim_start_matches("/v2/r/")));
        let answer = |status: u16| ResponseTemplate::new(status);
        let on_its_way = |status, taken: usize| {
            let last = taken.saturating_sub(1);
            answer(status)
                .insert_header("Location", "/v2/r/blobs/uploads/u?state=x")
                .insert_header("Range", format!("0-{last}"))
        };
        match (verb, path) {
            ("POST", "/v2/r/blobs/uploads/") => {
                state.upload = Some(Vec::new());
                on_its_way(202, 0)
            }
            (_, "/v2/r/blobs/uploads/u") if state.upload.is_none() => answer(404),
            ("PATCH", _) => {
                let start = state.upload.as_ref().unwrap().len();
                let range = format!("{start}-{}", start + request.body.len() - 1);
                assert_eq!(request.headers["content-range"].to_str().unwrap(), range);
                let trouble = state.troubles.pop();
                let taken = match trouble {
                    Some(Trouble::Busy) => {
                        return answer(429).insert_header("Retry-After", "0");
                    }
                    Some(Trouble::Forgets) => {
                        state.upload = None;
                        return answer(503);
                    }
                    Some(Trouble::TakesPart(part) | Trouble::AdmitsPart(part)) => part,
                    None => request.body.len(),
                };
                let upload = state.upload.as_mut().unwrap();
                upload.extend_from_slice(&request.body[..taken]);
                if matches!(trouble, Some(Trouble::TakesPart(_))) {
                    return answer(500);
                }
                on_its_way(202, upload.len())
            }
            ("GET", "/v2/r/blobs/uploads/u") => {
                on_its_way(204, state.upload.as_ref().unwrap().len())
            }
            ("PUT", "/v2/r/blobs/uploads/u") => {
                let mut blob = state.upload.take().unwrap();
                blob.extend_from_slice(&request.body);
                let digest = Digest::of(&blob).to_string();
                let asked = request.url.query_pairs().find(|(key, _)| key == "digest").unwrap().1;
                assert_eq!(asked, digest);
                state.blobs.push(blob);
                answer(201).insert_header("Docker-Content-Digest", digest)
            }
            ("DELETE", "/v2/r/blobs/uploads/u") => {
                state.upload = None;
                answer(204)
            }
            _ => answer(404),
        }
    }
}

async fn repository(troubles: &[Trouble]) -> (MockServer, Arc<Repository>) {
    let repository = Arc::new(Repository::default());
    repository.state.lock().unwrap().troubles = troubles.iter().rev().copied().collect();
    let server = MockServer::start().await;
    Mock::given(any()).respond_with(Serves(repository.clone())).mount(&server).await;
    (server, repository)
}

async fn publisher(server: &MockServer, from: Option<&str>) -> Publisher {
    let registry = server.address().to_string();
    Publisher::open(&registry, "r", from, &settings(), Some(Credentials::Anonymous)).await.unwrap()
}

/// Pushes `content` in pieces; also says how often it was asked for.
async fn push(publisher: &Publisher, content: &[u8]) -> (Result<PushedBlob, OciError>, usize) {
    let asked = AtomicUsize::new(0);
    let pieces = || {
        asked.fetch_add(1, Ordering::SeqCst);
        let pieces: Vec<_> =
            content.chunks(1 << 20).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        std::future::ready(Ok::<_, OciError>(stream::iter(pieces)))
    };
    let pushed = publisher.blob(pieces, &CancellationToken::new()).await;
    (pushed, asked.into_inner())
}

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|n| n.to_le_bytes()[n % 3]).collect()
}

#[tokio::test]
async fn a_small_blob_is_one_request_and_a_large_one_several() {
    for (length, patches) in [(0, 0), (5, 0), (CHUNK, 0), (CHUNK + 1, 2), (3 * CHUNK, 3)] {
        let (server, repository) = repository(&[]).await;
        let content = content(length);
        let (pushed, asked) = push(&publisher(&server, None).await, &content).await;
        let expected = PushedBlob { digest: Digest::of(&content), size: length as u64 };
        assert_eq!((pushed.unwrap(), asked), (expected, 1));
        let state = repository.state.lock().unwrap();
        assert!(state.blobs == [content]);
        let sent = state.seen.iter().filter(|request| request.starts_with("PATCH")).count();
        assert_eq!(sent, patches, "{length}");
    }
}

#[tokio::test]
async fn a_chunk_that_breaks_off_is_taken_up_where_it_broke() {
    for trouble in
        [Trouble::Busy, Trouble::TakesPart(1000), Trouble::TakesPart(CHUNK), Trouble::AdmitsPart(7)]
    {
        let (server, repository) = repository(&[trouble]).await;
        let content = content(CHUNK + 100);
        let (pushed, asked) = push(&publisher(&server, None).await, &content).await;
        assert_eq!(pushed.unwrap().digest, Digest::of(&content), "{trouble:?}");
        assert_eq!(asked, 1, "{trouble:?}");
        assert!(repository.state.lock().unwrap().blobs == [content], "{trouble:?}");
    }
}

#[tokio::test]
async fn a_forgotten_upload_starts_again() {
    let (server, repository) = repository(&[Trouble::Forgets]).await;
    let content = content(2 * CHUNK);
    let (pushed, asked) = push(&publisher(&server, None).await, &content).await;
    assert_eq!((pushed.unwrap().digest, asked), (Digest::of(&content), 2));
    assert!(repository.state.lock().unwrap().blobs == [content]);
}

#[tokio::test]
async fn what_fails_for_good_leaves_no_upload() {
    let (server, repository) = repository(&[Trouble::Busy; 9]).await;
    let (pushed, _) = push(&publisher(&server, None).await, &content(CHUNK + 1)).await;
    assert!(matches!(pushed, Err(OciError::RateLimited { .. })), "{pushed:?}");
    let state = repository.state.lock().unwrap();
    assert!(state.upload.is_none(), "{:?}", state.seen);
    assert!(state.blobs.is_empty());
}

#[tokio::test]
async fn content_that_fails_leaves_no_upload() {
    let (server, repository) = repository(&[]).await;
    let broken = || {
        let failure = OciError::Client { reason: "the source broke".to_owned() };
        let items = vec![Ok(Bytes::from(content(2 * CHUNK))), Err(failure)];
        std::future::ready(Ok::<_, OciError>(stream::iter(items)))
    };
    let pushed = publisher(&server, None).await.blob(broken, &CancellationToken::new()).await;
    assert!(matches!(pushed, Err(OciError::Client { .. })), "{pushed:?}");
    assert!(repository.state.lock().unwrap().upload.is_none());
}

#[tokio::test]
async fn a_mount_that_is_declined_becomes_a_push() {
    let (server, repository) = repository(&[]).await;
    let (publisher, content) = (publisher(&server, Some("other")).await, content(100));
    let cancel = CancellationToken::new();
    let all = || {
        let bytes = Ok(Bytes::from(content.clone()));
        std::future::ready(Ok::<_, OciError>(stream::iter([bytes])))
    };
    publisher.known_blob(&Digest::of(&content), all, &cancel).await.unwrap();
    let state = repository.state.lock().unwrap();
    let seen: Vec<_> = state.seen.iter().map(|seen| seen.split(' ').next().unwrap()).collect();
    assert_eq!(seen, ["HEAD", "POST", "DELETE", "POST", "PUT"]);
    assert!(state.blobs == [content]);
}

#[tokio::test]
async fn the_wrong_content_is_refused() {
    let (server, _) = repository(&[]).await;
    let publisher = publisher(&server, None).await;
    let all = || {
        let bytes = Ok(Bytes::from_static(b"wrong"));
        std::future::ready(Ok::<_, OciError>(stream::iter([bytes])))
    };
    let cancel = CancellationToken::new();
    let error = publisher.known_blob(&Digest::of(b"right"), all, &cancel).await.unwrap_err();
    assert!(matches!(error, OciError::DigestMismatch { .. }), "{error}");
}

#[tokio::test]
async fn tokens_are_for_pushing_and_for_what_is_mounted() {
    let server = MockServer::start().await;
    let digest = Digest::of(b"x");
    let realm = format!(r#"Bearer realm="{}/token",service="s""#, server.uri());
    Mock::given(path("/token"))
        .and(query_param("scope", "repository:r:pull,push"))
        .and(query_param("scope", "repository:other:pull"))
        .respond_with(ResponseTemplate::new(200).set_body_json(json!({"token": "T"})))
        .expect(1)
        .mount(&server)
        .await;
    let authorized = wiremock::matchers::header("authorization", "Bearer T");
    Mock::given(method("HEAD"))
        .and(authorized)
        .respond_with(ResponseTemplate::new(404))
        .mount(&server)
        .await;
    let authorized = wiremock::matchers::header("authorization", "Bearer T");
    Mock::given(method("POST"))
        .and(authorized)
        .and(query_param("mount", digest.to_string()))
        .and(query_param("from", "other"))
        .respond_with(ResponseTemplate::new(201))
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(any())
        .respond_with(ResponseTemplate::new(401).insert_header("WWW-Authenticate", realm))
        .with_priority(9)
        .mount(&server)
        .await;
    let never = || std::future::ready(Err::<stream::Empty<_>, _>(OciError::Cancelled));
    let publisher = publisher(&server, Some("other")).await;
    publisher.known_blob(&digest, never, &CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn who_may_not_push_is_told_so() {
    let server = MockServer::start().await;
    let words = json!({"errors": [{"code": "DENIED", "message": "read only"}]});
    Mock::given(any())
        .respond_with(ResponseTemplate::new(403).set_body_json(words))
        .mount(&server)
        .await;
    let (pushed, asked) = push(&publisher(&server, None).await, b"x").await;
    let error = pushed.unwrap_err();
    assert_eq!((error.code(), error.fault(), asked), ("registry_unauthorized", Fault::User, 1));
    assert!(error.to_string().contains("read only"), "{error}");
}

#[tokio::test]
async fn a_registry_that_stored_something_else_is_not_believed() {
    let server = MockServer::start().await;
    let location = format!("{}/elsewhere", server.uri());
    Mock::given(method("POST"))
        .respond_with(ResponseTemplate::new(202).insert_header("Location", location))
        .mount(&server)
        .await;
    let other = Digest::of(b"other").to_string();
    Mock::given(method("PUT"))
        .respond_with(ResponseTemplate::new(201).insert_header("Docker-Content-Digest", other))
        .mount(&server)
        .await;
    let publisher = publisher(&server, None).await;
    let (pushed, _) = push(&publisher, b"x").await;
    assert!(matches!(pushed, Err(OciError::DigestMismatch { .. })), "{pushed:?}");
    let manifest = Bytes::from_static(b"{}");
    let pushed = publisher.manifest(&manifest, MANIFEST, None, &CancellationToken::new()).await;
    assert!(matches!(pushed, Err(OciError::DigestMismatch { .. })), "{pushed:?}");
}

#[tokio::test]
async fn a_manifest_is_read_back() {
    let server = MockServer::start().await;
    let manifest = Bytes::from_static(b"{}");
    Mock::given(method("PUT"))
        .and(path("/v2/r/manifests/t"))
        .and(wiremock::matchers::header("content-type", MANIFEST))
        .respond_with(ResponseTemplate::new(201))
        .expect(1)
        .mount(&server)
        .await;
    let publisher = publisher(&server, None).await;
    let cancel = CancellationToken::new();
    let pushed = publisher.manifest(&manifest, MANIFEST, Some("t"), &cancel).await;
    assert!(matches!(pushed, Err(OciError::ImageNotFound { .. })), "{pushed:?}");
}

/// Storage that an upload is sent to instead gets no credentials.
#[tokio::test]
async fn another_host_gets_no_authorization() {
    let (server, storage) = (MockServer::start().await, MockServer::start().await);
    let location = format!("{}/bucket?signature=s", storage.uri());
    Mock::given(method("POST"))
        .and(wiremock::matchers::header_exists("authorization"))
        .respond_with(ResponseTemplate::new(202).insert_header("Location", location))
        .expect(1)
        .mount(&server)
        .await;
    Mock::given(method("PUT"))
        .and(|request: &Request| !request.headers.contains_key("authorization"))
        .respond_with(ResponseTemplate::new(201))
        .expect(1)
        .mount(&storage)
        .await;
    let token = Some(Credentials::RegistryToken("T".into()));
    let registry = server.address().to_string();
    let publisher = Publisher::open(&registry, "r", None, &settings(), token).await.unwrap();
    push(&publisher, b"x").await.0.unwrap();
}
