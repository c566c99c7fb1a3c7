//! The main job through the real binary, on its embedded defaults.

use serde_json::json;

use crate::support::layout::{Blob, Layout, noise, tar};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::s3::S3Server;
use crate::support::service::{Service, Settings};

fn layer(name: &str, content: &[u8]) -> Blob {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, content).unwrap();
    Blob::gzip(&builder.into_inner().unwrap())
}

#[tokio::test]
async fn a_pull_becomes_an_archive_that_files_are_read_from() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let layers = [layer("etc/hello", b"lower\n"), layer("etc/world", b"upper\n")];
    let source = registry.push(Layout::of(&layers).path(), "some/image");
    let service = Service::start(Settings::default().private_database()).await;
    assert_eq!(service.get("/readyz").await.0, 200);

    let job = service.pull("961eaef6668e480f", &source).await;
    let names: Vec<_> = service
        .events(&job)
        .await
        .iter()
        .filter(|event| event["event"] != "progress")
        .map(|event| {
            let phase = event["data"]["name"].as_str();
            phase.or(event["event"].as_str()).unwrap().to_owned()
        })
        .collect();
    let pull = ["resolve", "index", "resolved", "write", "publish"];
    assert_eq!(names, [&["queued", "started"][..], &pull, &["succeeded"]].concat());
    let job = service.finished(&job).await;
    let result = &job["result"];
    assert_eq!(result["image_id"], "961eaef6668e480f");
    assert_eq!(result["layers"].as_array().unwrap().len(), 2);
    assert_eq!((&result["files"], &result["nodes"]), (&json!(2), &json!(4)));
    assert_eq!(result["archive"]["key"], "961eaef6668e480f.clip");
    assert_eq!(service.stored(), ["961eaef6668e480f.clip"]);

    let (status, image) = service.get("/v1/images/961eaef6668e480f").await;
    assert_eq!(
        (status, &image["job_id"], &image["archive"]),
        (200, &job["id"], &result["archive"])
    );
    assert_eq!(service.get("/v1/images/0000000000000000").await.0, 404);

    let archive = service.archive("961eaef6668e480f");
    let clipwright = |arguments: &[&str]| {
        let (command, rest) = arguments.split_first().unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_clipwright"))
            .arg(command)
            .arg(&archive)
            .args(rest)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(clipwright(&["cat", "/etc/world"]), "upper\n");
    assert_eq!(clipwright(&["cat", "etc/../etc/hello"]), "lower\n");
    assert_eq!(clipwright(&["ls", "/etc"]).lines().count(), 2);
    let inspected: serde_json::Value =
        serde_json::from_str(&clipwright(&["inspect", "--json"])).unwrap();
    assert_eq!(inspected["storage"]["repository"], "some/image");
}

/// A layer and a tree pay for a MiB each, at the least: three for each of these images.
#[tokio::test]
async fn jobs_share_one_budget_of_memory() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let layers = [layer("lower", b"lower"), layer("upper", b"upper")];
    let source = registry.push(Layout::of(&layers).path(), "image");
    let settings = || Settings::default().argument("layer-cache-mib", "0");
    let service = Service::start(settings().argument("limit-memory-mib", "3")).await;
    let mut jobs = Vec::new();
    for id in 0..6 {
        jobs.push(service.pull(&format!("{id:016x}"), &source).await);
    }
    for job in jobs {
        let job = service.finished(&job).await;
        assert_eq!(job["state"], "succeeded", "whoever finds none left runs alone: {job:#}");
    }

    let service = Service::start(settings().argument("limit-memory-mib", "2")).await;
    let job = service.pull("961eaef6668e480f", &source).await;
    let job = service.finished_at_last(&job).await;
    assert_eq!(job["error"]["code"], "limit_memory", "{job:#}");
    assert_eq!(
        (&job["error"]["transient"], &job["error"]["fault"]),
        (&json!(false), &json!("user"))
    );
    assert_eq!(job["attempt"], 1);
    assert!(service.stored().is_empty());
}

#[tokio::test]
async fn after_a_kill_the_job_completes_once() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    registry.push(Layout::of(&[layer("f", &noise(0, 3 << 20))]).path(), "image");
    let mut service =
        Service::start(Settings::default().private_database().argument("lease-seconds", "1")).await;

    proxy.stall_after(1 << 20); // in the middle of the layer
    let job = service.pull("0123456789abcdef", &format!("{}/image:latest", proxy.address)).await;
    proxy.broke_something().await;
    service.crash_and_restart().await;

    let finished = service.finished(&job).await;
    assert_eq!(finished["state"], "succeeded", "{finished:#}");
    assert_eq!(finished["attempt"], 2, "{finished:#}");
    assert_eq!(service.stored(), ["0123456789abcdef.clip"]);
}

#[tokio::test]
async fn a_running_job_can_be_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    proxy.go_down();
    let service = Service::start(Settings::default().private_database()).await;
    let job = service.pull("0123456789abcdef", &format!("{}/image:latest", proxy.address)).await;
    proxy.broke_something().await;
    let (status, _) = service.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    assert!(status == 200 || status == 202, "{status}");
    assert_eq!(service.finished(&job).await["state"], "cancelled");
    assert!(service.stored().is_empty());
}

