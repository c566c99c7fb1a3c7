//! Tokens, passwords, renewal, and where credentials must not go.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde_json::json;
use wiremock::matchers::{basic_auth, body_string_contains, header, header_exists, method, path};
use wiremock::matchers::{path_regex, query_param};
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::support::*;
use crate::error::{Classify, Fault};
use crate::oci::{AmbientCredentials, Credentials, ImageSource, OciError, OciSettings, Source};

fn me() -> Credentials {
    Credentials::basic("me", "hunter2")
}

fn bearer(server: &MockServer) -> ResponseTemplate {
    let realm = format!(r#"Bearer realm="{}/token",service="s",scope="x""#, server.uri());
    ResponseTemplate::new(401).insert_header("WWW-Authenticate", realm)
}

fn tokens() -> wiremock::MockBuilder {
    Mock::given(path("/token"))
}

fn token(value: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({"token": value, "expires_in": 60}))
}

/// Lets nobody read anything in the API without `authorization`.
async fn guard(server: &MockServer, authorization: &'static str, refusal: ResponseTemplate) {
    Mock::given(path_regex("^/v2/"))
        .and(move |request: &wiremock::Request| {
            request.headers.get("authorization").is_none_or(|value| value != authorization)
        })
        .respond_with(refusal)
        .with_priority(1)
        .mount(server)
        .await;
}

#[tokio::test]
async fn anonymous_token() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    guard(&server, "Bearer T", bearer(&server)).await;
    tokens()
        .and(query_param("scope", "repository:r:pull"))
        .and(query_param("service", "s"))
        .respond_with(token("T"))
        .expect(1)
        .mount(&server)
        .await;
    image.serve(&server).await;
    let source = open(server.address()).await;
    resolve(&source).await.unwrap();
    assert_eq!(layer(&source, &image).await.unwrap(), image.layer);
}

#[tokio::test]
async fn token_for_a_password() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    guard(&server, "Bearer T", bearer(&server)).await;
    // As Harbor answers.
    let answer =
        ResponseTemplate::new(200).set_body_json(json!({"token": "", "access_token": "T"}));
    tokens().and(basic_auth("me", "hunter2")).respond_with(answer).expect(1).mount(&server).await;
    image.serve(&server).await;
    resolve(&open_as(server.address(), me()).await).await.unwrap();
}

#[tokio::test]
async fn token_for_an_identity_token() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    guard(&server, "Bearer T", bearer(&server)).await;
    tokens()
        .and(method("POST"))
        .and(body_string_contains("grant_type=refresh_token"))
        .and(body_string_contains("refresh_token=I%2F1"))
        .and(body_string_contains("scope=repository%3Ar%3Apull"))
        .respond_with(token("T"))
        .expect(1)
        .mount(&server)
        .await;
    image.serve(&server).await;
    let credentials = Credentials::IdentityToken(SecretString::from("I/1"));
    resolve(&open_as(server.address(), credentials).await).await.unwrap();
}

#[tokio::test]
async fn challenges_in_every_spelling() {
    for spelling in [
        "Bearer realm='{uri}/token', service='s'",
        "Bearer realm={uri}/token;service=s",
        "bearer  realm=\"{uri}/token\"  service=\"s\"",
        "Basic realm=/, Bearer realm=\"{uri}/token\",service=s",
    ] {
        let (server, image) = (MockServer::start().await, TestImage::new());
        let challenge = spelling.replace("{uri}", &server.uri());
        let refusal =
            ResponseTemplate::new(401).insert_header("WWW-Authenticate", challenge.as_str());
        guard(&server, "Bearer T", refusal).await;
        tokens().and(query_param("service", "s")).respond_with(token("T")).mount(&server).await;
        image.serve(&server).await;
        let found = resolve(&open(server.address()).await).await;
        found.unwrap_or_else(|error| panic!("{spelling}: {error}"));
    }
    // me:hunter2
    for spelling in ["Basic realm=/", "Basic", "basic realm='x y'", "Negotiate, Basic realm=x;a=b"]
    {
        let (server, image) = (MockServer::start().await, TestImage::new());
        let refusal = ResponseTemplate::new(401).insert_header("WWW-Authenticate", spelling);
        guard(&server, "Basic bWU6aHVudGVyMg==", refusal).await;
        image.serve(&server).await;
        let found = resolve(&open_as(server.address(), me()).await).await;
        found.unwrap_or_else(|error| panic!("{spelling}: {error}"));
    }
}

