//! From the beginning of a mount to its end, whoever ends it.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Mounted, clipwright, count, index, scratch};
use crate::support::layout::{Blob, Layout, noise, tar};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;

fn image() -> Layout {
    let content = noise(3, 100_000);
    Layout::of(&[Blob::gzip(&tar(&[("a", &content), ("b", b"hello")]))])
}

fn daemon(archive: &Path, directory: &Path, arguments: &[&str]) -> Output {
    let point = directory.join("mount");
    let _ = std::fs::create_dir(&point);
    let mut command = clipwright(directory);
    command.args(["mount", "--daemon"]).args(arguments).arg(archive).arg(point);
    command.stdin(Stdio::null()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What `mounts` says of mounts in a directory.
fn mounts(directory: &Path) -> Vec<Value> {
    let output = clipwright(directory).args(["mounts", "--json"]).output().unwrap();
    let all: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let here = directory.canonicalize().unwrap();
    let is_here =
        |mount: &Value| Path::new(mount["mountpoint"].as_str().unwrap()).starts_with(&here);
    all.into_iter().filter(is_here).collect()
}

fn unmount(directory: &Path, arguments: &[&str]) -> Output {
    let point = directory.join("mount");
    clipwright(directory).arg("unmount").args(arguments).arg(point).output().unwrap()
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let late = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < late, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_daemon_serves_until_it_is_unmounted() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let archive = dir.path().join("image.clip");
    index(&registry.push(image().path(), "image"), &archive);
    let report = dir.path().join("report.json");
    let output = daemon(&archive, dir.path(), &["--report", report.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(String::from_utf8_lossy(&output.stdout).starts_with("mounted "));
    assert_eq!(std::fs::read(dir.path().join("mount/b")).unwrap(), b"hello");
    let listed = mounts(dir.path());
    assert_eq!((listed.len(), &listed[0]["served"]), (1, &Value::Bool(true)), "{listed:?}");
    let real = archive.canonicalize().unwrap();
    assert_eq!(listed[0]["archive"].as_str().unwrap(), real.to_str().unwrap());
    // A second one does not hide the first.
    let again = daemon(&archive, dir.path(), &[]);
    assert!(
        !again.status.success() && said(&again).contains("is mounted there"),
        "{}",
        said(&again)
    );
    // Who uses it is not disturbed.
    let held = std::fs::File::open(dir.path().join("mount/a")).unwrap();
    let busy = unmount(dir.path(), &[]);
    assert!(!busy.status.success() && said(&busy).contains("in use"), "{}", said(&busy));
    drop(held);
    let done = unmount(dir.path(), &[]);
    assert!(done.status.success(), "{}", said(&done));
    assert!(mounts(dir.path()).is_empty());
    let gone = unmount(dir.path(), &[]);
    assert!(!gone.status.success() && said(&gone).contains("no archive is mounted there"));
    // The daemon ends by itself, and its report is its last act.
    wait_for("the report", || report.exists());
    let report: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
    assert!(report["clip_first_exec_ms"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!(count(&report, "reads_failed"), 0);
}

/// A daemon that can't serve is none, and the exit code says it.
#[test]
fn a_daemon_that_can_not_begin_says_why() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let archive = dir.path().join("image.clip");
    index(&registry.push(image().path(), "image"), &archive);
    let absent = daemon(&dir.path().join("absent.clip"), dir.path(), &[]);
    assert!(!absent.status.success() && said(&absent).contains("absent.clip"), "{}", said(&absent));
    drop(registry);
    let unreachable = daemon(&archive, dir.path(), &[]);
    assert!(!unreachable.status.success(), "{}", said(&unreachable));
    assert!(said(&unreachable).contains("127.0.0.1"), "{}", said(&unreachable));
    assert!(mounts(dir.path()).is_empty());
    // Unless nobody is to be asked.
    let offline = daemon(&archive, dir.path(), &["--offline", "--cache-mib", "0"]);
    assert!(offline.status.success(), "{}", said(&offline));
    assert!(std::fs::metadata(dir.path().join("mount/a")).unwrap().len() == 100_000);
    assert!(unmount(dir.path(), &["--lazy"]).status.success());
}

/// Credentials are tried before anything is mounted, and the machine's own only when that was said.
#[test]
fn credentials_are_checked_first() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::with_password(dir.path());
    let reference = registry.push_as(image().path(), "image", "clipper:correct horse");
    let archive = dir.path().join("image.clip");
    let right = format!(
        r#"{{"registry":"{}","type":"basic","credentials":{{"USERNAME":"clipper","PASSWORD":"correct horse"}}}}"#,
        registry.address
    );
    let wrong = right.replace("correct", "wrong");
    let output = clipwright(dir.path())
        .env("CLIPWRIGHT_CREDENTIALS", &right)
        .args(["index", &reference, "--no-cache", "-o"])
        .arg(&archive)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    // docker's own file has the right ones.
    let auth = "Y2xpcHBlcjpjb3JyZWN0IGhvcnNl"; // clipper:correct horse
    let docker = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.address);
    std::fs::create_dir(dir.path().join(".docker")).unwrap();
    std::fs::write(dir.path().join(".docker/config.json"), docker).unwrap();
    let with = |credentials: Option<&str>| {
        let mut command = clipwright(dir.path());
        command.envs(credentials.map(|text| ("CLIPWRIGHT_CREDENTIALS", text)));
        command
    };
    for (credentials, arguments, works) in [
        (None, &[][..], false),
        (Some(&wrong[..]), &[], false),
        (Some(&right), &[], true),
        (None, &["--ambient-credentials"], true),
    ] {
        match Mounted::begin(with(credentials), &archive, dir.path(), arguments) {
            Ok(mounted) => {
                assert!(works, "{arguments:?}");
                assert_eq!(mounted.read("b").unwrap(), b"hello");
                mounted.end();
            }
            Err(said) => {
                assert!(!works && said.contains("was refused to"), "{arguments:?}: {said}");
                assert!(!said.contains("horse"), "{said}");
            }
        }
    }
}

/// A password that is changed while an image is mounted is read again, from the given file and from docker's.
#[test]
fn credentials_that_change_are_read_again() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::with_password(dir.path());
    let layout = Layout::of(&[Blob::gzip(&tar(&[("a", b"a")])), Blob::gzip(&tar(&[("b", b"b")]))]);
    let reference = registry.push_as(layout.path(), "image", "clipper:correct horse");
    let (archive, given) = (dir.path().join("image.clip"), dir.path().join("credentials.json"));
    let give = |password: &str| {
        let text = format!(
            r#"{{"registry":"{}","credentials":{{"USERNAME":"clipper","PASSWORD":"{password}"}}}}"#,
            registry.address
        );
        std::fs::write(&given, text).unwrap();
    };
    give("correct horse");
    let output = clipwright(dir.path())
        .args(["index", &reference, "--no-cache", "--credentials-file"])
        .args([&given, Path::new("-o"), &archive])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let docker = dir.path().join(".docker/config.json");
    std::fs::create_dir(docker.parent().unwrap()).unwrap();
    let in_docker = |auth: &str| {
        let text = format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.address);
        std::fs::write(&docker, text).unwrap();
    };
    in_docker("Y2xpcHBlcjpjb3JyZWN0IGhvcnNl"); // clipper:correct horse
    let other = dir.path().join("other");
    std::fs::create_dir(&other).unwrap();
    let file = ["--credentials-file", given.to_str().unwrap(), "--cache-mib", "0"];
    let ambient = ["--ambient-credentials", "--cache-mib", "0"];
    let mounts = [
        Mounted::new(&archive, dir.path(), &file),
        Mounted::with(clipwright(dir.path()), &archive, &other, &ambient),
    ];
    for mounted in &mounts {
        assert_eq!(mounted.read("a").unwrap(), b"a");
    }
    // The registry reads its users again when their file is another.
    let hash = "$2b$04$abcdefghijklmnopqrstuuhfdSToe28Z2OzxmmHxfI3lnNDfjxoF6"; // battery staple
    std::fs::write(dir.path().join("htpasswd"), format!("clipper:{hash}\n")).unwrap();
    give("battery staple");
    in_docker("Y2xpcHBlcjpiYXR0ZXJ5IHN0YXBsZQ=="); // clipper:battery staple
    for mounted in mounts {
        assert_eq!(mounted.read("b").unwrap(), b"b", "{}", mounted.said());
        mounted.end();
    }
}

/// Whoever has something open may finish after the signal.
#[test]
fn a_signal_unmounts() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let archive = dir.path().join("image.clip");
    index(&registry.push(image().path(), "image"), &archive);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut mounted = Mounted::new(&archive, dir.path(), &[]);
        let held = std::fs::File::open(mounted.path("a")).unwrap();
        mounted.signal(signal);
        wait_for("the end of the mount", || mounts(dir.path()).is_empty());
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut &held, &mut content).unwrap();
        assert!(content == noise(3, 100_000));
        drop(held);
        assert!(mounted.process.wait().unwrap().success());
    }
}

