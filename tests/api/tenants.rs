//! Workspaces, tokens and the record of changes; and that nobody sees another's things.

use axum::body::Body;
use axum::http::Method;
use clipwright::api::openapi_json;
use serde_json::{Value, json};

use super::harness::{Answer, App, pull, request};

const ADMIN: &str = "correct-horse-battery-staple";

/// A service with the token of its settings.
struct Tenants {
    app: App,
}

/// What a client sends with each request.
#[derive(Clone)]
struct Client<'a> {
    app: &'a App,
    token: String,
    workspace: Option<&'static str>,
}

impl Tenants {
    async fn start() -> Self {
        Self { app: App::with(Some(ADMIN)).await }
    }

    fn admin(&self) -> Client<'_> {
        Client { app: &self.app, token: ADMIN.to_owned(), workspace: None }
    }

    async fn workspace(&self, id: &str) {
        let made = self.admin().post("/v1/workspaces", &json!({ "id": id })).await;
        assert_eq!(made.status.as_u16(), 201, "{made:?}");
    }

    /// A client with a new token, and the token's id.
    async fn client(&self, body: Value) -> (Client<'_>, String) {
        let mut body = body;
        body["name"] = json!("a test's");
        let made = self.admin().post("/v1/tokens", &body).await;
        assert_eq!(made.status.as_u16(), 201, "{made:?}");
        assert_eq!(made.header("cache-control"), "no-store");
        let made = made.json();
        let token = made["secret"].as_str().unwrap().to_owned();
        let client = Client { app: &self.app, token, workspace: None };
        (client, made["id"].as_str().unwrap().to_owned())
    }

    async fn of(&self, workspace: &str) -> Client<'_> {
        self.workspace(workspace).await;
        self.client(json!({ "role": "workspace", "workspace": workspace })).await.0
    }
}

impl Client<'_> {
    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let authorization = format!("Bearer {}", self.token);
        let mut headers = vec![("authorization", authorization.as_str())];
        headers.extend(self.workspace.map(|workspace| ("clipwright-workspace", workspace)));
        let body = body.map_or_else(Body::empty, |body| {
            headers.push(("content-type", "application/json"));
            Body::from(body.to_string())
        });
        self.app.send(request(method, path, &headers, body)).await
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, None).await
    }

    async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, Some(body)).await
    }

    async fn submit(&self) -> String {
        let answer = self.post("/v1/jobs", &pull()).await;
        assert!(answer.status.is_success(), "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    async fn jobs(&self) -> usize {
        self.get("/v1/jobs").await.json()["jobs"].as_array().unwrap().len()
    }
}