#[tokio::test]
async fn plain_password() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    let challenge = r#"Basic realm="r""#;
    let refusal = ResponseTemplate::new(401).insert_header("WWW-Authenticate", challenge);
    // me:hunter2
    guard(&server, "Basic bWU6aHVudGVyMg==", refusal).await;
    image.serve(&server).await;
    resolve(&open_as(server.address(), me()).await).await.unwrap();

    let error = resolve(&open(server.address()).await).await.unwrap_err();
    assert!(matches!(error, OciError::Unauthorized { .. }), "{error}");
    assert!(error.to_string().contains("an anonymous client"), "{error}");
    let wrong = Credentials::basic("me", "hunter3");
    let error = resolve(&open_as(server.address(), wrong).await).await.unwrap_err();
    assert_eq!((error.is_transient(), error.fault()), (false, Fault::User));
    let text = format!("{error} {error:?}");
    assert!(text.contains("the given user") && !text.contains("hunter3"), "{text}");
    assert!(!text.contains("me:") && !text.contains("\"me\""), "{text}");
}

#[tokio::test]
async fn an_expired_token_is_renewed() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    tokens().respond_with(token("T1")).up_to_n_times(1).mount(&server).await;
    tokens().respond_with(token("T2")).expect(1).mount(&server).await;
    image.serve(&server).await;
    // By the time the layer is asked for, the first token is no longer good.
    let layer_path = format!("/v2/r/blobs/{}", image.layer_digest());
    let expired = move |request: &wiremock::Request| {
        let given =
            request.headers.get("authorization").map(reqwest::header::HeaderValue::as_bytes);
        given.is_none() || request.url.path() == layer_path && given != Some(b"Bearer T2")
    };
    let expired = Mock::given(path_regex("^/v2/")).and(expired);
    expired.respond_with(bearer(&server)).with_priority(1).mount(&server).await;
    let source = open(server.address()).await;
    resolve(&source).await.unwrap();
    assert_eq!(layer(&source, &image).await.unwrap(), image.layer);
}

#[tokio::test]
async fn wrong_credentials_never_turn_anonymous() {
    // Everybody may read here, but whoever says a name must prove it.
    let (server, image) = (MockServer::start().await, TestImage::new());
    Mock::given(path("/v2/")).respond_with(bearer(&server)).mount(&server).await;
    tokens().respond_with(ResponseTemplate::new(401)).mount(&server).await;
    image.serve(&server).await;
    let error = resolve(&open_as(server.address(), me()).await).await.unwrap_err();
    assert!(matches!(error, OciError::Unauthorized { .. }), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"));
    resolve(&open(server.address()).await).await.unwrap();
}

#[tokio::test]
async fn a_token_service_that_fails_is_not_a_refusal() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    guard(&server, "Bearer T", bearer(&server)).await;
    for status in [503, 429] {
        tokens().respond_with(ResponseTemplate::new(status)).up_to_n_times(1).mount(&server).await;
    }
    tokens().respond_with(token("T")).mount(&server).await;
    image.serve(&server).await;
    resolve(&open_as(server.address(), me()).await).await.unwrap();
}

#[tokio::test]
async fn a_forbidden_repository() {
    let server = MockServer::start().await;
    let body = json!({"errors": [{"code": "DENIED", "message": "not\nyours"}]});
    let answer = ResponseTemplate::new(403).set_body_json(body);
    get("manifests/t").respond_with(answer).expect(1).mount(&server).await;
    let error = resolve(&open(server.address()).await).await.unwrap_err();
    assert!(matches!(error, OciError::Unauthorized { .. }), "{error}");
    assert!(error.to_string().ends_with("403 Forbidden, DENIED: notyours"), "{error}");
}

