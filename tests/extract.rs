//! `clipwright extract`, the real binary, against `umoci unpack`, real servers, and archives that
//! mean harm.

mod refusals;
mod whole;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

fn clipwright() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipwright"));
    command.env_remove("CLIPWRIGHT_CREDENTIALS");
    command
}

fn scratch() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn extract(archive: &Path, target: &Path, more: &[&str]) -> Output {
    clipwright().arg("extract").args(more).arg(archive).arg(target).output().unwrap()
}

/// It fails, says why, and leaves nothing beside the archive.
fn fails(archive: &Path, target: &Path, why: &str) {
    let before = names(target.parent().unwrap());
    let output = extract(archive, target, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(why), "{why:?} is not in {said:?}");
    assert_eq!(names(target.parent().unwrap()), before);
}

fn names(directory: &Path) -> Vec<PathBuf> {
    let mut names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    names
}
