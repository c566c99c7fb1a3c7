//! The store that is a repository of a registry: an object is an artifact of one blob under a tag, its
//! manifest, pushed last, makes it visible.
//!
//! A registry has no conditional writes. Within this process writers of one key take turns, so that the
//! contract holds; of two processes that write the same key within one request's time both may believe
//! to have written it, and the later one has. What was replaced or removed goes by its manifest's digest;
//! the registry's own collection takes the blobs, and what an upload left that broke off.

use std::fs::File;
use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
use std::io::{self, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

use super::{
    CommitReport, Key, Leftover, ListedObject, NewObject, ObjectStat, ObjectStore, ObjectVersion,
    Overwrite, Put, StoreError,
};
use crate::digest::Digest;
use crate::oci::{Actions, Artifact, CREATED, Credentials, OciError, OciSettings, Repository};

/// The way of an object into the repository.
mod commit;
/// An object on its way.
mod draft;
/// What the registry's failures mean to who uses a store.
mod failure;
/// Keys as tags.
mod tag;

/// The artifact type of objects of which nobody says what they are.
const OBJECT: &str = "application/vnd.clipwright.object.v1";
const OCTETS: &str = "application/octet-stream";
/// The key, as a manifest's annotation: no two keys have the same manifest.
const KEY: &str = "dev.clipwright.key";
/// Manifests read at a time for a list.
const AT_A_TIME: usize = 16;
/// Writers of different keys that may have to take turns with each other: one in so many.
const LANES: usize = 64;

/// Which repository, and how it is reached.
#[derive(Debug, Clone)]
pub struct RegistrySettings {
    /// `host[:port]` in lower case.
    pub host: String,
    /// The repository. It may hold images as well: their tags are left alone.
    pub repository: String,
    /// How to log in; `None` leaves it to docker's config file.
    pub credentials: Option<Credentials>,
    /// How registries are reached.
    pub oci: OciSettings,
    /// Where objects are kept, without a name, whose bytes are not known yet.
    pub scratch: PathBuf,
}

/// What an object is to those who find it without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The artifact's type.
    pub artifact_type: &'static str,
    /// The blob's media type.
    pub media_type: &'static str,
    /// The manifest that it is about, if that is in this repository: registry, repository, digest.
    pub subject: Option<(String, String, Digest)>,
}

/// Who can tell what objects are.
pub trait Describe: Send + Sync + std::fmt::Debug {
    /// The types of all artifacts that can be among the objects, but for those of which nothing is known.
    fn types(&self) -> &'static [&'static str];

    /// What an object is; `None` if that is not known. May block.
    fn describe(&self, key: &Key, content: &File) -> Option<Description>;
}

/// Knows nothing of any object.
#[derive(Debug)]
struct Nobody;

impl Describe for Nobody {
    fn types(&self) -> &'static [&'static str] {
        &[]
    }

    fn describe(&self, _: &Key, _: &File) -> Option<Description> {
        None
    }
}

/// Objects in one repository. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RegistryStore {
    repository: Repository,
    host: String,
    path: String,
    scratch: PathBuf,
    describer: Arc<dyn Describe>,
    types: Arc<[&'static str]>,
    lanes: Arc<[Mutex<()>; LANES]>,
}

/// An object as it is under its key.
#[derive(Debug, Clone)]
struct Found {
    manifest: Digest,
    artifact: Artifact,
}

impl Found {
    fn version(&self) -> ObjectVersion {
        ObjectVersion(self.manifest.to_string())
    }

    fn modified(&self) -> SystemTime {
        let created = self.artifact.annotations.get(CREATED);
        let created = created.and_then(|text| DateTime::parse_from_rfc3339(text).ok());
        created.map_or(SystemTime::UNIX_EPOCH, SystemTime::from)
    }

    fn key(&self) -> Option<Key> {
        self.artifact.annotations.get(KEY)?.parse().ok()
    }
}

impl RegistryStore {
    /// Opens the repository; nothing is asked of the registry yet: [`ObjectStore::check`] does that.
    pub async fn open(settings: &RegistrySettings) -> Result<Self, StoreError> {
        Self::described(settings, Arc::new(Nobody)).await
    }

