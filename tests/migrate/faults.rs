//! Whatever breaks in between: the image id names a whole archive, and the job comes to its end.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::runs::{files_in, migration, settings, submission};
use crate::support::bench::{Bench, IMAGE};
use crate::support::layout::noise;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::s3::S3Server;
use crate::support::service::Service;
use crate::support::v1::bundle_archive;

#[tokio::test]
async fn a_corrupt_block_stops_it_and_names_its_file() {
    let bench = Bench::new(settings()).await;
    let content = noise(1, 300 << 10);
    let path = bench.service.put_v1(IMAGE, &[("etc/good", b"good"), ("lib/bad", &content)]);
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(64).position(|window| window == &content[1000..1064]).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&path, &bytes).unwrap();

    let job = bench.migrate(2, false).await;
    assert_eq!(job["state"], "failed", "{job:#}");
    assert_eq!(job["error"]["code"], "block_mismatch", "{job:#}");
    assert!(job["error"]["message"].as_str().unwrap().contains("/lib/bad"), "{job:#}");
    assert!(std::fs::read(&path).unwrap() == bytes);
    assert_eq!(files_in(path.parent().unwrap()).len(), 1);
}

#[tokio::test]
async fn what_cannot_be_migrated_is_refused_and_untouched() {
    let bench = Bench::new(settings()).await;
    let job = bench.migrate(2, false).await;
    assert_eq!(job["error"]["code"], "archive_not_found", "{job:#}");
    for (name, code) in [
        ("rootfs/x", "not_migratable"),
        ("config.json", "not_migratable"),
        (".wh.x", "not_migratable"),
    ] {
        let path = bench.service.put_v1(IMAGE, &[(name, b"x")]);
        let bytes = std::fs::read(&path).unwrap();
        let job = bench.migrate(2, false).await;
        assert_eq!(job["error"]["code"], code, "{name}: {job:#}");
        assert!(std::fs::read(&path).unwrap() == bytes);
    }
    // Nothing to do, and nothing known of it.
    let job = bench.migrate(1, false).await;
    assert_eq!(job["error"]["code"], "already_migrated", "{job:#}");
}

#[tokio::test]
async fn requests_that_make_no_sense_are_refused() {
    let bench = Bench::new(settings()).await;
    for (body, field) in [
        (json!({ "kind": "migrate", "image_id": IMAGE }), "to"),
        (json!({ "kind": "migrate", "image_id": IMAGE, "to": 3 }), "to"),
        (json!({ "kind": "migrate", "image_id": IMAGE, "to": 2, "source": "a" }), "source"),
        (json!({ "kind": "pull", "image_id": IMAGE, "source": "a", "to": 2 }), "to"),
    ] {
        let (status, problem) = bench.service.post("/v1/jobs", &body).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (422, &field.into()), "{problem:#}");
    }
}

/// The registry is away in the middle of the push, once for a moment and once for good.
#[tokio::test]
async fn a_registry_that_breaks_off_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    let settings = settings()
        .argument("build-registry", &proxy.address.to_string())
        .argument("lease-seconds", "1");
    let mut service = Service::start(settings).await;
    let files: [(&str, &[u8]); 2] = [("big", &noise(2, 20 << 20)), ("etc/hello", b"hello\n")];
    let path = service.put_v1(IMAGE, &files);
    let bytes = std::fs::read(&path).unwrap();

    // Killed while the registry doesn't answer: another process takes over.
    proxy.stall_after(1);
    let job = service.submit(submission(2, false)).await;
    proxy.broke_something().await;
    service.crash_and_restart().await;
    assert!(std::fs::read(&path).unwrap() == bytes);
    proxy.cut_open_connections();
    let done = service.finished(&job).await;
    assert_eq!(migration(&done)["to"], 2, "{done:#}");
    assert_eq!(done["attempt"], 2);
    let kept = path.parent().unwrap().join(migration(&done)["kept"].as_str().unwrap());
    assert!(std::fs::read(kept).unwrap() == bytes);
}

#[tokio::test]
async fn a_cancelled_migration_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    let settings = settings().argument("build-registry", &proxy.address.to_string());
    let service = Service::start(settings).await;
    let path = service.put_v1(IMAGE, &[("etc/hello", b"hello\n")]);
    let bytes = std::fs::read(&path).unwrap();
    proxy.stall_after(1);
    let job = service.submit(submission(2, false)).await;
    proxy.broke_something().await;
    let (status, _) = service.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await;
    assert_eq!(status, 200);
    assert_eq!(service.finished(&job).await["state"], "cancelled");
    assert!(std::fs::read(&path).unwrap() == bytes);
    assert_eq!(files_in(path.parent().unwrap()).len(), 1);
}

