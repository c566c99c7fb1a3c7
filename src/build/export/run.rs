//! An image's way into a repository: its layers, several at a time, then its config, and last the manifest
//! that names them. The first failure stops the rest.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::epoch::{Dated, dated_config};
use super::memory::{Exported, ExportedLayers, Form};
use super::{ExportError, StoredImage, StoredLayer};
use crate::archive::{IndexOptions, keep_index};
use crate::digest::Digest;
use crate::gzip::{DEFAULT_SPAN, member_size};
use crate::layer::Encoding;
use crate::layer::{LayerError, LayerIndex, LayerWrite, write_layer};
use crate::local::blocking;
use crate::memory::MemoryAccount;
use crate::oci::{Access, Compression, LayerDescriptor, Publisher, ResolvedImage, Source};
use crate::progress::{Progress, Step};

/// gzip's level if nobody says one.
pub const DEFAULT_LEVEL: u32 = 4;
/// Layers at a time.
const AT_ONCE: usize = 2;
/// Members that wait to be sent.
const WAITING: usize = 2;

/// The media type of the manifests of exported images.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image that the build began with.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// The image.
    pub image: &'a ResolvedImage,
    /// Where it is.
    pub source: &'a Source,
}

/// What the new layers of an image are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportStyle {
    /// gzip's level, 1 to 9.
    pub level: u32,
    /// Times in new layers and in the config that are later, in seconds since 1970, become this one: the
    /// same content makes the same image then (`SOURCE_DATE_EPOCH`).
    pub epoch: Option<u64>,
}

impl Default for ExportStyle {
    fn default() -> Self {
        Self { level: DEFAULT_LEVEL, epoch: None }
    }
}

/// How a built image gets into a repository.
#[derive(Clone)]
pub struct Export<'a> {
    /// The image.
    pub image: &'a StoredImage,
    /// Layers that one of them has are taken from there, unless they are no gzip.
    pub bases: &'a [Base<'a>],
    /// The repository.
    pub publisher: &'a Publisher,
    /// How the image will be indexed: what is learnt of its layers goes into the cache for that.
    pub options: &'a IndexOptions,
    /// What new layers are like.
    pub style: ExportStyle,
    /// Layers that were exported before.
    pub known: Option<&'a ExportedLayers>,
    /// Told of each layer.
    pub progress: Arc<dyn Progress>,
}

impl std::fmt::Debug for Export<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Export").field("to", &self.publisher.name()).finish_non_exhaustive()
    }
}

/// An image that is in the repository.
#[derive(Debug, Clone)]
pub struct ExportedImage {
    /// Digest of its manifest, under which the repository has given it back.
    pub manifest_digest: Digest,
    /// Its manifest.
    pub manifest: Bytes,
    /// Its config.
    pub config: Bytes,
    /// Bottom to top.
    pub layers: Vec<ExportedLayer>,
}

/// A layer that is in the repository.
#[derive(Debug, Clone)]
pub struct ExportedLayer {
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Their number.
    pub size: u64,
    /// Digest of its tar.
    pub diff_id: Digest,
    /// Where it came from.
    pub origin: Origin,
}

/// Where a layer came from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A base had it, and its bytes are that one's.
    Base,
    /// It was exported before, and was there.
    Known,
    /// It was compressed and sent; its index came about on the way.
    New(Arc<LayerIndex>),
}

