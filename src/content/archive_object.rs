//! Archives that lie in a bucket: `s3://BUCKET/KEY`. What is mounted is a copy on this machine, which is looked
//! for by the object's entity tag, so that an archive that was replaced is fetched anew and no other is.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use super::ContentError;
use super::blocks::{S3Override, open_bucket};
use crate::clip::storage_info::S3StorageInfo;
use crate::digest::Digest;
use crate::local::{blocking, io_error};
use crate::store::Key;

/// Bytes asked for at a time.
const PART: u64 = 8 << 20;
/// The largest archive that is copied: an index has some MB, a v1 archive with its data may have many GB.
const LARGEST: u64 = 1 << 30;
/// Where a bucket is if nobody says it.
const REGION: &str = "us-east-1";
/// How long a copy is kept that nobody mounts.
const KEPT: Duration = Duration::from_hours(30 * 24);

/// An archive's place in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveObject {
    bucket: String,
    key: Key,
}

impl fmt::Display for ArchiveObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.key)
    }
}

impl FromStr for ArchiveObject {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.strip_prefix("s3://").and_then(|rest| rest.split_once('/'));
        let Some((bucket, key)) = parts.filter(|(bucket, _)| !bucket.is_empty()) else {
            return Err(format!("{text:?}: expected s3://BUCKET/KEY"));
        };
        let key = key.parse().map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Self { bucket: bucket.to_owned(), key })
    }
}

impl ArchiveObject {
    /// A copy of the archive in `directory`. Takes the bucket's address and keys from `settings`.
    pub async fn copy(
        &self,
        settings: &S3Override,
        directory: &Path,
    ) -> Result<PathBuf, ContentError> {
        let settings = S3Override { bucket: Some(self.bucket.clone()), ..settings.clone() };
        let unnamed = S3StorageInfo { region: REGION.to_owned(), ..S3StorageInfo::default() };
        let store = open_bucket(&unnamed, &settings).await?;
        let Some(found) = store.stat(&self.key).await? else {
            return Err(self.is_not("an object: there is none of this name"));
        };
        if found.size > LARGEST {
            let detail =
                format!("an index: it has {} bytes; mount the .rclip beside it", found.size);
            return Err(self.is_not(&detail));
        }
        let name = Digest::of(format!("{self}\0{}", found.version).as_bytes()).hex();
        let copy = directory.join(format!("{name}.clip"));
        let (target, size) = (copy.clone(), found.size);
        let is_there = blocking(move || {
            prune(&target);
            let is_there = fs::metadata(&target).is_ok_and(|copy| copy.len() == size);
            if is_there && let Ok(file) = fs::File::open(&target) {
                let _ = file.set_modified(SystemTime::now());
            }
            is_there
        });
        if is_there.await? {
            return Ok(copy);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(found.size).unwrap_or(0));
        while (bytes.len() as u64) < found.size {
            let part = store.read(&self.key, bytes.len() as u64, PART).await?;
            if part.is_empty() {
                return Err(self.is_not("what it was a moment ago: it has become shorter"));
            }
            bytes.extend_from_slice(&part);
        }
        // It may have been replaced between two parts.
        if store.stat(&self.key).await?.as_ref() != Some(&found) {
            return Err(self.is_not("what it was a moment ago: it was replaced, try again"));
        }
        let target = copy.clone();
        let written = blocking(move || write(&target, &bytes)).await?;
        written.map_err(io_error(format!("can't keep a copy of {self} at {}", copy.display())))?;
        Ok(copy)
    }

    fn is_not(&self, what: &str) -> ContentError {
        ContentError::NotAFile { path: self.to_string(), detail: format!("is not {what}") }
    }
}

fn write(target: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = target.parent().ok_or(io::ErrorKind::NotADirectory)?;
    fs::create_dir_all(directory)?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(target)?;
    Ok(())
}

/// Removes copies that nobody has mounted for long. Whoever has one open keeps it.
pub(super) fn prune(target: &Path) {
    let Some(found) = target.parent().and_then(|directory| fs::read_dir(directory).ok()) else {
        return;
    };
    for file in found.flatten() {
        let modified = file.metadata().and_then(|metadata| metadata.modified());
        let age = modified.ok().and_then(|modified| modified.elapsed().ok());
        if age.is_some_and(|age| age > KEPT) {
            let _ = fs::remove_file(file.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_bucket_and_a_key() {
        let object: ArchiveObject = "s3://bucket/archives/x.rclip".parse().unwrap();
        assert_eq!(object.to_string(), "s3://bucket/archives/x.rclip");
        for bad in
            ["", "s3://", "s3:///key", "s3://bucket", "s3://bucket/", "bucket/key", "s3://b/../k"]
        {
            assert!(bad.parse::<ArchiveObject>().is_err(), "{bad}");
        }
    }

    #[test]
    fn copies_that_nobody_wants_go() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("new.clip");
        write(&target, b"new").unwrap();
        let old = directory.path().join("old.clip");
        fs::write(&old, "old").unwrap();
        fs::File::open(&old).unwrap().set_modified(SystemTime::now() - 2 * KEPT).unwrap();
        prune(&target);
        assert!(target.exists() && !old.exists());
    }
}
