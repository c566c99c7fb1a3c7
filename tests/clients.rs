//! The Go client and the program over it that stands for beta9's gateway, against the real service.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::json;

use crate::support::layout::{Blob, Layout};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::service::{Service, Settings};
use crate::support::upstream::skip;

/// The example, built once a test process; `None` (and said so) without Go.
fn gateway() -> Option<&'static Path> {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BINARY.get_or_init(|| {
        if Command::new("go").arg("version").output().is_err() {
            skip("no Go here, which the client is for");
            return None;
        }
        let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("beta9-gateway");
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/beta9-gateway");
        let status = Command::new("go")
            .current_dir(module)
            .args(["build", "-buildvcs=false", "-o"])
            .arg(&binary)
            .arg(".")
            .status()
            .unwrap();
        assert!(status.success(), "go build of examples/beta9-gateway failed");
        Some(binary)
    });
    built.as_deref()
}

fn command(gateway: &Path, service: &Service, arguments: &[&str]) -> Command {
    let mut command = Command::new(gateway);
    command.args(["--server", &service.url, "--python-version", "python3.11"]).args(arguments);
    for name in ["CLIPWRIGHT_TOKEN", "CLIPWRIGHT_WORKSPACE", "CLIPWRIGHT_SERVER"] {
        command.env_remove(name);
    }
    command
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_gateway_makes_an_image_once_and_hears_how_it_went() {
    let Some(gateway) = gateway() else { return };
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let source = registry.push(Layout::of(&[Blob::file("etc/hello", b"hello\n")]).path(), "image");
    let settings = Settings::default().argument("build-registry", &registry.address);
    let service = Service::start(settings).await;

    let made = run(command(gateway, &service, &["--container-id", "build-1", &source])).await;
    let told = text(&made.stdout);
    assert!(made.status.success(), "{made:?}");
    assert!(told.contains("Build completed successfully\n"), "{told}");
    let image = told.lines().last().unwrap().strip_prefix("image ").unwrap();
    assert_eq!(service.cat(image, "/etc/hello"), b"hello\n");
    let again = run(command(gateway, &service, &[&source])).await;
    assert_eq!(text(&again.stdout), "Image already exists\n");

    // For a tenant, which has nothing yet.
    let tenant = run(command(gateway, &service, &["--workspace", "team-a", &source])).await;
    assert!(!tenant.status.success(), "{tenant:?}");
    assert!(text(&tenant.stderr).contains("workspace_not_found"), "{tenant:?}");

    let missing = format!("{}/not/there:1", registry.address);
    let failed = run(command(gateway, &service, &[&missing])).await;
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert!(text(&failed.stdout).contains("Build failed: "), "{failed:?}");
    assert!(text(&failed.stderr).contains("exit code 555"), "{failed:?}");

    let dockerfile = dir.path().join("Dockerfile");
    std::fs::write(&dockerfile, format!("FROM {source}\nLABEL built=here\n")).unwrap();
    let arguments = ["--dockerfile", dockerfile.to_str().unwrap()];
    let built = run(command(gateway, &service, &arguments)).await;
    assert!(built.status.success(), "{built:?}");
    let told = text(&built.stdout);
    let image = told.lines().last().unwrap().strip_prefix("image ").unwrap();
    assert_eq!(service.cat(image, "/etc/hello"), b"hello\n");
}

#[tokio::test]
async fn a_gateway_whose_user_goes_stops_the_build() {
    let Some(gateway) = gateway() else { return };
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    proxy.go_down();
    let service = Service::start(Settings::default()).await;
    let source = format!("{}/image:latest", proxy.address);
    let arguments = ["--container-id", "build-left", &source];
    let mut child = command(gateway, &service, &arguments).spawn().unwrap();
    proxy.broke_something().await;
    let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait().unwrap()).await.unwrap();
    assert!(!status.success());
    let (_, build) = service.get("/v1/beta9/builds/build-left").await;
    let id = build["id"].as_str().unwrap();
    assert_eq!(service.finished(id).await["state"], json!("cancelled"));
}
