//! Credentials of a job whose registry refuses them, and quotes them: they are in no answer, no
//! event, no log line and no file.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use wiremock::matchers::path_regex;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::support::service::{Service, Settings};

const USER: &str = "hunter2-robot";
const PASSWORD: &str = "hunter2-password";
const TOKEN: &str = "hunter2-issued-token";

/// A registry that refuses whatever it is sent and says what that was. Its token service gives
/// tokens that it refuses as well.
async fn parrot(challenge: &str) -> MockServer {
    let server = MockServer::start().await;
    let challenge = challenge.replace("{uri}", &server.uri());
    let refuse = move |request: &Request| {
        let given = request.headers.get("authorization").map(|value| value.to_str().unwrap());
        let given = given.unwrap_or("nothing");
        let plain = given.split_once(' ').and_then(|(_, pair)| STANDARD.decode(pair).ok());
        let plain = String::from_utf8(plain.unwrap_or_default()).unwrap_or_default();
        let message = format!("{given} ({plain}) is not good enough");
        ResponseTemplate::new(401)
            .insert_header("WWW-Authenticate", challenge.as_str())
            .set_body_json(json!({ "errors": [{ "code": "UNAUTHORIZED", "message": message }] }))
    };
    Mock::given(path_regex("^/v2/")).respond_with(refuse).mount(&server).await;
    let token = ResponseTemplate::new(200).set_body_json(json!({ "token": TOKEN }));
    Mock::given(path_regex("^/token")).respond_with(token).mount(&server).await;
    server
}

/// Every encoding of credentials that a registry anywhere can be given.
fn usable(registry: &str) -> Vec<Value> {
    let flat = |user: &str, password: &str| json!({ user: USER, password: PASSWORD });
    let plain = flat("USERNAME", "PASSWORD");
    let envelope = json!({ "registry": registry, "type": "basic", "credentials": plain });
    let nested = json!({ "registry": registry, "credentials": plain.to_string() });
    vec![
        json!(format!("{USER}:{PASSWORD}")),
        plain.clone(),
        json!(plain.to_string()),
        flat("REGISTRY_USERNAME", "REGISTRY_PASSWORD"),
        flat("DOCKER_USERNAME", "DOCKER_PASSWORD"),
        envelope.clone(),
        json!(envelope.to_string()),
        nested,
        json!({ "secret": plain.to_string() }),
    ]
}

/// Those that it can't.
fn unusable() -> Vec<Value> {
    let plain = json!({ "USERNAME": USER, "PASSWORD": PASSWORD });
    vec![
        json!(PASSWORD),
        json!(format!("{{{PASSWORD}")),
        json!({ "USERNAME": USER }),
        json!({ "GITHUB_TOKEN": PASSWORD }),
        json!({ "NGC_API_KEY": PASSWORD }),
        json!({ "AWS_ACCESS_KEY_ID": USER, "AWS_SECRET_ACCESS_KEY": PASSWORD }),
        json!({ "GOOGLE_APPLICATION_CREDENTIALS": format!("{{\"key\":\"{PASSWORD}\"}}") }),
        json!({ "AZURE_CLIENT_ID": USER, "AZURE_CLIENT_SECRET": PASSWORD }),
        json!({ "registry": "other.example", "credentials": plain }),
        json!({ "registry": format!("https://{USER}:{PASSWORD}@other.example"), "credentials": plain }),
    ]
}

/// `hunter2` in the clear, and what it is in base64, wherever it begins.
fn shows_nothing(text: &str, place: &str) {
    for part in ["hunter2", "aHVudGVyM", "h1bnRlcj", "odW50ZXIy"] {
        if let Some(at) = text.find(part) {
            let around = text.get(at.saturating_sub(200)..at + 50).unwrap_or(part);
            panic!("{place}: ...{around}...");
        }
    }
}

fn files_show_nothing(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files_show_nothing(&path);
        } else if path.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            shows_nothing(&String::from_utf8_lossy(&bytes), &path.display().to_string());
        }
    }
}

#[tokio::test]
async fn refused_credentials_are_nowhere() {
    // Everything is logged.
    let settings = Settings::default().private_database().env("CLIPWRIGHT_LOG_LEVEL", "trace");
    let mut service = Service::start(settings).await;
    let mut number = 0;
    for challenge in ["Basic realm=r", "Bearer realm=\"{uri}/token\",service=s"] {
        let registry = parrot(challenge).await;
        let host = registry.address().to_string();
        for credentials in usable(&host) {
            number += 1;
            let job = service
                .submit(json!({
                    "kind": "pull", "image_id": format!("{number:016x}"),
                    "source": format!("{host}/r:t"), "credentials": credentials,
                    "webhook": {
                        "url": format!("{}/hook?token={TOKEN}", registry.uri()),
                        "secret": PASSWORD,
                    },
                }))
                .await;
            let events = service.events(&job).await;
            let finished = service.finished(&job).await;
            assert_eq!(finished["error"]["code"], "registry_unauthorized", "{finished:#}");
            let told = finished["error"]["message"].as_str().unwrap();
            assert!(told.contains("is not good enough"), "{told}");
            shows_nothing(&finished.to_string(), "the job");
            shows_nothing(&Value::from(events).to_string(), "its events");
        }
        for credentials in unusable() {
            let body = json!({
                "kind": "pull", "image_id": "0123456789abcdef", "source": format!("{host}/r:t"),
                "credentials": credentials,
            });
            let (status, problem) = service.post("/v1/jobs", &body).await;
            assert!((400..500).contains(&status), "{problem:#}");
            shows_nothing(&problem.to_string(), "the refusal");
        }
    }
    let (_, jobs) = service.get("/v1/jobs").await;
    let (_, webhooks) = service.get("/v1/webhooks").await;
    assert!(webhooks["webhooks"].as_array().unwrap().len() > 1);
    shows_nothing(&webhooks.to_string(), "the webhooks");
    shows_nothing(&jobs.to_string(), "the list");
    shows_nothing(&service.get_text("/metrics").await, "the metrics");
    let (log, data) = service.stop();
    assert!(log.contains("TRACE"), "{log}");
    shows_nothing(&log, "the log");
    files_show_nothing(data);
}
