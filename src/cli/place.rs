//! Where an archive is that a command is given.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::registry::RegistryArgs;
use super::run_async;
use crate::content::{ArchiveArtifact, ArchiveObject, S3Override};
use crate::mount::MountError;
use crate::oci::{ImageSource, Platform};

/// A file, an object in a bucket, or an artifact in a registry.
#[derive(Debug, Clone)]
pub(super) enum ArchivePlace {
    /// On this machine.
    File(PathBuf),
    /// In a bucket.
    Object(ArchiveObject),
    /// In a registry.
    Artifact(ArchiveArtifact),
}

impl fmt::Display for ArchivePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Object(object) => write!(f, "{object}"),
            Self::Artifact(artifact) => write!(f, "{artifact}"),
        }
    }
}

/// An archive on this machine; a copy goes when this is dropped.
#[derive(Debug)]
pub(super) struct LocalArchive {
    file: PathBuf,
    _copy: Option<TempDir>,
}

impl LocalArchive {
    pub(super) fn path(&self) -> &Path {
        &self.file
    }
}

impl ArchivePlace {
    /// As the command line says it. A file of such a name is given as `./s3:` or `./docker:`.
    pub(super) fn parse(text: OsString) -> Result<Self, String> {
        match text.to_str() {
            Some(text) if text.starts_with("s3://") => Ok(Self::Object(text.parse()?)),
            Some(text) if text.starts_with("docker://") => Ok(Self::Artifact(text.parse()?)),
            _ => Ok(Self::File(text.into())),
        }
    }

    /// Whether an image is in the registry in which whoever named the archive has found it: what lets him
    /// in there is for that registry.
    pub(super) fn is_beside(&self, image: &ImageSource) -> bool {
        match (self, image) {
            (Self::Artifact(artifact), ImageSource::Registry(image)) => {
                artifact.registry() == image.registry()
            }
            _ => false,
        }
    }

    /// Its name without its ending.
    pub(super) fn stem(&self) -> Option<String> {
        let name = self.to_string();
        let name = match self {
            // What a registry calls it is behind the last colon.
            Self::Artifact(_) => name.rsplit_once(':').map_or(&*name, |(_, tag)| tag).to_owned(),
            Self::File(_) | Self::Object(_) => name,
        };
        Path::new(&name).file_stem()?.to_str().map(str::to_owned)
    }

    /// The file, or a copy of what is elsewhere in `directory`. `ambient`: whether the machine's own
    /// credentials may be used where none are given.
    pub(super) async fn file(
        &self,
        s3: &S3Override,
        registry: &RegistryArgs,
        ambient: bool,
        directory: impl FnOnce() -> anyhow::Result<PathBuf>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<PathBuf> {
        let copies = || Ok::<_, anyhow::Error>(directory()?.join("archives"));
        match self {
            Self::File(file) => Ok(file.clone()),
            Self::Object(_) if !ambient && s3.keys.is_none() => Err(MountError::NoKeys.into()),
            Self::Object(object) => Ok(object.copy(s3, &copies()?).await?),
            Self::Artifact(artifact) => {
                let credentials = registry.credentials(&artifact.source())?;
                let settings = registry.settings_with(ambient);
                let (platform, copies) = (Platform::host(), copies()?);
                Ok(artifact.copy(&settings, credentials, &platform, &copies, cancel).await?)
            }
        }
    }

    /// The archive for as long as a command takes.
    pub(super) fn fetch(
        &self,
        s3: &S3Override,
        registry: &RegistryArgs,
    ) -> anyhow::Result<LocalArchive> {
        if let Self::File(file) = self {
            return Ok(LocalArchive { file: file.clone(), _copy: None });
        }
        let copy = tempfile::tempdir()?;
        let directory = || Ok(copy.path().to_owned());
        let file =
            run_async(async |cancel| self.file(s3, registry, true, directory, &cancel).await)?;
        Ok(LocalArchive { file, _copy: Some(copy) })
    }
}
