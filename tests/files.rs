//! What is in images, read through the service, and the end of images.

use serde_json::{Value, json};
use tar::EntryType::{Directory, Regular, Symlink};

use crate::support::layout::{Blob, Layout, noise};
use crate::support::registry::Registry;
use crate::support::s3::S3Server;
use crate::support::service::{Service, Settings};

const IMAGE: &str = "961eaef6668e480f";

/// A directory, files, links, and a name that is no UTF-8.
fn layers(large: &[u8]) -> [Blob; 2] {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, name: &[u8], target: &str, content: &[u8], mode: u32| {
        let mut header = tar::Header::new_gnu();
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_mtime(1_700_000_000);
        if !target.is_empty() {
            header.set_link_name(target).unwrap();
        }
        header.set_cksum();
        tar.append(&header, content).unwrap();
    };
    add(Directory, b"etc", "", b"", 0o755);
    add(Regular, b"etc/hello", "", b"hello\n", 0o4755);
    add(Symlink, b"etc/link", "hello", b"", 0o777);
    add(Symlink, b"conf", "etc", b"", 0o777);
    add(Regular, b"etc/\xff", "", b"odd", 0o644);
    add(Regular, b"etc/empty", "", b"", 0o644);
    add(Regular, b"large", "", large, 0o644);
    [Blob::gzip(&tar.into_inner().unwrap()), Blob::file("etc/world", b"upper\n")]
}

struct Answer {
    status: u16,
    headers: reqwest::header::HeaderMap,
    body: Vec<u8>,
}

async fn content(service: &Service, query: &str, headers: &[(&str, &str)]) -> Answer {
    let url = format!("{}/v1/images/{IMAGE}/files/content?{query}", service.url);
    let mut request = reqwest::Client::builder().no_proxy().build().unwrap().get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    Answer { status, headers, body: answer.bytes().await.unwrap().to_vec() }
}

async fn list(service: &Service, query: &str) -> Value {
    let (status, page) = service.get(&format!("/v1/images/{IMAGE}/files?{query}")).await;
    assert_eq!(status, 200, "{page}");
    page
}

