//! The program that stands for beta9's worker mounts, runs and unmounts.

use std::path::Path;
use std::process::{Command, Output};

use super::{clipwright, index, scratch};
use crate::support::registry::Registry;
use crate::support::upstream::{make_image, run, skip};

#[test]
fn a_worker_runs_a_container_from_a_mount() {
    let Some(dir) = scratch() else { return };
    if Command::new("go").arg("version").output().is_err() {
        return skip("no Go here, which the worker is written in");
    }
    let worker = dir.path().join("worker");
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/beta9-worker");
    run(Command::new("go")
        .current_dir(module)
        .args(["build", "-buildvcs=false", "-o"])
        .arg(&worker)
        .arg("."));
    let registry = Registry::start(dir.path());
    let layout = make_image("tiny", dir.path());
    let archive = dir.path().join("image.clip");
    index(&registry.push(&layout, "tiny"), &archive);
    let point = dir.path().join("image");
    let start = |archive: &Path, program: &[&str]| -> Output {
        let mut command = Command::new(&worker);
        command.env("HOME", dir.path()).arg("--clipwright").arg(env!("CARGO_BIN_EXE_clipwright"));
        command.arg("--mount").arg(&point).arg("--cache").arg(dir.path().join("cache"));
        command.arg(archive).args(program).output().unwrap()
    };
    let ran = start(&archive, &["/app/run"]);
    assert!(ran.status.success(), "{ran:?}");
    assert_eq!(ran.stdout, b"Hello from a layer.\n");
    assert!(!point.exists());
    // The program's exit code is the container's; it is unmounted all the same.
    assert_eq!(start(&archive, &["/app/busybox", "false"]).status.code(), Some(1));
    let mounts = clipwright(dir.path()).arg("mounts").output().unwrap();
    let mounts = String::from_utf8(mounts.stdout).unwrap();
    assert!(!mounts.contains(point.to_str().unwrap()), "{mounts}");
    let none = start(Path::new("none.clip"), &["/app/run"]);
    let said = String::from_utf8_lossy(&none.stderr).into_owned();
    assert!(!none.status.success() && said.contains("mount none.clip: exit status"), "{said}");
}
