//! `clipwright mount`, the real binary on real FUSE, against `umoci unpack` and real servers.

mod faults;
mod life;
mod passthrough;
mod traces;
mod whole;
mod worker;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::upstream::{run, skip};

/// An archive that is mounted by a process in the foreground, until dropped.
pub(crate) struct Mounted {
    process: Child,
    _output: BufReader<ChildStdout>,
    point: PathBuf,
    report: PathBuf,
    /// What the process said to standard error goes there.
    log: PathBuf,
}

/// A command that knows nothing of the machine's credentials and keeps its cache in `directory`.
fn clipwright(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipwright"));
    command.env_remove("CLIPWRIGHT_CREDENTIALS").env_remove("DOCKER_CONFIG");
    command.env("HOME", directory).env_remove("XDG_CACHE_HOME");
    command.env("CLIPWRIGHT_SPAN_CACHE_DIR", directory.join("cache"));
    command
}

/// A directory for a test; `None` (and said so) where nothing can be mounted.
pub(crate) fn scratch() -> Option<TempDir> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        skip("mounting takes root and /dev/fuse");
        return None;
    }
    Some(tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap())
}

impl Mounted {
    pub(crate) fn new(archive: &Path, directory: &Path, arguments: &[&str]) -> Self {
        Self::with(clipwright(directory), archive, directory, arguments)
    }

    fn with(command: Command, archive: &Path, directory: &Path, arguments: &[&str]) -> Self {
        Self::begin(command, archive, directory, arguments).unwrap_or_else(|said| panic!("{said}"))
    }

    /// Mounts at `mount` in `directory`; else what the process said.
    fn begin(
        mut command: Command,
        archive: &Path,
        directory: &Path,
        arguments: &[&str],
    ) -> Result<Self, String> {
        let (point, report) = (directory.join("mount"), directory.join("report.json"));
        let log = directory.join("stderr");
        let _ = std::fs::create_dir(&point);
        let mut process = command
            .arg("mount")
            .args(arguments)
            .arg("--report")
            .arg(&report)
            .arg(archive)
            .arg(&point)
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        if line.starts_with("mounted ") {
            return Ok(Self { process, _output: output, point, report, log });
        }
        assert!(!process.wait().unwrap().success());
        Err(std::fs::read_to_string(&log).unwrap())
    }

    /// Ends it by a signal; its report.
    fn end(mut self) -> Value {
        self.signal(Signal::SIGTERM);
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said());
        serde_json::from_slice(&std::fs::read(&self.report).unwrap()).unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().cast_signed()), signal).unwrap();
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.point.join(name.trim_start_matches('/'))
    }

    fn read(&self, name: &str) -> std::io::Result<Vec<u8>> {
        std::fs::read(self.path(name))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = umount2(&self.point, MntFlags::MNT_DETACH);
    }
}

/// An archive (v2) of an image in a registry or a layout.
fn index(source: &str, archive: &Path) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipwright"));
    run(command.args(["index", source, "--no-cache", "-o"]).arg(archive));
}

/// What a count of a report is.
fn count(report: &Value, name: &str) -> u64 {
    report[name].as_u64().unwrap_or_else(|| panic!("{name} in {report}"))
}
