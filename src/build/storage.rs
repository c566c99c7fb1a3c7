//! Where builds keep their layers: a storage for each workspace, so that none sees another's, and for each
//! build a directory that is gone afterwards.
//!
//! The storage's lock is held together by those who build in it, and alone by whoever puts it right.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::BuildError;
use super::export::beneath;
use super::export::{ExportedLayers, StoredImage};
use crate::digest::Digest;
use crate::local::io_error;
use crate::workspace::WorkspaceId;

/// What `RUN` may do as root: what the field gives containers, less what it takes to speak to networks without the
/// kernel's filter (`NET_RAW`) or to make devices (`MKNOD`).
const CONTAINERS_CONF: &str = "[containers]\ndefault_capabilities = [\"CHOWN\", \"DAC_OVERRIDE\", \
     \"FOWNER\", \"FSETID\", \"KILL\", \"NET_BIND_SERVICE\", \"SETFCAP\", \"SETGID\", \"SETPCAP\", \"SETUID\", \
     \"SYS_CHROOT\"]\n";

/// The storages of all workspaces.
#[derive(Debug, Clone)]
pub struct Storages {
    /// A directory for each workspace is in it.
    pub root: PathBuf,
}

impl Storages {
    /// Where the layers of a workspace are.
    pub fn of(&self, workspace: &WorkspaceId) -> PathBuf {
        self.root.join(workspace.as_str())
    }

    /// All that there are.
    pub fn all(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }
}

/// The storage of a workspace, and the directory of one build.
#[derive(Debug, Clone)]
pub struct Site {
    /// Of the workspace.
    storage: PathBuf,
    /// Of the build.
    scratch: PathBuf,
    driver: &'static str,
    /// Held as long as the storage is used.
    lock: Arc<File>,
}

impl Site {
    /// Makes what is missing and waits until nobody puts the storage right. `scratch` must be empty, and
    /// is the caller's to remove.
    pub async fn open(storage: &Path, scratch: &Path) -> Result<Self, BuildError> {
        let (storage, scratch) = (storage.to_owned(), scratch.to_owned());
        crate::local::blocking(move || {
            let lock = Self::lock_file(&storage)?;
            lock.lock_shared().map_err(io_error("can't lock the storage"))?;
            Self::prepare(storage, scratch, lock)
        })
        .await?
    }

    /// As [`Self::open`], alone; `None` if somebody builds in it.
    pub fn open_alone(storage: &Path, scratch: &Path) -> Result<Option<Self>, BuildError> {
        let lock = Self::lock_file(storage)?;
        match lock.try_lock() {
            Ok(()) => Self::prepare(storage.to_owned(), scratch.to_owned(), lock).map(Some),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => {
                Err(io_error("can't lock the storage")(error).into())
            }
        }
    }

    fn lock_file(storage: &Path) -> Result<File, BuildError> {
        let failed = || io_error(format!("can't make {}", storage.display()));
        fs::create_dir_all(storage.join("layers")).map_err(failed())?;
        fs::create_dir_all(storage.join("used")).map_err(failed())?;
        Ok(File::create(storage.join("lock")).map_err(failed())?)
    }

    fn prepare(storage: PathBuf, scratch: PathBuf, lock: File) -> Result<Self, BuildError> {
        let failed = |path: &Path| io_error(format!("can't write {}", path.display()));
        let driver = driver(&storage);
        let site = Self { storage, scratch, driver, lock: Arc::new(lock) };
        for directory in ["run", "tmp", "root", "conf", "secrets", "context"] {
            let path = site.scratch.join(directory);
            fs::create_dir_all(&path).map_err(failed(&path))?;
        }
        let quoted = |path: &Path| serde_json::Value::from(path.display().to_string()).to_string();
        let storage_conf = format!(
            "[storage]\ndriver = {driver:?}\ngraphroot = {}\nrunroot = {}\n\
             [storage.options.overlay]\nmountopt = \"nodev\"\n",
            quoted(&site.layers()),
            quoted(&site.run_root()),
        );
        for (name, text) in [
            ("storage.conf", storage_conf.as_str()),
            // Images are looked for in the storage alone.
            ("registries.conf", "unqualified-search-registries = []\n"),
            ("containers.conf", CONTAINERS_CONF),
            ("policy.json", "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}"),
        ] {
            let path = site.conf(name);
            fs::write(&path, text).map_err(failed(&path))?;
        }
        Ok(site)
    }