#[tokio::test]
async fn the_authorization_header_stays_at_home() {
    let (server, storage, image) =
        (MockServer::start().await, MockServer::start().await, TestImage::new());
    let what = format!("blobs/{}", image.layer_digest());
    let target = format!("{}/signed?secret=s", storage.uri());
    get(&what)
        .and(header("Authorization", "Bearer R"))
        .respond_with(ResponseTemplate::new(307).insert_header("Location", target))
        .mount(&server)
        .await;
    Mock::given(header_exists("authorization"))
        .respond_with(ResponseTemplate::new(400))
        .with_priority(1)
        .expect(0)
        .mount(&storage)
        .await;
    let refusal = ResponseTemplate::new(403);
    Mock::given(path("/signed")).respond_with(refusal).up_to_n_times(1).mount(&storage).await;
    Mock::given(path("/signed"))
        .respond_with(ResponseTemplate::new(200).set_body_bytes(image.layer.clone()))
        .mount(&storage)
        .await;
    let credentials = Credentials::RegistryToken(SecretString::from("R"));
    let source = open_as(server.address(), credentials).await;
    assert_eq!(layer(&source, &image).await.unwrap(), image.layer);
}

#[tokio::test]
async fn ambient_credentials_and_what_keeps_them_out() {
    let (server, image) = (MockServer::start().await, TestImage::new());
    let challenge = r#"Basic realm="r""#;
    let refusal = ResponseTemplate::new(401).insert_header("WWW-Authenticate", challenge);
    guard(&server, "Basic bWU6aHVudGVyMg==", refusal).await;
    image.serve(&server).await;

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.json");
    let auths = json!({"auths": {server.address().to_string(): {"auth": "bWU6aHVudGVyMg=="}}});
    std::fs::write(&file, auths.to_string()).unwrap();
    let settings = OciSettings {
        docker_config: Some(file),
        // For Docker Hub only.
        default_hub_credentials: Some(Credentials::basic("hub", "wrong")),
        ..settings()
    };
    let name: ImageSource = format!("{}/r:t", server.address()).parse().unwrap();
    let source = Source::open(&name, &settings, None).await.unwrap();
    resolve(&source).await.unwrap();
    let source = Source::open(&name, &settings, Some(Credentials::Anonymous)).await.unwrap();
    let error = resolve(&source).await.unwrap_err();
    assert!(matches!(error, OciError::Unauthorized { .. }), "{error}");
    // They are not for every registry.
    let host = server.address().to_string();
    for (hosts, used) in [(vec![], false), (vec!["h".to_owned()], false), (vec![host], true)] {
        let settings = OciSettings { ambient: AmbientCredentials::Of(hosts), ..settings.clone() };
        let source = Source::open(&name, &settings, None).await.unwrap();
        assert_eq!(resolve(&source).await.is_ok(), used);
        let source = Source::open(&name, &settings.of_operator(), None).await.unwrap();
        resolve(&source).await.unwrap();
    }
}

/// Refuses everything, and quotes what it was sent.
async fn parrot(server: &MockServer, challenge: &'static str) {
    let challenge = challenge.replace("{uri}", &server.uri());
    let answer = move |request: &wiremock::Request| {
        let given = request.headers.get("authorization");
        let given = given.and_then(|value| value.to_str().ok()).unwrap_or("nothing");
        let plain = given.split_once(' ').and_then(|(_, pair)| STANDARD.decode(pair).ok());
        let plain = String::from_utf8(plain.unwrap_or_default()).unwrap_or_default();
        let message = format!("{given} ({plain}) is not good enough");
        ResponseTemplate::new(401)
            .insert_header("WWW-Authenticate", challenge.as_str())
            .set_body_json(json!({"errors": [{"code": "UNAUTHORIZED", "message": message}]}))
    };
    Mock::given(path_regex("^/v2/")).respond_with(answer).mount(server).await;
}

