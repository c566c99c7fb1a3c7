//! The store that is a directory: one file per object (beta9's `local`, CONTRACT section C).
//!
//! A file is written under a temporary name, synced, and then renamed to its key. Temporary names
//! start with `.tmp-`, which no key does; those that a crash left behind are leftovers. Names are given
//! under a lock that all processes of the machine share, so that one of them can look at what is there
//! before it takes its place.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::{
    Commit, CommitReport, Key, Leftover, ListedObject, NewObject, ObjectStat, ObjectStore,
    ObjectVersion, Overwrite, Put, StoreError, supervise,
};
use crate::digest::Digest;

const TEMPORARY_PREFIX: &str = ".tmp-";
/// Whoever gives a file its name holds the lock of this one, which no key can name.
const LOCK: &str = ".lock";
const CHUNK: usize = 256 * 1024;

/// A file on its way.
mod draft;

use draft::Draft;

/// Objects as files in one directory.
#[derive(Debug, Clone)]
pub struct DirectoryStore {
    root: PathBuf,
}

impl DirectoryStore {
    /// Opens the directory, making it when it is missing.
    pub async fn open(root: &Path) -> Result<Self, StoreError> {
        let store = Self { root: root.to_owned() };
        store
            .blocking("open the store", |store| {
                fs::create_dir_all(&store.root)
                    .map_err(|e| StoreError::io("open the store", &store.root, e))
            })
            .await?;
        Ok(store)
    }

