//! The index of a layer: known from before, or made by reading the layer, once for all who want it
//! at the same time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::archive::ArchiveError;
use crate::archive::IndexOptions;
use crate::archive::layer_cache::{LayerCache, LayerRequest};
use crate::digest::Digest;
use crate::fetch::download::with_layer;
use crate::layer::{Contents, LayerError, LayerIndex, LayerRead, NoContents, read_layer};
use crate::local::processor_time;
use crate::oci::{LayerDescriptor, OciError, Ranges, Source};
use crate::progress::{Progress, Step, wait};

/// For so long somebody else who reads the same layer is waited for: he may have it from a registry that gives
/// it drop by drop, on purpose or not. Then it is read twice, which does no harm...
const PATIENCE: Duration = Duration::from_mins(2);
/// ...and a second longer for each of so many bytes, lest all who want a large layer read it at once.
const SLOW: u64 = 16 << 20;

/// A layer of an image, and where it is.
#[derive(Debug, Clone, Copy)]
pub struct ImageLayer<'a> {
    /// Where its bytes are.
    pub source: &'a Source,
    /// As the manifest has it.
    pub descriptor: &'a LayerDescriptor,
    /// What the image's config says of its content.
    pub diff_id: Digest,
}

/// A layer's index, and where it came from.
#[derive(Debug, Clone)]
pub struct KnownLayer {
    /// The index; its digest and diff id are those that were asked for.
    pub index: Arc<LayerIndex>,
    /// Whether it was known, so that nothing was downloaded.
    pub cached: bool,
}

