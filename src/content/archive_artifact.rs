//! Archives that lie in a registry: `docker://REFERENCE` names an archive, or an image that an archive
//! refers to (distribution-spec 1.1, "Listing Referrers"). What is read is a copy on this machine, under its
//! digest, by which it was verified.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::SystemTime;

use futures_util::TryStreamExt as _;
use tokio_util::sync::CancellationToken;

use super::ContentError;
use super::archive_object::prune;
use crate::digest::Digest;
use crate::fetch::FetchError;
use crate::local::{blocking, io_error};
use crate::oci::{
    Actions, Artifact, Credentials, ImageSource, OciError, OciSettings, Platform, Reference,
    Repository, Source,
};

/// What an archive's manifest says that it is.
pub const ARCHIVE_TYPE: &str = "application/vnd.clipwright.archive.v1";
/// The media type of the archive itself.
pub const ARCHIVE_BLOB: &str = "application/vnd.clipwright.archive.v1.clip";
/// As skopeo and podman write what is in a registry.
const SCHEME: &str = "docker://";
/// The largest archive that is copied: one of v1 has its data with it.
const LARGEST: u64 = 64 << 30;

/// An archive's place in a registry, or that of its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveArtifact(Reference);

impl fmt::Display for ArchiveArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0)
    }
}

impl FromStr for ArchiveArtifact {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(reference) = text.strip_prefix(SCHEME) else {
            return Err(format!("{text:?}: expected {SCHEME}REFERENCE"));
        };
        reference.parse().map(Self).map_err(|error| format!("{error}"))
    }
}

impl ArchiveArtifact {
    /// `host[:port]`.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The reference, for whom to log in.
    pub fn source(&self) -> ImageSource {
        ImageSource::Registry(self.0.clone())
    }

    /// A copy of the archive in `directory`. Of an image for several platforms it is the archive of the one
    /// for `platform`.
    pub async fn copy(
        &self,
        settings: &OciSettings,
        credentials: Option<Credentials>,
        platform: &Platform,
        directory: &Path,
        cancel: &CancellationToken,
    ) -> Result<PathBuf, ContentError> {
        let (registry, path) = (self.0.registry(), self.0.repository());
        let opened =
            Repository::open(registry, path, Actions::Pull, settings, credentials.clone()).await;
        let repository = opened.map_err(FetchError::from)?;
        let found = self.find(&repository, settings, credentials, platform, cancel).await;
        let artifact = match found.map_err(FetchError::from)? {
            Ok(artifact) => artifact,
            Err(detail) => return Err(self.is_not(detail)),
        };
        if artifact.size > LARGEST {
            return Err(self.is_not(format!("it has {} bytes, more than {LARGEST}", artifact.size)));
        }
        let copy = directory.join(format!("{}.clip", artifact.blob.hex()));
        let (target, size) = (copy.clone(), artifact.size);
        let is_there = blocking(move || {
            prune(&target);
            let is_there = fs::metadata(&target).is_ok_and(|copy| copy.len() == size);
            if is_there && let Ok(file) = File::open(&target) {
                let _ = file.set_modified(SystemTime::now());
            }
            is_there
        });
        if !is_there.await? {
            fetch(&repository, &artifact, &copy, cancel).await?;
        }
        Ok(copy)
    }

    /// The archive; or else why there is none.
    async fn find(
        &self,
        repository: &Repository,
        settings: &OciSettings,
        credentials: Option<Credentials>,
        platform: &Platform,
        cancel: &CancellationToken,
    ) -> Result<Result<Artifact, String>, OciError> {
        let named = match self.0.digest() {
            Some(digest) => digest,
            None => {
                let tag = self.0.tag().unwrap_or_default();
                let found = repository.digest_of(tag, cancel).await?;
                found.ok_or_else(|| OciError::ImageNotFound { image: self.0.to_string() })?
            }
        };
        if let Some(artifact) = repository.artifact(named, &[ARCHIVE_TYPE], cancel).await? {
            return Ok(Ok(artifact));
        }
        let source = ImageSource::Registry(self.0.clone().at(named));
        let source = Source::open(&source, settings, credentials).await?;
        let image = source.resolve(platform, cancel).await?.manifest_digest;
        let none = |why: String| Ok(Err(format!("is an image ({image}), and {why}")));
        let Some(referrer) = repository.referrer(image, ARCHIVE_TYPE, cancel).await? else {
            return none("no archive refers to it".to_owned());
        };
        let artifact = match repository.artifact(referrer.digest, &[ARCHIVE_TYPE], cancel).await {
            Err(OciError::ImageNotFound { .. }) => {
                return none(format!(
                    "the archive that refers to it, {}, is gone",
                    referrer.digest
                ));
            }
            read => read?,
        };
        match artifact {
            // What the list says is not believed: the archive itself has to say it.
            Some(artifact) if artifact.subject.as_ref().is_some_and(|s| s.digest == image) => {
                Ok(Ok(artifact))
            }
            _ => none(format!("{} is listed as its archive, but is none", referrer.digest)),
        }
    }

    fn is_not(&self, detail: String) -> ContentError {
        ContentError::NotAFile { path: self.to_string(), detail }
    }
}

/// Copies the blob to where it is to be, under a temporary name until it is whole and verified.
async fn fetch(
    repository: &Repository,
    artifact: &Artifact,
    target: &Path,
    cancel: &CancellationToken,
) -> Result<(), ContentError> {
    let what = format!("can't keep a copy of an archive at {}", target.display());
    let directory = target.parent().unwrap_or(Path::new(".")).to_owned();
    let begun = blocking(move || {
        fs::create_dir_all(&directory)?;
        tempfile::NamedTempFile::new_in(directory)
    });
    let mut file = begun.await?.map_err(io_error(&what))?;
    let blob: (Digest, u64) = (artifact.blob, artifact.size);
    let mut stream = repository.stream(blob, cancel).await.map_err(FetchError::from)?;
    while let Some(chunk) = stream.try_next().await.map_err(FetchError::from)? {
        let written = blocking(move || file.write_all(&chunk).map(|()| file));
        file = written.await?.map_err(io_error(&what))?;
    }
    let target = target.to_owned();
    let kept = blocking(move || -> io::Result<()> {
        file.as_file().sync_all()?;
        file.persist(target)?;
        Ok(())
    });
    Ok(kept.await?.map_err(io_error(&what))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_reference_behind_a_scheme() {
        for (text, expected) in [
            ("docker://host:5000/team/x:tag", "docker://host:5000/team/x:tag"),
            ("docker://debian", "docker://index.docker.io/library/debian:latest"),
        ] {
            assert_eq!(text.parse::<ArchiveArtifact>().unwrap().to_string(), expected);
        }
        for bad in ["", "docker://", "docker:x", "docker:///x", "host/x:tag", "docker://x/Y Z"] {
            assert!(bad.parse::<ArchiveArtifact>().is_err(), "{bad}");
        }
    }
}