    fn find_leftovers(&self, age: Duration) -> io::Result<Vec<Leftover>> {
        let now = SystemTime::now();
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            if !name.starts_with(TEMPORARY_PREFIX) {
                continue;
            }
            // It may have got its right name meanwhile.
            let Ok(since) = entry.metadata().and_then(|m| m.modified()) else { continue };
            if now.duration_since(since).is_ok_and(|found| found > age) {
                found.push(Leftover { name: name.clone(), id: name, since });
            }
        }
        Ok(found)
    }

    /// A file, or the directory of an object that was being made.
    fn remove_temporary(&self, name: &str) -> io::Result<()> {
        let path = self.root.join(name);
        match fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Makes sure that nobody else gives a file its name until what is returned is dropped.
    fn lock(&self) -> io::Result<File> {
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            // Others may write here as other users; the umask still applies.
            .mode(0o666)
            .open(self.root.join(LOCK))?;
        lock.lock()?;
        Ok(lock)
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn temporary(&self) -> io::Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            // Workers that run as other users read the archives; the umask still applies.
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(&self.root)
    }

    /// Runs file work off the async threads.
    async fn blocking<T: Send + 'static>(
        &self,
        action: &str,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        match spawn_blocking(move || work(&store)).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::io(action, &self.root, io::Error::other(error))),
        }
    }

    fn put_blocking(
        &self,
        key: &Key,
        file: &Path,
        digest: Digest,
        overwrite: &Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Put, StoreError> {
        let target = self.path(key);
        let failed = |e| StoreError::io(format!("write {key}"), &target, e);
        if *overwrite == Overwrite::Never && target.try_exists().map_err(failed)? {
            return self.compare(key, digest, cancel);
        }

        let mut source =
            File::open(file).map_err(|e| StoreError::io("read the finished archive", file, e))?;
        let mut temporary = self.temporary().map_err(failed)?;
        let found = copy(key, &mut source, temporary.as_file_mut(), cancel)?.map_err(failed)?;
        if found != digest {
            let (key, file) = (key.clone(), file.to_owned());
            return Err(StoreError::Mismatch { key, file, expected: digest, found });
        }
        match self.publish(key, temporary, overwrite, cancel)? {
            CommitReport::Written => Ok(Put::Written),
            CommitReport::Taken => self.compare(key, digest, cancel),
        }
    }

    /// Gives a whole temporary file its name.
    fn publish(
        &self,
        key: &Key,
        temporary: NamedTempFile,
        overwrite: &Overwrite,
        cancel: &CancellationToken,
    ) -> Result<CommitReport, StoreError> {
        let target = self.path(key);
        let failed = |e| StoreError::io(format!("write {key}"), &target, e);
        temporary.as_file().sync_all().map_err(failed)?;
        let parent = target.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(failed)?;
        if cancel.is_cancelled() {
            return Err(StoreError::Cancelled { key: key.clone() });
        }
        let lock = self.lock().map_err(failed)?;
        if !may_replace(&target, overwrite).map_err(failed)? {
            return Ok(CommitReport::Taken);
        }
        temporary.persist(&target).map_err(|e| failed(e.error))?;
        drop(lock);
        // The rename is lasting only once the directory that holds the name is synced.
        File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(CommitReport::Written)
    }

    /// A second name for the same file, put in place like any other.
    fn copy_blocking(
        &self,
        from: &Key,
        to: &Key,
        overwrite: &Overwrite,
    ) -> Result<CommitReport, StoreError> {
        let (source, target) = (self.path(from), self.path(to));
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => {
                StoreError::NotFound { key: from.clone(), store: self.describe() }
            }
            _ => StoreError::io(format!("copy {from} to {to}"), &target, e),
        };
        let parent = target.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(failed)?;
        // A name that nobody else has: a temporary directory is one, and goes by itself.
        let own = tempfile::Builder::new()
            .prefix(TEMPORARY_PREFIX)
            .tempdir_in(&self.root)
            .map_err(failed)?;
        let name = own.path().join("link");
        if let Err(error) = fs::hard_link(&source, &name) {
            if error.kind() == io::ErrorKind::NotFound {
                return Err(failed(error));
            }
            // Not every file system has links.
            fs::copy(&source, &name).map_err(failed)?;
            File::open(&name).and_then(|file| file.sync_all()).map_err(failed)?;
        }
        let lock = self.lock().map_err(failed)?;
        if !may_replace(&target, overwrite).map_err(failed)? {
            return Ok(CommitReport::Taken);
        }
        // Between two names of one file this does nothing: then all is done already.
        fs::rename(&name, &target).map_err(failed)?;
        drop(lock);
        File::open(parent).and_then(|directory| directory.sync_all()).map_err(failed)?;
        Ok(CommitReport::Written)
    }

    fn list_blocking(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let within = prefix.rfind('/').map_or("", |slash| &prefix[..=slash]);
        let directory = self.root.join(within);
        let failed = |e| StoreError::io("list the store", &directory, e);
        let entries = match fs::read_dir(&directory) {
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
            {
                return Ok(Vec::new());
            }
            entries => entries.map_err(failed)?,
        };
        let mut keys = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed)?.file_name();
            let key = name.to_str().and_then(|name| format!("{within}{name}").parse::<Key>().ok());
            keys.extend(key.filter(|k| k.as_str().starts_with(prefix) && k.as_str() > after));
        }
        keys.sort();
        let mut listed = Vec::new();
        for key in keys {
            if listed.len() == limit {
                break;
            }
            // What went meanwhile is not there.
            match fs::metadata(self.path(&key)) {
                Ok(found) if found.is_file() => {
                    let (size, modified) = (found.len(), found.modified().map_err(failed)?);
                    listed.push(ListedObject { key, size, modified });
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(failed(e)),
            }
        }
        Ok(listed)
    }

    /// Decides between [`Put::Unchanged`] and a conflict when the key is taken.
    fn compare(
        &self,
        key: &Key,
        expected: Digest,
        cancel: &CancellationToken,
    ) -> Result<Put, StoreError> {
        let path = self.path(key);
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => {
                StoreError::NotFound { key: key.clone(), store: self.describe() }
            }
            _ => StoreError::io(format!("read {key}"), &path, e),
        };
        let mut file = File::open(&path).map_err(failed)?;
        let found = copy(key, &mut file, &mut io::sink(), cancel)?.map_err(failed)?;
        if found == expected {
            return Ok(Put::Unchanged);
        }
        Err(StoreError::Conflict { key: key.clone(), store: self.describe(), expected, found })
    }

    fn read_blocking(&self, key: &Key, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        let path = self.path(key);
        let failed = |e: io::Error| match e.kind() {
            io::ErrorKind::NotFound => {
                StoreError::NotFound { key: key.clone(), store: self.describe() }
            }
            _ => StoreError::io(format!("read {key}"), &path, e),
        };
        let mut file = File::open(&path).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        file.seek(SeekFrom::Start(offset.min(size))).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(len).read_to_end(&mut bytes).map_err(failed)?;
        Ok(bytes.into())
    }
}

#[async_trait]
impl ObjectStore for DirectoryStore {
    fn describe(&self) -> String {
        format!("directory {}", self.root.display())
    }

