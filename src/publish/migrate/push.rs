//! The image of a v1 archive goes to a registry: its one layer while it is made, then its config,
//! then the manifest that names both.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::image_config::image_config;
use super::layer_tar::{Take, WrittenLayer, write_layer};
use super::root::BundledImage;
use super::{MigrateError, V1};
use crate::clip::node::Node;
use crate::content::ContentError;
use crate::content::blocks::{Block, BlockData, BlockReader};
use crate::digest::Digest;
use crate::oci::{OciError, Platform, Publisher};

/// The longest runtime configuration that is read.
const MAX_CONFIG: u64 = 4 << 20;
/// Bytes of a layer gathered before they are sent, and how many of those wait.
const CHUNK: usize = 256 << 10;
const CHUNKS_WAITING: usize = 16;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// An image that was pushed.
#[derive(Debug)]
pub(super) struct PushedImage {
    /// Digest of its manifest.
    pub(super) manifest: Digest,
    /// What it is made for.
    pub(super) platform: Platform,
    /// Its layer.
    pub(super) layer: WrittenLayer,
}

/// Pushes the image of `v1` under `tag`.
pub(super) async fn push(
    v1: &V1,
    image: &Arc<BundledImage>,
    publisher: &Publisher,
    tag: &str,
    cancel: &CancellationToken,
) -> Result<PushedImage, MigrateError> {
    // Whatever can't be read should fail before a layer is on its way.
    let runtime = match &image.config {
        Some(node) => Some((node.path.to_string(), read_small(&v1.data, node, cancel).await?)),
        None => None,
    };
    let runtime = runtime.as_ref().map(|(file, bytes)| (file.as_str(), bytes.as_slice()));
    image_config(runtime, Digest::of(b""))?;

    let layer = push_layer(v1, image, publisher, cancel).await?;
    let (config, platform) = image_config(runtime, layer.diff_id)?;
    let config = Bytes::from(config);
    let sent = publisher
        .blob(|| async { Ok(stream::iter([Ok::<_, MigrateError>(config.clone())])) }, cancel)
        .await?;
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(CONFIG, sent.digest, sent.size),
        "layers": [descriptor(LAYER, layer.digest, layer.size)],
    });
    let bytes = Bytes::from(manifest.to_string());
    let manifest = publisher.manifest(&bytes, MANIFEST, Some(tag), cancel).await?;
    Ok(PushedImage { manifest, platform, layer })
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": size })
}

async fn read_small(
    data: &BlockData,
    node: &Node,
    cancel: &CancellationToken,
) -> Result<Vec<u8>, MigrateError> {
    let Some(block) = Block::of(node) else { return Ok(Vec::new()) };
    if block.length > MAX_CONFIG {
        let detail = format!("it has {} bytes: expected at most {MAX_CONFIG}", block.length);
        return Err(MigrateError::Config { file: block.path, detail });
    }
    let wanted = [block.extent(data.size().await?)?];
    let read = move |mut reader: BlockReader| {
        let mut bytes = Vec::new();
        reader.block(&block, &mut |part| {
            bytes.extend_from_slice(part);
            Ok(())
        })?;
        Ok(bytes)
    };
    Ok(data.read(&wanted, cancel, read).await?)
}

/// Makes the layer while it is sent. Where the registry makes us begin anew, it is made anew: the
/// bytes are the same.
async fn push_layer(
    v1: &V1,
    image: &Arc<BundledImage>,
    publisher: &Publisher,
    cancel: &CancellationToken,
) -> Result<WrittenLayer, MigrateError> {
    let size = v1.data.size().await?;
    let blocks = Block::all(image.tree.iter());
    let wanted = blocks.iter().map(|block| block.extent(size)).collect::<Result<Vec<_>, _>>()?;
    let written: Arc<Mutex<Option<WrittenLayer>>> = Arc::default();
    let content = || {
        let (sender, mut receiver) = mpsc::channel(CHUNKS_WAITING);
        let (data, image, wanted) = (v1.data.clone(), image.clone(), wanted.clone());
        let (slot, cancel) = (written.clone(), cancel.clone());
        // Ends by itself when nobody takes its chunks any more.
        tokio::spawn(async move {
            let mut out = Chunks { sender: sender.clone(), waiting: Vec::with_capacity(CHUNK) };
            let work = move |mut reader: BlockReader| {
                let content = |node: &Node, take: &mut Take<'_>| {
                    let Some(block) = Block::of(node) else { return Ok(Digest::of(b"")) };
                    let mut refused = None;
                    let read = reader.block(&block, &mut |bytes| {
                        take(bytes).map_err(|error| {
                            refused = Some(error);
                            ContentError::Cancelled
                        })
                    });
                    match refused {
                        Some(error) => Err(error),
                        None => Ok(read?),
                    }
                };
                let layer = write_layer(&image.tree, content, &mut out);
                Ok(layer)
            };
            match data.read(&wanted, &cancel, work).await.map_err(MigrateError::from) {
                Ok(Ok(layer)) => *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(layer),
                Ok(Err(error)) | Err(error) => drop(sender.send(Err(error)).await),
            }
        });
        async move {
            let chunks = stream::poll_fn(move |context| receiver.poll_recv(context));
            Ok::<_, MigrateError>(chunks)
        }
    };
    let sent = publisher.blob(content, cancel).await?;
    let layer = written.lock().unwrap_or_else(PoisonError::into_inner).take();
    match layer {
        Some(layer) if layer.digest == sent.digest => Ok(layer),
        found => {
            let what = format!("the layer pushed to {}", publisher.name());
            let expected = found.map_or(Digest::of(b""), |layer| layer.digest);
            Err(OciError::DigestMismatch { what, expected, found: sent.digest }.into())
        }
    }
}

/// Hands what is written on in chunks.
struct Chunks {
    sender: mpsc::Sender<Result<Bytes, MigrateError>>,
    waiting: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let chunk = std::mem::replace(&mut self.waiting, Vec::with_capacity(CHUNK));
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.sender.blocking_send(Ok(chunk.into())).map_err(gone)
    }
}