    /// Holds the storage alone from here on, if nobody else builds in it; else together with them, as
    /// before. Of those that end at the same time the last one is alone.
    pub(super) async fn try_alone(&self) -> Result<bool, BuildError> {
        let lock = self.lock.clone();
        let alone = crate::local::blocking(move || match lock.try_lock() {
            Ok(()) => Ok(true),
            // What was held is let go of first (flock(2), converting a lock).
            Err(TryLockError::WouldBlock) => lock.lock_shared().map(|()| false),
            Err(TryLockError::Error(error)) => Err(error),
        });
        Ok(alone.await?.map_err(io_error("can't lock the storage"))?)
    }

    /// Holds the storage together with others again.
    pub(super) fn share(&self) -> Result<(), BuildError> {
        Ok(self.lock.lock_shared().map_err(io_error("can't lock the storage"))?)
    }

    /// Layers, images and working containers.
    pub(super) fn layers(&self) -> PathBuf {
        self.storage.join("layers")
    }

    /// What is mounted by this build.
    pub(super) fn run_root(&self) -> PathBuf {
        self.scratch.join("run")
    }

    /// One of the builder's settings.
    pub(super) fn conf(&self, name: &str) -> PathBuf {
        self.scratch.join("conf").join(name)
    }

    /// A directory or file of this build.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// The whole directory of this build.
    pub(super) fn scratch_root(&self) -> &Path {
        &self.scratch
    }

    /// Remembers that an image was used just now.
    pub(super) fn touch(&self, image: &str) {
        // What can't be remembered goes earlier than it should.
        let _ = File::create(self.storage.join("used").join(image));
    }

    /// When an image was used last.
    pub(super) fn used_at(&self, image: &str) -> Option<std::time::SystemTime> {
        fs::metadata(self.storage.join("used").join(image)).and_then(|found| found.modified()).ok()
    }

    /// When anything in it was used or made last, as far as that is known: a build that fails leaves layers too.
    pub fn last_used(&self) -> Option<std::time::SystemTime> {
        let entries = fs::read_dir(self.storage.join("used")).into_iter().flatten().flatten();
        let used = entries.filter_map(|entry| entry.metadata().ok());
        let layers = self.layers().join(format!("{}-layers/layers.json", self.driver));
        let made = fs::symlink_metadata(layers).ok();
        used.chain(made).filter_map(|found| found.modified().ok()).max()
    }

    /// Forgets an image.
    pub(super) fn forget(&self, image: &str) {
        let _ = fs::remove_file(self.storage.join("used").join(image));
    }

    /// Ids of the images in the storage.
    pub(super) fn images(&self) -> Vec<String> {
        let file = format!("{}-images/images.json", self.driver);
        named(&self.layers(), &file).into_iter().map(|named| named.id).collect()
    }

    /// The image of this config.
    pub(super) async fn image(&self, config: Digest) -> Result<StoredImage, BuildError> {
        let (root, driver) = (self.layers(), self.driver);
        let opened =
            crate::local::blocking(move || StoredImage::open(&root, driver, config)).await?;
        Ok(opened?)
    }

    /// What layers of the storage became when they were exported.
    pub(super) fn exported(&self) -> ExportedLayers {
        ExportedLayers::new(self.storage.join("exported"))
    }

    /// Forgets what layers became that the storage has no longer.
    pub(super) fn forget_exported(&self) {
        let file = format!("{}-layers/layers.json", self.driver);
        let layers = named(&self.layers(), &file).into_iter();
        let known: BTreeSet<Digest> =
            layers.filter_map(|layer| layer.diff_digest.parse().ok()).collect();
        self.exported().retain(|diff_id| known.contains(&diff_id));
    }

    /// Whether there is an image of this config.
    pub(super) fn has_image(&self, config: Digest) -> bool {
        let hex = config.hex();
        self.images().contains(&hex)
    }

    /// Ids of the working containers that this build made and has not removed: those whose layer it
    /// has mounted.
    pub(super) fn own_containers(&self) -> Vec<String> {
        let mounted = self.mounted_layers();
        let containers = self.containers().into_iter();
        containers.filter(|container| mounted.contains(&container.layer)).map(|c| c.id).collect()
    }

    /// Ids of the layers that this build has mounted.
    pub(super) fn mounted_layers(&self) -> Vec<String> {
        let file = format!("{}-layers/mountpoints.json", self.driver);
        named(&self.run_root(), &file).into_iter().map(|layer| layer.id).collect()
    }

    /// All layers, and the one that each lies on; nothing for the lowest.
    pub(super) fn layer_parents(&self) -> BTreeMap<String, String> {
        let files = ["layers.json", "volatile-layers.json"];
        let file = |name: &str| named(&self.layers(), &format!("{}-layers/{name}", self.driver));
        let layers = files.iter().flat_map(|name| file(name));
        layers.map(|layer| (layer.id, layer.parent)).collect()
    }

