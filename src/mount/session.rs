//! An archive, mounted: from the file to a mount point that is served, and to its end.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use nix::mount::{MntFlags, umount2};
use tokio::runtime::Handle;

use super::archive::MountArchive;
use super::content::{ContentSettings, MountContent};
use super::error::MountError;
use super::filesystem::ArchiveFs;
use super::guess;
use super::large_files::LargeFiles;
use super::points;
use super::sequence::Sequences;
use super::shared::Shared;
use crate::clip::storage_info::StorageInfo;
use crate::content::lazy::Report;
use crate::local::{blocking, io_error};
use crate::trace::Trace;

/// How far the kernel reads ahead, in KiB: less keeps large files slow.
const READ_AHEAD: &str = "1024";

/// How an archive is mounted.
#[derive(Debug, Clone, Copy)]
pub struct MountOptions {
    /// Whether users other than the one who mounts may look in.
    pub allow_other: bool,
    /// Threads that answer the kernel.
    pub threads: usize,
    /// How long a read waits for its bytes before it fails.
    pub patience: Duration,
    /// Bytes from which on a file is passed through where the kernel and the rights of this process allow it;
    /// `None`: none is.
    pub pass_from: Option<u64>,
}

impl MountOptions {
    /// Long enough for a link that stumbles.
    pub const PATIENCE: Duration = Duration::from_mins(2);
}

/// An archive that is mounted, until this is dropped.
#[derive(Debug)]
pub struct Mount {
    session: BackgroundSession,
    shared: Arc<Shared>,
    point: PathBuf,
}

impl Mount {
    /// Mounts `archive`, which was read from `file`, at the directory `point`. Reads are waited for
    /// on the runtime that this runs on.
    pub async fn new(
        file: &Path,
        archive: MountArchive,
        point: &Path,
        settings: ContentSettings,
        options: MountOptions,
    ) -> Result<Self, MountError> {
        let runtime = Handle::current();
        let shared = open(file, archive, settings, options.pass_from).await?;
        let (serving, source) = (shared.clone(), points::source(&absolute(file)));
        let point = point.to_owned();
        // The kernel is talked to.
        let mounted = blocking(move || {
            let point = points::clear(&point)?;
            let mut config = Config::default();
            config.mount_options = vec![
                MountOption::FSName(source),
                MountOption::Subtype("clipwright".to_owned()),
                MountOption::RO,
                MountOption::DefaultPermissions,
                MountOption::NoAtime,
            ];
            if nix::unistd::geteuid().is_root() {
                // As on the disk that the files would be unpacked to.
                config.mount_options.extend([MountOption::Dev, MountOption::Suid]);
            }
            config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
            config.n_threads = Some(options.threads.max(1));
            config.clone_fd = options.threads > 1;
            let what = format!("can't mount at {}", point.display());
            let session =
                Session::new(ArchiveFs::new(serving, runtime, options.patience), &point, &config)
                    .and_then(Session::spawn)
                    .map_err(io_error(what))?;
            read_further_ahead(&point);
            Ok::<_, MountError>((session, point))
        });
        let (session, point) = mounted.await??;
        Ok(Self { session, shared, point })
    }

    /// Where it is.
    pub fn point(&self) -> &Path {
        &self.point
    }

    /// What tells of it and reaches it while it is served.
    pub fn handle(&self) -> MountHandle {
        MountHandle(self.shared.clone())
    }

    /// Waits until somebody has unmounted it.
    pub fn join(self) -> Result<(), MountError> {
        Ok(self.session.join().map_err(io_error("the mount has failed"))?)
    }

    /// What ends it from elsewhere.
    pub fn ending(&self) -> MountEnding {
        MountEnding(self.point.clone())
    }
}

/// What can be told of a mount and to it while it is served.
#[derive(Debug, Clone)]
pub struct MountHandle(Arc<Shared>);

impl MountHandle {
    /// So far.
    pub fn report(&self) -> Report {
        self.0.content.shared().counters().report()
    }

    /// What was touched so far, as far as it was to be noted.
    pub fn trace(&self) -> Trace {
        let touches = self.0.content.shared().touches();
        Trace::of(touches.into_iter().map(|touch| (touch.layer, touch.bytes, touch.at)))
    }

    /// Notes no more of what is touched.
    pub fn stop_noting(&self) {
        self.0.content.shared().stop_noting();
    }

    /// For how long nothing new has been touched; `None` before the first touch.
    pub fn quiet_for(&self) -> Option<Duration> {
        self.0.content.shared().quiet_for()
    }

    /// Fetches what a trace tells of ahead of its readers.
    pub fn prefetch(&self, trace: &Trace) {
        self.0.content.prefetch(&self.0.tree, trace);
    }

    /// Waits until what has come is in the cache, but not for ever.
    pub async fn settled(&self) {
        self.0.content.shared().settled().await;
    }

    /// Fetches all content, when nothing else is to be done.
    pub fn fill(&self) {
        self.0.content.fill();
    }

    /// Waits until all that is to be fetched ahead has come; gives how many parts of it have not.
    pub async fn filled(&self) -> usize {
        self.0.content.filled().await
    }
}

/// Ends a mount.
#[derive(Debug, Clone)]
pub struct MountEnding(PathBuf);

impl MountEnding {
    /// Takes the mount away; whoever has something open there may finish.
    pub fn unmount(&self) -> io::Result<()> {
        Ok(umount2(&self.0, MntFlags::MNT_DETACH)?)
    }
}

async fn open(
    file: &Path,
    archive: MountArchive,
    settings: ContentSettings,
    pass_from: Option<u64>,
) -> Result<Arc<Shared>, MountError> {
    let MountArchive { header, storage, tree } = archive;
    if tree.unreachable() > 0 {
        let (file, count) = (file.display(), tree.unreachable());
        tracing::warn!("{file}: {count} entries are in no directory: they can't be seen");
    }
    // Whoever asks nobody wants nothing fetched either.
    let is_guessed = settings.guess && settings.check && settings.trace.is_none();
    let content = MountContent::open(file, &header, &storage, &tree, settings).await?;
    let (name, sequences) = (file.display().to_string(), Sequences::default());
    let large = pass_from.map(LargeFiles::new);
    let shared = Arc::new(Shared { tree, content, name, sequences, large });
    if let StorageInfo::Oci(image) = storage
        && let Some(image) = image.image_metadata.filter(|_| is_guessed)
    {
        tokio::spawn(guess::fetch_ahead(shared.clone(), image));
    }
    Ok(shared)
}

fn absolute(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_owned())
}

/// The kernel's own reading ahead is 128 KiB unless somebody with the right to says more.
fn read_further_ahead(point: &Path) {
    let Ok(metadata) = std::fs::metadata(point) else { return };
    let (major, minor) =
        (nix::sys::stat::major(metadata.dev()), nix::sys::stat::minor(metadata.dev()));
    let setting = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&setting, READ_AHEAD) {
        tracing::debug!(%error, "can't set {setting}");
    }
}