#[tokio::test]
async fn a_database_that_dies_mid_job_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    registry.push(Layout::of(&[layer("f", &noise(0, 3 << 20))]).path(), "image");
    let service = Service::start(Settings::default().private_database()).await;

    proxy.stall_after(1 << 20);
    let job = service.pull("0123456789abcdef", &format!("{}/image:latest", proxy.address)).await;
    proxy.broke_something().await;
    service.kill_database();
    proxy.cut_open_connections(); // the download goes on, and ends while there is no database
    let finished = service.finished_at_last(&job).await;
    assert_eq!(finished["state"], "succeeded", "{finished:#}");
    assert_eq!(service.stored(), ["0123456789abcdef.clip"]);
}

/// One ranged fetch of the spans that hold the file, each verified; the rest of the layer is not
/// asked for, and may be broken.
#[tokio::test]
async fn a_file_is_read_by_fetching_its_spans_alone() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    let parts: Vec<Vec<u8>> = (1..=6).map(|seed| noise(seed, 6 << 20)).collect();
    let small = noise(99, 10 << 10);
    let mut files: Vec<(&str, &[u8])> = ["p1", "p2", "p3", "p4", "p5", "p6"]
        .into_iter()
        .zip(parts.iter().map(|p| &p[..]))
        .collect();
    files.insert(4, ("small", &small));
    let layer = Blob::gzip(&tar(&files));
    registry.push(Layout::of(std::slice::from_ref(&layer)).path(), "big");
    let archive = dir.path().join("big.clip");
    let clipwright = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_clipwright"));
        command.args(arguments).output().await.unwrap()
    };
    let path = archive.to_str().unwrap();
    let reference = format!("{}/big:latest", proxy.address);
    let output = clipwright(&["index", "--no-cache", &reference, "-o", path]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let before = proxy.passed();
    let output = clipwright(&["cat", path, "/small"]).await;
    assert!(output.stdout == small, "{}", String::from_utf8_lossy(&output.stderr));
    let fetched = proxy.passed() - before;
    assert!(fetched < 9 << 20, "{fetched} bytes for a small file in a layer of 36 MiB");
    for (name, content) in &files {
        let output = clipwright(&["cat", path, name]).await;
        assert!(output.stdout == *content, "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }

    // A byte of the last file flips in the registry.
    let blob = registry.blob(layer.digest);
    let mut bytes = std::fs::read(&blob).unwrap();
    let at = bytes.len() - (1 << 20);
    bytes[at] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    assert!(clipwright(&["cat", path, "/small"]).await.stdout == small);
    let output = clipwright(&["cat", path, "/p6"]).await;
    assert!(output.stdout.is_empty() && !output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    let place = format!("layer {} span ", layer.digest);
    assert!(error.contains(&place) && error.contains("expected digest"), "{error}");
}

/// Where others submit jobs, what only the service can reach is not theirs to look at.
#[tokio::test]
async fn jobs_reach_no_private_address_unless_told() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let reference = registry.push(Layout::of(&[layer("a", b"x")]).path(), "app");
    let settings = Settings::default().env("CLIPWRIGHT_PRIVATE_ADDRESSES", "false");
    let service = Service::start(settings).await;
    // Whether somebody is there or not, the answer is the same.
    let mut told = Vec::new();
    for source in [reference.as_str(), "127.0.0.1:1/app:latest", "169.254.169.254/app:latest"] {
        let job = service.pull("0123456789abcdef", source).await;
        let error = service.finished(&job).await["error"].take();
        assert_eq!(
            (&error["code"], &error["transient"]),
            (&json!("address_refused"), &json!(false))
        );
        let message = error["message"].as_str().unwrap().to_owned();
        let host = source.split(['/', ':']).next().unwrap();
        told.push(
            message.replace(source.trim_end_matches(":latest"), "IMAGE").replace(host, "HOST"),
        );
    }
    assert!(told.iter().all(|message| *message == told[0]), "{told:#?}");
    // The operator's own registry is another thing.
    let settings = Settings::default()
        .env("CLIPWRIGHT_PRIVATE_ADDRESSES", "false")
        .env("CLIPWRIGHT_BUILD_REGISTRY", &registry.address);
    let service = Service::start(settings).await;
    let job = service.pull("0123456789abcdef", &reference).await;
    assert_eq!(service.finished(&job).await["state"], "succeeded");
}

/// One process serves the API, another works: a job waits until there is a worker.
#[tokio::test]
async fn a_process_does_what_its_role_says() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let source = registry.push(Layout::of(&[layer("f", b"content")]).path(), "image");
    let s3 = S3Server::start().await;
    let api = Service::start(Settings::default().argument("role", "api").on_s3(&s3)).await;
    let job = api.pull("961eaef6668e480f", &source).await;

    let settings = Settings::default().argument("role", "worker").on_s3(&s3);
    let worker = Service::start(settings.beside(&api)).await;
    assert_eq!(api.finished(&job).await["state"], "succeeded");
    assert_eq!(worker.get("/readyz").await.0, 200);
    for path in ["/v1/jobs", "/docs", "/openapi.json"] {
        let (status, problem) = worker.get(path).await;
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{path}");
    }
    assert!(worker.get_text("/metrics").await.contains("clipwright_job_attempts_total"));
    let asked = r#"clipwright_store_requests_total{operation="put",outcome="ok"}"#;
    assert!(
        worker.get_text("/metrics").await.contains(asked),
        "what the store is asked is counted"
    );
}