/// What a crash between any two steps leaves behind, and the same job after it.
#[tokio::test]
async fn after_a_crash_between_two_steps_the_same_job_finishes() {
    let bench = Bench::new(settings()).await;
    let path = bench.service.put_v1(IMAGE, &[("etc/hello", b"hello\n")]);
    let v1 = std::fs::read(&path).unwrap();
    let store = path.parent().unwrap();
    let first = bench.migrate(2, false).await;
    let kept = migration(&first)["kept"].as_str().unwrap().to_owned();
    let v2 = std::fs::read(&path).unwrap();

    // Kept, pushed, not yet switched.
    std::fs::remove_file(&path).unwrap();
    std::fs::hard_link(store.join(&kept), &path).unwrap();
    let again = bench.migrate(2, false).await;
    assert_eq!(migration(&again)["kept"], kept, "{again:#}");
    assert!(std::fs::read(&path).unwrap() == v2, "the same image gives the same archive");
    assert!(std::fs::read(store.join(&kept)).unwrap() == v1);

    // Switched, but not recorded.
    let again = bench.migrate(2, false).await;
    let done = migration(&again);
    assert_eq!((&done["from"], &done["compared"]), (&2.into(), &Value::Null), "{again:#}");
    assert_eq!(again["result"]["archive"], first["result"]["archive"]);

    // On the way back: switched, and what was kept still there under both names.
    let back = bench.migrate(1, false).await;
    assert_eq!(migration(&back)["restored"], true);
    assert!(std::fs::read(&path).unwrap() == v1);
    std::fs::hard_link(&path, store.join(&kept)).unwrap();
    let again = bench.migrate(1, true).await;
    assert_eq!(migration(&again)["discarded"].as_array().unwrap().len(), 2, "{again:#}");
    assert!(std::fs::read(&path).unwrap() == v1);
    assert_eq!(files_in(store).len(), 1);
}

/// What was kept is of another content than what is there now: it is not taken.
#[tokio::test]
async fn an_archive_that_was_kept_is_taken_only_if_it_is_the_same() {
    let bench = Bench::new(settings()).await;
    let path = bench.service.put_v1(IMAGE, &[("etc/hello", b"hello\n")]);
    let kept = migration(&bench.migrate(2, false).await)["kept"].as_str().unwrap().to_owned();
    let kept = path.parent().unwrap().join(kept);
    let mut bytes = std::fs::read(&kept).unwrap();
    let at = bytes.windows(6).position(|window| window == b"hello\n").unwrap();
    bytes[at] ^= 1;
    std::fs::write(&kept, bytes).unwrap();
    let job = bench.migrate(1, false).await;
    assert_eq!(migration(&job)["restored"], false, "{job:#}");
    let events = bench.service.events(job["id"].as_str().unwrap()).await;
    assert!(events.iter().any(|event| event["event"] == "warning"
        && event["data"]["message"].as_str().unwrap().contains("can't be taken again")));
}

/// S3 goes away while the data of a v1 archive are on their way: the v2 archive stays.
#[tokio::test]
async fn a_bucket_that_fails_leaves_the_archive_that_was_there() {
    let s3 = S3Server::start().await;
    let settings = settings().on_s3(&s3);
    let bench =
        Bench::new(settings.argument("max-attempts", "1").argument("retry-minutes", "0")).await;
    let data = bundle_archive(&[("big", &noise(3, 30 << 20))]);
    // A local v1 archive under the S3 store's name is as good as any.
    std::fs::write(s3.object_path(&format!("{IMAGE}.rclip")), &data).unwrap();
    let job = bench.migrate(2, true).await;
    assert_eq!(migration(&job)["discarded"].as_array().unwrap().len(), 1, "{job:#}");
    let v2 = std::fs::read(s3.object_path(&format!("{IMAGE}.rclip"))).unwrap();

    s3.faults.fail_parts_from.store(1, Ordering::SeqCst);
    let job = bench.migrate(1, false).await;
    assert_eq!((&job["state"], &job["error"]["fault"]), (&"failed".into(), &"upstream".into()));
    assert!(std::fs::read(s3.object_path(&format!("{IMAGE}.rclip"))).unwrap() == v2);
    assert_eq!(s3.pending_uploads(), 0);
    s3.faults.fail_parts_from.store(0, Ordering::SeqCst);
    assert_eq!(migration(&bench.migrate(1, false).await)["compared"]["files"], 1);
}