impl ImageLayer<'_> {
    fn wanted(&self, options: &IndexOptions) -> LayerRequest {
        let LayerDescriptor { digest, size, .. } = *self.descriptor;
        let read = LayerRead { digest, limits: options.limits, span: options.span };
        LayerRequest { read, size, diff_id: self.diff_id }
    }

    /// The layer's index, out of the cache if it is there.
    pub async fn index(
        &self,
        options: &IndexOptions,
        progress: &Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<KnownLayer, ArchiveError> {
        let known = match &options.cache {
            Some(cache) => self.get_or_read(cache, options, progress, cancel).await?,
            None => KnownLayer {
                index: self.read_patiently(options, progress, cancel).await?,
                cached: false,
            },
        };
        self.tell(&known, progress);
        Ok(known)
    }

    /// Reads the layer in any case, and hands the content of its files to `contents` on the way;
    /// what was made of it may be used once this has succeeded. The index goes into the cache.
    pub async fn index_and_contents<C: Contents + Send + 'static>(
        &self,
        options: &IndexOptions,
        contents: C,
        progress: &Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<(KnownLayer, C), ArchiveError> {
        let (index, contents) = self.read(options, contents, progress, cancel).await?;
        if let Some(cache) = &options.cache {
            cache.put_if_unknown(&self.wanted(options), index.clone(), cancel).await?;
        }
        let known = KnownLayer { index, cached: false };
        self.tell(&known, progress);
        Ok((known, contents))
    }

    async fn get_or_read(
        &self,
        cache: &LayerCache,
        options: &IndexOptions,
        progress: &Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<KnownLayer, ArchiveError> {
        let wanted = self.wanted(options);
        let get = async || {
            let Some(index) = cache.get(&wanted, cancel).await? else { return Ok(None) };
            index.charge(&options.account)?;
            Ok::<_, ArchiveError>(Some(KnownLayer { index: Arc::new(index), cached: true }))
        };
        if let Some(known) = get().await? {
            return Ok(known);
        }
        let key = wanted.key();
        let layer = self.descriptor.digest;
        let patience = PATIENCE + Duration::from_secs(self.descriptor.size / SLOW);
        let end = Instant::now() + patience;
        let boarding = timeout_at(end, cache.flights().board(&key));
        let boarded = wait(&**progress, layer, cancel.run_until_cancelled(boarding)).await;
        let _flight = boarded.ok_or(ArchiveError::Cancelled)?.ok();
        let _claim = loop {
            let freed = cache.claims().map(|claims| claims.freed(&key));
            let claim = match cache.claims() {
                Some(claims) => {
                    let asked = cancel.run_until_cancelled(claims.try_claim(&key)).await;
                    asked.ok_or(ArchiveError::Cancelled)?
                }
                None => Some(Box::new(()) as _),
            };
            // Whoever had it until now may have come to its end.
            if let Some(known) = get().await? {
                return Ok(known);
            }
            match (claim, freed) {
                (Some(claim), _) => break Some(claim),
                (None, Some(freed)) => {
                    tracing::debug!(%key, "another process is reading this layer");
                    let woken = cancel.run_until_cancelled(timeout_at(end, freed)).await;
                    if woken.ok_or(ArchiveError::Cancelled)?.is_err() {
                        break None;
                    }
                    progress.step(Step::Waiting { layer });
                }
                (None, None) => {}
            }
        };
        let index = self.read_patiently(options, progress, cancel).await?;
        cache.put(&wanted, index.clone(), cancel).await?;
        Ok(KnownLayer { index, cached: false })
    }

    /// As [`Self::read`]. Of a registry that doesn't say which bytes it gives, wrong ones may be
    /// others of the same layer: then it is read once more, over one connection from its start.
    async fn read_patiently(
        &self,
        options: &IndexOptions,
        progress: &Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<Arc<LayerIndex>, ArchiveError> {
        let read = self.read(options, NoContents, progress, cancel).await;
        let wrong = matches!(read, Err(ArchiveError::Oci(OciError::DigestMismatch { .. })));
        if !wrong || self.source.ranges() != Ranges::Ignored {
            return Ok(read?.0);
        }
        tracing::warn!(layer = %self.descriptor.digest, "wrong bytes: reading it from its start");
        let source = self.source.without_ranges();
        let again = ImageLayer { source: &source, ..*self };
        Ok(again.read(options, NoContents, progress, cancel).await?.0)
    }

    /// Downloads the layer and takes it apart.
    async fn read<C: Contents + Send + 'static>(
        &self,
        options: &IndexOptions,
        mut contents: C,
        progress: &Arc<dyn Progress>,
        cancel: &CancellationToken,
    ) -> Result<(Arc<LayerIndex>, C), ArchiveError> {
        let LayerRequest { read, size, diff_id } = self.wanted(options);
        let (source, budget) = (self.source, &options.budget);
        let account = options.account.clone();
        let told = progress.clone();
        let work = move |bytes| {
            let started = processor_time();
            let index = read_layer(read, &account, bytes, &mut contents)?;
            let processor = processor_time().saturating_sub(started);
            told.step(Step::Inflated { layer: read.digest, processor });
            Ok((index, contents))
        };
        let (index, contents) =
            with_layer(source, read.digest, size, progress.clone(), budget, cancel, work).await?;
        verify_diff_id(&index, diff_id)?;
        Ok((Arc::new(index), contents))
    }

    fn tell(&self, KnownLayer { index, cached }: &KnownLayer, progress: &Arc<dyn Progress>) {
        progress.step(Step::LayerDone {
            layer: self.descriptor.digest,
            compressed_bytes: index.compressed_size,
            plain_bytes: index.plain_size,
            entries: index.entries.len(),
            cached: *cached,
        });
    }
}

/// Keeps the index of a layer that came about while the layer was written, for whoever indexes its image.
pub async fn keep_index(
    options: &IndexOptions,
    index: Arc<LayerIndex>,
    cancel: &CancellationToken,
) -> Result<(), ArchiveError> {
    let Some(cache) = &options.cache else { return Ok(()) };
    let read = LayerRead { digest: index.digest, limits: options.limits, span: options.span };
    let wanted = LayerRequest { read, size: index.compressed_size, diff_id: index.diff_id };
    cache.put(&wanted, index, cancel).await
}

/// A layer must be what the image's config says.
pub(super) fn verify_diff_id(index: &LayerIndex, expected: Digest) -> Result<(), LayerError> {
    let (layer, found) = (index.digest, index.diff_id);
    if found == expected { Ok(()) } else { Err(LayerError::DiffId { layer, expected, found }) }
}