fn names(page: &Value) -> Vec<&str> {
    page["entries"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect()
}

async fn tree_and_bytes_are_there(service: &Service, version: u8, large: &[u8]) {
    let top = list(service, "").await;
    assert_eq!((&top["entry"]["type"], &top["entry"]["path"]), (&json!("dir"), &json!("/")));
    // In v1 archives the image's files are below a directory of their own.
    let root = if version == 1 { "/rootfs" } else { "" };
    assert_eq!(names(&top).contains(&"/rootfs"), version == 1, "{top}");
    let below = |names: &[&str]| -> Vec<String> {
        names.iter().map(|name| format!("{root}{name}")).collect()
    };
    let whole = list(service, &format!("path={root}/")).await;
    assert_eq!(names(&whole), below(&["/conf", "/etc", "/large"]));
    let etc = list(service, &format!("path={root}/conf/")).await;
    assert_eq!(etc["entry"]["target"], "etc", "a link that is asked for itself is shown");
    let etc = list(service, &format!("path={}", &format!("{root}/etc")[1..])).await;
    let expected = ["/etc/empty", "/etc/hello", "/etc/link", "/etc/world", "/etc/\u{fffd}"];
    assert_eq!(names(&etc), below(&expected));
    let odd = hex::encode([root.as_bytes(), b"/etc/\xff"].concat());
    assert_eq!(etc["entries"][4]["path_hex"], odd);
    let hello = list(service, &format!("path={root}/conf/hello")).await;
    let entry = &hello["entry"];
    assert!(hello.get("entries").is_none());
    assert_eq!(
        (&entry["mode"], &entry["size"], &entry["mtime"], &entry["path"]),
        (
            &json!("4755"),
            &json!(6),
            &json!("2023-11-14T22:13:20Z"),
            &json!(format!("{root}/etc/hello"))
        )
    );
    let layer = entry["layer"].as_str().unwrap_or_default().starts_with("sha256:");
    let digest = entry["digest"].as_str().unwrap_or_default().starts_with("sha256:");
    assert_eq!((layer, digest), (version == 2, version == 1), "{entry}");

    // The largest first, a directory before what is in it; what has two names is counted once.
    let usage = format!("/v1/images/{IMAGE}/files/usage?path={root}/&depth=2");
    let (_, usage) = service.get(&usage).await;
    assert_eq!(
        (&usage["bytes"], &usage["files"]),
        (&json!(large.len() + 15), &json!(5)),
        "{usage}"
    );
    assert_eq!(usage["entries"][0]["path"], format!("{root}/large"));
    assert_eq!(usage["entries"][1]["path"], format!("{root}/etc"));
    assert_eq!(usage["layers"].as_array().unwrap().len(), if version == 2 { 2 } else { 0 });
    let (status, problem) = service.get(&format!("/v1/images/{IMAGE}/files/usage?depth=9")).await;
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_parameter")), "{problem}");

    // Page by page it is the same.
    let (mut after, mut walked) = (String::new(), Vec::new());
    loop {
        let page = list(service, &format!("path={root}/etc&limit=2{after}")).await;
        walked.extend(page["entries"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(Value::Array(walked), etc["entries"]);

    let hello = content(service, &format!("path={root}/conf/link"), &[]).await;
    assert_eq!((hello.status, hello.body.as_slice()), (200, &b"hello\n"[..]));
    let header = |name: &str| hello.headers[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "application/octet-stream");
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("content-disposition"), "attachment; filename=\"hello\"");
    let etag = header("etag");
    let again =
        content(service, &format!("path={root}/etc/hello"), &[("if-none-match", &etag)]).await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(content(service, &format!("path_hex={odd}"), &[]).await.body, b"odd");
    assert_eq!(content(service, &format!("path={root}/etc/empty"), &[]).await.body, b"");
    assert_eq!(content(service, &format!("path={root}/etc/world"), &[]).await.body, b"upper\n");

    assert!(content(service, &format!("path={root}/large"), &[]).await.body == large);
    let end = large.len() - 1000;
    for (range, first, last) in [
        ("bytes=5000000-5000009".to_owned(), 5_000_000, 5_000_010),
        (format!("bytes={end}-"), end, large.len()),
        ("bytes=-7".to_owned(), large.len() - 7, large.len()),
    ] {
        let part = content(service, &format!("path={root}/large"), &[("range", &range)]).await;
        assert_eq!(part.status, 206, "{range}");
        assert!(part.body == large[first..last], "{range}");
        let told = format!("bytes {first}-{}/{}", last - 1, large.len());
        assert_eq!(part.headers["content-range"], told.as_str());
    }
    let past =
        content(service, &format!("path={root}/large"), &[("range", "bytes=99999999-")]).await;
    assert_eq!(past.status, 416);
    for (query, status, code) in [
        ("path=/none", 404, "file_not_found"),
        ("path=/", 422, "not_a_file"),
        ("path_hex=0", 400, "invalid_parameter"),
        ("path_hex=AA", 400, "invalid_parameter"),
    ] {
        let answer = content(service, query, &[]).await;
        let problem: Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!((answer.status, &problem["code"]), (status, &json!(code)), "{query}");
    }
}

async fn made(service: &Service, source: &str, version: u8) -> Value {
    let job = json!({
        "kind": "pull", "image_id": IMAGE, "source": source, "clip_version": version,
    });
    let job = service.run(job).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert_eq!(job["result"]["clip_version"], version);
    job
}

async fn delete(service: &Service) -> u16 {
    let url = format!("{}/v1/images/{IMAGE}", service.url);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    client.delete(url).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn files_are_read_through_archives_of_both_versions() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let large = noise(7, 9 << 20);
    let source = registry.push(Layout::of(&layers(&large)).path(), "image");
    let service = Service::start(Settings::default()).await;
    for version in [2, 1] {
        let job = made(&service, &source, version).await;
        tree_and_bytes_are_there(&service, version, &large).await;
        let (_, image) = service.get(&format!("/v1/images/{IMAGE}")).await;
        assert_eq!(image["layers"].as_array().unwrap().len(), 2);
        assert_eq!(image["timing"]["queued_at"], job["created_at"]);
        let [waited, total] =
            ["waited_seconds", "total_seconds"].map(|name| image["timing"][name].as_f64().unwrap());
        assert!(0.0 <= waited && waited <= total, "{image}");
        assert_eq!(delete(&service).await, 204);
        assert!(service.stored().is_empty(), "{:?}", service.stored());
        assert_eq!(service.get(&format!("/v1/images/{IMAGE}")).await.0, 404);
        assert_eq!(delete(&service).await, 404);
    }
    // Who did it is written down, and the id is free for others.
    let (_, audit) = service.get("/v1/audit").await;
    let events = audit["events"].as_array().unwrap();
    assert_eq!(events.iter().filter(|event| event["action"] == "image.delete").count(), 2);
    assert_eq!(
        (&events[0]["subject"], &events[0]["workspace"]),
        (&json!(IMAGE), &json!("default"))
    );
}

#[tokio::test]
async fn an_image_in_s3_goes_with_its_data() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let large = noise(7, 6 << 20);
    let source = registry.push(Layout::of(&layers(&large)).path(), "image");
    let s3 = S3Server::start().await;
    let service = Service::start(Settings::default().on_s3(&s3)).await;
    made(&service, &source, 2).await;
    tree_and_bytes_are_there(&service, 2, &large).await;
    let job = service.run(json!({"kind": "migrate", "image_id": IMAGE, "to": 1})).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    tree_and_bytes_are_there(&service, 1, &large).await;
    let of_image =
        || -> Vec<_> { s3.objects().into_iter().filter(|key| key.contains(IMAGE)).collect() };
    let kept = || std::fs::read_dir(s3.object_path("kept")).map_or(0, Iterator::count);
    assert_eq!((of_image().len(), kept()), (2, 1), "index and data, and what was before");
    assert_eq!(delete(&service).await, 204);
    assert_eq!((of_image(), kept()), (Vec::new(), 0));
}

#[tokio::test]
async fn an_image_that_is_worked_on_stays() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let source = registry.push(Layout::of(&layers(b"small")).path(), "image");
    let service = Service::start(Settings::default()).await;
    made(&service, &source, 2).await;
    let proxy = crate::support::proxy::Proxy::start(&registry.address).await;
    proxy.go_down();
    let job = service.pull(IMAGE, &format!("{}/image:latest", proxy.address)).await;
    assert_eq!(delete(&service).await, 409);
    assert_eq!(service.get(&format!("/v1/images/{IMAGE}")).await.0, 200);
    service.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    service.finished(&job).await;
    assert_eq!(delete(&service).await, 204);
    assert!(service.stored().is_empty());
}

#[tokio::test]
async fn the_command_line_reads_and_deletes_images() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let large = noise(7, 5 << 20);
    let source = registry.push(Layout::of(&layers(&large)).path(), "image");
    let service = Service::start(Settings::default()).await;
    made(&service, &source, 2).await;
    let url = service.url.clone();
    let clipwright = move |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_clipwright"));
        command.args(["images", "--server", &url]).args(arguments);
        for name in ["CLIPWRIGHT_TOKEN", "CLIPWRIGHT_TOKEN_FILE", "CLIPWRIGHT_WORKSPACE"] {
            command.env_remove(name);
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), output.stdout, said)
    };
    tokio::task::spawn_blocking(move || {
        assert!(clipwright(&["cat", IMAGE, "/large"]).1 == large);
        let (_, listed, _) = clipwright(&["ls", IMAGE, "/etc"]);
        let listed = String::from_utf8(listed).unwrap();
        assert_eq!(listed.lines().count(), 5, "{listed}");
        assert!(listed.contains("symlink 0777"), "{listed}");
        assert!(listed.contains("/etc/link -> hello"), "{listed}");
        let (_, json, _) = clipwright(&["--json", "ls", IMAGE, "/etc/hello"]);
        let entry: Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(entry["size"], 6);
        let (ok, _, said) = clipwright(&["cat", IMAGE, "/none"]);
        assert!(!ok && said.contains("404"), "{said}");
        assert!(clipwright(&["rm", IMAGE]).0);
        let (ok, _, said) = clipwright(&["show", IMAGE]);
        assert!(!ok && said.contains("there is no archive"), "{said}");
    })
    .await
    .unwrap();
}
