//! Who may call what.

use axum::body::Body;
use axum::http::Method;
use clipwright::api::openapi_json;
use serde_json::Value;

use super::harness::{App, pull, request};

const TOKEN: &str = "correct-horse-battery-staple";

async fn guarded() -> App {
    App::with(Some(TOKEN)).await
}

#[tokio::test]
async fn every_v1_operation_needs_the_token_and_no_other_does() {
    let app = guarded().await;
    let document: Value = serde_json::from_str(openapi_json()).unwrap();
    let mut walked = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let url = path
            .replace("{id}", "0199d2a4-7c1e-7f0a-9a55-0d4b1a1c7e21")
            .replace("{image_id}", "961eaef6668e480f")
            .replace("{name}", "a-rollout")
            .replace("{digest}", &format!("sha256:{}", "0".repeat(64)));
        assert!(!url.contains('{'), "{path}: this test does not know its parameters");
        for method in item.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let call = async |headers: &[(&str, &str)]| {
                app.send(request(method.clone(), &url, headers, Body::empty())).await
            };
            if !path.starts_with("/v1/") {
                assert!(call(&[]).await.status.is_success(), "{method} {path}");
                continue;
            }
            let wrong =
                [None, Some("Bearer wrong"), Some("Bearer "), Some("Basic eDp5"), Some(TOKEN)];
            for wrong in wrong {
                let headers: Vec<_> =
                    wrong.map(|value| ("authorization", value)).into_iter().collect();
                let answer = call(&headers).await;
                // An answer to HEAD has no body.
                if method == Method::HEAD {
                    assert_eq!(answer.status.as_u16(), 401, "{path}");
                } else {
                    answer.problem(401, "unauthorized");
                }
                assert_eq!(answer.header("www-authenticate"), "Bearer", "{method} {path}");
            }
            let right = call(&[("authorization", &format!("Bearer {TOKEN}"))]).await;
            assert_ne!(right.status.as_u16(), 401, "{method} {path}");
            walked += 1;
        }
    }
    assert!(walked >= 6, "only {walked} operations are under /v1");
    for open in ["/", "/docs/", "/openapi.json"] {
        let status = app.get(open).await.status;
        assert!(status.is_success() || status.is_redirection(), "{open}: {status}");
    }
}

#[tokio::test]
async fn without_a_token_foreign_hosts_are_refused() {
    let app = App::start().await;
    for path in ["/v1/jobs", "/healthz", "/openapi.json", "/nowhere"] {
        let request = request(Method::GET, path, &[("host", "rebound.example")], Body::empty());
        app.send(request).await.problem(403, "foreign_origin");
    }
    let own = request(Method::GET, "/v1/jobs", &[("host", "127.0.0.1:9")], Body::empty());
    assert_eq!(app.send(own).await.status.as_u16(), 200);
}

#[tokio::test]
async fn without_a_token_pages_of_other_origins_change_nothing() {
    let app = App::start().await;
    let foreign = [("origin", "https://evil.example")];
    app.post_with("/v1/jobs", &foreign, &pull()).await.problem(403, "foreign_origin");
    assert_eq!(app.get("/v1/jobs").await.json()["jobs"], serde_json::json!([]));
    let own = [("origin", "http://localhost:8080")];
    assert_eq!(app.post_with("/v1/jobs", &own, &pull()).await.status.as_u16(), 202);
}

#[tokio::test]
async fn with_a_token_any_host_and_origin_will_do() {
    let app = guarded().await;
    let authorization = format!("Bearer {TOKEN}");
    let headers = [
        ("authorization", authorization.as_str()),
        ("host", "clipwright.example"),
        ("origin", "https://console.example"),
    ];
    assert_eq!(app.post_with("/v1/jobs", &headers, &pull()).await.status.as_u16(), 202);
}