    /// Where the files of a layer are.
    pub(super) fn layer_directory(&self, layer: &str) -> PathBuf {
        let directory = self.layers().join(self.driver);
        if self.driver == "vfs" { directory.join("dir").join(layer) } else { directory.join(layer) }
    }

    /// Whether there are working containers at all.
    pub(super) fn has_containers(&self) -> bool {
        !self.containers().is_empty()
    }

    /// Ids of the images that working containers are of.
    pub(super) fn images_of_containers(&self) -> BTreeSet<String> {
        let images = self.containers().into_iter().map(|container| container.image);
        let known: BTreeSet<String> = self.images().into_iter().collect();
        images.filter(|image| known.contains(image)).collect()
    }

    fn containers(&self) -> Vec<Named> {
        let files = ["containers.json", "volatile-containers.json"]
            .map(|name| format!("{}-containers/{name}", self.driver));
        let roots = [self.layers(), self.run_root()];
        roots.iter().flat_map(|root| files.iter().flat_map(|file| named(root, file))).collect()
    }

    /// Digests of the compressed layers that the storage knows.
    pub(super) fn known_layers(&self) -> Vec<Digest> {
        let file = format!("{}-layers/layers.json", self.driver);
        let layers = named(&self.layers(), &file).into_iter();
        layers.filter_map(|layer| layer.compressed_diff_digest.parse().ok()).collect()
    }

    /// Bytes on disk of all layers.
    pub(super) fn size(&self) -> u64 {
        size_of(&self.layers())
    }
}

/// Bytes of a file in which the builder names what is in the storage: thousands of layers.
const MAX_RECORDS: u64 = 64 << 20;

/// What the storage's own files say of an image, a layer or a container.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Named {
    id: String,
    image: String,
    layer: String,
    parent: String,
    #[serde(rename = "compressed-diff-digest")]
    compressed_diff_digest: String,
    #[serde(rename = "diff-digest")]
    diff_digest: String,
}

/// What a file of the storage names; nothing, where there is none yet. A build can write there: what is no
/// regular file, or is behind a link, or larger than the builder's own ever are, names nothing.
fn named(root: &Path, file: &str) -> Vec<Named> {
    use std::io::Read as _;
    let read = || {
        let file = beneath::open_file(beneath::open_root(root)?, file)?;
        let mut bytes = Vec::new();
        if file.metadata()?.is_file() {
            file.take(MAX_RECORDS).read_to_end(&mut bytes)?;
        }
        Ok::<_, std::io::Error>(bytes)
    };
    serde_json::from_slice(&read().unwrap_or_default()).unwrap_or_default()
}

/// Overlays can't lie on an overlay, as in a container without a volume (CONTRACT D.3).
fn driver(storage: &Path) -> &'static str {
    const OVERLAYFS: i64 = 0x794c_7630;
    let found = nix::sys::statfs::statfs(storage).map(|found| found.filesystem_type().0);
    if found.is_ok_and(|kind| kind == OVERLAYFS) { "vfs" } else { "overlay" }
}

/// Bytes on disk, of what can be read.
pub(super) fn size_of(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let (mut size, mut todo) = (0, vec![directory.to_owned()]);
    while let Some(directory) = todo.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            size += found.blocks() * 512;
            if found.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A build can put anything in the place of the builder's files.
    #[test]
    fn what_is_no_file_of_the_builders_names_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("layers");
        fs::create_dir_all(root.join("images")).unwrap();
        let place = |name: &str| root.join("images").join(name);
        fs::write(place("right"), r#"[{"id": "a"}, {"id": "b", "other": 1}]"#).unwrap();
        nix::unistd::mkfifo(&place("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink(place("right"), place("link")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", place("endless")).unwrap();
        fs::create_dir(place("directory")).unwrap();
        fs::write(place("wrong"), "{").unwrap();
        std::os::unix::fs::symlink(root.join("images"), root.join("elsewhere")).unwrap();
        let ids = |file: &str| -> Vec<String> {
            named(&root, file).into_iter().map(|named| named.id).collect()
        };
        assert_eq!(ids("images/right"), ["a", "b"]);
        for name in ["fifo", "link", "endless", "directory", "wrong", "absent"] {
            assert_eq!(ids(&format!("images/{name}")), [] as [&str; 0], "{name}");
        }
        assert_eq!(ids("elsewhere/right"), [] as [&str; 0]);
    }
}