/// Every operation of the document that names one thing of a tenant, with another's token.
#[tokio::test]
async fn another_workspaces_things_are_not_there() {
    let tenants = Tenants::start().await;
    let (one, other) = (tenants.of("one").await, tenants.of("other").await);
    let job = one.submit().await;
    let mut told = pull();
    told["webhook"] = json!({"url": "https://one.example/"});
    one.post("/v1/jobs", &told).await;
    let hook = one.get("/v1/webhooks").await.json()["webhooks"][0]["id"].clone();
    let hook = hook.as_str().unwrap().to_owned();
    let image = pull()["image_id"].as_str().unwrap().to_owned();
    let result = json!({
        "image_id": image, "reference": "r", "platform": "linux/amd64", "config_digest": "d",
        "clip_version": 2, "layers": [], "nodes": 1, "files": 0, "warnings": [],
        "archive": {"key": "k", "size": 1, "digest": format!("sha256:{}", "0".repeat(64))}, "seconds": 1.0,
    });
    sqlx::query(
        "WITH gone AS (DELETE FROM live_job),
              ended AS (UPDATE job SET state = 'succeeded', result = $1, finished_at = now() RETURNING id),
              own AS (INSERT INTO archive_owner (image_id, workspace_id) VALUES ($2, 'one'))
         INSERT INTO image (workspace_id, image_id, job_id) SELECT 'one', $2, id FROM ended",
    )
    .bind(result)
    .bind(&image)
    .execute(tenants.app.database.pool())
    .await
    .unwrap();

    let archive = include_bytes!("../fixtures/v1-local.clip");
    std::fs::write(tenants.app.directory.path().join(format!("{image}.clip")), archive).unwrap();

    let storage = json!({"bucket": "one-bucket", "access_key": "k", "secret_key": "s"});
    let set = tenants.admin().send(Method::PUT, "/v1/workspaces/one/storage", Some(&storage)).await;
    assert_eq!(set.status.as_u16(), 200, "{set:?}");

    let document: Value = serde_json::from_str(openapi_json()).unwrap();
    let mut walked = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let of_tenants = path.starts_with("/v1/jobs/{id}")
            || path.starts_with("/v1/beta9/builds/{id}")
            || path.starts_with("/v1/images/{image_id}")
            || path.starts_with("/v1/webhooks/{id}")
            || path.starts_with("/v1/workspaces/{id}");
        if !of_tenants {
            continue;
        }
        let id = match path.split('/').nth(2) {
            Some("workspaces") => "one",
            Some("webhooks") => hook.as_str(),
            _ => job.as_str(),
        };
        let mut url = path.replace("{id}", id).replace("{image_id}", &image);
        if path.ends_with("/files/content") {
            url.push_str("?path=/etc/motd");
        }
        for method in item.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let empty = json!({"version": 1, "starts": 0, "sources": []});
            let body = if path.ends_with("/traces") { empty } else { json!({}) };
            let foreign = other.send(method.clone(), &url, Some(&body)).await;
            let forbidden = foreign.status.as_u16() == 403 && path.starts_with("/v1/workspaces");
            assert!(forbidden || foreign.status.as_u16() == 404, "{method} {path}: {foreign:?}");
            assert!(!foreign.text().contains("one-"), "{foreign:?}");
            walked.push(format!("{method} {path}"));
            if method == Method::DELETE {
                continue;
            }
            let own = one.send(method.clone(), &url, Some(&body)).await;
            if path.ends_with("/provenance") {
                // It is there, and no build.
                own.problem(404, "no_provenance");
                continue;
            }
            if path.ends_with("/packages") {
                // It is there; its archive is not the one that the job has told of.
                own.problem(404, "no_packages");
                continue;
            }
            let own = own.status.as_u16();
            assert!(
                own < 400 || own == 403 && path.starts_with("/v1/workspaces"),
                "{method} {path}: {own}"
            );
        }
    }
    assert!(walked.len() >= 12, "{walked:?}");
    // The job that was done once more is about the image.
    let path = format!("/v1/images/{image}");
    one.send(Method::DELETE, &path, None).await.problem(409, "image_in_use");

    // The job, and the one that did it once more.
    assert_eq!((one.jobs().await, other.jobs().await), (2, 0));
    let listed = other.get("/v1/workspaces").await.json();
    assert_eq!(listed["workspaces"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["workspaces"][0]["id"], "other");
    other.get("/v1/archives").await.problem(403, "role_missing");
    // Naming it doesn't help.
    let naming = Client { workspace: Some("one"), ..other };
    naming.get("/v1/jobs").await.problem(404, "workspace_not_found");
}

