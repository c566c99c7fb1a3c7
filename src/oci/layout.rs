//! An OCI layout directory as a source (OCI image-spec 1.1, "Image Layout").

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream::{StreamExt, TryStreamExt};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, SeekFrom};
use tokio_util::io::ReaderStream;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::oci::blob::{Body, RangeStream};
use crate::oci::descriptor::Blob;
use crate::oci::error::OciError;
use crate::oci::image_index::IndexEntry;
use crate::oci::manifest::{Document, MAX_CONFIG, MAX_MANIFEST, Manifest, ManifestError};
use crate::retry::RetrySettings;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CHUNK: usize = 256 << 10;

#[derive(Debug)]
pub(super) struct Layout {
    directory: PathBuf,
    tag: Option<String>,
}

impl Layout {
    pub(super) fn new(directory: PathBuf, tag: Option<String>) -> Self {
        Self { directory, tag }
    }

    /// The directory, for people.
    pub(super) fn name(&self) -> String {
        self.directory.display().to_string()
    }

    /// The entries of `index.json` that are called by the tag. Without a tag it is the one that is
    /// `pinned`, or all entries, as long as they can be told apart by platform.
    pub(super) async fn entries(
        &self,
        pinned: Option<Digest>,
    ) -> Result<Vec<IndexEntry>, OciError> {
        let path = self.directory.join("index.json");
        let bytes = self.read(&path, MAX_MANIFEST).await?;
        let mut entries = match Manifest::parse(&bytes, None) {
            Ok(Manifest::Index(entries)) => entries,
            Ok(Manifest::Image(_)) => {
                return Err(self.failed("its index.json is a manifest, not an index".to_owned()));
            }
            Err(ManifestError::Broken(reason) | ManifestError::Unsupported(reason)) => {
                return Err(self.failed(format!("index.json: {reason}")));
            }
        };
        let names: Vec<String> =
            entries.iter().filter_map(|entry| entry.annotations.get(REF_NAME)).cloned().collect();
        let is_pinned =
            |entry: &IndexEntry| pinned.is_some() && entry.digest.as_ref().ok().copied() == pinned;
        if self.tag.is_none() && entries.iter().any(is_pinned) {
            entries.retain(is_pinned);
        }
        // One that can't be read is nobody's image, unless there is no other.
        if entries.iter().any(|entry| entry.digest.is_ok()) && self.tag.is_none() {
            entries.retain(|entry| entry.digest.is_ok());
        }
        let held = || {
            if names.is_empty() { "no named image".to_owned() } else { names.join(", ") }
        };
        match &self.tag {
            Some(tag) => {
                entries.retain(|entry| entry.annotations.get(REF_NAME) == Some(tag));
                if entries.is_empty() {
                    return Err(self.failed(format!("it has no image {tag:?}, but {}", held())));
                }
            }
            None if entries.is_empty() => {
                return Err(self.failed("its index.json lists no image".to_owned()));
            }
            None if entries.len() > 1 && entries.iter().any(|entry| entry.platform.is_none()) => {
                let held = held();
                return Err(self.failed(format!("it has several images, name one of: {held}")));
            }
            None => {}
        }
        Ok(entries)
    }

    pub(super) async fn manifest(&self, digest: Digest) -> Result<Document, OciError> {
        let bytes = self.read(&self.path(digest), MAX_MANIFEST).await?;
        Document::verified(bytes, None, Some(digest), || format!("manifest in {}", self.name()))
    }

    /// A blob that is read whole into memory: a config.
    pub(super) async fn small_blob(&self, blob: Blob) -> Result<Bytes, OciError> {
        let bytes = self.read(&self.path(blob.digest), MAX_CONFIG).await?;
        Document::verified(bytes, None, Some(blob.digest), || format!("config in {}", self.name()))
            .map(|document| document.bytes)
    }

    /// The bytes of a range of a blob; the caller has checked that it is within it.
    pub(super) async fn part(
        self: &Arc<Self>,
        blob: Blob,
        range: Range<u64>,
        cancel: &CancellationToken,
    ) -> Result<RangeStream, OciError> {
        let (layout, end) = (self.clone(), range.end);
        let open = move |offset| {
            let layout = layout.clone();
            async move {
                let file = layout.open(blob, offset).await?.take(end - offset);
                let chunks = ReaderStream::with_capacity(file, CHUNK);
                let body: Body = chunks
                    .map_err(move |error| layout.failed(format!("blob {}: {error}", blob.digest)))
                    .boxed();
                Ok(body)
            }
            .boxed()
        };
        // A file that fails once fails again.
        let once = RetrySettings { attempts: 1, ..RetrySettings::default() };
        RangeStream::open(self.name(), blob, range, open, once, cancel.clone()).await
    }

    async fn open(&self, blob: Blob, offset: u64) -> Result<File, OciError> {
        let Blob { digest, size } = blob;
        let path = self.path(blob.digest);
        let failed = |error: std::io::Error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                OciError::BlobNotFound { repository: self.name(), digest }
            } else {
                self.failed(format!("blob {digest}: {error}"))
            }
        };
        let mut file = open_regular(&path).await.map_err(failed)?;
        let found = file.metadata().await.map_err(failed)?.len();
        if found != size {
            let repository = self.name();
            return Err(OciError::WrongSize { repository, digest, expected: size, found });
        }
        if offset > 0 {
            file.seek(SeekFrom::Start(offset)).await.map_err(failed)?;
        }
        Ok(file)
    }

    /// A whole file of at most `limit` bytes.
    async fn read(&self, path: &Path, limit: u64) -> Result<Bytes, OciError> {
        let failed = |error: std::io::Error| {
            let inside = path.strip_prefix(&self.directory).unwrap_or(path);
            self.failed(format!("{}: {error}", inside.display()))
        };
        let file = open_regular(path).await.map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).await.map_err(failed)?;
        if bytes.len() as u64 > limit {
            return Err(OciError::TooLarge { what: path.display().to_string(), limit });
        }
        Ok(bytes.into())
    }

    fn path(&self, digest: Digest) -> PathBuf {
        self.directory.join("blobs/sha256").join(digest.hex())
    }

    fn failed(&self, reason: String) -> OciError {
        OciError::Layout { directory: self.directory.clone(), reason }
    }
}
/// Opens a file, but nothing that could block or never end, such as a fifo.
async fn open_regular(path: &Path) -> std::io::Result<File> {
    if tokio::fs::metadata(path).await?.is_file() {
        File::open(path).await
    } else {
        Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no regular file"))
    }
}
