//! The way of a migration: the archive that an image id names is brought to the other version.
//!
//! What is there is kept under a name of its own before anything takes its place; the other version
//! is made, or taken from what an earlier migration kept, and compared with it; only then the switch
//! is made, which is one step of the store. Whatever happens in between, the image id names a whole
//! archive, and the same job again comes to the same end.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::job::{ArchiveObject, EventKind, ImageId, JobKind, JobResult, MigrateSpec, Migration};
use super::phase::phase;
use super::progress::JobProgress;
use super::pull::REGISTRY_SECRET;
use super::queue::QueueError;
use super::worker::{Attempt, EventSink, Fence};
use crate::archive::{IndexOptions, PackOptions, Summary};
use crate::clip::storage_info::StorageInfo;
use crate::config::BuildRegistry;
use crate::error::{Classify, Fault};
use crate::memory::MemoryAccount;
use crate::oci::{Credentials, InvalidCredentials, OciSettings};
use crate::progress::Progress;
use crate::publish::PublishError;
use crate::publish::archives::{ArchiveName, ArchiveStore};
use crate::publish::migrate::{
    Comparison, Destination, MigrateError, NewV2, V1, V2, compare_archives, to_v1, to_v2,
};
use crate::publish::stored::StoredArchive;
use crate::store::{CommitReport, Key, Overwrite, StoreError};

/// Everything that migrations have in common.
#[derive(Debug)]
pub struct Migrator {
    /// Where archives are.
    pub archives: Arc<dyn ArchiveStore>,
    /// How registries are reached.
    pub oci: OciSettings,
    /// How images are indexed.
    pub index: IndexOptions,
    /// How images are packed.
    pub pack: PackOptions,
    /// Where the images of v1 archives go.
    pub build_registry: BuildRegistry,
    /// Where archives are written before they are published.
    pub scratch: PathBuf,
}

/// Why a migration failed.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The image id names no archive.
    #[error("there is no archive {key} in {store}")]
    NoArchive {
        /// Its key.
        key: Key,
        /// The store.
        store: String,
    },
    /// There is nothing to do, and nothing to say of what is there.
    #[error("{key} is a v1 archive already, and no image is known that it was made from")]
    AlreadyV1 {
        /// Its key.
        key: Key,
    },
    /// The other version could not be made, or is not the same.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    /// The job was taken from its worker, or the database is away.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The archive belongs to another workspace.
    #[error("there is no archive of this image id in the workspace")]
    NotOwned,
    /// Local disk trouble.
    #[error("can't write in {}: {source}", directory.display())]
    Scratch {
        /// Where.
        directory: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<PublishError> for MigrationError {
    fn from(error: PublishError) -> Self {
        Self::Migrate(error.into())
    }
}

impl Classify for MigrationError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Migrate(error) => error.is_transient(),
            Self::Queue(error) => error.is_transient(),
            other => matches!(other, Self::Scratch { .. }),
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Migrate(error) => error.fault(),
            Self::Queue(error) => error.fault(),
            Self::Scratch { .. } => Fault::Ours,
            _ => Fault::User,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Migrate(error) => error.retry_after(),
            _ => None,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Migrate(error) => error.code(),
            Self::Queue(error) => error.code(),
            Self::NoArchive { .. } | Self::NotOwned => "archive_not_found",
            Self::AlreadyV1 { .. } => "already_migrated",
            Self::Scratch { .. } => "io",
        }
    }
}

