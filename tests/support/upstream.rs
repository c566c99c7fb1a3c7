//! Upstream's own library, through the Go program in `tests/interop`, and the tools that tests
//! compare it and us with.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

/// Why a test that needs something can't run here. In CI that is a failure; elsewhere the test says
/// so and passes.
pub(crate) fn skip(missing: &str) {
    assert!(std::env::var_os("CI").is_none(), "CI must not skip this test, but: {missing}");
    eprintln!("skipped: {missing}");
}

/// The Go program, built once a test process; `None` (and said so) where it can't run.
pub(crate) fn interop() -> Option<&'static Path> {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let built = BINARY.get_or_init(|| {
        if Command::new("go").arg("version").output().is_err() {
            skip("no Go here, which upstream's library needs");
            return None;
        }
        if !nix::unistd::geteuid().is_root() {
            skip("not root, which mounting and unpacking with owners need");
            return None;
        }
        let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop");
        let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop");
        let status = Command::new("go")
            .current_dir(module)
            .args(["build", "-buildvcs=false", "-o"])
            .arg(&binary)
            .arg(".")
            .status()
            .unwrap();
        assert!(status.success(), "go build of tests/interop failed");
        Some(binary)
    });
    built.as_deref()
}

/// Runs a program to its end and returns its standard output; panics with all it said if it fails.
pub(crate) fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

/// `umoci unpack` of a layout's tag `latest` into `bundle`, which it makes; returns the root.
pub(crate) fn unpack(layout: &Path, bundle: &Path) -> PathBuf {
    run(Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:latest", layout.display()))
        .arg(bundle));
    bundle.join("rootfs")
}

/// One of the images that `scripts/make_image.py` makes by hand, as an OCI layout in `directory`.
pub(crate) fn make_image(name: &str, directory: &Path) -> PathBuf {
    let layout = directory.join(name);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/make_image.py");
    run(Command::new("python3").arg(script).arg(name).arg(&layout));
    layout
}

/// An image of the corpus (`scripts/corpus.sh`), as an OCI layout; `None` (and said so) without it.
pub(crate) fn corpus_image(name: &str) -> Option<PathBuf> {
    let corpus = std::env::var_os("CLIPWRIGHT_CORPUS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/corpus"), PathBuf::from);
    let layout = corpus.join("oci").join(name);
    if layout.is_dir() {
        return Some(layout);
    }
    skip(&format!("no image {name} in the corpus: make it with `scripts/corpus.sh {name}`"));
    None
}

/// An archive mounted by upstream's FUSE code; unmounted when dropped.
pub(crate) struct Mount {
    process: Child,
    /// Where.
    pub(crate) point: PathBuf,
}

impl Mount {
    /// Mounts `archive` at `directory/mount`, with an empty cache beside it.
    pub(crate) fn new(interop: &Path, archive: &Path, directory: &Path) -> Self {
        Self::with(interop, archive, directory, &[])
    }

    /// The same, with more in the environment: the keys of an archive in S3.
    pub(crate) fn with(
        interop: &Path,
        archive: &Path,
        directory: &Path,
        environment: &[(&str, &str)],
    ) -> Self {
        let point = directory.join("mount");
        std::fs::create_dir_all(&point).unwrap();
        let mut process = Command::new(interop)
            .args(["mount", "--until-eof", "--cache"])
            .arg(directory.join("cache"))
            .arg(archive)
            .arg(&point)
            .envs(environment.iter().copied())
            .env_remove("AWS_CA_BUNDLE") // upstream's S3 client can't be made with one
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert!(
            line.trim() == "ready",
            "upstream could not mount {}: {:?}",
            archive.display(),
            process.wait()
        );
        Self { process, point }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        drop(self.process.stdin.take()); // the end of its input is its sign to unmount
        let _ = self.process.wait();
    }
}
