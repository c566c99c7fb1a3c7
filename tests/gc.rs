//! `clipwright gc` over real stores: what serves nobody goes, what somebody needs stays.

use std::fs::{File, create_dir_all, write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use crate::support::s3::S3Server;

const OLD: u64 = 25;
const UNUSED: u64 = 24 * 31;

/// A file that was written so many hours ago.
fn plant(path: &Path, hours: u64) {
    plant_content(path, hours, b"12345");
}

fn plant_content(path: &Path, hours: u64, content: &[u8]) {
    create_dir_all(path.parent().unwrap()).unwrap();
    write(path, content).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_hours(hours)).unwrap();
}

/// Names of what was found and whether it was removed, sorted.
async fn gc(data: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Vec<(String, bool)> {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_clipwright"))
        .args(["gc", "--json", "--data-dir"])
        .arg(data)
        .args(arguments)
        .env_remove("DATABASE_URL")
        .envs(environment.iter().copied())
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = report["found"].as_array().unwrap().iter();
    let mut found: Vec<_> = found
        .map(|found| {
            (found["name"].as_str().unwrap().to_owned(), found["removed"].as_bool().unwrap())
        })
        .collect();
    found.sort();
    found
}

fn all(names: &[&str], removed: bool) -> Vec<(String, bool)> {
    names.iter().map(|name| ((*name).to_owned(), removed)).collect()
}

#[tokio::test]
async fn a_directory() {
    let data = tempfile::tempdir().unwrap();
    let images = data.path().join("images");
    // In a directory an archive is one file, and nobody's orphan.
    for (name, hours) in [
        ("0000000000000001.clip", UNUSED),
        ("layer-index/unused", UNUSED),
        ("layer-index/used", UNUSED - 48),
        (".tmp-old", OLD),
        (".tmp-young", 1),
        ("somebody-elses", UNUSED),
    ] {
        plant(&images.join(name), hours);
    }
    let garbage = [".tmp-old", "layer-index/unused"];
    assert_eq!(gc(data.path(), &["--dry-run"], &[]).await, all(&garbage, false));
    assert!(garbage.iter().all(|name| images.join(name).exists()), "a dry run removes nothing");
    let sooner = ["--dry-run", "--unused-days", "20"];
    let more = [".tmp-old", "layer-index/unused", "layer-index/used"];
    assert_eq!(gc(data.path(), &sooner, &[]).await, all(&more, false));
    assert_eq!(gc(data.path(), &["--apply"], &[]).await, all(&garbage, true));
    assert!(gc(data.path(), &["--apply"], &[]).await.is_empty());
    for name in ["0000000000000001.clip", "layer-index/used", ".tmp-young", "somebody-elses"] {
        assert!(images.join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn a_bucket() {
    let (data, s3) = (tempfile::tempdir().unwrap(), S3Server::start().await);
    for (name, hours) in [
        ("0000000000000001.clip", OLD), // its index never came
        ("0000000000000002.clip", OLD),
        ("0000000000000002.rclip", OLD),
        ("0000000000000003.clip", 23), // its index may yet come
        ("0000000000000004.rclip", OLD),
        ("layer-index/unused", UNUSED),
        ("layer-index/used", OLD),
        ("somebody-elses.clip", UNUSED),
    ] {
        plant(&s3.object_path(name), hours);
    }
    let arguments = |what| {
        let store = ["--store", "s3", "--s3-bucket", &s3.bucket, "--s3-endpoint", &s3.endpoint];
        [&[what, "--s3-force-path-style", "true"][..], &store].concat()
    };
    let keys = [
        ("CLIPWRIGHT_S3_ACCESS_KEY", &*s3.access_key),
        ("CLIPWRIGHT_S3_SECRET_KEY", &*s3.secret_key),
    ];
    let garbage = ["0000000000000001.clip", "layer-index/unused"];
    assert_eq!(gc(data.path(), &arguments("--dry-run"), &keys).await, all(&garbage, false));
    assert_eq!(gc(data.path(), &arguments("--apply"), &keys).await, all(&garbage, true));
    assert!(gc(data.path(), &arguments("--apply"), &keys).await.is_empty());
    let names = ["0000000000000002.clip", "0000000000000002.rclip", "0000000000000003.clip"];
    for name in [&names[..], &["0000000000000004.rclip", "layer-index/used"]].concat() {
        assert!(s3.object_path(name).exists(), "{name}");
    }
    assert!(!s3.object_path("0000000000000001.clip").exists());
}

/// Of v1 archives that v2 replaced: whoever kept the index needs the data.
#[tokio::test]
async fn data_of_replaced_archives() {
    let (data, s3) = (tempfile::tempdir().unwrap(), S3Server::start().await);
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let kept = format!("kept/0000000000000003.v1-{}.rclip", "0".repeat(64));
    let orphan = format!("kept/0000000000000005.v1-{}.rclip", "0".repeat(64));
    for (name, hours, content) in [
        ("0000000000000001.clip", OLD, None), // v2 stands in its place
        ("0000000000000001.rclip", OLD, Some("v2.clip")),
        ("0000000000000002.clip", OLD, None), // in use
        ("0000000000000002.rclip", OLD, Some("v1-s3.rclip")),
        ("0000000000000003.clip", OLD, None), // kept by a migration
        ("0000000000000003.rclip", OLD, Some("v2.clip")),
        (&kept, OLD, Some("v1-s3.rclip")),
        ("0000000000000004.clip", OLD, None), // replaced just now: read yet
        ("0000000000000004.rclip", 1, Some("v2.clip")),
        ("0000000000000005.clip", OLD, None), // nothing but the kept index
        (&orphan, OLD, Some("v1-s3.rclip")),
        ("0000000000000006.clip", 23, None),
        ("0000000000000006.rclip", OLD, Some("v2.clip")),
    ] {
        let content = content.map(|name| std::fs::read(fixtures.join(name)).unwrap());
        plant_content(&s3.object_path(name), hours, content.as_deref().unwrap_or(b"12345"));
    }
    let before = s3.objects();
    let store = ["--store", "s3", "--s3-bucket", &s3.bucket, "--s3-endpoint", &s3.endpoint];
    let arguments = [&["--apply", "--s3-force-path-style", "true"][..], &store].concat();
    let keys = [
        ("CLIPWRIGHT_S3_ACCESS_KEY", &*s3.access_key),
        ("CLIPWRIGHT_S3_SECRET_KEY", &*s3.secret_key),
    ];
    let garbage = ["0000000000000001.clip"];
    assert_eq!(gc(data.path(), &arguments, &keys).await, all(&garbage, true));
    assert_eq!(s3.objects(), before[1..]);
}

#[tokio::test]
async fn an_image_that_is_being_worked_on_is_left_alone() {
    use crate::support::postgres::TestDatabase;
    let (data, s3) = (tempfile::tempdir().unwrap(), S3Server::start().await);
    let database = TestDatabase::create().await;
    let queue = clipwright::jobs::queue::Queue::new(
        database.pool().clone(),
        clipwright::jobs::queue::Vault::new([]),
    );
    queue.submit(crate::queue::new_job(1)).await.unwrap();
    for name in ["0000000000000001.clip", "0000000000000002.clip"] {
        plant(&s3.object_path(name), OLD);
    }
    let store = ["--store", "s3", "--s3-bucket", &s3.bucket, "--s3-endpoint", &s3.endpoint];
    let arguments = [&["--apply", "--s3-force-path-style", "true"][..], &store].concat();
    let environment = [
        ("CLIPWRIGHT_S3_ACCESS_KEY", &*s3.access_key),
        ("CLIPWRIGHT_S3_SECRET_KEY", &*s3.secret_key),
        ("DATABASE_URL", database.url()),
    ];
    let found = gc(data.path(), &arguments, &environment).await;
    let expected = [("0000000000000001.clip", false), ("0000000000000002.clip", true)];
    assert_eq!(found, expected.map(|(name, removed)| (name.to_owned(), removed)));
}
