//! A service that builds, a registry with a base image, and counts of what is on the machine.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::push::open_uploads;
use crate::support::layout::{Blob, Layout};
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::service::{Service, Settings};

/// A registry that bases come from and images go to, and a service beside it.
pub(crate) struct Yard {
    pub(crate) registry: Registry,
    pub(crate) service: Service,
    /// `127.0.0.1:port/base:latest`.
    pub(crate) base: String,
    dir: TempDir,
}

impl Yard {
    pub(crate) async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::start(dir.path());
        let address = registry.address.clone();
        Self::of(dir, registry, &address, settings).await
    }

    /// One whose registry is behind a proxy, for bases and for images.
    pub(crate) async fn behind_a_proxy(settings: Settings) -> (Self, Proxy) {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::start(dir.path());
        let proxy = Proxy::start(&registry.address).await;
        let address = proxy.address.to_string();
        (Self::of(dir, registry, &address, settings).await, proxy)
    }

    async fn of(dir: TempDir, registry: Registry, address: &str, settings: Settings) -> Self {
        registry.push(Layout::of(&[busybox()]).path(), "base");
        let base = format!("{address}/base:latest");
        let settings = settings.argument("build-registry", address);
        let service = Service::start(settings.argument("workers", "4")).await;
        let (_, ready) = service.get("/readyz").await;
        assert_eq!(ready["no_builds"], Value::Null, "{ready}");
        Self { registry, service, base, dir }
    }

    /// The manifest that a finished build has pushed, out of the registry's files.
    pub(crate) fn manifest(&self, job: &Value) -> Value {
        let digest = job["result"]["manifest_digest"].as_str().unwrap();
        self.json(digest)
    }

    /// A blob of the registry that is JSON.
    pub(crate) fn json(&self, digest: &str) -> Value {
        serde_json::from_slice(&self.blob(digest)).unwrap()
    }

    /// A blob of the registry.
    pub(crate) fn blob(&self, digest: &str) -> Vec<u8> {
        std::fs::read(self.registry.blob(digest.parse().unwrap())).unwrap()
    }

    /// The directory of the repository that images go to.
    pub(crate) fn images(&self) -> std::path::PathBuf {
        self.registry.repository("beta9-users")
    }

    /// Uploads that the registry holds open.
    pub(crate) fn uploads(&self) -> usize {
        open_uploads(self.dir.path(), "beta9-users")
    }

    /// A Dockerfile on top of the base.
    pub(crate) fn on_base(&self, rest: &str) -> String {
        format!("FROM {}\n{rest}", self.base)
    }

    /// What the log of a job holds.
    pub(crate) async fn log(&self, job: &str) -> Vec<Value> {
        let text = self.service.get_text(&format!("/v1/jobs/{job}/log?follow=false")).await;
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// A directory with one for each workspace.
    pub(crate) fn storages(&self) -> std::path::PathBuf {
        self.service.data().join("builds")
    }

    /// Runs a build on the base to its end.
    pub(crate) async fn build(&self, image_id: &str, rest: &str) -> Value {
        self.service.run(build(image_id, &self.on_base(rest))).await
    }

    /// What builds must leave nothing of, as soon as what was killed has died: mounts, processes, cgroups,
    /// working containers, directories of their own.
    pub(crate) fn left(&self) -> Vec<String> {
        let began = std::time::Instant::now();
        loop {
            let left = self.left_now();
            if left.is_empty() || began.elapsed() > std::time::Duration::from_secs(10) {
                return left;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn left_now(&self) -> Vec<String> {
        let data = self.service.data();
        let mut left = lines_with("/proc/self/mounts", data);
        left.extend(sandboxed(data));
        left.extend(carriers());
        left.extend(cgroups(self.service.process()));
        for scratch in entries(&data.join("tmp")) {
            left.extend(
                entries(&scratch)
                    .iter()
                    .filter(|path| !path.ends_with("lock"))
                    .map(|path| path.display().to_string()),
            );
        }
        for storage in entries(&self.storages()) {
            for file in ["containers.json", "volatile-containers.json"] {
                let file = storage.join("layers/overlay-containers").join(file);
                let text = std::fs::read_to_string(file).unwrap_or_else(|_| "[]".to_owned());
                let containers: Value = serde_json::from_str(&text).unwrap();
                let containers = containers.as_array().unwrap().iter();
                left.extend(containers.map(|found| format!("container {}", found["id"])));
            }
        }
        left
    }
}

fn lines_with(file: &str, path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let path = path.to_str().unwrap();
    text.lines().filter(|line| line.contains(path)).map(str::to_owned).collect()
}

/// Processes in whose root something of this directory is: those of its service's sandboxes.
fn sandboxed(data: &Path) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    processes
        .filter(|path| !lines_with(&format!("{}/mountinfo", path.display()), data).is_empty())
        .map(|path| {
            let line = std::fs::read_to_string(path.join("cmdline")).unwrap_or_default();
            format!("process {}: {}", path.display(), line.replace('\0', " "))
        })
        .collect()
}

/// Processes that carry a network whose sandbox is gone.
fn carriers() -> Vec<String> {
    let of_nobody = |line: &&String| {
        let mut parts = line.split(['/', ' ']).skip_while(|part| *part != "proc");
        parts.nth(1).is_some_and(|process| !Path::new("/proc").join(process).exists())
    };
    let lines = processes("slirp4netns --configure").into_iter();
    let lines =
        lines.filter_map(|path| std::fs::read_to_string(Path::new(&path).join("cmdline")).ok());
    let lines: Vec<String> = lines.map(|line| line.replace('\0', " ")).collect();
    lines.iter().filter(of_nobody).cloned().collect()
}

/// Cgroups that a service made.
fn cgroups(service: u32) -> Vec<String> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = entries(root).into_iter().chain([root.to_owned()]);
    let made = hierarchies.flat_map(|hierarchy| entries(&hierarchy.join("clipwright-builds")));
    let is_own = |path: &std::path::PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(&format!("{service}-")))
    };
    made.filter(is_own).map(|path| path.display().to_string()).collect()
}

