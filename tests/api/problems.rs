//! Every error is a problem document, whoever made it.

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::body::Bytes;
use axum::http::Method;
use serde_json::json;
use uuid::Uuid;

use super::harness::{App, pull, request};

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn unknown_paths_and_methods() {
    let app = App::start().await;
    for path in ["/nowhere", "/v1/nowhere", "/docs/nowhere", "/v1/jobs/"] {
        assert_eq!(app.get(path).await.problem(404, "not_found")["instance"], path);
    }
    let answer = app.send(request(Method::DELETE, "/v1/jobs", &[], Body::empty())).await;
    answer.problem(405, "method_not_allowed");
    let mut allowed: Vec<_> = answer.header("allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
}

#[tokio::test]
async fn bodies_of_the_wrong_type_or_size() {
    let app = App::start().await;
    let post = async |headers: &[(&str, &str)], body: Body| {
        app.send(request(Method::POST, "/v1/jobs", headers, body)).await
    };
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonx"] {
        let answer = post(&[("content-type", kind)], Body::from(pull().to_string())).await;
        answer.problem(415, "unsupported_media_type");
    }
    post(&[], Body::from(pull().to_string())).await.problem(415, "unsupported_media_type");
    let zipped = post(&[JSON, ("content-encoding", "gzip")], Body::from("x")).await;
    zipped.problem(415, "unsupported_media_type");
    let charset = [("content-type", "application/json; charset=utf-8")];
    let answer = post(&charset, Body::from(pull().to_string())).await;
    assert_eq!(answer.status.as_u16(), 202, "{answer:?}");

    let spaces = Bytes::from(vec![b' '; (1 << 20) + 1]);
    post(&[JSON], Body::from(spaces.clone())).await.problem(413, "too_large");
    let chunked = futures_util::stream::iter([Ok::<_, std::io::Error>(spaces)]);
    post(&[JSON], Body::from_stream(chunked)).await.problem(413, "too_large");
    let broken = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("cut"))]);
    post(&[JSON], Body::from_stream(broken)).await.problem(400, "broken_body");
}

#[tokio::test]
async fn the_request_id_is_the_clients_if_it_is_sane() {
    let app = App::start().await;
    let call = async |id: &str| {
        let headers = [("x-request-id", id)];
        app.send(request(Method::GET, "/nowhere", &headers, Body::empty())).await
    };
    let answer = call("trace-7").await;
    assert_eq!(answer.problem(404, "not_found")["request_id"], "trace-7");
    let answer = call("a b").await;
    answer.problem(404, "not_found");
    assert!(answer.header("x-request-id").parse::<Uuid>().is_ok());
    assert!(app.get("/healthz").await.header("x-request-id").parse::<Uuid>().is_ok());
}

#[tokio::test]
async fn a_panic_is_a_500_that_tells_nothing() {
    let app = App::start().await;
    app.store.panics.store(true, Ordering::SeqCst);
    let answer = app.get("/v1/archives").await;
    answer.problem(500, "internal");
    assert!(!answer.text().contains("secret"), "{answer:?}");
    assert_eq!(app.get("/healthz").await.json(), json!({"status": "ok"}));
}

#[tokio::test]
async fn a_lost_database_is_named_and_its_cause_is_not() {
    let app = App::start().await;
    assert_eq!(app.get("/readyz").await.json(), json!({"status": "ok"}));
    app.database.pool().close().await;
    let answer = app.get("/readyz").await;
    answer.problem(503, "not_ready");
    assert_eq!(answer.wrong_fields(), ["database"]);
    assert!(!answer.text().contains("pool"), "{answer:?}");
    let answer = app.get("/v1/jobs").await;
    assert!(answer.status.is_server_error() && !answer.text().contains("pool"), "{answer:?}");
    assert_eq!(app.get("/healthz").await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_named() {
    let app = App::start().await;
    app.store.hangs.store(true, Ordering::SeqCst);
    let answer = app.get("/readyz").await;
    answer.problem(503, "not_ready");
    assert_eq!(answer.wrong_fields(), ["store"]);
}
