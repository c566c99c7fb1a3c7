//! `/v1/workspaces/{id}/storage`: who may see it, what is kept of it, and under which key.

use axum::body::Body;
use axum::http::Method;
use clipwright::jobs::build::Buckets as _;
use clipwright::jobs::queue::Vault;
use clipwright::workspaces::Workspaces;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::harness::{Answer, App, request};

const PATH: &str = "/v1/workspaces/default/storage";

fn storage() -> Value {
    json!({
        "bucket": "team-a", "endpoint": "https://s3.example", "access_key": "AKIA1",
        "secret_key": "hunter2",
    })
}

async fn send(app: &App, method: Method, path: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json")];
    app.send(request(method, path, &headers, Body::from(body.to_string()))).await
}

fn vault(keys: &[&str]) -> Vault {
    Vault::new(keys.iter().map(|key| key.repeat(32).parse().unwrap()))
}

#[tokio::test]
async fn a_storage_is_shown_without_its_secret() {
    let app = App::start().await;
    app.get(PATH).await.problem(404, "storage_not_found");
    let nowhere = "/v1/workspaces/nobody/storage";
    send(&app, Method::PUT, nowhere, &storage()).await.problem(404, "workspace_not_found");
    let set = send(&app, Method::PUT, PATH, &storage()).await;
    assert_eq!(set.status.as_u16(), 200, "{set:?}");
    assert_eq!(set.json()["region"], "us-east-1");
    let mut other = storage();
    other["bucket"] = json!("team-b");
    send(&app, Method::PUT, PATH, &other).await;
    let shown = app.get(PATH).await;
    assert_eq!(shown.json()["bucket"], "team-b");
    assert!(!shown.text().contains("hunter2") && !set.text().contains("hunter2"));
    let rows: String = sqlx::query_scalar(
        "SELECT string_agg(t::text, '') || (SELECT string_agg(a::text, '') FROM audit_event a)
         FROM workspace_storage t",
    )
    .fetch_one(app.database.pool())
    .await
    .unwrap();
    assert!(rows.contains("team-b") && rows.contains("workspace.storage.set"), "{rows}");
    assert!(!rows.contains("hunter2") && !rows.contains(&hex::encode("hunter2")), "{rows}");
    assert_eq!(send(&app, Method::DELETE, PATH, &json!({})).await.status.as_u16(), 204);
    send(&app, Method::DELETE, PATH, &json!({})).await.problem(404, "storage_not_found");
}

#[tokio::test]
async fn what_is_wrong_with_a_storage_is_named() {
    let app = App::start().await;
    for (field, value) in [
        ("bucket", json!("a/b")),
        ("bucket", json!("-ab")),
        ("region", json!("")),
        ("endpoint", json!("s3.example")),
        ("endpoint", json!("https://u:hunter3@s3.example")),
        ("endpoint", json!("http://169.254.169.254")),
        ("access_key", json!("a b")),
        ("secret_key", json!("hunter3\n")),
    ] {
        let mut body = storage();
        body[field] = value;
        let answer = send(&app, Method::PUT, PATH, &body).await;
        answer.problem(422, "invalid_body");
        assert_eq!(answer.wrong_fields(), [field], "{body}");
        assert!(!answer.text().contains("hunter3"), "{answer:?}");
    }
}

#[tokio::test]
async fn a_key_that_takes_anothers_place_seals_the_secret_anew() {
    let app = App::start().await;
    send(&app, Method::PUT, PATH, &storage()).await;
    let with = |keys: &[&str]| Workspaces::new(app.database.pool().clone()).with_vault(vault(keys));
    let workspace = "default".parse().unwrap();
    let (former, both, present) = (with(&["ab"]), with(&["cd", "ab"]), with(&["cd"]));
    assert_eq!(former.unknown_storage_keys().await.unwrap(), []);
    let unknown = present.unknown_storage_keys().await.unwrap();
    assert_eq!(unknown.len(), 1);
    assert_eq!(unknown[0].1, 1);
    assert!(present.bucket(&workspace).await.is_err());
    assert_eq!(
        (former.reseal_storages().await.unwrap(), present.reseal_storages().await.unwrap()),
        (0, 0)
    );
    assert_eq!(
        (both.reseal_storages().await.unwrap(), both.reseal_storages().await.unwrap()),
        (1, 0)
    );
    assert_eq!(present.unknown_storage_keys().await.unwrap(), []);
    let bucket = present.bucket(&workspace).await.unwrap().unwrap();
    assert_eq!(bucket.secret_key.expose_secret(), "hunter2");
    let ready = app.get("/readyz").await.json();
    assert_eq!(
        (&ready["unknown_keys"][0]["jobs"], &ready["unknown_keys"][0]["storages"]),
        (&json!(0), &json!(1)),
        "{ready}"
    );
}
