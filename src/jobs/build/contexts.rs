//! Contexts in the store: each under its workspace and the digest of the bytes that were sent, so that an
//! unchanged one isn't sent twice, and nobody finds another's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;
use tokio_util::sync::CancellationToken;

use crate::build::BuildError;
use crate::digest::Digest;
use crate::local::io_error;
use crate::store::{Key, ListedObject, ObjectStore, Overwrite, StoreError, list_all};
use crate::workspace::WorkspaceId;

/// Bytes read at a time.
const PART: u64 = 8 << 20;
/// A context that is used is said to be so no more often.
const TOUCHED: Duration = Duration::from_hours(1);

/// One that was used since is not removed to make room: a build may be about to read it.
const IN_USE: Duration = Duration::from_hours(2);

/// Contexts in the store.
#[derive(Debug, Clone)]
pub struct Contexts {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
    /// Bytes that those of a workspace may take. Uploads that end at the same moment may go beyond it by their own
    /// size, until the next one.
    pub most: u64,
}

/// Why a context was not kept.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// There would be no room for it if it were alone.
    #[error("the context has {size} bytes: the contexts of a workspace may have {most} together")]
    TooLarge {
        /// Bytes that it has.
        size: u64,
        /// Bytes of all of them at most.
        most: u64,
    },
    /// The others are in use.
    #[error(
        "there is no room for a context of {size} bytes: those that were used in the last two hours have {used} \
         of the {most} bytes that a workspace may have"
    )]
    Full {
        /// Bytes that it has.
        size: u64,
        /// Bytes of those that stay.
        used: u64,
        /// Bytes of all of them at most.
        most: u64,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Contexts {
    /// The size of a context, if the workspace has it. Asking says that it is in use.
    pub async fn size(
        &self,
        workspace: &WorkspaceId,
        digest: Digest,
    ) -> Result<Option<u64>, StoreError> {
        let key = Key::context(workspace, digest);
        let size = self.store.size(&key).await?;
        if size.is_some() {
            self.store.touch(&key, TOUCHED).await?;
        }
        Ok(size)
    }

    /// Keeps the context in `file`, which has this digest and size. Those that were not used for longest make
    /// room for it.
    pub async fn keep(
        &self,
        workspace: &WorkspaceId,
        (digest, size): (Digest, u64),
        file: &Path,
        cancel: &CancellationToken,
    ) -> Result<(), KeepError> {
        let key = Key::context(workspace, digest);
        self.make_room(workspace, &key, size).await?;
        self.store.put(&key, file, digest, Overwrite::Never, cancel).await?;
        self.store.touch(&key, TOUCHED).await?;
        Ok(())
    }

    async fn make_room(
        &self,
        workspace: &WorkspaceId,
        key: &Key,
        size: u64,
    ) -> Result<(), KeepError> {
        let most = self.most;
        if size > most {
            return Err(KeepError::TooLarge { size, most });
        }
        let mut kept = list_all(&*self.store, &Key::contexts_of(workspace)).await?;
        kept.retain(|context| context.key != *key);
        let mut used: u64 = kept.iter().map(|context| context.size).sum();
        let (mut old, in_use): (Vec<_>, Vec<_>) =
            kept.into_iter().partition(|context| context.is_older(IN_USE));
        let needed: u64 = in_use.iter().map(|context| context.size).sum();
        // Before anything is removed, which would not help.
        if needed + size > most {
            return Err(KeepError::Full { size, used: needed, most });
        }
        old.sort_by_key(|context| context.modified);
        for context in old {
            if used + size <= most {
                break;
            }
            self.store.delete(&context.key).await?;
            used -= context.size;
        }
        Ok(())
    }

    /// Writes a context to `file`, verified.
    pub async fn fetch(
        &self,
        workspace: &WorkspaceId,
        digest: Digest,
        file: &Path,
        cancel: &CancellationToken,
    ) -> Result<(), BuildError> {
        let fetching = self.try_fetch(workspace, digest, file);
        cancel.run_until_cancelled(fetching).await.unwrap_or(Err(BuildError::Cancelled))
    }

    async fn try_fetch(
        &self,
        workspace: &WorkspaceId,
        digest: Digest,
        file: &Path,
    ) -> Result<(), BuildError> {
        let failed = || io_error("can't write the context");
        let key = Key::context(workspace, digest);
        let store = |error: StoreError| BuildError::Store { reason: error.to_string() };
        let size = self.size(workspace, digest).await.map_err(store)?;
        let size = size.ok_or(BuildError::NoContext { digest })?;
        let mut output = tokio::fs::File::create(file).await.map_err(failed())?;
        let (mut hasher, mut offset) = (Sha256::new(), 0);
        while offset < size {
            let bytes =
                self.store.read(&key, offset, PART.min(size - offset)).await.map_err(store)?;
            if bytes.is_empty() {
                break;
            }
            hasher.update(&bytes);
            output.write_all(&bytes).await.map_err(failed())?;
            offset += bytes.len() as u64;
        }
        output.flush().await.map_err(failed())?;
        let found = Digest::from_hasher(hasher);
        if found != digest {
            let reason = format!("the context {digest} reads as {found}");
            return Err(BuildError::Store { reason });
        }
        Ok(())
    }

    /// Removes contexts that nobody has used for `age`: how many.
    pub async fn remove_old(&self, age: Duration) -> Result<u64, StoreError> {
        let all = list_all(&*self.store, Key::CONTEXTS).await?;
        let mut removed = 0;
        for ListedObject { key, .. } in all.into_iter().filter(|context| context.is_older(age)) {
            self.store.delete(&key).await?;
            removed += 1;
        }
        Ok(removed)
    }
}
