//! Bad input and broken neighbours: the job fails with one true sentence, or is tried again and
//! succeeds where that is right; nothing half-written stays in the store; the queue goes on.

use serde_json::{Value, json};

use crate::support::bench::{Bench, IMAGE};
use crate::support::layout::{Blob, GZIP, Layout, noise, tar};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::s3::S3Server;
use crate::support::service::{Service, Settings};

fn good_layer() -> Blob {
    Blob::gzip(&tar(&[("etc/hello", b"hello\n")]))
}

impl Bench {
    /// The error of a pull that must fail; the service must be able to do the next one.
    async fn refused(&self, body: Value) -> Value {
        let job = self.service.run(body).await;
        assert_eq!(job["state"], "failed", "{job:#}");
        assert!(self.service.stored().is_empty(), "{:?}", self.service.stored());
        let next = self.service.pull("00000000000000aa", &self.push(&[good_layer()])).await;
        assert_eq!(self.service.finished(&next).await["state"], "succeeded");
        std::fs::remove_file(self.service.archive("00000000000000aa")).unwrap();
        job["error"].clone()
    }

    async fn refused_layers(&self, layers: &[Blob]) -> Value {
        self.refused(pull(&self.push(layers))).await
    }
}

fn pull(source: &str) -> Value {
    json!({ "kind": "pull", "image_id": IMAGE, "source": source })
}

fn says(error: &Value, code: &str, words: &str) {
    assert_eq!(error["code"], code, "{error:#}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(words), "{message:?} does not say {words:?}");
    assert!(!message.contains('\n'), "{message:?} is more than one sentence");
}

#[tokio::test]
async fn images_that_cannot_be_had() {
    let bench = Bench::new(Settings::default()).await;
    let address = &bench.registry.address;
    let error = bench.refused(pull(&format!("{address}/no/such:tag"))).await;
    says(&error, "image_not_found", "no/such:tag was not found");
    assert_eq!(error["fault"], "user");

    let source = bench.push(&[good_layer()]);
    let mut body = pull(&source);
    body["platform"] = json!("linux/s390x");
    says(&bench.refused(body).await, "no_such_platform", "linux/s390x");

    let mut body = pull(&source);
    body["source"] = json!("not a reference");
    let (status, problem) = bench.service.post("/v1/jobs", &body).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("source")), "{problem:#}");
}

#[tokio::test]
async fn credentials_that_are_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::with_password(dir.path());
    let source =
        registry.push_as(Layout::of(&[good_layer()]).path(), "private", "clipper:correct horse");
    let service = Service::start(Settings::default()).await;
    for (credentials, expected) in [
        (json!("clipper:wrong"), "failed"),
        (Value::Null, "failed"),
        (json!("clipper:correct horse"), "succeeded"),
        (json!({ "USERNAME": "clipper", "PASSWORD": "correct horse" }), "succeeded"),
    ] {
        let mut body = pull(&source);
        if !credentials.is_null() {
            body["credentials"] = credentials.clone();
        }
        let job = service.run(body).await;
        assert_eq!(job["state"], expected, "{credentials}: {job:#}");
        if expected == "failed" {
            says(&job["error"], "registry_unauthorized", "was refused");
            assert_eq!(job["attempt"], 1, "trying again can't help");
        }
        assert!(!job.to_string().contains("correct horse"), "{job}");
    }
}

#[tokio::test]
async fn credentials_that_are_none() {
    let service = Service::start(Settings::default()).await;
    let mut body = pull("127.0.0.1:1/x");
    body["credentials"] = json!("neither user nor password");
    let (status, problem) = service.post("/v1/jobs", &body).await;
    assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!("credentials")));
    assert!(!problem.to_string().contains("neither user"), "{problem}");
}

#[tokio::test]
async fn layers_that_are_not_what_they_should_be() {
    let bench = Bench::new(Settings::default()).await;
    let name = |blob: &Blob| blob.digest.to_string();

    let mut lying = good_layer();
    lying.diff_id = clipwright::digest::Digest::of(b"another");
    let error = bench.refused_layers(std::slice::from_ref(&lying)).await;
    says(&error, "diff_id_mismatch", &name(&lying));

    let tampered = Blob::gzip(&tar(&[("tampered", b"t")]));
    let source = bench.push(std::slice::from_ref(&tampered));
    let blob = bench.registry.blob(tampered.digest);
    let mut bytes = std::fs::read(&blob).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    let error = bench.refused(pull(&source)).await;
    says(&error, "digest_mismatch", &name(&tampered));

    let whole = Blob::gzip(&tar(&[("truncated", &noise(0, 100_000))]));
    let cut =
        Blob { diff_id: whole.diff_id, ..Blob::plain(&whole.bytes[..50_000], whole.media_type) };
    let error = bench.refused_layers(std::slice::from_ref(&cut)).await;
    says(&error, "layer_corrupt", &name(&cut));

    let nothing_known = Blob::plain(b"neither of them", GZIP);
    let error = bench.refused_layers(&[nothing_known]).await;
    says(&error, "layer_unsupported", "neither gzip, zstd nor tar");

    let no_tar = Blob::gzip(b"this is not a tar, though it is gzip");
    let error = bench.refused_layers(std::slice::from_ref(&no_tar)).await;
    says(&error, "layer_not_tar", &name(&no_tar));

    let link_to_nothing = {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Link);
        header.set_size(0);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_link(&mut header, "a", "nothing").unwrap();
        Blob::gzip(&builder.into_inner().unwrap())
    };
    let error = bench.refused_layers(&[link_to_nothing]).await;
    says(&error, "layer_inconsistent", "/a: hard link to /nothing, which is not there");
}

