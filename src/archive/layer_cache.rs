//! Layer indexes that were made before: a copy on this machine, and the store, which all replicas
//! share. Whatever comes out of either is verified, and as good as having read the layer again.
//!
//! Neither is needed for anything: what fails here is told to the log and done without.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::archive::ArchiveError;
use crate::archive::layer_claims::{Flights, LayerClaims};
use crate::digest::Digest;
use crate::layer::{LayerIndex, LayerRead, codec};
use crate::local::blocking;
use crate::store::{Key, ObjectStore, Overwrite, StoreError};

mod local;

use local::LocalCopy;

/// The longest entry that is read.
const MAX_BYTES: u64 = 256 << 20;
/// An index that is used says so in the store about this often; `gc` asks for much longer.
const MARK_EVERY: Duration = Duration::from_hours(24);

/// The cache, and the agreement on who fills it. Built with what there is:
///
/// - [`Self::with_local`] for a copy on this machine,
/// - [`Self::with_store`] for one that other processes share,
/// - [`Self::with_claims`] for agreement with them.
#[derive(Debug, Default)]
pub struct LayerCache {
    local: Option<LocalCopy>,
    store: Option<Arc<dyn ObjectStore>>,
    claims: Option<Arc<dyn LayerClaims>>,
    flights: Flights,
    /// When this process last said in the store that an index is in use.
    marked: Arc<Mutex<HashMap<Key, Instant>>>,
}

/// Which entry is wanted, and what is known of it from elsewhere.
#[derive(Debug, Clone)]
pub(super) struct LayerRequest {
    pub(super) read: LayerRead,
    /// Bytes of the compressed layer, from the manifest.
    pub(super) size: u64,
    /// From the image's config.
    pub(super) diff_id: Digest,
}

impl LayerRequest {
    pub(super) fn key(&self) -> Key {
        Key::layer_index(self.read.digest, codec::request(&self.read))
    }

    /// The index in `bytes`, if it is the one that reading the layer would give.
    fn decode(&self, bytes: &[u8]) -> Result<LayerIndex, String> {
        let index = codec::decode(&self.read, bytes).map_err(|error| error.to_string())?;
        if (index.compressed_size, index.diff_id) == (self.size, self.diff_id) {
            return Ok(index);
        }
        Err(format!(
            "the index says {} bytes and diff id {}, the image {} and {}",
            index.compressed_size, index.diff_id, self.size, self.diff_id
        ))
    }
}

impl LayerCache {
    /// Keeps copies in `directory`, of at most `limit` bytes together.
    #[must_use]
    pub fn with_local(mut self, directory: PathBuf, limit: u64) -> Self {
        self.local = Some(LocalCopy::new(directory, limit));
        self
    }

