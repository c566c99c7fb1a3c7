//! Which version an image becomes, through the real service: what speaks against v2, the fallback to
//! v1 and its refusal, layers re-published in gzip; and that nothing of it is silent.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::bench::{Bench, IMAGE};
use crate::support::layout::{Blob, GZIP, Layout, TAR, noise, tar};
use crate::support::registry::Registry;
use crate::support::s3::S3Server;
use crate::support::service::{Service, Settings};
use crate::support::upstream::run;

impl Bench {
    /// The job of a forced pull with more fields than that, and the names of its events.
    async fn pull(&self, source: &str, more: &Value) -> (Value, Vec<Value>) {
        let mut body =
            json!({ "kind": "pull", "image_id": IMAGE, "source": source, "force": true });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let job = self.service.run(body).await;
        let events = self.service.events(job["id"].as_str().unwrap()).await;
        (job, events)
    }

    async fn counted(&self, line: &str) -> bool {
        let text = self.service.get_text("/metrics").await;
        text.lines().any(|found| found == line)
    }

    /// The image falls back to v1 for this reason, and is refused when nothing may be made instead.
    async fn falls_back(&self, layers: &[Blob], code: &str, words: &str) {
        let source = self.push(layers);
        self.becomes_v1(&source, code, words).await;
        self.is_refused(&source, code, words).await;
    }

    /// What was made and why is said in the result, by an event and by the archive itself.
    async fn becomes_v1(&self, source: &str, code: &str, words: &str) {
        let (job, events) = self.pull(source, &json!({})).await;
        assert_eq!(job["state"], "succeeded", "{job:#}");
        let version = &job["result"]["version"];
        assert_eq!(
            (&version["decided"], &version["produced"], &version["code"], &version["requested"]),
            (&json!(2), &json!(1), &json!(code), &Value::Null),
        );
        assert!(version["reason"].as_str().unwrap().contains(words), "{version}");
        assert_eq!(job["result"]["clip_version"], 1);
        let told: Vec<_> = events.iter().filter(|event| event["event"] == "fell_back").collect();
        assert_eq!(told.len(), 1, "{events:#?}");
        assert_eq!(&told[0]["data"], version);
        let inspected = run(Command::new(env!("CARGO_BIN_EXE_clipwright"))
            .args(["inspect", "--json"])
            .arg(self.service.archive(IMAGE)));
        let inspected: Value = serde_json::from_slice(&inspected).unwrap();
        assert_ne!(inspected["storage"]["type"], "oci", "{inspected:#}");
    }

    async fn is_refused(&self, source: &str, code: &str, words: &str) {
        let more = json!({ "fallback": "none", "clip_version": 2 });
        let (job, events) = self.pull(source, &more).await;
        assert_eq!((&job["state"], &job["error"]["code"]), (&json!("failed"), &json!(code)));
        let message = job["error"]["message"].as_str().unwrap();
        assert!(message.contains(words) && message.contains("`fallback: v1`"), "{message}");
        assert_eq!(job["error"]["transient"], false);
        assert!(events.iter().all(|event| event["event"] != "fell_back"), "{events:#?}");
    }
}

fn hello() -> Vec<u8> {
    tar(&[("etc/hello", b"hello\n"), ("noise", &noise(1, 200_000))])
}

#[tokio::test]
async fn layers_that_workers_cannot_read_fall_back() {
    let bench = Bench::new(Settings::default()).await;
    let zstd = Blob::zstd(&hello());
    let name = format!("layer {} is compressed with zstd", zstd.digest);
    bench.falls_back(&[Blob::gzip(&hello()), zstd], "layer_unsupported", &name).await;
    assert_eq!(bench.service.cat(IMAGE, "/rootfs/etc/hello"), b"hello\n");
    bench.falls_back(&[Blob::plain(&hello(), TAR)], "layer_unsupported", "is not compressed").await;
    // What they are, and not what they are called, counts.
    let lying = Blob::plain(&hello(), GZIP);
    bench.falls_back(&[lying], "layer_unsupported", "is not compressed").await;
    let lying = Blob { media_type: GZIP, ..Blob::zstd(&hello()) };
    bench.falls_back(&[lying], "layer_unsupported", "is compressed with zstd").await;

    let line =
        r#"clipwright_archives_total{produced="1",reason="layer_unsupported",requested="2"} 4"#;
    assert!(bench.counted(line).await);
    let line =
        r#"clipwright_job_attempts_total{kind="pull",outcome="failed",version="",workspace=""} 4"#;
    assert!(bench.counted(line).await);
}