/// After a kill the mount point is of no use to anybody; the next daemon clears it, and finds what
/// the dead one has fetched.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_one_takes_over_after_a_kill() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let proxy = Proxy::start(&registry.address).await;
    let layout = image();
    let reference = registry.push(layout.path(), "image");
    let archive = dir.path().join("image.clip");
    let through = reference.replace(&registry.address, &proxy.address.to_string());
    tokio::task::spawn_blocking(move || {
        index(&through, &archive);
        let mut mounted = Mounted::new(&archive, dir.path(), &[]);
        assert!(mounted.read("a").unwrap() == noise(3, 100_000));
        // What has come is served before it is kept.
        let spans = dir.path().join("cache/v1/spans");
        wait_for("an entry", || std::fs::read_dir(&spans).unwrap().count() > 0);
        mounted.signal(Signal::SIGKILL);
        mounted.process.wait().unwrap();
        let listed = mounts(dir.path());
        assert_eq!((listed.len(), &listed[0]["served"]), (1, &Value::Bool(false)), "{listed:?}");
        assert_eq!(mounted.read("b").unwrap_err().raw_os_error(), Some(107)); // not connected
        let next = Mounted::new(&archive, dir.path(), &[]);
        assert!(next.read("a").unwrap() == noise(3, 100_000));
        assert_eq!(next.read("b").unwrap(), b"hello");
        // There is no need for the registry any more.
        proxy.go_down();
        assert!(next.read("a").unwrap() == noise(3, 100_000));
        assert_eq!(count(&next.end(), "spans_fetched"), 0);
        std::mem::forget(mounted); // its mount point is the next one's
        let warm = Mounted::new(&archive, dir.path(), &["--offline"]);
        assert!(warm.read("a").unwrap() == noise(3, 100_000));
        warm.end();
        drop(registry);
    })
    .await
    .unwrap();
}

