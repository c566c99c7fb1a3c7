//! One service with everything that a migration needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use clipwright::clip::node::{Attr, Node, NodeKind, NodePath};
use clipwright::clip::tree::Tree;
use clipwright::clip::writer::LocalWriter;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::registry::Registry;
use crate::support::s3::S3Server;
use crate::support::service::{Service, Settings};
use crate::support::upstream::run;

pub(crate) const ID: &str = "0123456789abcdef";

/// A registry that images are pushed to, and a service.
pub(crate) struct Bench {
    pub(crate) service: Service,
    pub(crate) registry: Registry,
    pub(crate) dir: TempDir,
}

impl Bench {
    pub(crate) async fn new(settings: Settings) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let registry = Registry::start(dir.path());
        let service = Service::start(pushing_to(settings, &registry.address)).await;
        Self { service, registry, dir }
    }

    /// Runs a migration to its end.
    pub(crate) async fn migrate(&self, to: u8, discard: bool) -> Value {
        migrate(&self.service, to, discard).await
    }

    /// A v1 archive of these files in the directory store, made by hand.
    pub(crate) fn put_v1(&self, id: &str, files: &[(&str, &[u8])]) -> PathBuf {
        let path = self.service.archive(id);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, v1_archive(files)).unwrap();
        path
    }
}

pub(crate) async fn migrate(service: &Service, to: u8, discard: bool) -> Value {
    let body = json!({
        "kind": "migrate", "image_id": ID, "to": to, "discard_kept": discard,
    });
    let job = service.submit(body).await;
    service.finished(&job).await
}

/// The migration of a job that succeeded.
pub(crate) fn migration(job: &Value) -> &Value {
    assert_eq!(job["state"], "succeeded", "{job:#}");
    &job["result"]["migration"]
}

/// Images are pushed there. Archives name them so that upstream's older readers find them too.
pub(crate) fn pushing_to(settings: Settings, registry: &str) -> Settings {
    settings
        .argument("build-registry", registry)
        .argument("build-repository", "migrated/images")
        .argument("reference-form", "tag-and-digest")
}

pub(crate) fn on_s3(s3: &S3Server) -> Settings {
    Settings::default()
        .argument("store", "s3")
        .argument("s3-bucket", &s3.bucket)
        .argument("s3-endpoint", &s3.endpoint)
        .argument("s3-force-path-style", "true")
        .env("CLIPWRIGHT_S3_ACCESS_KEY", &s3.access_key)
        .env("CLIPWRIGHT_S3_SECRET_KEY", &s3.secret_key)
}

/// The runtime configuration of an image that runs `sh`.
pub(crate) const CONFIG: &[u8] = br#"{"ociVersion":"1.0.0","process":{"user":{"uid":0,"gid":0},
    "args":["sh"],"env":["A=b"],"cwd":"/"},"root":{"path":"rootfs"}}"#;

/// A bundle with these files below its `rootfs`, as a local v1 archive.
pub(crate) fn v1_archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = LocalWriter::new(Vec::new()).unwrap();
    let mut nodes = BTreeMap::new();
    for directory in ["/", "/rootfs"] {
        nodes.insert(directory.to_owned(), NodeKind::Directory);
    }
    nodes.insert("/config.json".into(), NodeKind::File(writer.block(CONFIG).unwrap()));
    for (name, content) in files {
        let path = format!("/rootfs/{name}");
        for (at, _) in path.match_indices('/').skip(1) {
            nodes.entry(path[..at].to_owned()).or_insert(NodeKind::Directory);
        }
        nodes.insert(path, NodeKind::File(writer.block(content).unwrap()));
    }
    let nodes = (1..).zip(nodes).map(|(ino, (path, kind))| {
        let size = if let NodeKind::File(content) = &kind { content.len() } else { 0 };
        let attr = Attr {
            ino,
            size,
            mode: kind.type_bits() | 0o755,
            nlink: 1,
            mtime: 1_600_000_000,
            mtime_nsec: 5,
            atime: 1_600_000_001,
            ctime: 1_600_000_002,
            ..Attr::default()
        };
        let path = NodePath::new(path.as_bytes()).unwrap();
        Node { path, kind, attr, xattrs: BTreeMap::new() }
    });
    let tree = Tree::new(nodes.collect()).unwrap();
    let finished = writer.finish(&tree).unwrap();
    let mut bytes = finished.out;
    bytes[..finished.head.len()].copy_from_slice(&finished.head);
    bytes
}

/// What is below a directory, sorted, with its size; directories left out.
pub(crate) fn files_in(directory: &Path) -> Vec<(String, u64)> {
    let listing =
        run(Command::new("find").arg(directory).args(["-type", "f", "-printf", "%P %s\n"]));
    let mut files: Vec<_> = String::from_utf8(listing)
        .unwrap()
        .lines()
        .map(|line| {
            let (name, size) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), size.parse().unwrap())
        })
        .filter(|(name, _)| !name.starts_with("layer-index/"))
        .collect();
    files.sort();
    files
}

pub(crate) fn clipwright(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_clipwright")).args(arguments).output().unwrap()
}