#[tokio::test]
async fn other_reasons_to_fall_back() {
    let bench = Bench::new(Settings::default()).await;
    for name in ["rootfs/x", "config.json", "initial_config.json"] {
        let layer = Blob::gzip(&tar(&[(name, b"x")]));
        let top = format!("/{} at its top", name.trim_end_matches("/x"));
        bench.falls_back(&[layer], "misread_name", &top).await;
    }
    bench.falls_back(&[], "no_layers", "has no layers").await;
}

/// v2 can't point to a file of which the tar has pieces only; v1 has it whole.
#[tokio::test]
async fn sparse_files_fall_back() {
    let bench = Bench::new(Settings::default()).await;
    let file = std::fs::File::create(bench.dir.path().join("holes")).unwrap();
    file.set_len(1 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 500_000).unwrap();
    let tar = run(Command::new("tar")
        .args(["--create", "--sparse", "--directory"])
        .arg(bench.dir.path())
        .arg("holes"));
    bench.falls_back(&[Blob::gzip(&tar)], "layer_sparse", "/holes").await;
    let content = bench.service.cat(IMAGE, "/rootfs/holes");
    assert_eq!((content.len(), &content[500_000..500_006]), (1 << 20, &b"middle"[..]));
}

/// A tree whose index is more than workers accept, by long names alone.
#[tokio::test]
async fn archives_that_are_too_large_fall_back() {
    let long = "n".repeat(240);
    let long = [&long[..]; 16].join("/");
    let mut builder = tar::Builder::new(Vec::new());
    for n in 0..35_000 {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("{long}/{n}"), &b""[..]).unwrap();
    }
    let layer = Blob::gzip(&builder.into_inner().unwrap());
    let bench = Bench::new(Settings::default()).await;
    let source = bench.push(&[layer]);
    bench.becomes_v1(&source, "archive_too_large", "refuse more than 134217728").await;
}

#[tokio::test]
async fn layers_as_they_are_with_a_warning() {
    let bench = Bench::new(Settings::default()).await;
    let (zstd, plain) = (Blob::zstd(&hello()), Blob::plain(&tar(&[("b", b"b")]), TAR));
    let source = bench.push(&[zstd.clone(), plain]);
    let (job, events) = bench.pull(&source, &json!({ "layers": "as-is" })).await;
    let result = &job["result"];
    assert_eq!((&result["clip_version"], &result["version"]["produced"]), (&json!(2), &json!(2)));
    let named = zstd.digest.to_string();
    let warns = |text: &Value| text.as_str().unwrap().contains(&named);
    assert!(result["warnings"].as_array().unwrap().iter().any(warns), "{result:#}");
    let warning = |event: &&Value| event["event"] == "warning" && warns(&event["data"]["message"]);
    assert_eq!(events.iter().filter(warning).count(), 1, "{events:#?}");
    assert_eq!(bench.service.cat(IMAGE, "/etc/hello"), b"hello\n");
    assert_eq!(bench.service.cat(IMAGE, "/b"), b"b");
}

