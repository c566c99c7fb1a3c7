//! The processes of `docker/compose.yaml` with its settings, without containers: two of the API and two
//! workers, each replaced while clients go on.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::layout::{Blob, Layout, noise};
use crate::support::postgres::TestDatabase;
use crate::support::registry::Registry;
use crate::support::s3::S3Server;
use crate::support::service::{Service, Settings};

const TOKEN: &str = "the-token-of-the-stack";
/// Clients, and what each asks for.
const CLIENTS: u64 = 4;
const PULLS: u64 = 12;
const PATIENCE: Duration = Duration::from_mins(2);

/// What a service of the compose file is started with; what the file wants to be told is in `told`.
fn environment(service: &str, told: &BTreeMap<&str, String>) -> BTreeMap<String, String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker/compose.yaml");
    let mut compose: serde_yaml_ng::Value =
        serde_yaml_ng::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    compose.apply_merge().unwrap();
    let environment = compose["services"][service]["environment"].clone();
    let environment: BTreeMap<String, String> = serde_yaml_ng::from_value(environment).unwrap();
    let filled = environment.into_iter().map(|(name, value)| (name, interpolated(&value, told)));
    filled.filter(|(_, value)| !value.is_empty()).collect()
}

/// `${NAME:?why}` and `${NAME:-default}` filled in, as Compose does it.
fn interpolated(text: &str, told: &BTreeMap<&str, String>) -> String {
    let Some((before, rest)) = text.split_once("${") else { return text.to_owned() };
    let (inside, after) = rest.split_once('}').unwrap();
    let (name, default) = inside.split_once(":?").map_or_else(
        || inside.split_once(":-").map(|(name, default)| (name, Some(default))).unwrap(),
        |(name, _)| (name, None),
    );
    let value = told.get(name).map(String::as_str).or(default);
    let value = value.unwrap_or_else(|| panic!("the compose file wants to be told {name}"));
    format!("{before}{value}{}", interpolated(after, told))
}

/// Everything that the processes share.
struct Stack {
    database: TestDatabase,
    s3: S3Server,
    registry: Registry,
    told: BTreeMap<&'static str, String>,
    /// Where the API is, as a load balancer knows it.
    api: Mutex<Vec<String>>,
    http: reqwest::Client,
}

impl Stack {
    /// A process of a service, which reaches by the names of this machine what containers reach by theirs.
    async fn start(&self, service: &str) -> Service {
        let mut environment = environment(service, &self.told);
        for (name, value) in [
            ("DATABASE_URL", self.database.url()),
            ("CLIPWRIGHT_S3_ENDPOINT", &self.s3.endpoint),
            ("CLIPWRIGHT_S3_BUCKET", &self.s3.bucket),
            ("CLIPWRIGHT_BUILD_REGISTRY", &self.registry.address),
        ] {
            let of_compose = environment.insert(name.to_owned(), value.to_owned());
            assert!(of_compose.is_some(), "{service} is told no {name}");
        }
        let settings = environment
            .into_iter()
            .fold(Settings::default(), |settings, (name, value)| settings.env(name.leak(), &value));
        Service::start(settings).await
    }