impl Migrator {
    /// Does one migration. `account` pays for the memory that layers and trees take.
    pub async fn migrate(
        &self,
        spec: &MigrateSpec,
        attempt: &Attempt,
        account: &MemoryAccount,
    ) -> Result<JobResult, MigrationError> {
        let started = Instant::now();
        let run = Run {
            migrator: self,
            index: IndexOptions { account: account.clone(), ..self.index.clone() },
            pack: PackOptions { account: account.clone(), ..self.pack.clone() },
            id: &spec.image_id,
            key: self.archives.key(&ArchiveName::Image(spec.image_id.clone())),
            credentials: attempt.secrets().get(REGISTRY_SECRET),
            progress: Arc::new(JobProgress::new(attempt.events.clone())),
            fence: &attempt.fence,
            events: &attempt.events,
            cancel: &attempt.cancel,
        };
        if !attempt.fence.owns_archive().await? {
            return Err(MigrationError::NotOwned);
        }
        let outcome = run.to(spec.to).await;
        // A v1 archive needs nothing of what was kept, whether or not its image is known.
        let settled = matches!(outcome, Ok(_) | Err(MigrationError::AlreadyV1 { .. }));
        let discarded =
            if settled && spec.discard_kept { run.discard().await? } else { Vec::new() };
        let MigrationResult { summary, archive, compared, kept, restored, from } = outcome?;
        let kept = kept.filter(|_| !spec.discard_kept);
        Ok(JobResult {
            image_id: spec.image_id.clone(),
            summary,
            archive,
            version: None,
            republished_from: None,
            build: None,
            migration: Some(Migration {
                from,
                to: spec.to,
                compared,
                kept: kept.map(|key| key.to_string()),
                restored,
                discarded: discarded.iter().map(ToString::to_string).collect(),
            }),
            seconds: started.elapsed().as_secs_f64(),
        })
    }
}

/// One migration under way.
struct Run<'a> {
    migrator: &'a Migrator,
    index: IndexOptions,
    pack: PackOptions,
    id: &'a ImageId,
    key: Key,
    credentials: Option<&'a SecretString>,
    progress: Arc<dyn Progress>,
    fence: &'a Fence,
    events: &'a EventSink,
    cancel: &'a CancellationToken,
}

/// What became of the archive.
struct MigrationResult {
    summary: Summary,
    archive: ArchiveObject,
    compared: Option<Comparison>,
    kept: Option<Key>,
    restored: bool,
    from: u8,
}