#[tokio::test]
async fn layers_are_published_again_in_gzip() {
    let bench = Bench::new(Settings::default()).await;
    let (gzip, zstd) = (Blob::gzip(&tar(&[("a", b"a")])), Blob::zstd(&hello()));
    let lying = Blob::plain(&tar(&[("c", b"c")]), GZIP);
    let source = bench.push(&[gzip.clone(), zstd.clone(), lying.clone()]);
    let ask = json!({ "layers": "gzip", "fallback": "none" });
    let (job, events) = bench.pull(&source, &ask).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let result = &job["result"];
    let reference = result["reference"].as_str().unwrap().to_owned();
    let home = format!("{}/beta9-users", bench.registry.address);
    assert!(reference.starts_with(&format!("{home}@sha256:")), "{reference}");
    let from = result["republished_from"].as_str().unwrap();
    assert!(from.starts_with(&format!("{}/images/source@", bench.registry.address)), "{from}");
    let told = events.iter().find(|event| event["event"] == "republished").unwrap();
    assert_eq!(told["data"]["layers"], 2);
    let version = json!({ "decided": 2, "decided_by": "settings", "produced": 2 });
    assert_eq!(result["version"], version);
    for (path, content) in [("/a", &b"a"[..]), ("/etc/hello", b"hello\n"), ("/c", b"c")] {
        assert_eq!(bench.service.cat(IMAGE, path), content, "{path}");
    }

    // The image under its tag: gzip all through, nothing else changed.
    let inspect = |what: &str, image: &str| -> Value {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["inspect", what, "--tls-verify=false"]).arg(format!("docker://{image}"));
        serde_json::from_slice(&run(&mut skopeo)).unwrap()
    };
    let tagged = format!("{home}:{IMAGE}");
    let (old, new) = (inspect("--raw", &source), inspect("--raw", &tagged));
    assert_eq!(old["config"], new["config"]);
    assert_eq!(inspect("--config", &source), inspect("--config", &tagged));
    let layers = new["layers"].as_array().unwrap();
    assert_eq!(layers[0], old["layers"][0]);
    for layer in layers {
        assert_eq!(layer["mediaType"], GZIP);
    }
    let diff_ids: Vec<_> =
        result["layers"].as_array().unwrap().iter().map(|layer| &layer["diff_id"]).collect();
    assert_eq!(json!(diff_ids), json!([gzip.diff_id, zstd.diff_id, lying.diff_id]));

    // The same image gives the same bytes, and again from another registry.
    let other = tempfile::tempdir().unwrap();
    let other = Registry::start(other.path());
    let layout = Layout::of(&[gzip, zstd, lying]);
    let elsewhere = other.push(layout.path(), "elsewhere");
    for source in [source, elsewhere] {
        let (job, _) = bench.pull(&source, &ask).await;
        assert_eq!(job["result"]["reference"], reference, "{job:#}");
    }
    let uploads = bench.dir.path().join("registry/docker/registry/v2/repositories/beta9-users");
    for upload in std::fs::read_dir(uploads.join("_uploads")).into_iter().flatten() {
        assert!(!upload.unwrap().path().join("data").exists(), "an upload was left behind");
    }
}

/// What keeps it from v2 may show only after its layers are gzip.
#[tokio::test]
async fn a_republished_image_may_yet_fall_back() {
    let bench = Bench::new(Settings::default()).await;
    let source = bench.push(&[Blob::zstd(&tar(&[("rootfs/x", b"x")]))]);
    let ask = json!({ "layers": "gzip", "fallback": "v1" });
    let (job, _) = bench.pull(&source, &ask).await;
    let result = &job["result"];
    assert_eq!(result["clip_version"], 1, "{job:#}");
    assert_eq!(result["version"]["code"], "misread_name");
    assert!(result["reference"].as_str().unwrap().contains("/beta9-users@"), "{result:#}");
    assert!(result["republished_from"].as_str().unwrap().contains("/images/source@"), "{result:#}");
}

#[tokio::test]
async fn an_image_that_is_gzip_is_not_published_again() {
    let bench = Bench::new(Settings::default()).await;
    let source = bench.push(&[Blob::gzip(&hello())]);
    let (job, _) = bench.pull(&source, &json!({ "layers": "gzip" })).await;
    let result = &job["result"];
    assert_eq!((&result["clip_version"], &result["republished_from"]), (&json!(2), &Value::Null));
    assert!(result["reference"].as_str().unwrap().contains("/images/source@"), "{result:#}");
}