fn entries(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| !path.is_symlink()).collect()
}

/// A build of this Dockerfile without a context.
pub(crate) fn build(image_id: &str, dockerfile: &str) -> Value {
    json!({"kind": "build", "image_id": image_id, "dockerfile": dockerfile})
}

/// busybox, and a name for each of the programs that the tests use.
pub(crate) fn busybox() -> Blob {
    let program =
        ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|path| std::fs::read(path).ok());
    let program = program.expect("busybox-static is installed (scripts/setup.sh test)");
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(program.len() as u64);
    header.set_mode(0o755);
    tar.append_data(&mut header, "bin/busybox", &program[..]).unwrap();
    for name in [
        "sh",
        "cat",
        "echo",
        "sleep",
        "ls",
        "mkdir",
        "setsid",
        "yes",
        "head",
        "id",
        "sha256sum",
        "ln",
        "wget",
        "env",
        "kill",
        "cp",
        "dd",
        "mknod",
        "mount",
        "rm",
        "sed",
        "touch",
        "unshare",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        tar.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    Blob::gzip(&tar.into_inner().unwrap())
}

/// A tar of these files in gzip.
pub(crate) fn context(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&tar.into_inner().unwrap()).unwrap();
    encoder.finish().unwrap()
}

/// The processes of the machine that have this among their arguments, by their ids.
pub(crate) fn processes(mark: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let has_it = |path: &Path| {
        let line = std::fs::read(path.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).replace('\0', " ").contains(mark)
    };
    entries
        .map(|entry| entry.path())
        .filter(|path| has_it(path))
        .map(|path| path.display().to_string())
        .collect()
}

/// Waits until this holds, for which it has a while.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = std::time::Instant::now();
    while !holds().await {
        assert!(began.elapsed() < std::time::Duration::from_mins(2), "{what}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Runs our own command line.
pub(crate) fn clipwright(
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_clipwright"))
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}
