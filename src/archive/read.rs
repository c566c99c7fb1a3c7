//! A file's content, wherever the archive says it lives.
//!
//! Through a seek table only the spans that hold the file are fetched. An archive without one gives
//! no way into the middle of a layer: the layer is read from its start, and verified to its end
//! before a byte is handed out.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tempfile::{SpooledTempFile, spooled_tempfile};
use tokio_util::sync::CancellationToken;

use super::download::with_layer;
use super::spans::{SpanMemory, SpanReader};
use super::{ArchiveError, Budget};
use crate::clip::node::{FileContent, Node, NodeKind, RemoteRef};
use crate::clip::reader::Archive;
use crate::clip::storage_info::{OciStorageInfo, S3StorageInfo, StorageInfo};
use crate::digest::Digest;
use crate::layer::{LayerError, copy_range};
use crate::oci::{Credentials, ImageSource, OciError, OciSettings, Reference, Source};
use crate::progress::Silent;
use crate::store::{self, Key, S3Settings, StoreSettings};

/// Content held in memory while it is verified; more goes to a temporary file.
const SPOOL: usize = 8 << 20;
/// Bytes asked of an S3 object at a time.
const S3_PART: u64 = 8 << 20;

/// How to get at what an archive points to.
#[derive(Debug, Default)]
pub struct ReadSettings {
    /// How to reach registries.
    pub oci: OciSettings,
    /// Credentials for the registry; the ambient ones when absent.
    pub credentials: Option<Credentials>,
    /// Read layers from here rather than from where the archive points.
    pub source: Option<ImageSource>,
    /// Keys for the archive's S3 object; the ambient ones when absent.
    pub s3_keys: Option<(secrecy::SecretString, secrecy::SecretString)>,
}

/// The content of `node`, which belongs to `archive`, which lies in `file`.
pub async fn open_file(
    file: &Path,
    archive: &Archive,
    node: &Node,
    settings: ReadSettings,
    cancel: &CancellationToken,
) -> Result<Box<dyn Read + Send>, ArchiveError> {
    let content = match &node.kind {
        NodeKind::File(content) => content,
        other => {
            let detail = match other {
                NodeKind::Directory => "is a directory",
                NodeKind::Symlink { .. } => "is a symbolic link",
                _ => "is a device or fifo",
            };
            return Err(not_a_file(node, detail));
        }
    };
    match (content, &archive.storage) {
        (FileContent::Embedded { length: 0, .. }, _) => Ok(Box::new(std::io::empty())),
        (FileContent::Embedded { offset, length, sha256 }, storage) => {
            let mut spool = match storage {
                StorageInfo::Local => local(file, *offset, *length)?,
                StorageInfo::S3(object) => from_s3(object, *offset, *length, settings).await?,
                StorageInfo::Oci(_) => return Err(not_a_file(node, MISPLACED)),
            };
            verify(node, &mut spool, *length, *sha256)?;
            Ok(Box::new(spool))
        }
        (FileContent::Remote(remote), StorageInfo::Oci(image)) => {
            Ok(Box::new(from_layer(file, archive, image, *remote, settings, cancel).await?))
        }
        _ => Err(not_a_file(node, MISPLACED)),
    }
}

/// The image that a v2 archive points to.
pub fn image_source(image: &OciStorageInfo) -> Result<ImageSource, OciError> {
    let OciStorageInfo { registry_url, repository, reference, .. } = image;
    Ok(ImageSource::Registry(Reference::from_stored(registry_url, repository, reference)?))
}

const MISPLACED: &str = "has content where the archive's storage info has none";

/// Compares what was read with what the index says of it, and goes back to its start.
fn verify(
    node: &Node,
    content: &mut SpooledTempFile,
    length: u64,
    sha256: Option<Digest>,
) -> Result<(), ArchiveError> {
    let failed = || io_error("can't keep the content");
    content.rewind().map_err(failed())?;
    let (mut hasher, mut read, mut buffer) = (Sha256::new(), 0_u64, vec![0; 64 << 10]);
    loop {
        let part = content.read(&mut buffer).map_err(failed())?;
        if part == 0 {
            break;
        }
        hasher.update(&buffer[..part]);
        read += part as u64;
    }
    if read != length {
        let detail = format!("expected {length} bytes of content, found {read}");
        return Err(not_a_file(node, &detail));
    }
    let found = Digest::from_hasher(hasher);
    if let Some(expected) = sha256
        && found != expected
    {
        let what = node.path.to_string();
        return Err(OciError::DigestMismatch { what, expected, found }.into());
    }
    content.rewind().map_err(failed())
}