#[tokio::test]
async fn roles_and_scopes_bound_what_a_token_may() {
    let tenants = Tenants::start().await;
    let one = tenants.of("one").await;
    for (method, path, body) in [
        (Method::POST, "/v1/workspaces", Some(json!({"id": "mine"}))),
        (Method::PATCH, "/v1/workspaces/one", Some(json!({"clip_version": 2}))),
        (Method::POST, "/v1/tokens", Some(json!({"name": "x", "role": "admin"}))),
        (Method::GET, "/v1/tokens", None),
        (Method::GET, "/v1/audit", None),
    ] {
        let answer = one.send(method.clone(), path, body.as_ref()).await;
        let problem = answer.problem(403, "scope_missing");
        assert!(problem["detail"].as_str().unwrap().contains("scope"), "{method} {path}");
    }
    let reader = json!({"role": "workspace", "workspace": "one", "scopes": ["jobs:read"]});
    let reader = tenants.client(reader).await.0;
    assert_eq!(reader.get("/v1/jobs").await.status.as_u16(), 200);
    reader.post("/v1/jobs", &pull()).await.problem(403, "scope_missing");
    reader.get("/v1/images/961eaef6668e480f").await.problem(403, "scope_missing");
    let build = json!({"build_options": {"source_image": "registry.example/app:1"}});
    reader.post("/v1/beta9/builds", &build).await.problem(403, "scope_missing");
    reader.post("/v1/beta9/verify", &json!({})).await.problem(403, "scope_missing");
    let path = "/v1/images/961eaef6668e480f";
    reader.send(Method::DELETE, path, None).await.problem(403, "scope_missing");

    // A gateway acts for whom it names, who comes into being; an admin for those that are there.
    let gateway = tenants.client(json!({"role": "gateway"})).await.0;
    let for_new = Client { workspace: Some("brand-new"), ..gateway.clone() };
    assert_eq!(for_new.jobs().await, 0);
    let looked = tenants.admin().get("/v1/workspaces/brand-new").await;
    looked.problem(404, "workspace_not_found");
    let job = for_new.submit().await;
    assert_eq!(gateway.get(&format!("/v1/jobs/{job}")).await.json()["workspace"], "brand-new");
    assert_eq!((gateway.jobs().await, for_new.jobs().await), (0, 1));
    let events = tenants.admin().get("/v1/audit?workspace=brand-new").await.json();
    assert_eq!(events["events"][0]["action"], "workspace.create", "{events}");
    let admin = Client { workspace: Some("nobody"), ..tenants.admin() };
    admin.get("/v1/jobs").await.problem(404, "workspace_not_found");
    let admin = Client { workspace: Some("brand-new"), ..tenants.admin() };
    assert_eq!(admin.jobs().await, 1);
    let wrong = Client { workspace: Some("No Name"), ..tenants.admin() };
    wrong.get("/v1/jobs").await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn a_token_asks_as_often_as_it_may() {
    let tenants = Tenants::start().await;
    let (client, _) = tenants.client(json!({ "role": "gateway", "requests_per_minute": 3 })).await;
    let (other, _) = tenants.client(json!({ "role": "gateway" })).await;
    for _ in 0..3 {
        assert_eq!(client.get("/v1/jobs").await.status.as_u16(), 200);
    }
    let refused = client.get("/v1/jobs").await;
    refused.problem(429, "rate_limited");
    let wait: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait}");
    assert_eq!(other.get("/v1/jobs").await.status.as_u16(), 200);
    assert_eq!(tenants.admin().get("/v1/jobs").await.status.as_u16(), 200);
    let none = json!({"name": "x", "role": "gateway", "requests_per_minute": 0});
    let refused = tenants.admin().post("/v1/tokens", &none).await;
    assert_eq!(refused.wrong_fields(), ["requests_per_minute"]);
}

