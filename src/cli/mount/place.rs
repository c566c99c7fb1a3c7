//! Where an archive is that is to be mounted.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::content::{ArchiveObject, S3Override};
use crate::mount::MountError;

/// A file, or an object in a bucket.
#[derive(Debug, Clone)]
pub(super) enum ArchivePlace {
    /// On this machine.
    File(PathBuf),
    /// In a bucket.
    Object(ArchiveObject),
}

impl fmt::Display for ArchivePlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Object(object) => write!(f, "{object}"),
        }
    }
}

impl ArchivePlace {
    /// As the command line says it.
    pub(super) fn parse(text: OsString) -> Result<Self, String> {
        match text.to_str().filter(|text| text.starts_with("s3://")) {
            Some(object) => Ok(Self::Object(object.parse()?)),
            None => Ok(Self::File(text.into())),
        }
    }

    /// Its name without its ending.
    pub(super) fn stem(&self) -> Option<String> {
        let name = self.to_string();
        Path::new(&name).file_stem()?.to_str().map(str::to_owned)
    }

    /// The file, or a copy of the object in `directory`.
    pub(super) async fn file(
        &self,
        s3: &S3Override,
        ambient: bool,
        directory: impl FnOnce() -> anyhow::Result<PathBuf>,
    ) -> anyhow::Result<PathBuf> {
        match self {
            Self::File(file) => Ok(file.clone()),
            Self::Object(_) if !ambient && s3.keys.is_none() => Err(MountError::NoKeys.into()),
            Self::Object(object) => Ok(object.copy(s3, &directory()?.join("archives")).await?),
        }
    }
}