    async fn put(
        &self,
        key: &Key,
        file: &Path,
        digest: Digest,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Put, StoreError> {
        let token = cancel.child_token();
        let task = spawn_blocking({
            let (store, key, file, token) =
                (self.clone(), key.clone(), file.to_owned(), token.clone());
            move || store.put_blocking(&key, &file, digest, &overwrite, &token)
        });
        supervise(key, token, task).await
    }

    async fn create(&self, key: &Key, cancel: &CancellationToken) -> Result<NewObject, StoreError> {
        let (key, cancel) = (key.clone(), cancel.child_token());
        self.blocking("write", move |store| Draft::begin(store, key, cancel)).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectStat>, StoreError> {
        let path = self.path(key);
        let failed = |e| StoreError::io(format!("look up {key}"), &path, e);
        match tokio::fs::metadata(&path).await {
            Ok(found) if found.is_file() => {
                let version = version(&found).map_err(failed)?;
                Ok(Some(ObjectStat { size: found.len(), version }))
            }
            Ok(_) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    async fn read(&self, key: &Key, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        let key = key.clone();
        self.blocking("read", move |store| store.read_blocking(&key, offset, len)).await
    }

    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        overwrite: Overwrite,
    ) -> Result<CommitReport, StoreError> {
        let (from, to) = (from.clone(), to.clone());
        self.blocking("copy", move |store| store.copy_blocking(&from, &to, &overwrite)).await
    }

    async fn presign(&self, _: &Key, _: Duration) -> Result<Option<String>, StoreError> {
        Ok(None)
    }

    async fn list(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<Vec<ListedObject>, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.to_owned());
        self.blocking("list", move |store| store.list_blocking(&prefix, &after, limit)).await
    }

    async fn touch(&self, key: &Key, age: Duration) -> Result<bool, StoreError> {
        let key = key.clone();
        self.blocking("touch", move |store| {
            let path = store.path(&key);
            let touch = || {
                let file = File::open(&path)?;
                let (modified, now) = (file.metadata()?.modified()?, SystemTime::now());
                if now.duration_since(modified).is_ok_and(|found| found > age) {
                    file.set_modified(now)?;
                }
                Ok::<_, io::Error>(true)
            };
            match touch() {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
                done => done.map_err(|e| StoreError::io(format!("touch {key}"), &path, e)),
            }
        })
        .await
    }

    async fn leftovers(&self, age: Duration) -> Result<Vec<Leftover>, StoreError> {
        self.blocking("list", move |store| {
            store.find_leftovers(age).map_err(|e| StoreError::io("list", &store.root, e))
        })
        .await
    }

    async fn remove_leftover(&self, leftover: &Leftover) -> Result<(), StoreError> {
        let name = leftover.id.clone();
        self.blocking("delete", move |store| {
            store.remove_temporary(&name).map_err(|e| StoreError::io("delete", &store.root, e))
        })
        .await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.path(key);
        match tokio::fs::remove_file(&path).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io(format!("delete {key}"), &path, e))
            }
            _ => Ok(()),
        }
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.blocking("write", |store| match store.temporary() {
            Ok(_) => Ok(()),
            Err(e) => Err(StoreError::io("write", &store.root, e)),
        })
        .await
    }
}

/// Whether what is at `target` may be replaced; asked under the lock.
fn may_replace(target: &Path, overwrite: &Overwrite) -> io::Result<bool> {
    Ok(match overwrite {
        Overwrite::Replace => true,
        Overwrite::Never => !target.try_exists()?,
        Overwrite::Seen(seen) => match fs::metadata(target) {
            Ok(found) => version(&found)? == *seen,
            Err(e) if e.kind() == io::ErrorKind::NotFound => false,
            Err(e) => return Err(e),
        },
    })
}

/// A file is put under its name whole and not written again, so that these tell it from another.
fn version(found: &fs::Metadata) -> io::Result<ObjectVersion> {
    let modified = found.modified()?.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(ObjectVersion(format!("{}-{}-{}", found.ino(), found.len(), modified.as_nanos())))
}

/// Copies to the end and returns the digest of what was copied. The outer error is cancellation.
fn copy(
    key: &Key,
    from: &mut impl Read,
    to: &mut impl Write,
    cancel: &CancellationToken,
) -> Result<io::Result<Digest>, StoreError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        if cancel.is_cancelled() {
            return Err(StoreError::Cancelled { key: key.clone() });
        }
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(Ok(Digest::from_hasher(hasher))),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Ok(Err(e)),
        };
        hasher.update(&buffer[..read]);
        if let Err(e) = to.write_all(&buffer[..read]) {
            return Ok(Err(e));
        }
    }
}

#[cfg(test)]
mod tests;