#[tokio::test]
async fn a_registry_that_is_away_holds_up_its_own_jobs_alone() {
    let bench = Bench::new(Settings::default().argument("workers", "1")).await;
    let mut dead = Vec::new();
    for n in 0..12 {
        // The port of an address that nobody listens at.
        dead.push(bench.service.pull(&format!("{n:016x}"), "127.0.0.1:1/app:1").await);
    }
    let good = bench.service.pull(IMAGE, &bench.push(&[good_layer()])).await;
    assert_eq!(bench.service.finished(&good).await["state"], "succeeded");
    let mut tried = 0;
    for job in &dead {
        let (_, job) = bench.service.get(&format!("/v1/jobs/{job}")).await;
        tried += u64::from(job["attempt"] != 0);
        if job["state"] == "queued" {
            assert_eq!(job["reason"], "registry_away", "{job:#}");
        }
    }
    assert!(tried <= 4, "{tried} jobs have tried");
}

#[tokio::test]
async fn names_that_try_to_leave_stay_inside() {
    let bench = Bench::new(Settings::default()).await;
    let layer = Blob::gzip(&tar(&[("/absolute", b"1"), ("../../up", b"22"), ("a/../b", b"333")]));
    let source = bench.push(&[layer]);
    assert_eq!(bench.service.run(pull(&source)).await["state"], "succeeded");
    let archive = clipwright::clip::reader::Archive::open(&bench.service.archive(IMAGE));
    let paths: Vec<_> = archive.unwrap().tree.iter().map(|node| node.path.to_string()).collect();
    assert_eq!(paths, ["/", "/absolute", "/b", "/up"]);
}

#[tokio::test]
async fn a_registry_that_breaks_off_is_asked_for_the_rest() {
    let bench = Bench::new(Settings::default()).await;
    let proxy = Proxy::start(&bench.registry.address).await;
    let layer = Blob::gzip(&tar(&[("noise", &noise(0, 3 << 20))]));
    bench.push(&[layer]);
    proxy.cut_after(1 << 20);
    let source = format!("{}/images/source:latest", proxy.address);
    let job = bench.service.run(pull(&source)).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert_eq!(job["attempt"], 1, "within one attempt");
    proxy.broke_something().await;
}

#[tokio::test]
async fn a_registry_that_goes_down_mid_layer_fails_the_job_at_last() {
    let bench = Bench::new(
        Settings::default().argument("max-attempts", "1").argument("retry-minutes", "0"),
    )
    .await;
    let proxy = Proxy::start(&bench.registry.address).await;
    let layer = Blob::gzip(&tar(&[("noise", &noise(0, 3 << 20))]));
    bench.push(&[layer]);
    proxy.stall_after(1 << 20);
    let (error, ()) = tokio::join!(
        bench.refused(pull(&format!("{}/images/source:latest", proxy.address))),
        async {
            proxy.broke_something().await;
            proxy.go_down();
        }
    );
    assert_eq!((&error["transient"], &error["fault"]), (&json!(true), &json!("upstream")));
}

#[tokio::test]
async fn a_store_that_stays_down_fails_the_job_and_keeps_nothing() {
    use std::sync::atomic::Ordering;
    let s3 = S3Server::start().await;
    let settings = Settings::default().on_s3(&s3);
    let bench =
        Bench::new(settings.argument("max-attempts", "1").argument("retry-minutes", "0")).await;
    let source = bench.push(&[good_layer()]);
    s3.faults.down.store(true, Ordering::SeqCst);
    let job = bench.service.run(pull(&source)).await;
    assert_eq!((&job["state"], &job["error"]["fault"]), (&json!("failed"), &json!("upstream")));
    assert!(s3.objects().is_empty() && s3.pending_uploads() == 0);
    assert_eq!(bench.service.get("/v1/images/0123456789abcdef").await.0, 404);
}

