//! Archives that a service publishes to a registry, read by reference through the real binary.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use crate::support::layout::{Blob, Layout};
use crate::support::registry::Registry;
use crate::support::service::{Service, Settings};
use crate::support::upstream::{interop, run};

const ID: &str = "961eaef6668e480f";

/// The command line, which has but the credentials of the test.
fn clipwright(home: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipwright"));
    command.env_remove("CLIPWRIGHT_CREDENTIALS").env_remove("DOCKER_CONFIG").env("HOME", home);
    if home.join("login").exists() {
        command.env("CLIPWRIGHT_CREDENTIALS", std::fs::read_to_string(home.join("login")).unwrap());
    }
    command.args(arguments).output().unwrap()
}

fn says(home: &Path, arguments: &[&str]) -> String {
    let output = clipwright(home, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(home: &Path, arguments: &[&str], why: &str) {
    let output = clipwright(home, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(why), "{arguments:?}: {said}");
}

/// A service whose archives go to the repository in which the images are.
fn settings(address: &str) -> Settings {
    Settings::default()
        .argument("store", "registry")
        .argument("build-registry", address)
        .argument("build-repository", "team/images")
        .argument("private-addresses", "true")
}

/// Every command that takes an archive reads the one that is behind a reference.
fn is_read(home: &Path, reference: &str, content: &str) {
    assert_eq!(says(home, &["cat", reference, "/etc/hello"]), content);
    assert!(says(home, &["ls", reference, "/etc"]).contains("hello"));
    let inspected: Value =
        serde_json::from_str(&says(home, &["inspect", "--json", reference])).unwrap();
    assert_eq!(inspected["files"], 1);
    says(home, &["verify", "--deep", reference]);
    let target = home.join("extracted");
    says(home, &["extract", "--no-owner", reference, target.to_str().unwrap()]);
    assert!(std::fs::read_dir(&target).unwrap().next().is_some());
    std::fs::remove_dir_all(target).unwrap();
}

#[tokio::test]
async fn an_archive_is_found_from_the_image_alone() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let address = &registry.address;
    let image =
        registry.push(Layout::of(&[Blob::file("etc/hello", b"one\n")]).path(), "team/images");
    let by_image = format!("docker://{image}");
    fails(dir.path(), &["ls", &by_image], "no archive refers to it");

    let service = Service::start(settings(address)).await;
    assert_eq!(service.get("/readyz").await.0, 200);
    let job = service
        .run(json!({"kind": "pull", "image_id": ID, "source": image, "clip_version": 2}))
        .await;
    assert_eq!(job["result"]["archive"]["key"], format!("{ID}.clip"), "{job}");
    let by_id = format!("docker://{address}/team/images:{ID}.clip");
    is_read(dir.path(), &by_image, "one\n");
    is_read(dir.path(), &by_id, "one\n");
    let (_, listed) = service.get("/v1/archives").await;
    assert_eq!(listed["archives"][0]["image_id"], ID, "{listed}");

    // The service's own readers, and layer indexes that went along.
    let content = format!("/v1/images/{ID}/files/content?path=/etc/hello");
    assert_eq!(service.get_text(&content).await, "one\n");

    // One of v1 has its content with it, and is no referrer of anything.
    let v1 = "00000000000000a1";
    let job = service
        .run(json!({"kind": "pull", "image_id": v1, "source": image, "clip_version": 1}))
        .await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let by_v1 = format!("docker://{address}/team/images:{v1}.clip");
    assert_eq!(says(dir.path(), &["cat", &by_v1, "/rootfs/etc/hello"]), "one\n");
    assert!(says(dir.path(), &["inspect", &by_image]).contains("version   2"));

    // The tag of the image goes on to another image; what refers to the old one does not refer to that.
    registry.push(Layout::of(&[Blob::file("etc/hello", b"two\n")]).path(), "team/images");
    fails(dir.path(), &["ls", &by_image], "no archive refers to it");
    let job = service
        .run(json!({"kind": "pull", "image_id": ID, "source": image, "clip_version": 2, "force": true}))
        .await;
    assert_eq!(job["state"], "succeeded", "{job}");
    is_read(dir.path(), &by_image, "two\n");
    assert_eq!(says(dir.path(), &["cat", &by_id, "/etc/hello"]), "two\n");

    // What is no archive and no image is refused, and what is not there is said.
    let missing = format!("docker://{address}/team/images:missing");
    fails(dir.path(), &["ls", &missing], "was not found");
    fails(dir.path(), &["ls", "docker://UPPER/case"], "not an image reference");
}

/// Bytes that are not those of the digest are never read as an archive.
#[tokio::test]
async fn an_archive_that_was_tampered_with_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let image =
        registry.push(Layout::of(&[Blob::file("etc/hello", b"one\n")]).path(), "team/images");
    let service = Service::start(settings(&registry.address)).await;
    let job = service
        .run(json!({"kind": "pull", "image_id": ID, "source": image, "clip_version": 2}))
        .await;
    let digest = job["result"]["archive"]["digest"].as_str().unwrap().parse().unwrap();
    let blob = registry.blob(digest);
    let mut bytes = std::fs::read(&blob).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    std::fs::write(&blob, bytes).unwrap();
    fails(dir.path(), &["ls", &format!("docker://{image}")], "digest");
}

/// Whoever may read the image in the registry may read the archive, and nobody else.
#[tokio::test]
async fn a_registry_with_a_password_is_asked_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::with_password(dir.path());
    let login = "clipper:correct horse";
    let layout = Layout::of(&[Blob::file("etc/hello", b"one\n")]);
    let image = registry.push_as(layout.path(), "team/images", login);
    let closed = Service::start(settings(&registry.address)).await;
    assert_eq!(closed.get("/readyz").await.0, 503);
    let settings = settings(&registry.address).env("CLIPWRIGHT_BUILD_REGISTRY_CREDENTIALS", login);
    let service = Service::start(settings).await;
    let job = json!({"kind": "pull", "image_id": ID, "source": image, "clip_version": 2,
        "credentials": login});
    let job = service.run(job).await;
    assert_eq!(job["state"], "succeeded", "{job}");
    let by_image = format!("docker://{image}");
    fails(dir.path(), &["ls", &by_image], "refused");
    std::fs::write(dir.path().join("login"), login).unwrap();
    is_read(dir.path(), &by_image, "one\n");
}

/// A registry that lists referrers itself.
struct ListingRegistry {
    process: Child,
    address: String,
}

impl ListingRegistry {
    fn start(interop: &Path) -> Self {
        let mut process = Command::new(interop)
            .arg("registry")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { process, address: address.trim().to_owned() }
    }
}

impl Drop for ListingRegistry {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_registry_that_lists_referrers_is_asked_for_them() {
    let Some(interop) = interop() else { return };
    let dir = tempfile::tempdir().unwrap();
    let registry = ListingRegistry::start(interop);
    let layout = Layout::of(&[Blob::file("etc/hello", b"one\n")]);
    let image = format!("{}/team/images:latest", registry.address);
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false"])
        .arg(format!("oci:{}:latest", layout.path().display()))
        .arg(format!("docker://{image}")));
    let by_image = format!("docker://{image}");
    fails(dir.path(), &["ls", &by_image], "no archive refers to it");
    let service = Service::start(settings(&registry.address)).await;
    let job = service
        .run(json!({"kind": "pull", "image_id": ID, "source": image, "clip_version": 2}))
        .await;
    assert_eq!(job["state"], "succeeded", "{job}");
    is_read(dir.path(), &by_image, "one\n");
}