    /// The same, with objects of which `describer` knows what they are.
    pub async fn described(
        settings: &RegistrySettings,
        describer: Arc<dyn Describe>,
    ) -> Result<Self, StoreError> {
        let RegistrySettings { host, repository: path, credentials, oci, scratch } = settings;
        let opened = Repository::open(host, path, Actions::All, oci, credentials.clone()).await;
        let repository = opened.map_err(|error| {
            failure::of(error, format!("registry {host}/{path}"), "open the store".to_owned())
        })?;
        Ok(Self {
            repository,
            host: host.clone(),
            path: path.clone(),
            scratch: scratch.clone(),
            types: describer.types().iter().copied().chain([OBJECT]).collect(),
            describer,
            lanes: Arc::new([const { Mutex::const_new(()) }; LANES]),
        })
    }

    fn failed(&self, action: impl Into<String>) -> impl FnOnce(OciError) -> StoreError {
        let (store, action) = (self.describe(), action.into());
        |error| failure::of(error, store, action)
    }

    /// Waits for the turn to write a key.
    async fn turn(&self, key: &Key) -> MutexGuard<'_, ()> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(key.as_str());
        let lane = usize::try_from(hash % LANES as u64).unwrap_or_default();
        self.lanes[lane].lock().await
    }

    /// What is under a key. Something else than an object of ours is an error: nobody may take its place.
    async fn find(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        let never = CancellationToken::new();
        let action = || self.failed(format!("look up {key}"));
        let tag = tag::of(key);
        let Some(manifest) = self.repository.digest_of(&tag, &never).await.map_err(action())?
        else {
            return Ok(None);
        };
        match self.repository.artifact(manifest, &self.types, &never).await {
            Ok(Some(artifact)) => {
                let found = Found { manifest, artifact };
                if found.key().as_ref() == Some(key) {
                    return Ok(Some(found));
                }
                let reason = format!("tag {tag} belongs to another key");
                Err(self.rejected(format!("look up {key}"), reason))
            }
            Ok(None) => {
                let reason = format!("tag {tag} is something else than an object of a store");
                Err(self.rejected(format!("look up {key}"), reason))
            }
            // Replaced or removed in between.
            Err(OciError::ImageNotFound { .. }) => Ok(None),
            Err(error) => Err(action()(error)),
        }
    }

    fn rejected(&self, action: String, reason: String) -> StoreError {
        StoreError::Rejected { store: self.describe(), action, reason }
    }

    fn not_found(&self, key: &Key) -> StoreError {
        StoreError::NotFound { key: key.clone(), store: self.describe() }
    }

    /// Decides between [`Put::Unchanged`] and a conflict when the key is taken.
    fn compare(&self, key: &Key, found: Option<Found>, digest: Digest) -> Result<Put, StoreError> {
        let (key, store) = (key.clone(), self.describe());
        match found {
            Some(found) if found.artifact.blob == digest => Ok(Put::Unchanged),
            Some(found) => Err(StoreError::Conflict {
                key,
                store,
                expected: digest,
                found: found.artifact.blob,
            }),
            None => Err(StoreError::NotFound { key, store }),
        }
    }
}

/// The digest and the number of a file's bytes, from its start.
fn hash(mut file: &File) -> io::Result<(Digest, u64)> {
    file.rewind()?;
    Digest::of_reader(&mut file)
}

#[async_trait]
impl ObjectStore for RegistryStore {
    fn describe(&self) -> String {
        format!("registry {}", self.repository.name())
    }

    async fn put(
        &self,
        key: &Key,
        file: &Path,
        digest: Digest,
        overwrite: Overwrite,
        cancel: &CancellationToken,
    ) -> Result<Put, StoreError> {
        if cancel.is_cancelled() {
            return Err(StoreError::Cancelled { key: key.clone() });
        }
        if overwrite == Overwrite::Never
            && let Some(found) = self.find(key).await?
        {
            return self.compare(key, Some(found), digest);
        }
        let failed = |e| StoreError::io("read the finished archive", file, e);
        let path = file.to_owned();
        let read = tokio::task::spawn_blocking(move || {
            let file = File::open(path)?;
            Ok((hash(&file)?, file))
        });
        let ((found, size), opened) =
            read.await.unwrap_or_else(|died| Err(io::Error::other(died))).map_err(failed)?;
        if found != digest {
            let (key, file) = (key.clone(), file.to_owned());
            return Err(StoreError::Mismatch { key, file, expected: digest, found });
        }
        match self.store(key, opened, (digest, size), &overwrite, cancel).await? {
            CommitReport::Written => Ok(Put::Written),
            CommitReport::Taken => self.compare(key, self.find(key).await?, digest),
        }
    }

