//! Builds as beta9's gateway asks for them, through the real binary.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::layout::{Blob, Layout};
use crate::support::registry::Registry;
use crate::support::service::{Service, Settings};

/// The messages of a build, once it has ended: each is one line, one of them is `done`, the last.
async fn messages(service: &Service, build: &str) -> Vec<Value> {
    let path = format!("/v1/beta9/builds/{build}/logs?python_version=python3.11");
    let text = service.get_text(&path).await;
    assert!(text.ends_with('\n'));
    let messages: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let fields = ["image_id", "msg", "done", "success", "python_version", "warning"];
    for message in &messages {
        let found: BTreeSet<_> = message.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(fields.iter().all(|field| found.contains(field)), "{message}");
        let msg = message["msg"].as_str().unwrap();
        assert!(msg.is_empty() || msg.ends_with('\n') && msg.lines().count() == 1, "{msg:?}");
        assert_eq!(message["python_version"], "python3.11");
    }
    let done = messages.iter().filter(|message| message["done"] == true).count();
    assert_eq!((done, &messages.last().unwrap()["done"]), (1, &json!(true)), "{messages:#?}");
    messages
}

fn build(container: &str, source: &str) -> Value {
    json!({
        "container_id": container, "image_id": "", "cpu": 1000, "env": [], "mounts": null,
        "build_options": {"source_image": source, "dockerfile": null, "source_image_creds": ""},
    })
}

#[tokio::test]
async fn a_source_image_without_a_dockerfile_is_indexed() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let layers = [Blob::file("etc/hello", b"hello\n"), Blob::gzip(&[0; 1024])];
    let source = registry.push(Layout::of(&layers).path(), "some/image");
    let service = Service::start(Settings::default()).await;

    let wanted = json!({"existing_image_uri": source, "force_rebuild": false, "secrets": []});
    let (status, verdict) = service.post("/v1/beta9/verify", &wanted).await;
    assert_eq!((status, &verdict["valid"], &verdict["exists"]), (200, &json!(true), &json!(false)));

    let (status, made) = service.post("/v1/beta9/builds", &build("build-1a2b3c4d", &source)).await;
    assert_eq!((status, &made["image_id"]), (202, &verdict["image_id"]), "{made}");
    let told = messages(&service, "build-1a2b3c4d").await;
    let last = told.last().unwrap();
    assert_eq!((&last["success"], &last["exit_code"]), (&json!(true), &json!(0)), "{last}");
    assert_eq!(last["msg"], "Build completed successfully\n");
    assert!(told.iter().all(|message| message["image_id"] == verdict["image_id"]));
    let lines: String = told.iter().map(|message| message["msg"].as_str().unwrap()).collect();
    assert!(lines.contains("Indexing image: 2 layers"), "{lines}");

    // Sent once more it is the same build, and so is what its job's id names.
    let (status, again) = service.post("/v1/beta9/builds", &build("build-1a2b3c4d", &source)).await;
    assert_eq!((status, &again["id"]), (200, &made["id"]));
    let id = made["id"].as_str().unwrap();
    assert_eq!(messages(&service, id).await, told);
    let (_, shown) = service.get(&format!("/v1/beta9/builds/{id}")).await;
    assert_eq!(
        (&shown["done"], &shown["success"], &shown["exit_code"]),
        (&json!(true), &json!(true), &json!(0))
    );
    let (_, stopped) = service.post("/v1/beta9/builds/build-1a2b3c4d/stop", &json!({})).await;
    assert_eq!(stopped, shown, "what has ended stays as it is");

    assert_eq!(service.cat(made["image_id"].as_str().unwrap(), "/etc/hello"), b"hello\n");
    assert_eq!(service.post("/v1/beta9/verify", &wanted).await.1["exists"], true);
}