fn not_a_file(node: &Node, detail: &str) -> ArchiveError {
    ArchiveError::NotAFile { path: node.path.to_string(), detail: detail.to_owned() }
}

fn io_error(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> ArchiveError {
    let what = what.into();
    |source| ArchiveError::Io { what, source }
}

fn local(file: &Path, offset: u64, length: u64) -> Result<SpooledTempFile, ArchiveError> {
    let what = || io_error(format!("can't read {}", file.display()));
    let mut archive = File::open(file).map_err(what())?;
    archive.seek(SeekFrom::Start(offset)).map_err(what())?;
    let mut spool = spooled_tempfile(SPOOL);
    std::io::copy(&mut archive.take(length), &mut spool).map_err(what())?;
    Ok(spool)
}

async fn from_s3(
    object: &S3StorageInfo,
    offset: u64,
    length: u64,
    settings: ReadSettings,
) -> Result<SpooledTempFile, ArchiveError> {
    let bucket = store::open(&StoreSettings::S3(S3Settings {
        bucket: object.bucket.clone(),
        region: object.region.clone(),
        endpoint: (!object.endpoint.is_empty()).then(|| object.endpoint.clone()),
        force_path_style: object.force_path_style,
        keys: settings.s3_keys,
        part_size: S3Settings::DEFAULT_PART_SIZE,
    }))
    .await?;
    let key: Key = object.key.parse().map_err(|e| ArchiveError::NotAFile {
        path: object.key.clone(),
        detail: format!("the archive's storage info: {e}"),
    })?;
    let mut spool = spooled_tempfile(SPOOL);
    let mut done = 0;
    while done < length {
        let part = bucket.read(&key, offset + done, S3_PART.min(length - done)).await?;
        if part.is_empty() {
            let what = format!("{} of {} ends at {}", object.key, bucket.describe(), offset + done);
            return Err(io_error(what)(std::io::ErrorKind::UnexpectedEof.into()));
        }
        spool.write_all(&part).map_err(io_error("can't keep the content"))?;
        done += part.len() as u64;
    }
    Ok(spool)
}

async fn from_layer(
    file: &Path,
    archive: &Archive,
    image: &OciStorageInfo,
    remote: RemoteRef,
    settings: ReadSettings,
    cancel: &CancellationToken,
) -> Result<SpooledTempFile, ArchiveError> {
    let layer = remote.layer;
    let missing = |detail: &str| ArchiveError::NotAFile {
        path: layer.to_string(),
        detail: format!("the archive's storage info has no {detail} for this layer"),
    };
    let plain_digest = *image.plain_digests.get(&layer).ok_or_else(|| missing("diff id"))?;
    let metadata = image.image_metadata.iter().flat_map(|metadata| &metadata.layers_data);
    let size = metadata
        .filter(|descriptor| descriptor.digest == layer.to_string())
        .find_map(|descriptor| u64::try_from(descriptor.size).ok())
        .ok_or_else(|| missing("size"))?;
    let source = match settings.source {
        Some(source) => source,
        None => image_source(image)?,
    };
    let source = Source::open(&source, &settings.oci, settings.credentials).await?;
    let range = remote.offset..remote.offset.saturating_add(remote.length);
    let memory = SpanMemory::default();
    let spans = SpanReader::open(file, &archive.header, source.clone(), layer, size, memory)?;
    if let Some(spans) = spans.filter(|spans| spans.is_seekable(&range)) {
        let mut spool = spooled_tempfile(SPOOL);
        spans.copy(range, &mut spool, cancel).await?;
        spool.rewind().map_err(io_error("can't keep the content"))?;
        return Ok(spool);
    }
    let budget = Budget::new(1);
    with_layer(&source, layer, size, Arc::new(Silent), &budget, cancel, move |compressed| {
        let mut spool = spooled_tempfile(SPOOL);
        copy_range(layer, compressed, plain_digest, remote.offset, remote.length, &mut spool)?;
        spool.rewind().map_err(|e| LayerError::Copy { layer, detail: e.to_string() })?;
        Ok(spool)
    })
    .await
}
