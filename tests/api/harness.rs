//! A router over a database of its own, and what the tests say to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::response::Response;
use clipwright::api::{AppState, router};
use clipwright::jobs::queue::{Queue, Vault};
use clipwright::publish::archives::Stores;
use clipwright::rollouts::Rollouts;
use clipwright::store::{InterceptedStore, Interceptor, Operation, StoreError, StoreSettings};
use clipwright::workspaces::Workspaces;
use secrecy::SecretString;
use serde_json::{Value, json};
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::support::postgres::TestDatabase;

/// The service as the tests see it.
pub(crate) struct App {
    pub(crate) state: AppState,
    pub(crate) store: Arc<Probe>,
    pub(crate) database: TestDatabase,
    /// Where archives are.
    pub(crate) directory: TempDir,
    submitted: AtomicU32,
}

impl App {
    /// Without a token.
    pub(crate) async fn start() -> Self {
        Self::with(None).await
    }

    pub(crate) async fn with(token: Option<&str>) -> Self {
        let database = TestDatabase::create().await;
        let vault = Vault::new(["ab".repeat(32).parse().unwrap()]);
        let queue = Queue::new(database.pool().clone(), vault.clone());
        let directory = tempfile::tempdir().unwrap();
        let settings = StoreSettings::Directory(directory.path().to_owned());
        let store = Arc::new(Probe::default());
        let probe = store.clone();
        let before = move |objects| Arc::new(InterceptedStore::new(objects, probe)) as _;
        let archives = Stores::open(&settings, before).await.unwrap().archives;
        let workspaces = Workspaces::new(database.pool().clone()).with_vault(vault);
        let rollouts = Rollouts::new(database.pool().clone());
        let token = token.map(SecretString::from);
        let state = AppState::new(queue, archives, workspaces, rollouts, token.as_ref());
        Self { state, store, database, directory, submitted: AtomicU32::default() }
    }

    pub(crate) fn router(&self) -> Router {
        router(self.state.clone())
    }

    /// The answer with its body still open.
    pub(crate) async fn open(&self, request: Request<Body>) -> Response {
        self.router().oneshot(request).await.unwrap()
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (parts, body) = self.open(request).await.into_parts();
        let body = to_bytes(body, 8 << 20).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, &[], Body::empty())).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, &[], body).await
    }

    pub(crate) async fn post_with(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Answer {
        let headers = [&[("content-type", "application/json")], headers].concat();
        self.send(request(Method::POST, path, &headers, Body::from(body.to_string()))).await
    }

    /// Submits a good job, each time another one of the same image, and returns its id.
    pub(crate) async fn submit(&self) -> String {
        let number = self.submitted.fetch_add(1, Ordering::Relaxed) + 1;
        let answer = self.post("/v1/jobs", &pull_number(number)).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{answer:?}");
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    /// Submits a job and cancels it, which makes it final.
    pub(crate) async fn submit_cancelled(&self) -> String {
        let id = self.submit().await;
        let answer = self.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await;
        assert_eq!(answer.json()["state"], "cancelled");
        id
    }
}

/// A request to localhost.
pub(crate) fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: Body,
) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost:8080");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(body).unwrap()
}

/// The body of a good job.
pub(crate) fn pull() -> Value {
    pull_number(1)
}

/// One of several for one image that ask for something else each.
pub(crate) fn pull_number(number: u32) -> Value {
    json!({
        "kind": "pull",
        "image_id": "961eaef6668e480f",
        "source": format!("registry.example/app:{number}"),
    })
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Checks that this is a whole problem document of that status and code; returns it.
    #[track_caller]
    pub(crate) fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!((self.status.as_u16(), &problem["code"]), (status, &json!(code)), "{problem}");
        assert_eq!(problem["status"], status);
        assert_eq!(problem["type"], format!("/docs/troubleshooting.html#{code}"));
        assert_eq!(problem["title"], self.status.canonical_reason().unwrap());
        assert_eq!(problem["request_id"], self.header("x-request-id"));
        assert!(!problem["request_id"].as_str().unwrap().is_empty());
        assert!(problem["instance"].as_str().unwrap().starts_with('/'));
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        problem
    }

    /// The fields that a problem names.
    #[track_caller]
    pub(crate) fn wrong_fields(&self) -> Vec<String> {
        let errors = self.json()["errors"].as_array().cloned().unwrap_or_default();
        errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect()
    }
}

/// Stands before the store, which then stops answering, to what is deleted alone, or panics.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    pub(crate) hangs: AtomicBool,
    pub(crate) keeps: AtomicBool,
    pub(crate) panics: AtomicBool,
}

impl Interceptor for Probe {
    async fn before(&self, operation: Operation) -> Result<(), StoreError> {
        let hangs = operation == Operation::Check && self.hangs.load(Ordering::SeqCst)
            || operation == Operation::Delete && self.keeps.load(Ordering::SeqCst);
        if hangs {
            std::future::pending::<()>().await;
        }
        let panics = operation == Operation::List && self.panics.load(Ordering::SeqCst);
        assert!(!panics, "secret plan");
        Ok(())
    }
}
