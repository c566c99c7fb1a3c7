//! A layer into which there is no way but through its beginning: upstream's archives have no seek
//! table, and a layer may be one large zstd frame. The first read brings all of it, verified to its
//! end before a byte is served; the plain bytes are kept in the cache.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use tokio_util::sync::CancellationToken;

use super::LazyShared;
use crate::content::ContentError;
use crate::content::span_cache::Entry;
use crate::content::stored_layers::StoredLayer;
use crate::digest::Digest;
use crate::fetch::Budget;
use crate::fetch::download::with_layer;
use crate::layer::{LayerError, Limits, copy_layer};
use crate::local::io_error;
use crate::oci::Source;
use crate::progress::{Progress, Step};

/// A layer that is read whole. Clones share everything.
#[derive(Debug, Clone)]
pub struct WholeLayer(Arc<Layer>);

#[derive(Debug)]
struct Layer {
    source: Source,
    stored: StoredLayer,
    shared: LazyShared,
    budget: Arc<Budget>,
    plain: Mutex<Option<Coming>>,
}

type Coming = Shared<BoxFuture<'static, Result<Arc<Plain>, Arc<ContentError>>>>;

/// The plain bytes.
#[derive(Debug)]
enum Plain {
    Disk(Arc<Entry>),
    /// What the cache could not keep.
    Temporary(File),
}

impl WholeLayer {
    /// Nothing is asked for yet.
    pub(crate) fn new(
        source: Source,
        stored: StoredLayer,
        shared: LazyShared,
        budget: Arc<Budget>,
    ) -> Self {
        Self(Arc::new(Layer { source, stored, shared, budget, plain: Mutex::default() }))
    }

    /// The plain bytes in `range`, if the layer is at hand. Blocks: reads files.
    pub fn at_hand(&self, range: &Range<u64>) -> Option<Vec<u8>> {
        let coming = self.0.plain.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match coming {
            Some(coming) => coming.peek()?.as_ref().ok()?.read(range).ok(),
            None => self.0.kept()?.read(range).ok(),
        }
    }

    /// The plain bytes in `range`.
    pub async fn read(&self, range: Range<u64>) -> Result<Vec<u8>, ContentError> {
        let plain = self.coming().await.map_err(ContentError::Shared)?;
        let read = tokio::task::spawn_blocking(move || plain.read(&range));
        let layer = self.0.stored.digest;
        let died = |died| io_error(format!("layer {layer}: a thread died"))(io::Error::other(died));
        let read = read.await.map_err(died)?;
        Ok(read.map_err(io_error(format!("layer {layer}: can't read its plain bytes")))?)
    }

    /// Compressed bytes of the layer.
    pub fn size(&self) -> u64 {
        self.0.stored.size
    }

    /// Brings the layer.
    pub async fn fetch(&self) -> Result<(), ContentError> {
        self.coming().await.map(drop).map_err(ContentError::Shared)
    }

    /// Whoever brings it already, or a new task.
    fn coming(&self) -> Coming {
        let mut plain = self.0.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(coming) = &*plain
            && !coming.peek().is_some_and(Result::is_err)
        {
            return coming.clone();
        }
        let layer = self.0.clone();
        let digest = layer.stored.digest;
        let bringing = tokio::spawn(async move { layer.bring().await });
        let coming = async move {
            let brought = bringing.await.unwrap_or_else(|died| {
                let what = format!("layer {digest}: a task died");
                Err(io_error(what)(io::Error::other(died)).into())
            });
            brought.map(Arc::new).map_err(Arc::new)
        };
        plain.insert(coming.boxed().shared()).clone()
    }
}

impl Layer {
    /// Bytes with that diff id are the same whichever archive asks.
    fn key(&self) -> Digest {
        Digest::of(&[b"clipwright layer\0", &self.stored.diff_id.as_bytes()[..]].concat())
    }

    fn kept(&self) -> Option<Plain> {
        self.shared.cache()?.get(&self.key(), None).map(Plain::Disk)
    }

    async fn bring(self: Arc<Self>) -> Result<Plain, ContentError> {
        let layer = self.clone();
        let kept = tokio::task::spawn_blocking(move || layer.kept()).await;
        if let Ok(Some(plain)) = kept {
            return Ok(plain);
        }
        if let Some(plain) = self.download(true).await? {
            return Ok(plain);
        }
        // The cache could not keep it.
        let plain = self.download(false).await?;
        plain.ok_or(ContentError::Cancelled)
    }

    /// Downloads the layer; `None`: the cache could not keep it.
    async fn download(self: &Arc<Self>, keep: bool) -> Result<Option<Plain>, ContentError> {
        let StoredLayer { digest, size, .. } = self.stored;
        let progress = Arc::new(Counted(self.shared.clone()));
        let layer = self.clone();
        self.shared.counters().requested();
        let never = CancellationToken::new();
        let downloaded =
            with_layer(&self.source, digest, size, progress, &self.budget, &never, move |bytes| {
                if keep {
                    layer.copy_to_cache(bytes)
                } else {
                    layer.copy_to_temporary(bytes).map(Some)
                }
            });
        Ok(downloaded.await?)
    }

    fn copy_to_cache(&self, compressed: impl io::BufRead) -> Result<Option<Plain>, LayerError> {
        let StoredLayer { digest, size, diff_id } = self.stored;
        let Some(cache) = self.shared.cache() else { return Ok(None) };
        let mut wrong = None;
        // How long it is going to be nobody has said.
        let kept = cache.put_with(&self.key(), size.saturating_mul(3), |mut out| {
            let copied = copy_layer(digest, compressed, diff_id, Limits::NONE, &mut out);
            copied.map_err(|error| {
                let told = io::Error::other(error.to_string());
                wrong = Some(error);
                told
            })
        });
        match wrong {
            // What could not be written is no fault of the layer.
            Some(LayerError::Copy { .. }) => Ok(None),
            Some(error) => Err(error),
            None if kept => Ok(self.kept()),
            None => Ok(None),
        }
    }

    fn copy_to_temporary(&self, compressed: impl io::BufRead) -> Result<Plain, LayerError> {
        let StoredLayer { digest: layer, diff_id, .. } = self.stored;
        let failed = |error: io::Error| LayerError::Copy { layer, detail: error.to_string() };
        let file = tempfile::tempfile().map_err(failed)?;
        let mut out = io::BufWriter::new(&file);
        copy_layer(layer, compressed, diff_id, Limits::NONE, &mut out)?;
        out.flush().map_err(failed)?;
        drop(out);
        Ok(Plain::Temporary(file))
    }
}

impl Plain {
    fn read(&self, range: &Range<u64>) -> io::Result<Vec<u8>> {
        let length = usize::try_from(range.end - range.start).map_err(io::Error::other)?;
        let mut bytes = vec![0; length];
        match self {
            Self::Disk(entry) => entry.read_exact_at(&mut bytes, range.start)?,
            Self::Temporary(file) => file.read_exact_at(&mut bytes, range.start)?,
        }
        Ok(bytes)
    }
}

/// Counts what comes.
struct Counted(LazyShared);

impl Progress for Counted {
    fn step(&self, step: Step) {
        if let Step::LayerBytes { bytes, .. } = step {
            self.0.counters().received(usize::try_from(bytes).unwrap_or(0));
        }
    }
}
