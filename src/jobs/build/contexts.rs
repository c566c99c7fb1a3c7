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

/// Contexts in the store.
#[derive(Debug, Clone)]
pub struct Contexts {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
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

    /// Keeps the context in `file`, which has this digest.
    pub async fn keep(
        &self,
        workspace: &WorkspaceId,
        digest: Digest,
        file: &Path,
        cancel: &CancellationToken,
    ) -> Result<(), StoreError> {
        let key = Key::context(workspace, digest);
        self.store.put(&key, file, digest, Overwrite::Never, cancel).await?;
        self.store.touch(&key, TOUCHED).await?;
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