#[tokio::test]
async fn a_build_registry_with_a_password() {
    let (dir, build_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (registry, build) =
        (Registry::start(dir.path()), Registry::with_password(build_dir.path()));
    let source = registry.push(Layout::of(&[Blob::zstd(&hello())]).path(), "image");
    let login = |password: &str| {
        json!({ "imageService": {
            "buildRegistry": build.address, "buildRepositoryName": "team/images",
            "buildRegistryCredentials": {
                "type": "basic", "credentials": { "USERNAME": "clipper", "PASSWORD": password } },
        } })
    };
    for (password, state) in [("correct horse", "succeeded"), ("wrong battery", "failed")] {
        let settings = Settings::default().env("CONFIG_JSON", &login(password).to_string());
        let service = Service::start(settings).await;
        let job = json!({ "kind": "pull", "image_id": IMAGE, "source": source, "layers": "gzip" });
        let job = service.run(job).await;
        assert_eq!(job["state"], state, "{job:#}");
        assert!(!job.to_string().contains(password), "{job}");
        if state == "failed" {
            assert_eq!(job["error"]["code"], "registry_unauthorized");
            assert!(service.stored().is_empty());
        } else {
            let reference = job["result"]["reference"].as_str().unwrap();
            assert!(reference.starts_with(&format!("{}/team/images@", build.address)));
        }
    }
}

#[tokio::test]
async fn a_build_registry_that_is_away() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let source = registry.push(Layout::of(&[Blob::zstd(&hello())]).path(), "image");
    let settings = Settings::default()
        .env("CLIPWRIGHT_BUILD_REGISTRY", "127.0.0.1:1")
        .argument("max-attempts", "1")
        .argument("retry-minutes", "0");
    let service = Service::start(settings).await;
    let job = json!({ "kind": "pull", "image_id": IMAGE, "source": source, "layers": "gzip" });
    let job = service.run(job).await;
    assert_eq!(job["error"]["code"], "registry_unavailable", "{job:#}");
    assert_eq!(job["error"]["transient"], true);
    assert!(service.stored().is_empty());
}

#[tokio::test]
async fn version_1_when_it_is_asked_for() {
    let bench = Bench::new(Settings::default()).await;
    let source = bench.push(&[Blob::gzip(&hello())]);
    let (job, events) = bench.pull(&source, &json!({ "clip_version": 1 })).await;
    let version = json!({ "requested": 1, "decided": 1, "decided_by": "request", "produced": 1 });
    assert_eq!((&job["result"]["version"], &job["result"]["clip_version"]), (&version, &json!(1)));
    assert!(events.iter().all(|event| event["event"] != "fell_back"), "{events:#?}");
    assert_eq!(bench.service.cat(IMAGE, "/rootfs/etc/hello"), b"hello\n");
    let line = r#"clipwright_archives_total{produced="1",reason="",requested="1"} 1"#;
    assert!(bench.counted(line).await);
    let mut third = json!({ "kind": "pull", "image_id": IMAGE, "source": source });
    third["clip_version"] = json!(3);
    let (status, problem) = bench.service.post("/v1/jobs", &third).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("clip_version")));
}

#[tokio::test]
async fn version_1_as_configured_and_in_s3() {
    let s3 = S3Server::start().await;
    let bench = Bench::new(Settings::default().argument("clip-version", "1").on_s3(&s3)).await;
    let source = bench.push(&[Blob::gzip(&hello())]);
    let job = bench.service.finished(&bench.service.pull(IMAGE, &source).await).await;
    assert_eq!(
        job["result"]["version"],
        json!({ "decided": 1, "decided_by": "settings", "produced": 1 }),
        "{job:#}"
    );
    assert_eq!(job["result"]["archive"]["key"], format!("{IMAGE}.rclip"));
}