    /// Keeps them in `store` too.
    #[must_use]
    pub fn with_store(mut self, store: Arc<dyn ObjectStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Asks others before it lets anybody read a layer.
    #[must_use]
    pub fn with_claims(mut self, claims: Arc<dyn LayerClaims>) -> Self {
        self.claims = Some(claims);
        self
    }

    pub(super) fn claims(&self) -> Option<&Arc<dyn LayerClaims>> {
        self.claims.as_ref()
    }

    pub(super) fn flights(&self) -> &Flights {
        &self.flights
    }

    /// The index, if it is known. What is damaged or doesn't fit is as good as not there.
    pub(super) async fn get(
        &self,
        wanted: &LayerRequest,
        cancel: &CancellationToken,
    ) -> Result<Option<LayerIndex>, ArchiveError> {
        if let Some((index, bytes)) = self.get_local(wanted).await? {
            self.mark(wanted.key(), bytes);
            return Ok(Some(index));
        }
        let Some((index, bytes)) = self.get_stored(wanted, cancel).await? else {
            return Ok(None);
        };
        let bytes = self.put_local(&wanted.key(), bytes).await?;
        self.mark(wanted.key(), bytes);
        Ok(Some(index))
    }

    /// Keeps an index that was made just now, in place of whatever was there.
    pub(super) async fn put(
        &self,
        wanted: &LayerRequest,
        index: Arc<LayerIndex>,
        cancel: &CancellationToken,
    ) -> Result<(), ArchiveError> {
        let read = wanted.read;
        let Some(bytes) = blocking(move || codec::encode(&read, &index)).await? else {
            tracing::debug!(layer = %read.digest, "its index is too large to be kept");
            return Ok(());
        };
        let key = wanted.key();
        let bytes = self.put_local(&key, bytes).await?;
        if let Some(store) = &self.store {
            match publish(store.as_ref(), &key, bytes, cancel).await {
                Ok(()) => self.note_marked(&key),
                Err(error) => tracing::warn!(%key, %error, "a layer index was not kept"),
            }
        }
        Ok(())
    }

    /// Keeps an index that came about while the layer was read for something else.
    pub(super) async fn put_if_unknown(
        &self,
        wanted: &LayerRequest,
        index: Arc<LayerIndex>,
        cancel: &CancellationToken,
    ) -> Result<(), ArchiveError> {
        let key = wanted.key();
        let local = self.local.as_ref().is_none_or(|local| local.has(file_name(&key)));
        let stored = match &self.store {
            None => true,
            Some(store) => {
                matches!(cancel.run_until_cancelled(store.size(&key)).await, Some(Ok(Some(_))))
            }
        };
        if local && stored {
            return Ok(());
        }
        self.put(wanted, index, cancel).await
    }

    async fn get_local(
        &self,
        wanted: &LayerRequest,
    ) -> Result<Option<(LayerIndex, Vec<u8>)>, ArchiveError> {
        let Some(local) = self.local.clone() else { return Ok(None) };
        let wanted = wanted.clone();
        let get = move || {
            let key = wanted.key();
            match local.get(file_name(&key)) {
                Ok(bytes) => bytes.and_then(|bytes| judged(&wanted, "this machine", bytes)),
                Err(error) => {
                    tracing::warn!(%key, %error, "the local copy of a layer index can't be read");
                    None
                }
            }
        };
        Ok(blocking(get).await?)
    }

    async fn get_stored(
        &self,
        wanted: &LayerRequest,
        cancel: &CancellationToken,
    ) -> Result<Option<(LayerIndex, Vec<u8>)>, ArchiveError> {
        let Some(store) = &self.store else { return Ok(None) };
        let key = wanted.key();
        let read = cancel.run_until_cancelled(store.read(&key, 0, MAX_BYTES)).await;
        let bytes = match read.ok_or(ArchiveError::Cancelled)? {
            Ok(bytes) => bytes,
            Err(StoreError::NotFound { .. }) => return Ok(None),
            Err(error) => {
                tracing::warn!(%key, %error, "the store can't say whether it has a layer index");
                return Ok(None);
            }
        };
        let wanted = wanted.clone();
        Ok(blocking(move || judged(&wanted, "the store", bytes.into())).await?)
    }

    /// Gives the bytes back, whatever became of the copy.
    async fn put_local(&self, key: &Key, bytes: Vec<u8>) -> Result<Vec<u8>, ArchiveError> {
        let Some(local) = self.local.clone() else { return Ok(bytes) };
        let key = key.clone();
        let put = move || {
            if let Err(error) = local.put(file_name(&key), &bytes) {
                tracing::warn!(%key, %error, "no local copy of a layer index could be kept");
            }
            bytes
        };
        Ok(blocking(put).await?)
    }

    /// Says in the store that an index is in use, now and then, so that `gc` lets it be. One that
    /// is known here alone goes there again.
    fn mark(&self, key: Key, bytes: Vec<u8>) {
        let Some(store) = self.store.clone() else { return };
        let due = {
            let marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
            marked.get(&key).is_none_or(|at| at.elapsed() > MARK_EVERY)
        };
        if !due {
            return;
        }
        self.note_marked(&key);
        // Nobody waits for it; a service that stops in between marks it another time.
        tokio::spawn(async move {
            let marked = match store.touch(&key, MARK_EVERY).await {
                Ok(true) => Ok(()),
                Ok(false) => publish(store.as_ref(), &key, bytes, &CancellationToken::new()).await,
                Err(error) => Err(error),
            };
            if let Err(error) = marked {
                tracing::warn!(%key, %error, "a layer index could not be marked as used");
            }
        });
    }

    fn note_marked(&self, key: &Key) {
        let mut marked = self.marked.lock().unwrap_or_else(PoisonError::into_inner);
        marked.retain(|_, at| at.elapsed() <= MARK_EVERY);
        marked.insert(key.clone(), Instant::now());
    }
}

/// What a copy is worth.
fn judged(wanted: &LayerRequest, place: &str, bytes: Vec<u8>) -> Option<(LayerIndex, Vec<u8>)> {
    match wanted.decode(&bytes) {
        Ok(index) => Some((index, bytes)),
        Err(error) => {
            let layer = wanted.read.digest;
            tracing::warn!(%layer, place, error, "a kept layer index is no good and is made anew");
            None
        }
    }
}

async fn publish(
    store: &dyn ObjectStore,
    key: &Key,
    bytes: Vec<u8>,
    cancel: &CancellationToken,
) -> Result<(), StoreError> {
    let digest = Digest::of(&bytes);
    let written = tokio::task::spawn_blocking(move || {
        let mut file = tempfile::NamedTempFile::new()?;
        file.write_all(&bytes)?;
        Ok(file)
    });
    let file = written.await.unwrap_or_else(|died| Err(std::io::Error::other(died)));
    let file = file.map_err(|source| StoreError::Io {
        action: format!("make a file for {key}"),
        path: std::env::temp_dir(),
        source,
    })?;
    store.put(key, file.path(), digest, Overwrite::Replace, cancel).await.map(drop)
}

/// Keys of layer indexes differ in their last part.
fn file_name(key: &Key) -> &str {
    key.as_str().rsplit('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests;