#[tokio::test]
async fn a_token_is_shown_once_and_ends_when_told() {
    let tenants = Tenants::start().await;
    tenants.workspace("one").await;
    let of_one = json!({"role": "workspace", "workspace": "one"});
    let (client, id) = tenants.client(of_one.clone()).await;
    assert_eq!(client.get("/v1/jobs").await.status.as_u16(), 200);
    let kept: Vec<u8> = sqlx::query_scalar("SELECT hash FROM api_token WHERE id::text = $1")
        .bind(&id)
        .fetch_one(tenants.app.database.pool())
        .await
        .unwrap();
    assert_eq!(kept.len(), 32);
    let everything: String = sqlx::query_scalar(
        "SELECT string_agg(t::text, '') || (SELECT string_agg(a::text, '') FROM audit_event a)
         FROM api_token t",
    )
    .fetch_one(tenants.app.database.pool())
    .await
    .unwrap();
    assert!(!everything.contains(&client.token[3..]), "its text is nowhere");
    assert!(!tenants.admin().get("/v1/tokens").await.text().contains(&client.token));

    // Rotated: the new text is good, the old one is not.
    let rotated = tenants.admin().post(&format!("/v1/tokens/{id}/rotate"), &json!({})).await;
    assert_eq!(rotated.header("cache-control"), "no-store");
    let text = rotated.json()["secret"].as_str().unwrap().to_owned();
    client.get("/v1/jobs").await.problem(401, "unauthorized");
    let client = Client { token: text, ..client };
    assert_eq!(client.get("/v1/jobs").await.status.as_u16(), 200);

    // Revoked, and what has ended.
    for _ in 0..2 {
        let revoked = tenants.admin().send(Method::DELETE, &format!("/v1/tokens/{id}"), None).await;
        assert!(revoked.json()["revoked_at"].is_string(), "{revoked:?}");
    }
    client.get("/v1/jobs").await.problem(401, "unauthorized");
    let again = tenants.admin().post(&format!("/v1/tokens/{id}/rotate"), &json!({})).await;
    again.problem(404, "token_not_found");
    let (client, id) = tenants.client(of_one).await;
    sqlx::query("UPDATE api_token SET expires_at = now() WHERE id::text = $1")
        .bind(&id)
        .execute(tenants.app.database.pool())
        .await
        .unwrap();
    client.get("/v1/jobs").await.problem(401, "unauthorized");

    // Who did what, the newest first.
    let events = tenants.admin().get("/v1/audit").await.json();
    let actions: Vec<_> = events["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| e["action"].as_str().unwrap())
        .collect();
    let expected = [
        "token.create",
        "token.revoke",
        "token.revoke",
        "token.rotate",
        "token.create",
        "workspace.create",
    ];
    assert_eq!(actions, expected);
    assert!(events["events"].as_array().unwrap().iter().all(|event| event["actor"] == "admin"));
    let page = tenants.admin().get("/v1/audit?limit=2&workspace=one").await.json();
    let next = page["next"].as_str().unwrap();
    let rest = tenants.admin().get(&format!("/v1/audit?limit=200&before={next}")).await.json();
    assert_eq!(rest["events"].as_array().unwrap().len(), expected.len() - 2);
}

#[tokio::test]
async fn what_is_wrong_with_a_token_or_a_workspace_is_named() {
    let tenants = Tenants::start().await;
    let admin = tenants.admin();
    for (path, body, fields) in [
        ("/v1/tokens", json!({"name": "", "role": "admin"}), vec!["name"]),
        (
            "/v1/tokens",
            json!({"name": "x", "role": "admin", "workspace": "default"}),
            vec!["workspace"],
        ),
        ("/v1/tokens", json!({"name": "x", "role": "workspace"}), vec!["workspace"]),
        (
            "/v1/tokens",
            json!({"name": "x", "role": "gateway", "scopes": ["audit:read"]}),
            vec!["scopes"],
        ),
        (
            "/v1/tokens",
            json!({"name": "x", "role": "gateway", "expires_in": 0}),
            vec!["expires_in"],
        ),
        (
            "/v1/workspaces",
            json!({"id": "x", "clip_version": 3, "max_queued": 4_294_967_295_u32}),
            vec!["clip_version", "max_queued"],
        ),
        (
            "/v1/workspaces",
            json!({"id": "x", "allowed_registries": ["https://x"]}),
            vec!["allowed_registries[0]"],
        ),
    ] {
        let answer = admin.post(path, &body).await;
        answer.problem(422, "invalid_body");
        assert_eq!(answer.wrong_fields(), fields, "{body}");
    }
    let nobodys = json!({"name": "x", "role": "workspace", "workspace": "nobody"});
    admin.post("/v1/tokens", &nobodys).await.problem(404, "workspace_not_found");
    tenants.workspace("one").await;
    admin.post("/v1/workspaces", &json!({"id": "one"})).await.problem(409, "workspace_exists");
    admin.get("/v1/workspaces/nobody").await.problem(404, "workspace_not_found");
}

#[tokio::test]
async fn a_workspaces_settings_change_one_by_one() {
    let tenants = Tenants::start().await;
    let admin = tenants.admin();
    let made = admin
        .post("/v1/workspaces", &json!({"id": "one", "clip_version": 2, "max_queued": 5}))
        .await;
    assert_eq!(made.json()["clip_version"], 2);
    let patch = async |body: Value| {
        let answer = admin.send(Method::PATCH, "/v1/workspaces/one", Some(&body)).await;
        assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
        answer.json()
    };
    let now = patch(json!({"clip_version": null, "fallback": "none"})).await;
    assert_eq!(
        (&now["clip_version"], &now["fallback"], &now["max_queued"]),
        (&Value::Null, &json!("none"), &json!(5))
    );
    let now = patch(json!({"allowed_registries": ["registry.example"], "max_queued": null})).await;
    assert_eq!(now["allowed_registries"], json!(["registry.example"]));
    assert_eq!((&now["fallback"], &now["max_queued"]), (&json!("none"), &Value::Null));
    assert_eq!(admin.get("/v1/workspaces/one").await.json(), now);
    assert_eq!(patch(json!({})).await["fallback"], "none");
}