impl Export<'_> {
    /// Pushes what the repository lacks, and the manifest last, under its digest alone: who has it by that
    /// may put a tag to it.
    pub async fn push(&self, cancel: &CancellationToken) -> Result<ExportedImage, ExportError> {
        let stop = cancel.child_token();
        let _stop = stop.clone().drop_guard();
        let distinct: BTreeMap<Digest, &StoredLayer> =
            self.image.layers.iter().map(|layer| (layer.diff_id, layer)).collect();
        // Made at once, since closures over borrowed layers are none of a stream's items.
        let work: Vec<_> = distinct.values().map(|layer| self.layer(layer, &stop)).collect();
        let done = stream::iter(work).buffered(AT_ONCE).try_collect::<Vec<_>>().await?;
        let done: BTreeMap<Digest, ExportedLayer> = distinct.into_keys().zip(done).collect();
        let layers: Vec<ExportedLayer> = self
            .image
            .layers
            .iter()
            .filter_map(|layer| done.get(&layer.diff_id).cloned())
            .collect();

        let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.diff_id).collect();
        let config = match self.style.epoch {
            None => self.image.config.clone(),
            Some(epoch) => dated_config(&self.image.config, &diff_ids, epoch)?,
        };
        let digest = Digest::of(&config);
        let whole = || async { Ok(stream::iter([Ok::<_, ExportError>(config.clone())])) };
        self.publisher.known_blob(&digest, whole, &stop).await?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, digest, config.len() as u64),
            "layers": layers.iter().map(|l| descriptor(LAYER, l.digest, l.size)).collect::<Vec<_>>(),
        });
        let manifest = Bytes::from(manifest.to_string());
        let pushed = self.publisher.manifest(&manifest, MANIFEST, None, &stop).await?;
        Ok(ExportedImage { manifest_digest: pushed, manifest, config, layers })
    }

    async fn layer(
        &self,
        layer: &StoredLayer,
        cancel: &CancellationToken,
    ) -> Result<ExportedLayer, ExportError> {
        let diff_id = layer.diff_id;
        if let Some(layer) = self.of_base(diff_id, cancel).await? {
            return Ok(layer);
        }
        if let Some(Exported { digest, size, diff_id }) = self.remembered(diff_id).await?
            && self.publisher.has_blob(&digest, cancel).await?
        {
            return Ok(ExportedLayer { digest, size, diff_id, origin: Origin::Known });
        }
        self.compress(layer, cancel).await
    }

    /// The layer, if a base has it in gzip: beta9's workers read nothing else (CONTRACT B.3).
    async fn of_base(
        &self,
        diff_id: Digest,
        cancel: &CancellationToken,
    ) -> Result<Option<ExportedLayer>, ExportError> {
        let found = self.bases.iter().find_map(|base| {
            let Base { image, source } = base;
            let mut of_base = image.diff_ids.iter().zip(&image.layers);
            let same = of_base.find(|(id, descriptor)| {
                **id == diff_id && descriptor.compression == Compression::Gzip
            });
            same.map(|(_, descriptor)| (descriptor, *source))
        });
        let Some((LayerDescriptor { digest, size, .. }, source)) = found else { return Ok(None) };
        let layer = ExportedLayer { digest: *digest, size: *size, diff_id, origin: Origin::Base };
        // What is there, somebody has looked at before.
        if self.publisher.size_of(digest, cancel).await?.is_some() {
            return Ok(Some(layer));
        }
        // Media types are often wrong. No digest speaks for these few bytes alone.
        let (prefix, access) = ((*size).min(Encoding::PREFIX as u64), Access::FromStart);
        let prefix = source.blob_range(digest, *size, 0, prefix, access, cancel).await?;
        if Encoding::of(&prefix) != Some(Encoding::Gzip) {
            return Ok(None);
        }
        let content = || async {
            let bytes = source.blob(digest, *size, cancel).await?;
            let progress = self.progress.clone();
            let told = bytes.inspect_ok(move |bytes| {
                progress.step(Step::LayerBytes { layer: *digest, bytes: bytes.len() as u64 });
            });
            Ok(told.map_err(ExportError::from))
        };
        self.publisher.known_blob(digest, content, cancel).await?;
        Ok(Some(layer))
    }

    fn form(&self) -> Form {
        let member = member_size(self.options.span.unwrap_or(DEFAULT_SPAN));
        Form { member, level: self.style.level, epoch: self.style.epoch }
    }

    /// What the layer became when it was exported before.
    async fn remembered(&self, diff_id: Digest) -> Result<Option<Exported>, ExportError> {
        let Some(known) = self.known.cloned() else { return Ok(None) };
        let form = self.form();
        Ok(blocking(move || known.get(diff_id, form)).await?)
    }

    /// Compresses, indexes and sends the layer at once.
    async fn compress(
        &self,
        layer: &StoredLayer,
        cancel: &CancellationToken,
    ) -> Result<ExportedLayer, ExportError> {
        let options = self.options;
        let turn = cancel.run_until_cancelled(options.budget.turn(cancel)).await;
        let _turn = turn.and_then(Result::ok).ok_or(ExportError::Cancelled)?;
        let settings = LayerWrite {
            diff_id: layer.diff_id,
            is_changed: self.style.epoch.is_some(),
            limits: options.limits,
            span: options.span,
            level: self.style.level,
            threads: options.budget.layers(),
        };
        let made: Made = Arc::default();
        let content = || async {
            let (layer, made, account) = (layer.clone(), made.clone(), options.account.clone());
            let (progress, of) = (self.progress.clone(), layer.diff_id);
            let bytes =
                compressed(layer, settings, self.style.epoch, account, made, cancel.clone());
            Ok(bytes.inspect_ok(move |bytes| {
                progress.step(Step::LayerBytes { layer: of, bytes: bytes.len() as u64 });
            }))
        };
        let pushed = self.publisher.blob(content, cancel).await?;
        let index = made.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(index) = index.filter(|index| index.digest == pushed.digest) else {
            let detail = "what was sent is not what was made".to_owned();
            return Err(LayerError::Copy { layer: pushed.digest, detail }.into());
        };
        keep_index(options, index.clone(), cancel).await?;
        let (digest, size, diff_id) = (pushed.digest, pushed.size, index.diff_id);
        let stored = layer.diff_id;
        if let Some(known) = self.known.cloned() {
            let (form, exported) = (self.form(), Exported { digest, size, diff_id });
            blocking(move || known.put(stored, form, exported)).await?;
        }
        self.progress.step(Step::LayerDone {
            layer: digest,
            compressed_bytes: size,
            plain_bytes: index.plain_size,
            entries: index.entries.len(),
            cached: false,
        });
        Ok(ExportedLayer { digest, size, diff_id, origin: Origin::New(index) })
    }
}