#[tokio::test]
async fn what_went_wrong_is_in_the_last_message() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let service = Service::start(Settings::default()).await;
    let source = format!("{}/not/there:1", registry.address);
    service.post("/v1/beta9/builds", &build("build-0", &source)).await;
    let told = messages(&service, "build-0").await;
    let last = told.last().unwrap();
    assert_eq!((&last["success"], &last["exit_code"]), (&json!(false), &json!(555)), "{last}");
    let said = last["msg"].as_str().unwrap();
    assert!(said.starts_with("Build failed: ") && said.contains("not/there"), "{said}");

    let login = json!({"build_options": {"source_image": source, "source_image_creds": "hunter2"}});
    let (status, problem) = service.post("/v1/beta9/builds", &login).await;
    assert_eq!(
        (status, &problem["errors"][0]["field"]),
        (422, &json!("build_options.source_image_creds"))
    );
    assert!(!problem.to_string().contains("hunter2"));
}

#[tokio::test]
async fn silence_is_broken_every_ten_seconds_and_a_stop_is_heard() {
    // Nobody works here: nothing happens.
    let service = Service::start(Settings::default().argument("role", "api")).await;
    service.post("/v1/beta9/builds", &build("build-slow", "registry.example/app:1")).await;
    let asked = Instant::now();
    let following = messages(&service, "build-slow");
    let stopping = async {
        tokio::time::sleep(Duration::from_secs(12)).await;
        for _ in 0..2 {
            let (status, _) = service.post("/v1/beta9/builds/build-slow/stop", &json!({})).await;
            assert_eq!(status, 200);
        }
    };
    let (told, ()) = tokio::join!(following, stopping);
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    assert!(told.iter().any(|message| message["msg"] == ""), "{told:#?}");
    assert_eq!(told.last().unwrap()["exit_code"], 560, "{told:#?}");
}

/// What becomes part of the builder's options, or of a row, is looked at before a job is made of it.
#[tokio::test]
async fn a_build_that_no_builder_should_see_is_refused() {
    let service = Service::start(Settings::default().argument("role", "api")).await;
    let good = json!({"dockerfile": "FROM scratch"});
    for (more, as_arguments, field, expected) in [
        (json!({"build_secrets": ["a,src=hunter2"]}), false, "build_secrets", "no id of a secret"),
        (json!({"build_secrets": ["LD_PRELOAD=hunter2"]}), true, "build_secrets", "builder itself"),
        (json!({"build_secrets": ["A=hunter2\u{0}"]}), false, "build_secrets", "has a NUL"),
        (json!({"dockerfile": "FROM scratch\u{0}"}), false, "dockerfile", "no NUL"),
        (
            json!({"source_image": "a b", "source_image_creds": "u:hunter2"}),
            false,
            "source_image",
            "reference",
        ),
        (
            json!({"source_image": "app", "source_image_creds": "hunter2"}),
            false,
            "source_image_creds",
            "expected",
        ),
    ] {
        let mut options = good.clone();
        options.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = json!({
            "image_id": "961eaef6668e480f", "build_options": options, "secrets_as_build_args": as_arguments,
        });
        let (status, problem) = service.post("/v1/beta9/builds", &body).await;
        let error = &problem["errors"][0];
        assert_eq!(
            (status, error["field"].as_str()),
            (422, Some(&*format!("build_options.{field}"))),
            "{problem}"
        );
        assert!(error["detail"].as_str().unwrap().contains(expected), "{problem}");
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
    }
}

/// Nobody works here: the build never starts.
#[tokio::test]
async fn a_stop_works_before_the_start() {
    let service = Service::start(Settings::default().argument("role", "api")).await;
    let body = build("build-early", "registry.example/app:1");
    assert_eq!(service.post("/v1/beta9/builds", &body).await.0, 202);
    for _ in 0..2 {
        let (status, stopped) = service.post("/v1/beta9/builds/build-early/stop", &json!({})).await;
        assert_eq!((status, &stopped["state"]), (200, &json!("cancelled")), "{stopped}");
        assert_eq!((&stopped["done"], &stopped["exit_code"]), (&json!(true), &json!(560)));
    }
    assert_eq!(messages(&service, "build-early").await.last().unwrap()["success"], false);
    let (status, _) = service.post("/v1/beta9/builds/build-never/stop", &json!({})).await;
    assert_eq!(status, 404);
}