    /// Asks one process of the API or another until one answers.
    async fn ask(&self, turn: u64, path: &str, body: Option<(&Value, String)>) -> (u16, Value) {
        let started = Instant::now();
        for attempt in turn.. {
            let url = {
                let api = self.api.lock().unwrap();
                api[attempt as usize % api.len()].clone()
            };
            let url = format!("{url}{path}");
            let request = match &body {
                Some((body, key)) => self
                    .http
                    .post(url)
                    .header("content-type", "application/json")
                    .header("idempotency-key", key)
                    .body(body.to_string()),
                None => self.http.get(url),
            };
            if let Ok(answer) = request.bearer_auth(TOKEN).send().await {
                let status = answer.status().as_u16();
                if status != 503
                    && let Ok(body) = answer.bytes().await
                {
                    return (status, serde_json::from_slice(&body).unwrap_or(Value::Null));
                }
            }
            assert!(started.elapsed() < PATIENCE, "nobody answers {path}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        unreachable!()
    }

    /// Pulls one image after the other: what became of each.
    async fn pull_all(&self, client: u64, sources: &[String]) -> Vec<Value> {
        let mut done = Vec::new();
        for n in 0..PULLS {
            let image = format!("{:016x}", client << 32 | n);
            let source = &sources[usize::try_from(n).unwrap() % sources.len()];
            let body = json!({"kind": "pull", "image_id": image, "source": source});
            let (status, job) =
                self.ask(client + n, "/v1/jobs", Some((&body, image.clone()))).await;
            assert!([200, 202].contains(&status), "{status}: {job}");
            let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
            let started = Instant::now();
            let job = loop {
                let (status, job) = self.ask(client + n, &path, None).await;
                assert_eq!(status, 200, "{job}");
                if !job["finished_at"].is_null() {
                    break job;
                }
                assert!(started.elapsed() < PATIENCE, "{job:#}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            assert_eq!(self.ask(client + n, &format!("/v1/images/{image}"), None).await.0, 200);
            done.push(job);
        }
        done
    }
}

/// Stops a process in good order, off the threads that clients run on.
async fn stopped(mut service: Service) -> String {
    tokio::task::spawn_blocking(move || service.stop().0).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (database, s3) = (TestDatabase::create().await, S3Server::start().await);
    let registry = Registry::start(dir.path());
    let sources: Vec<String> = (0..PULLS)
        .map(|n| {
            // Large enough that some are being read when their worker is told to stop.
            let layer = Blob::file("f", &noise(n, 2 << 20));
            registry.push(Layout::of(&[layer]).path(), &format!("images/{n}"))
        })
        .collect();
    let told = [
        ("POSTGRES_PASSWORD", "unused".to_owned()),
        ("CLIPWRIGHT_SECRET_KEY", "ab".repeat(32)),
        ("CLIPWRIGHT_TOKEN", TOKEN.to_owned()),
        ("S3_ACCESS_KEY", s3.access_key.clone()),
        ("S3_SECRET_KEY", s3.secret_key.clone()),
    ];
    // reqwest is built without one; nothing here speaks TLS, but it asks all the same.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let stack =
        Stack { database, s3, registry, told: BTreeMap::from(told), api: Mutex::default(), http };
    let stack = Arc::new(stack);
    let mut api = vec![stack.start("api").await, stack.start("api").await];
    let mut workers = vec![stack.start("worker").await, stack.start("worker").await];
    let urls = |api: &[Service]| api.iter().map(|service| service.url.clone()).collect();
    *stack.api.lock().unwrap() = urls(&api);

    let clients = (0..CLIENTS).map(|client| {
        let (stack, sources) = (stack.clone(), sources.clone());
        tokio::spawn(async move { stack.pull_all(client, &sources).await })
    });
    let clients: Vec<_> = clients.collect();
    let mut given_back = 0;
    for _ in 0..2 {
        // A replica more, and then one less, as a Deployment does it.
        api.push(stack.start("api").await);
        *stack.api.lock().unwrap() = urls(&api);
        let old = api.remove(0);
        let stopping = tokio::spawn(stopped(old));
        // Who balances the load notices a little later.
        tokio::time::sleep(Duration::from_millis(50)).await;
        *stack.api.lock().unwrap() = urls(&api);
        stopping.await.unwrap();

        workers.push(stack.start("worker").await);
        let log = stopped(workers.remove(0)).await;
        given_back += log.matches(r#""outcome":"released""#).count()
            + log.matches("outcome=\"released\"").count();
    }
    let mut jobs = Vec::new();
    for client in clients {
        jobs.extend(client.await.unwrap());
    }
    eprintln!("{} jobs, {given_back} given back by workers that were replaced", jobs.len());
    for job in &jobs {
        assert_eq!(job["state"], "succeeded", "{job:#}");
        let path = format!("/v1/jobs/{}/events", job["id"].as_str().unwrap());
        let url = format!("{}{path}", api[0].url);
        let events = stack.http.get(url).bearer_auth(TOKEN);
        let events = events.header("accept", "application/x-ndjson").send().await.unwrap();
        let events = events.text().await.unwrap();
        let ends = events.lines().filter(|line| line.contains(r#""event":"succeeded""#)).count();
        assert_eq!(ends, 1, "{events}");
        assert_eq!(job["losses"], 0, "nobody had to be given up: {job:#}");
    }
    // Nothing was asked for twice, whatever clients had to repeat.
    let listed = stack.ask(0, "/v1/jobs?limit=200", None).await.1;
    assert_eq!(listed["jobs"].as_array().unwrap().len(), jobs.len());
}
