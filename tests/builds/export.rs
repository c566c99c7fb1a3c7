//! What becomes of an image after its last `RUN`: out of the builder's storage, into the registry, once.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::harness::{Yard, build, until};
use crate::support::proxy::Proxy;
use crate::support::service::Settings;

const IMAGE: &str = "961eaef6668e4820";
const OTHER: &str = "961eaef6668e4821";
/// Two layers of which one has several members of gzip.
const TWO_LAYERS: &str = "RUN head -c 20000000 /dev/urandom > /noise\nRUN echo two > /two\n";

fn digests(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().unwrap().iter();
    layers.map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

/// Requests by which content goes to the registry, and manifests aside.
fn sent(requests: &[String]) -> Vec<&String> {
    let is_sent = |line: &&String| {
        let method = ["POST /v2/", "PATCH /v2/", "PUT /v2/"].iter().any(|m| line.starts_with(m));
        method && !line.contains("/manifests/")
    };
    requests.iter().filter(is_sent).collect()
}

fn fetches(proxy: &Proxy, layer: &str) -> usize {
    proxy.fetches(layer.parse().unwrap())
}

// The proxy goes on while a program is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_layers_go_up_once_and_what_is_there_not_at_all() {
    let (yard, proxy) = Yard::behind_a_proxy(Settings::default()).await;
    let first = yard.build(IMAGE, TWO_LAYERS).await;
    assert_eq!(first["state"], "succeeded", "{first:#}");
    let manifest = yard.manifest(&first);
    let layers = digests(&manifest);
    let base = first["result"]["build"]["bases"][0]["manifest_digest"].as_str().unwrap();
    assert_eq!(layers.len(), 3);
    assert_eq!(layers[..1], digests(&yard.json(base)), "the base's layer is the base's own");
    let requests = proxy.requests();
    let mounts = requests
        .iter()
        .filter(|line| line.contains(&format!("mount={}", layers[0].replace(':', "%3A"))));
    assert_eq!(mounts.count(), 1, "{requests:#?}");
    // The base's layer is read once, for the builder and for the index; the new ones by nobody.
    let read: Vec<_> = layers.iter().map(|layer| fetches(&proxy, layer)).collect();
    assert_eq!(read[1..], [0, 0]);
    assert!(read[0] >= 1);
    let ends: BTreeSet<_> =
        sent(&requests).into_iter().filter(|line| line.starts_with("PUT ")).collect();
    assert_eq!(
        ends.len(),
        5,
        "two layers, a config, how it came to be, and its empty config: {ends:#?}"
    );

    // The tag comes last, after the manifest was read by its digest.
    let digest = first["result"]["manifest_digest"].as_str().unwrap();
    let at = |wanted: String| requests.iter().position(|line| line.starts_with(&wanted)).unwrap();
    let order = [
        format!("PUT /v2/beta9-users/manifests/{digest}"),
        format!("GET /v2/beta9-users/manifests/{digest}"),
        format!("PUT /v2/beta9-users/manifests/{IMAGE}"),
    ];
    let order = order.map(at);
    assert!(order.is_sorted(), "{order:?}: {requests:#?}");

    let before = requests.len();
    let again = yard.build(OTHER, TWO_LAYERS).await;
    assert_eq!(again["result"]["manifest_digest"], first["result"]["manifest_digest"]);
    let since = &proxy.requests()[before..];
    assert_eq!(sent(since), Vec::<&String>::new());
    let now: Vec<_> = layers.iter().map(|layer| fetches(&proxy, layer)).collect();
    assert_eq!(now, read, "no layer is read again");
    for image in [IMAGE, OTHER] {
        assert_eq!(yard.service.cat(image, "/two"), b"two\n");
        let archive = yard.service.archive(image);
        let archive = archive.to_str().unwrap();
        let (ok, out, err) = super::harness::clipwright(&["verify", "--deep", archive], &[]);
        assert!(ok, "what was indexed on the way is what is in the registry: {out}{err}");
    }
    assert_eq!((yard.left(), yard.uploads()), (Vec::new(), 0));
}

#[tokio::test]
async fn nothing_is_written_to_disk_after_the_last_run() {
    const LAYER: u64 = 32 << 20;
    let settings = Settings::default().argument("build-network", "host");
    let (yard, proxy) = Yard::behind_a_proxy(settings).await;
    let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rest = format!(
        "RUN head -c {LAYER} /dev/urandom > /noise; wget -q -O /dev/null http://{}/\n",
        gate.local_addr().unwrap()
    );
    let job = yard.service.submit(build(IMAGE, &yard.on_base(&rest))).await;
    let (mut last, _) = gate.accept().await.unwrap();
    // From the end of the build on nothing gets through to the registry, until the count is taken.
    proxy.fall_silent();
    let _ = last.read(&mut [0; 1024]).await.unwrap();
    last.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    drop(last);
    proxy.held_back(1).await;
    let before = yard.service.written();
    proxy.speak();
    let job = yard.service.finished(&job).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let size = yard.manifest(&job)["layers"][1]["size"].as_u64().unwrap();
    assert!(size > LAYER, "it is noise");
    let written = yard.service.written() - before;
    assert!(written < size / 10, "{written} bytes were written for a layer of {size}");
    assert!(before > LAYER, "the kernel counts what is written: {before}");
}

