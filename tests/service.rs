//! The main job through the real binary, on its embedded defaults.

use serde_json::json;

use crate::support::layout::{Blob, Layout};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
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
    let service = Service::start(Settings::default()).await;
    assert_eq!(service.get("/readyz").await.0, 200);

    let job = service.pull("961eaef6668e480f", &source).await;
    let names: Vec<_> = service
        .events(&job)
        .await
        .iter()
        .map(|event| event["event"].as_str().unwrap().to_owned())
        .filter(|name| name != "progress")
        .collect();
    assert_eq!(names, ["queued", "started", "resolved", "succeeded"]);
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

#[tokio::test]
async fn after_a_kill_the_job_completes_once() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    registry.push(Layout::of(&[layer("f", &[7; 1000])]).path(), "image");
    let mut service = Service::start(Settings::default().argument("lease-seconds", "1")).await;

    proxy.go_down(); // so that the job is under way for as long as it takes
    let job = service.pull("0123456789abcdef", &format!("{}/image:latest", proxy.address)).await;
    service.wait_for_event(&job, "started").await;
    proxy.broke_something().await;
    service.crash_and_restart().await;
    proxy.come_up();

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
    let service = Service::start(Settings::default()).await;
    let job = service.pull("0123456789abcdef", &format!("{}/image:latest", proxy.address)).await;
    proxy.broke_something().await;
    let (status, _) = service.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    assert!(status == 200 || status == 202, "{status}");
    assert_eq!(service.finished(&job).await["state"], "cancelled");
    assert!(service.stored().is_empty());
}