pub(super) fn descriptor(media_type: &str, digest: Digest, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": size })
}

/// The index of a layer, once all of it was compressed.
type Made = Arc<Mutex<Option<Arc<LayerIndex>>>>;

/// The layer's compressed bytes as they come about. Nothing may be built on them before the stream has
/// ended well.
fn compressed(
    layer: StoredLayer,
    settings: LayerWrite,
    epoch: Option<u64>,
    account: MemoryAccount,
    made: Made,
    cancel: CancellationToken,
) -> BoxStream<'static, Result<Bytes, ExportError>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let working = tokio::task::spawn_blocking(move || {
        let mut tar = Cancellable { tar: layer.tar()?, cancel };
        let mut out = Chunks(sender);
        let index = match epoch {
            None => write_layer(settings, &account, &mut tar, &mut out)?,
            Some(epoch) => {
                let mut dated = Dated::new(tar, epoch);
                let index = write_layer(settings, &account, &mut dated, &mut out)?;
                let (expected, found) = (layer.diff_id, dated.original());
                if found != expected {
                    return Err(LayerError::DiffId { layer: index.digest, expected, found }.into());
                }
                index
            }
        };
        *made.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(index));
        Ok(())
    });
    let working = Some(working);
    // The bytes, and then what the work came to.
    stream::unfold((receiver, working), move |(mut receiver, mut working)| async move {
        if let Some(bytes) = receiver.recv().await {
            return Some((Ok(bytes), (receiver, working)));
        }
        let detail = |died: tokio::task::JoinError| LayerError::Thread {
            layer: settings.diff_id,
            detail: died.to_string(),
        };
        let done = working.take()?.await.unwrap_or_else(|died| Err(detail(died).into()));
        done.err().map(|error: ExportError| (Err(error), (receiver, None)))
    })
    .boxed()
}

/// The blocking end of the stream.
struct Chunks(mpsc::Sender<Bytes>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(bytes));
        sent.map(|()| bytes.len()).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads as long as nobody has cancelled.
pub(super) struct Cancellable<R> {
    pub(super) tar: R,
    pub(super) cancel: CancellationToken,
}

impl<R: Read> Read for Cancellable<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.tar.read(buffer)
    }
}