#[tokio::test]
async fn the_same_content_is_the_same_image() {
    let yard = Yard::start().await;
    let rest = "RUN mkdir -p /a/b; echo text > /a/b/file; ln /a/b/file /a/hard\nENV A=b\n";
    let run = async |image: &str, epoch: Option<&str>| {
        let mut body = build(image, &yard.on_base(rest));
        body["no_cache"] = json!(true);
        if let Some(epoch) = epoch {
            body["build_args"] = json!({"SOURCE_DATE_EPOCH": epoch});
        }
        yard.service.run(body).await
    };
    let one = run(IMAGE, Some("1700000000")).await;
    let two = run(OTHER, Some("1700000000")).await;
    assert_eq!(one["state"], "succeeded", "{one:#}");
    assert_eq!(one["result"]["build"]["cached_steps"], 0, "each was built: {one:#}");
    assert_eq!(two["result"]["build"]["cached_steps"], 0, "each was built: {two:#}");
    assert_eq!(one["result"]["manifest_digest"], two["result"]["manifest_digest"]);
    let config = yard.json(yard.manifest(&one)["config"]["digest"].as_str().unwrap());
    assert_eq!(config["created"], "2023-11-14T22:13:20Z");
    assert!(config.get("container").is_none() && config.get("container_config").is_none());
    let late = run("961eaef6668e4822", None).await;
    assert_ne!(late["result"]["manifest_digest"], one["result"]["manifest_digest"]);
    let wrong = run("961eaef6668e4823", Some("yesterday")).await;
    assert_eq!(wrong["error"]["code"], "invalid_source_date_epoch", "{wrong:#}");
}

/// The registry takes the layers, and then refuses the manifest.
#[tokio::test]
async fn a_push_that_is_refused_half_way_leaves_no_tag_and_no_archive() {
    let settings = Settings::default().argument("max-attempts", "1").argument("retry-minutes", "0");
    let yard = Yard::with(settings).await;
    let obstacle = yard.images().join("_manifests");
    std::fs::create_dir_all(yard.images()).unwrap();
    std::fs::write(&obstacle, "no directory").unwrap();
    let job = yard.build(IMAGE, TWO_LAYERS).await;
    assert_eq!(job["state"], "failed", "{job:#}");
    let error = &job["error"];
    assert!(error["message"].as_str().unwrap().contains("manifest"), "{error}");
    assert_eq!(yard.service.stored(), Vec::<String>::new());
    assert_eq!((yard.left(), yard.uploads()), (Vec::new(), 0));

    // What had arrived is not sent again when it is willing.
    std::fs::remove_file(&obstacle).unwrap();
    let job = yard.build(OTHER, TWO_LAYERS).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let tags = yard.images().join("_manifests/tags");
    let tags = std::fs::read_dir(tags).unwrap().map(|tag| tag.unwrap().file_name());
    let tags: Vec<_> = tags.map(|tag| tag.into_string().unwrap()).collect();
    // And what refers to the image.
    let images: Vec<_> = tags.iter().filter(|tag| !tag.starts_with("sha256-")).collect();
    assert_eq!(images, [OTHER], "{tags:?}");
}

/// The image is there and pinned, but its tag can't be put: the next attempt builds nothing.
#[tokio::test]
async fn an_attempt_goes_on_with_the_image_that_the_one_before_has_pushed() {
    let yard = Yard::start().await;
    let tags = yard.images().join("_manifests/tags");
    std::fs::create_dir_all(&tags).unwrap();
    let obstacle = tags.join(IMAGE);
    std::fs::write(&obstacle, "no directory").unwrap();
    let job = yard.service.submit(build(IMAGE, &yard.on_base(TWO_LAYERS))).await;
    let path = format!("/v1/jobs/{job}");
    until("the first attempt fails", async || {
        let (_, job) = yard.service.get(&path).await;
        job["error"].is_object()
    })
    .await;
    std::fs::remove_file(&obstacle).unwrap();
    let job = yard.service.finished(&job).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let made = &job["result"]["build"];
    assert!(job["attempt"].as_i64().unwrap() > 1, "{job:#}");
    assert_eq!(made["steps"], json!([]), "it has built nothing: {job:#}");
    // What it tells of the one before it has from what that has put beside the image.
    assert_eq!(made["backend"]["name"], "buildah");
    assert_eq!(made["bases"][0]["name"], yard.base);
    let (_, said) = yard.service.get(&format!("{path}/provenance")).await;
    let metadata = &said["predicate"]["runDetails"]["metadata"];
    assert_eq!(metadata["invocationId"], job["id"], "{said:#}");
    assert!(obstacle.join("current/link").exists(), "the tag is there");
    assert_eq!(yard.service.cat(IMAGE, "/two"), b"two\n");
}

#[tokio::test]
async fn what_cant_be_v2_is_packed_from_where_it_was_pushed() {
    let yard = Yard::start().await;
    let rest = "RUN mkdir /rootfs; echo there > /rootfs/file\n";
    let job = yard.build(IMAGE, rest).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let result = &job["result"];
    assert_eq!((&result["clip_version"], &result["version"]["decided"]), (&json!(1), &json!(2)));
    assert!(result["build"]["reference"].is_string(), "{result:#}");
    assert_eq!(yard.service.cat(IMAGE, "/rootfs/rootfs/file"), b"there\n");

    let mut body = build(OTHER, &yard.on_base(TWO_LAYERS));
    body["clip_version"] = json!(1);
    body["build_args"] = json!({"SOURCE_DATE_EPOCH": "1700000000"});
    let job = yard.service.run(body).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert_eq!(yard.service.cat(OTHER, "/rootfs/two"), b"two\n");
    assert_eq!(yard.left(), Vec::<String>::new());
}