#[tokio::test]
async fn no_part_of_a_credential_is_printed() {
    let encodings = [
        ("hunter2-user:hunter2-pass", "h"),
        (r#"{"USERNAME":"hunter2-user","PASSWORD":"hunter2-pass"}"#, "h"),
        (r#"{"REGISTRY_USERNAME":"hunter2-user","REGISTRY_PASSWORD":"hunter2-pass"}"#, "h"),
        (r#"{"DOCKER_USERNAME":"hunter2-user","DOCKER_PASSWORD":"hunter2-pass"}"#, "h"),
        (r#"{"DOCKERHUB_USERNAME":"hunter2-user","DOCKERHUB_PASSWORD":"hunter2-p"}"#, "docker.io"),
        (r#"{"DOCKERHUB_USERNAME":"hunter2-user","DOCKERHUB_TOKEN":"hunter2-pass"}"#, "docker.io"),
        (r#"{"GITHUB_TOKEN":"hunter2-token"}"#, "ghcr.io"),
        (r#"{"GITHUB_USERNAME":"hunter2-user","GITHUB_TOKEN":"hunter2-token"}"#, "ghcr.io"),
        (r#"{"NGC_API_KEY":"hunter2-key"}"#, "nvcr.io"),
        (r#"{"GCP_ACCESS_TOKEN":"hunter2-token"}"#, "gcr.io"),
        (
            r#"{"registry":"h","type":"basic","credentials":{"USERNAME":"hunter2-user","PASSWORD":"hunter2-pass"}}"#,
            "h",
        ),
        (r#"{"type":"token","credentials":"{\"GITHUB_TOKEN\":\"hunter2-token\"}"}"#, "ghcr.io"),
        (r#"{"secret":"{\"USERNAME\":\"hunter2-user\",\"PASSWORD\":\"hunter2-pass\"}"}"#, "h"),
    ];
    let long = format!("hunter2-user:{}", "hunter2-pass".repeat(40));
    let lines = json!({"credentials": {
        "USERNAME": "_json_key", "PASSWORD": "{\n\"key\": \"hunter2-pass\"\n}"}});
    let more = [(long, "h"), (lines.to_string(), "gcr.io")];
    let encodings = encodings.map(|(text, host)| (text.to_owned(), host)).into_iter().chain(more);
    let given = encodings.map(|(text, host)| Credentials::parse(&text, host).unwrap().unwrap());
    let tokens = ["hunter2-token"].map(SecretString::from);
    let given = given
        .chain(tokens.clone().map(Credentials::IdentityToken))
        .chain(tokens.map(Credentials::RegistryToken));
    for credentials in given {
        for challenge in ["Basic realm=r", "Bearer realm=\"{uri}/token\""] {
            for accepted in [true, false] {
                let server = MockServer::start().await;
                parrot(&server, challenge).await;
                let answer =
                    if accepted { token("hunter2-issued") } else { ResponseTemplate::new(401) };
                self::tokens().respond_with(answer).mount(&server).await;
                let source = open_as(server.address(), credentials.clone()).await;
                let error = resolve(&source).await.unwrap_err();
                assert!(matches!(error, OciError::Unauthorized { .. }), "{error}");
                let text = format!("{error} {error:?} {source:?} {credentials:?}");
                // Neither in the clear nor in base64 (of "hunter2", wherever it begins).
                for part in ["hunter2", "aHVudGVyM", "h1bnRlcj", "odW50ZXIy"] {
                    assert!(!text.contains(part), "{text}");
                }
            }
        }
    }
}

#[tokio::test]
async fn credentials_don_t_leave_the_network_unencrypted() {
    // A registry nearby, spoken to over plain HTTP, whose token service is far away.
    for realm in ["http://tokens.example/token", "http://1.1.1.1/token"] {
        let server = MockServer::start().await;
        let challenge = format!("Bearer realm={realm}");
        let refusal =
            ResponseTemplate::new(401).insert_header("WWW-Authenticate", challenge.as_str());
        Mock::given(path_regex("^/v2/")).respond_with(refusal).mount(&server).await;
        let error = resolve(&open_as(server.address(), me()).await).await.unwrap_err();
        assert!(error.to_string().ends_with("so it gets no credentials"), "{error}");
    }
}

#[tokio::test]
async fn a_redirect_takes_no_identity_token_to_another_host() {
    for status in [307, 308] {
        for stays in [true, false] {
            let (server, image) = (MockServer::start().await, TestImage::new());
            let other = MockServer::start().await;
            guard(&server, "Bearer T", bearer(&server)).await;
            let host = if stays { &server } else { &other };
            let to = ResponseTemplate::new(status)
                .insert_header("Location", format!("{}/elsewhere", host.uri()));
            tokens().respond_with(to).mount(&server).await;
            Mock::given(path("/elsewhere"))
                .and(body_string_contains("refresh_token=I"))
                .respond_with(token("T"))
                .mount(host)
                .await;
            image.serve(&server).await;
            let credentials = Credentials::IdentityToken(SecretString::from("I"));
            let found = resolve(&open_as(server.address(), credentials).await).await;
            assert_eq!(found.is_ok(), stays, "{found:?}");
            assert!(other.received_requests().await.unwrap().is_empty());
            if let Err(error) = found {
                assert!(!error.is_transient(), "{error}");
                let text = error.to_string();
                assert!(text.contains(&format!("the token service answered {status}")), "{text}");
            }
        }
    }
}
