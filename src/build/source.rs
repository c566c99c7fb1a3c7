//! Where contexts come from that nobody sent: an object of a bucket, or a commit of a git repository. Either is
//! brought to this machine as one file, bounded, from addresses that the egress policy allows. Whose
//! they are it must not know.

use std::path::Path;
use std::time::Duration;

use super::BuildError;
use crate::digest::Digest;
use crate::local::{blocking, io_error};

mod bucket;
mod error;
mod git;

pub use bucket::{BucketAccess, InvalidObjectKey, ObjectKey};
pub use error::SourceError;
pub use git::{Git, GitContext, InvalidGitContext};

/// A context that was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedContext {
    /// Of the archive's bytes.
    pub digest: Digest,
    /// The commit, if it is one.
    pub commit: Option<String>,
}

/// What a context may cost while it is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceLimits {
    /// Bytes of its archive, and of a repository's commit.
    pub bytes: u64,
    /// How long it may take.
    pub time: Duration,
    /// Whoever sends nothing for so long is gone.
    pub silence: Duration,
}

impl Default for SourceLimits {
    fn default() -> Self {
        Self { bytes: 4 << 30, time: Duration::from_mins(30), silence: Duration::from_mins(1) }
    }
}

/// The digest of a file.
async fn digest_of(file: &Path) -> Result<Digest, BuildError> {
    let path = file.to_owned();
    let digest = blocking(move || Digest::of_reader(&mut std::fs::File::open(path)?)).await?;
    let (digest, _) = digest.map_err(io_error("can't read the context"))?;
    Ok(digest)
}