    async fn create(&self, key: &Key, cancel: &CancellationToken) -> Result<NewObject, StoreError> {
        draft::begin(self, key, cancel)
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectStat>, StoreError> {
        let found = self.find(key).await?;
        Ok(found.map(|found| ObjectStat { size: found.artifact.size, version: found.version() }))
    }

    async fn read(&self, key: &Key, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        let Artifact { blob, size, .. } =
            self.find(key).await?.ok_or_else(|| self.not_found(key))?.artifact;
        let never = CancellationToken::new();
        let read = self.repository.read((blob, size), offset, len, &never).await;
        read.map_err(self.failed(format!("read {key}")))
    }

    async fn copy(
        &self,
        from: &Key,
        to: &Key,
        overwrite: Overwrite,
    ) -> Result<CommitReport, StoreError> {
        let found = self.find(from).await?.ok_or_else(|| self.not_found(from))?;
        // What refers to something under one name does not under another, unless somebody says so.
        let artifact = Artifact { subject: None, ..found.artifact };
        self.commit(to, artifact, &overwrite, &CancellationToken::new()).await
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
        let action = || self.failed("list the store");
        let (never, repository) = (CancellationToken::new(), &self.repository);
        let tags = repository.tags(&never).await.map_err(action())?;
        let mut keys: Vec<Key> = tags.iter().filter_map(|tag| tag::key(tag)).collect();
        let wanted = |key: &Key| {
            let rest = key.as_str().strip_prefix(prefix);
            rest.is_some_and(|rest| !rest.contains('/')) && key.as_str() > after
        };
        keys.retain(wanted);
        keys.sort();
        // Images and what refers to them have tags too, and may not be asked for at all by their like.
        let look =
            |key: Key| async move {
                let tag = tag::of(&key);
                let Some(manifest) = repository.digest_of(&tag, &never_ends()).await? else {
                    return Ok(None);
                };
                let read = repository.artifact(manifest, &self.types, &never_ends()).await;
                let artifact = match read {
                    Err(OciError::ImageNotFound { .. }) => None,
                    read => read?,
                };
                let found = artifact.map(|artifact| Found { manifest, artifact });
                Ok(found.filter(|found| found.key().as_ref() == Some(&key)).map(|found| {
                    ListedObject { size: found.artifact.size, modified: found.modified(), key }
                }))
            };
        let found = stream::iter(keys).map(look).buffered(AT_A_TIME);
        let found = found.try_filter_map(|object| std::future::ready(Ok(object))).take(limit);
        found.try_collect().await.map_err(action())
    }

    async fn touch(&self, key: &Key, age: Duration) -> Result<bool, StoreError> {
        let _turn = self.turn(key).await;
        let Some(found) = self.find(key).await? else { return Ok(false) };
        let old = SystemTime::now().duration_since(found.modified());
        if old.is_ok_and(|old| old > age) {
            self.publish(key, found.artifact.clone(), &CancellationToken::new()).await?;
            self.tidy(&found).await;
        }
        Ok(true)
    }

    async fn leftovers(&self, _: Duration) -> Result<Vec<Leftover>, StoreError> {
        // A registry lists no uploads, and sweeps them itself.
        Ok(Vec::new())
    }

    async fn remove_leftover(&self, _: &Leftover) -> Result<(), StoreError> {
        Ok(())
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let _turn = self.turn(key).await;
        let Some(found) = self.find(key).await? else { return Ok(()) };
        let never = CancellationToken::new();
        let removed = self.repository.remove(found.manifest, &found.artifact, &never).await;
        removed.map_err(self.failed(format!("remove {key}")))
    }

    async fn check(&self) -> Result<(), StoreError> {
        let checked = self.repository.check(&CancellationToken::new()).await;
        checked.map_err(self.failed("answer"))
    }
}

fn never_ends() -> CancellationToken {
    CancellationToken::new()
}