#[tokio::test]
async fn a_registry_that_is_down_fails_the_job_at_last() {
    let bench = Bench::new(
        Settings::default().argument("max-attempts", "1").argument("retry-minutes", "0"),
    )
    .await;
    let proxy = Proxy::start(&bench.registry.address).await;
    proxy.go_down();
    let error = bench.refused(pull(&format!("{}/images/source:latest", proxy.address))).await;
    assert_eq!((&error["transient"], &error["fault"]), (&json!(true), &json!("upstream")));
    says(&error, error["code"].as_str().unwrap(), &proxy.address.to_string());
}

#[tokio::test]
async fn a_store_that_is_down_at_publish_is_tried_again() {
    use std::sync::atomic::Ordering;
    let s3 = S3Server::start().await;
    let bench = Bench::new(Settings::default().on_s3(&s3)).await;
    let source = bench.push(&[good_layer()]);
    s3.faults.down.store(true, Ordering::SeqCst);
    let job = bench.service.pull(IMAGE, &source).await;
    let retrying = bench.service.wait_for_event(&job, "retrying").await;
    assert_eq!(retrying["data"]["error"]["fault"], "upstream", "{retrying:#}");
    assert!(s3.objects().is_empty() && s3.pending_uploads() == 0);
    s3.faults.down.store(false, Ordering::SeqCst);
    let job = bench.service.finished(&job).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert_eq!(s3.objects(), ["0123456789abcdef.rclip"]);
    assert_eq!(job["result"]["archive"]["key"], "0123456789abcdef.rclip");
}

#[tokio::test]
async fn other_content_under_one_image_id_needs_force() {
    let bench = Bench::new(Settings::default()).await;
    let first = bench.registry.push(Layout::of(&[good_layer()]).path(), "first");
    let other = Blob::gzip(&tar(&[("other", b"other")]));
    let second = bench.registry.push(Layout::of(&[other]).path(), "second");
    let run = async |source: &str, force: bool| {
        let mut body = pull(source);
        body["force"] = json!(force);
        bench.service.run(body).await
    };
    assert_eq!(run(&first, false).await["state"], "succeeded");
    let before = std::fs::read(bench.service.archive(IMAGE)).unwrap();
    assert_eq!(run(&first, false).await["state"], "succeeded", "the same again is no conflict");
    let conflict = run(&second, false).await;
    assert_eq!(conflict["state"], "failed", "{conflict:#}");
    assert_eq!(std::fs::read(bench.service.archive(IMAGE)).unwrap(), before);
    assert_eq!(run(&second, true).await["state"], "succeeded");
    assert_ne!(std::fs::read(bench.service.archive(IMAGE)).unwrap(), before);
    let (_, image) = bench.service.get(&format!("/v1/images/{IMAGE}")).await;
    assert!(image["reference"].as_str().unwrap().contains("/second@sha256:"), "{image:#}");
}

#[test]
fn archives_that_are_damaged() {
    let golden = std::fs::read("tests/fixtures/v2.clip").unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("damaged.clip");
    let inspect = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_clipwright"))
            .arg("inspect")
            .arg(&file)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(error.lines().count(), 1, "{error}");
        error
    };
    assert!(inspect(b"").contains("expected a header of 54 bytes, found 0"));
    assert!(inspect(&golden[..golden.len() / 2]).contains("does not fit"));
    let mut absurd = golden.clone();
    absurd[10..18].copy_from_slice(&i64::MAX.to_le_bytes());
    assert!(inspect(&absurd).contains("index of 9223372036854775807 bytes at 54 does not fit"));
    // The length of the first gob message.
    let mut absurd = golden.clone();
    absurd[54..58].copy_from_slice(&[0xfc, 0xff, 0xff, 0xff]);
    assert!(inspect(&absurd).contains("gob at byte 0"));

    let mut flipped = std::fs::read("tests/fixtures/v1-local.clip").unwrap();
    let archive = clipwright::clip::reader::Archive::open("tests/fixtures/v1-local.clip".as_ref());
    let archive = archive.unwrap();
    let (path, offset) = archive
        .tree
        .iter()
        .find_map(|node| match &node.kind {
            clipwright::clip::node::NodeKind::File(
                clipwright::clip::node::FileContent::Embedded { offset, length: 1.., .. },
            ) => Some((node.path.to_string(), usize::try_from(*offset).unwrap())),
            _ => None,
        })
        .unwrap();
    flipped[offset] ^= 1;
    std::fs::write(&file, flipped).unwrap();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_clipwright"))
        .arg("cat")
        .args([file.as_os_str(), path.as_ref()])
        .output()
        .unwrap();
    assert!(output.stdout.is_empty() && !output.status.success(), "wrong bytes were given");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains(&path) && error.contains("expected CRC-64"), "{error}");
}