/// Request before workspace before rollout before settings; and who rolls back is obeyed at once.
#[tokio::test]
async fn who_decides_is_said() {
    let bench = Bench::new(Settings::default().argument("clip-version", "0")).await;
    let service = &bench.service;
    let source = bench.push(&[Blob::gzip(&hello())]);
    let decided = async |more: Value| {
        let (job, _) = bench.pull(&source, &more).await;
        assert_eq!(job["state"], "succeeded", "{job:#}");
        let version = &job["result"]["version"];
        assert_eq!(version["decided"], version["produced"], "{version}");
        (version["decided"].clone(), version["decided_by"].clone(), version["rollout"].clone())
    };
    let nobody = Value::Null;
    assert_eq!(decided(json!({})).await, (json!(1), json!("default"), nobody.clone()));

    let body = json!({ "name": "pilot", "percent": 100, "workspaces": ["default"] });
    let (status, made) = service.post("/v1/rollouts", &body).await;
    assert_eq!((status, &made["state"], &made["salt"]), (201, &json!("active"), &json!("pilot")));
    assert_eq!(decided(json!({})).await, (json!(2), json!("rollout"), json!("pilot")));
    let (request, asked) = (json!({ "clip_version": 1 }), json!("request"));
    assert_eq!(decided(request).await, (json!(1), asked, nobody.clone()));

    let set = async |path: &str, body: Value| {
        let (status, now) = service.patch(path, &body).await;
        assert_eq!(status, 200, "{now:#}");
    };
    let back = json!({ "state": "rolled_back", "reason": "slow starts" });
    set("/v1/rollouts/pilot", back).await;
    assert_eq!(decided(json!({})).await, (json!(1), json!("rollout"), json!("pilot")));
    set("/v1/workspaces/default", json!({ "clip_version": 2 })).await;
    assert_eq!(decided(json!({})).await, (json!(2), json!("workspace"), nobody.clone()));
    set("/v1/workspaces/default", json!({ "clip_version": null })).await;
    let paused = json!({ "state": "paused" });
    let (status, refused) = service.patch("/v1/rollouts/pilot", &paused).await;
    assert_eq!((status, &refused["code"]), (409, &json!("rollout_rolled_back")));
    set("/v1/rollouts/pilot", json!({ "state": "active" })).await;
    set("/v1/rollouts/pilot", paused).await;
    assert_eq!(decided(json!({})).await, (json!(1), json!("default"), nobody));

    let (_, audit) = service.get("/v1/audit").await;
    let actions: Vec<_> =
        audit["events"].as_array().unwrap().iter().map(|e| &e["action"]).collect();
    assert_eq!(
        actions.iter().filter(|action| ***action == "rollout.change").count(),
        3,
        "{audit:#}"
    );
    assert!(audit["events"].as_array().unwrap().iter().all(|event| event["actor"] == "local"));
}

/// A workspace may say where its jobs pull from, and what becomes of images that v2 can't serve.
#[tokio::test]
async fn a_workspaces_settings_bind_its_jobs() {
    let bench = Bench::new(Settings::default()).await;
    let service = &bench.service;
    let source = bench.push(&[Blob::gzip(&hello())]);
    let allowed = json!({ "allowed_registries": ["docker.io", "registry.example"] });
    assert_eq!(service.patch("/v1/workspaces/default", &allowed).await.0, 200);
    let (job, _) = bench.pull(&source, &json!({})).await;
    assert_eq!(job["error"]["code"], "registry_not_allowed", "{job:#}");
    assert_eq!((&job["error"]["fault"], &job["attempt"]), (&json!("user"), &json!(1)));
    let host = source.split('/').next().unwrap();
    let allowed = json!({ "allowed_registries": [host], "fallback": "none" });
    assert_eq!(service.patch("/v1/workspaces/default", &allowed).await.0, 200);
    assert_eq!(bench.pull(&source, &json!({})).await.0["state"], "succeeded");
    let zstd = bench.push(&[Blob::zstd(&hello())]);
    let (job, _) = bench.pull(&zstd, &json!({})).await;
    assert_eq!(job["error"]["code"], "layer_unsupported", "{job:#}");
    let (job, _) = bench.pull(&zstd, &json!({ "fallback": "v1" })).await;
    assert_eq!(job["result"]["clip_version"], 1, "{job:#}");
}