/// A stale mount can be unmounted by hand as well.
#[test]
fn a_stale_mount_is_unmounted() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let archive = dir.path().join("image.clip");
    index(&registry.push(image().path(), "image"), &archive);
    let mut mounted = Mounted::new(&archive, dir.path(), &[]);
    mounted.signal(Signal::SIGKILL);
    mounted.process.wait().unwrap();
    let done = unmount(dir.path(), &[]);
    assert!(done.status.success() && mounts(dir.path()).is_empty(), "{}", said(&done));
}

/// Nothing can be written, whatever the permissions say.
#[test]
fn it_is_read_only() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let archive = dir.path().join("image.clip");
    index(&registry.push(image().path(), "image"), &archive);
    let mounted = Mounted::new(&archive, dir.path(), &[]);
    for error in [
        std::fs::write(mounted.path("new"), b"").unwrap_err(),
        std::fs::File::options().write(true).open(mounted.path("a")).unwrap_err(),
        std::fs::remove_file(mounted.path("a")).unwrap_err(),
    ] {
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    }
    let statfs = nix::sys::statfs::statfs(&mounted.point).unwrap();
    assert_eq!((statfs.files(), statfs.blocks_free()), (3, 0));
    // Other users can't look in unless that was said.
    let other = |point: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--clear-groups", "cat"]).arg(point.join("b"));
        command.output().unwrap().status.success()
    };
    assert!(!other(&mounted.point));
    mounted.end();
    let mounted = Mounted::new(&archive, dir.path(), &["--allow-other"]);
    assert_eq!(other(&mounted.point), is_reachable(&mounted.point));
    mounted.end();
}

/// Whether everybody may go down to a path.
fn is_reachable(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    path.ancestors().skip(1).all(|dir| std::fs::metadata(dir).is_ok_and(|of| of.mode() & 1 == 1))
}