impl Run<'_> {
    fn archives(&self) -> &dyn ArchiveStore {
        &*self.migrator.archives
    }

    async fn to(&self, version: u8) -> Result<MigrationResult, MigrationError> {
        let missing = || {
            let store = self.archives().describe();
            MigrationError::NoArchive { key: self.key.clone(), store }
        };
        let current = self.archives().open(&self.key).await?.ok_or_else(missing)?;
        if current.version() == version {
            return self.unchanged(current).await;
        }
        for kept in self.kept(version).await? {
            if let Some(outcome) = self.restore(&current, &kept).await? {
                return Ok(outcome);
            }
        }
        if version == 2 { self.forward(&current).await } else { self.reverse(&current).await }
    }

    /// The archive is at its version already: an earlier attempt may have made it so.
    async fn unchanged(&self, current: StoredArchive) -> Result<MigrationResult, MigrationError> {
        let version = current.version();
        let describe = async |described: &StoredArchive| {
            self.summary(&self.open_v2(described).await?, &current).await
        };
        let summary = if version == 2 {
            describe(&current).await?
        } else {
            let mut known = None;
            for kept in self.kept(2).await? {
                match describe(&kept).await {
                    Ok(summary) => {
                        known = Some(summary);
                        break;
                    }
                    Err(error) if self.cancel.is_cancelled() => return Err(error.into()),
                    Err(error) => self.warn(format!("the image of {}: {error}", kept.key)),
                }
            }
            known.ok_or_else(|| MigrationError::AlreadyV1 { key: self.key.clone() })?
        };
        let archive = self.object(&current);
        Ok(MigrationResult {
            summary,
            archive,
            compared: None,
            kept: None,
            restored: false,
            from: version,
        })
    }

    /// Takes an archive that was kept, if it holds the same.
    async fn restore(
        &self,
        current: &StoredArchive,
        kept: &StoredArchive,
    ) -> Result<Option<MigrationResult>, MigrationError> {
        let (old, new) = if current.version() == 1 { (current, kept) } else { (kept, current) };
        let v1 = V1::of(self.archives(), old)?;
        let compared = async {
            let v2 = self.open_v2(new).await?;
            let Self { progress, cancel, .. } = self;
            let comparing = compare_archives(&v1, &v2, &self.index, progress, cancel);
            let compared = phase(self.events, JobKind::Migrate, "compare", comparing).await?;
            Ok::<_, MigrateError>((v2, compared))
        };
        let (v2, compared) = match compared.await {
            Ok(same) => same,
            Err(error) if error.is_transient() || self.cancel.is_cancelled() => {
                return Err(error.into());
            }
            Err(error) => {
                self.warn(format!("{} can't be taken again: {error}", kept.key));
                return Ok(None);
            }
        };
        let summary = self.summary(&v2, kept).await?;
        let away = self.keep(current).await?;
        self.switch(current, kept).await?;
        // It has its place again; under both names it would be kept for ever.
        self.archives().remove(&kept.key).await?;
        let archive = self.object(kept);
        let from = current.version();
        Ok(Some(MigrationResult {
            summary,
            archive,
            compared: Some(compared),
            kept: Some(away),
            restored: true,
            from,
        }))
    }

    async fn forward(&self, current: &StoredArchive) -> Result<MigrationResult, MigrationError> {
        let Self { migrator, id, progress, cancel, .. } = self;
        let v1 = V1::of(self.archives(), current)?;
        let registry = &migrator.build_registry;
        let destination = Destination {
            registry: &registry.host,
            repository: &registry.repository,
            tag: id.as_str(),
            credentials: registry.credentials.clone(),
        };
        let operator = migrator.oci.of_operator();
        let made = to_v2(&v1, &destination, &operator, &self.index, progress, cancel);
        let NewV2 { image, indexed, compared } =
            phase(self.events, JobKind::Migrate, "convert", made).await?;
        let scratch = tempfile::tempdir_in(&migrator.scratch).map_err(self.no_scratch())?;
        let file = scratch.path().join("archive");
        let target = file.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let written = indexed.write(&target)?;
            Ok::<_, PublishError>((Summary::of(&image, &indexed), written))
        });
        let died = |died| self.no_scratch()(std::io::Error::other(died));
        let (summary, written) = writing.await.map_err(died)??;

        let kept = self.keep(current).await?;
        self.still(current).await?;
        self.fence.check().await?;
        let seen = Overwrite::Seen(current.seen.clone());
        let publishing = self.archives().publish(&self.key, &file, written.digest, seen, cancel);
        let published = phase(self.events, JobKind::Migrate, "publish", publishing).await;
        published.map_err(|error| match error {
            PublishError::Store(StoreError::Conflict { key, .. }) => {
                MigrateError::Superseded { key }
            }
            error => error.into(),
        })?;
        let archive =
            ArchiveObject { key: self.key.to_string(), size: written.size, digest: written.digest };
        Ok(MigrationResult {
            summary,
            archive,
            compared: Some(compared),
            kept: Some(kept),
            restored: false,
            from: 1,
        })
    }

    async fn reverse(&self, current: &StoredArchive) -> Result<MigrationResult, MigrationError> {
        let Self { id, progress, cancel, .. } = self;
        let v2 = self.open_v2(current).await?;
        let refused = OnceLock::new();
        let before = async {
            self.still(current).await?;
            if let Err(error) = self.fence.check().await {
                // What comes back from there can't hold it.
                let _ = refused.set(error);
                return Err(MigrateError::Superseded { key: self.key.clone() });
            }
            Ok(())
        };
        let options = (&self.pack, &self.index);
        let converting = to_v1(&v2, self.archives(), id, options, before, progress, cancel);
        let staged = phase(self.events, JobKind::Migrate, "convert", converting).await;
        if let Some(error) = refused.into_inner() {
            return Err(error.into());
        }
        let staged = staged?;
        let kept = self.keep(current).await?;
        self.switch(current, &staged.stored).await?;
        self.archives().remove(&staged.stored.key).await?;
        let archive = self.object(&staged.stored);
        Ok(MigrationResult {
            summary: staged.summary,
            archive,
            compared: Some(staged.compared),
            kept: Some(kept),
            restored: false,
            from: 2,
        })
    }

    /// Keeps the archive under a name that its content gives it: whoever keeps it a second time, or
    /// keeps another one, changes nothing of it.
    async fn keep(&self, current: &StoredArchive) -> Result<Key, MigrationError> {
        let name = ArchiveName::Kept(self.id.clone(), current.version(), current.digest);
        let key = self.archives().key(&name);
        let there = self.archives().stat(&key).await?;
        if there.as_ref().is_none_or(|there| there.size != current.size) {
            let overwrite = Overwrite::only(there.map(|there| there.version));
            self.archives().copy(current, &key, overwrite, self.cancel).await?;
        }
        Ok(key)
    }

    /// Fails if the image id names another archive than `current` by now.
    async fn still(&self, current: &StoredArchive) -> Result<(), MigrateError> {
        let found = self.archives().open(&self.key).await?;
        if found.is_some_and(|found| found.digest == current.digest) {
            return Ok(());
        }
        Err(MigrateError::Superseded { key: self.key.clone() })
    }

    /// Lets the image id name the archive `to` in place of `current`.
    async fn switch(
        &self,
        current: &StoredArchive,
        to: &StoredArchive,
    ) -> Result<(), MigrationError> {
        self.still(current).await?;
        self.fence.check().await?;
        let seen = Overwrite::Seen(current.seen.clone());
        let switching = self.archives().copy(to, &self.key, seen, self.cancel);
        match phase(self.events, JobKind::Migrate, "publish", switching).await? {
            CommitReport::Written => Ok(()),
            CommitReport::Taken => Err(MigrateError::Superseded { key: self.key.clone() }.into()),
        }
    }

    /// Archives of this image and version that earlier migrations kept.
    async fn kept(&self, version: u8) -> Result<Vec<StoredArchive>, MigrationError> {
        let mut kept = Vec::new();
        for key in self.archives().kept(self.id, version).await? {
            match self.archives().open(&key).await {
                Ok(opened) => kept.extend(opened),
                Err(error @ PublishError::Clip(_)) => {
                    self.warn(format!("{key} is passed over: {error}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(kept)
    }

    /// Removes what migrations of this image kept, and v1 data that nothing points to any more.
    async fn discard(&self) -> Result<Vec<Key>, MigrationError> {
        self.fence.check().await?;
        let mut gone = Vec::new();
        for version in [1, 2] {
            for key in self.archives().kept(self.id, version).await? {
                self.archives().remove(&key).await?;
                gone.push(key);
            }
        }
        if self.archives().open(&self.key).await?.is_some_and(|found| found.version() == 2) {
            gone.extend(self.archives().remove_data(self.id).await?);
        }
        Ok(gone)
    }

    async fn open_v2(&self, stored: &StoredArchive) -> Result<V2, MigrateError> {
        let registry = &self.migrator.build_registry;
        let credentials = |host: &str| -> Result<Option<Credentials>, InvalidCredentials> {
            match self.credentials {
                Some(text) => Credentials::parse(text.expose_secret(), host),
                None if host == registry.host => Ok(registry.credentials.clone()),
                None => Ok(None),
            }
        };
        let oci = &self.migrator.oci;
        let is_ours = matches!(&stored.archive.storage,
            StorageInfo::Oci(image) if image.registry_url == registry.host);
        let oci = if is_ours { &oci.of_operator() } else { oci };
        V2::open(stored, oci, credentials, self.cancel).await
    }

    /// What is known of the image, said of another archive of the same.
    async fn summary(&self, v2: &V2, archive: &StoredArchive) -> Result<Summary, MigrateError> {
        let Self { progress, cancel, .. } = self;
        let indexed = v2.index(&self.index, progress.clone(), cancel).await?;
        let mut summary = Summary::of(v2.image(), &indexed);
        summary.clip_version = archive.version();
        summary.nodes = archive.archive.tree.len() as u64;
        summary.files = archive.files();
        Ok(summary)
    }

    fn warn(&self, message: String) {
        self.events.send(EventKind::Warning { message });
    }

    fn object(&self, stored: &StoredArchive) -> ArchiveObject {
        let (size, digest) = (stored.size, stored.digest);
        ArchiveObject { key: self.key.to_string(), size, digest }
    }

    fn no_scratch(&self) -> impl Fn(std::io::Error) -> MigrationError {
        let directory = self.migrator.scratch.clone();
        move |source| MigrationError::Scratch { directory: directory.clone(), source }
    }
}
