//! `Source`: an image, wherever it is, from its name to its blobs.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::digest::Digest;
use crate::oci::blob::{BlobStream, RangeStream};
use crate::oci::config::ImageConfig;
use crate::oci::credentials::Credentials;
use crate::oci::descriptor::Blob;
use crate::oci::error::OciError;
use crate::oci::gate::{Gate, Open};
use crate::oci::http::Endpoint;
use crate::oci::image_index::{Choice, IndexEntry, NoChoice, choose_entry};
use crate::oci::image_source::ImageSource;
use crate::oci::layout::Layout;
use crate::oci::manifest::{
    Document, ImageManifest, LayerDescriptor, MAX_CONFIG, Manifest, ManifestError,
};
use crate::oci::pinned::PinnedReference;
use crate::oci::platform::Platform;
use crate::oci::range::{Access, Ranges};
use crate::oci::reference::Reference;
use crate::oci::registry::Registry;
use crate::oci::session::Session;
use crate::oci::settings::OciSettings;

/// How deep indexes may be nested.
const MAX_DEPTH: usize = 4;
/// The longest range held in memory, in bytes.
const MAX_RANGE: u64 = 256 << 20;

/// One platform's image.
#[derive(Debug, Clone)]
pub struct ResolvedImage {
    /// The image by its manifest's digest. For a layout it is the one given as `published_as`,
    /// or else `localhost/oci-layout`, which no reader can reach.
    pub reference: PinnedReference,
    /// Digest of what the source named: an index, or the manifest itself.
    pub named_digest: Digest,
    /// Digest of the platform manifest.
    pub manifest_digest: Digest,
    /// The platform manifest as it was read.
    pub raw_manifest: Bytes,
    /// The config as it was read.
    pub raw_config: Bytes,
    /// What the image is made for, as the index or else its config says.
    pub platform: Platform,
    /// What the image says of itself.
    pub config: ImageConfig,
    /// Digests of the uncompressed layers, bottom to top; as many as `layers`.
    pub diff_ids: Vec<Digest>,
    /// Bottom to top; one digest may stand there twice.
    pub layers: Vec<LayerDescriptor>,
    /// What is odd about the image, for people.
    pub warnings: Vec<String>,
}

/// Which of the images under one name is looked for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    platform: &'a Platform,
    /// The digest of its manifest; goes before the platform.
    pinned: Option<Digest>,
}

/// An opened [`ImageSource`]; keeps connections and authorization. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Source {
    /// The image, for people.
    image: String,
    origin: Origin,
    gate: Arc<dyn Gate>,
    /// How parts are asked for, unless the caller says.
    access: Access,
}

#[derive(Debug, Clone)]
enum Origin {
    Registry { registry: Arc<Registry>, reference: Reference },
    Layout { layout: Arc<Layout>, published_as: Option<Reference>, tag: Option<String> },
}

impl Source {
    /// Prepares access; nothing is asked of the registry yet.
    ///
    /// `credentials` of `None` means those of the surroundings: for Docker Hub the settings' own,
    /// then Docker's configuration file, then none.
    pub async fn open(
        image: &ImageSource,
        settings: &OciSettings,
        credentials: Option<Credentials>,
    ) -> Result<Self, OciError> {
        let origin = match image {
            ImageSource::Layout { dir, tag, published_as } => Origin::Layout {
                layout: Arc::new(Layout::new(dir.clone(), tag.clone())),
                published_as: published_as.clone(),
                tag: tag.clone(),
            },
            ImageSource::Registry(reference) => {
                let repository = reference.repository();
                let endpoint = Endpoint::new(
                    reference.registry(),
                    repository,
                    settings,
                    settings.idle_timeout,
                )?;
                let scopes = vec![format!("repository:{repository}:pull")];
                let session = Session::open(endpoint, scopes, settings, credentials).await?;
                let registry = Registry::new(session, settings.retry.clone());
                Origin::Registry { registry: Arc::new(registry), reference: reference.clone() }
            }
        };
        Ok(Self { image: image.to_string(), origin, gate: Arc::new(Open), access: Access::Range })
    }

    /// Finds the image for `platform` and reads its manifest and config.
    pub async fn resolve(
        &self,
        platform: &Platform,
        cancel: &CancellationToken,
    ) -> Result<ResolvedImage, OciError> {
        self.resolve_pinned(None, platform, cancel).await
    }

    /// Finds the image whose manifest has the digest `pinned`, whatever it is made for, and reads
    /// its manifest and config. Where that is not to be found, it is the image for `platform`.
    pub async fn resolve_pinned(
        &self,
        pinned: Option<Digest>,
        platform: &Platform,
        cancel: &CancellationToken,
    ) -> Result<ResolvedImage, OciError> {
        let wanted = Wanted { platform, pinned };
        let mut said = None;
        let mut document = match &self.origin {
            Origin::Registry { registry, reference } => {
                let digest = reference.digest();
                let name = digest.map(|digest| digest.to_string());
                let name = name.as_deref().or(reference.tag()).unwrap_or_default();
                registry.manifest(name, digest, cancel).await?
            }
            Origin::Layout { layout, .. } => {
                let choice = self.choose(&layout.entries(wanted.pinned).await?, wanted)?;
                said = choice.platform;
                self.manifest(choice.digest, cancel).await?
            }
        };
        let named = document.digest;
        for _ in 0..MAX_DEPTH {
            let content_type = document.content_type.as_deref();
            match Manifest::parse(&document.bytes, content_type) {
                Ok(Manifest::Image(manifest)) => {
                    let image = self.image(document, manifest, wanted, said, cancel).await?;
                    return Ok(ResolvedImage { named_digest: named, ..image });
                }
                Ok(Manifest::Index(entries)) => {
                    let choice = self.choose(&entries, wanted)?;
                    said = choice.platform.or(said);
                    document = self.manifest(choice.digest, cancel).await?;
                }
                Err(ManifestError::Unsupported(reason)) => {
                    let image = self.image.clone();
                    return Err(OciError::UnsupportedManifest { image, reason });
                }
                Err(ManifestError::Broken(reason)) => return Err(self.broken(reason)),
            }
        }
        Err(self.broken(format!("its indexes are nested more than {MAX_DEPTH} deep")))
    }

    /// Streams a blob, verified (see [`BlobStream`]).
    pub async fn blob(
        &self,
        digest: &Digest,
        size: u64,
        cancel: &CancellationToken,
    ) -> Result<BlobStream, OciError> {
        let bytes = self.part(digest, size, 0..size, cancel).await?;
        Ok(BlobStream::verify(bytes, &self.name(), *digest))
    }

    /// Streams a range of a blob of `size` bytes, resumed but not verified (see [`RangeStream`]).
    pub async fn part(
        &self,
        digest: &Digest,
        size: u64,
        range: Range<u64>,
        cancel: &CancellationToken,
    ) -> Result<RangeStream, OciError> {
        let blob = within(digest, size, &range)?;
        self.stream(blob, range, self.access, cancel).await
    }

    async fn stream(
        &self,
        blob: Blob,
        range: Range<u64>,
        access: Access,
        cancel: &CancellationToken,
    ) -> Result<RangeStream, OciError> {
        match &self.origin {
            Origin::Registry { registry, .. } => {
                registry.part(blob, range, access, &self.gate, cancel).await
            }
            Origin::Layout { layout, .. } => layout.part(blob, range, cancel).await,
        }
    }

    /// How requests for ranges were answered so far.
    pub fn ranges(&self) -> Ranges {
        match &self.origin {
            Origin::Registry { .. } if self.access == Access::FromStart => Ranges::Ignored,
            Origin::Registry { registry, .. } => registry.ranges(),
            Origin::Layout { .. } => Ranges::Ignored,
        }
    }

    /// The same source, whose blobs are asked for when `gate` admits it.
    #[must_use]
    pub fn gated(&self, gate: Arc<dyn Gate>) -> Self {
        Self { gate, ..self.clone() }
    }

    /// The same source, of whose answers to requests for ranges nothing is believed.
    #[must_use]
    pub fn without_ranges(&self) -> Self {
        Self { access: Access::FromStart, ..self.clone() }
    }

    /// Where it is, for people: `registry/repository` or the layout's directory.
    pub fn name(&self) -> String {
        match &self.origin {
            Origin::Registry { registry, .. } => registry.name(),
            Origin::Layout { layout, .. } => layout.name(),
        }
    }

    /// `host[:port]` of the registry; of a layout, nothing.
    pub fn host(&self) -> &str {
        match &self.origin {
            Origin::Registry { reference, .. } => reference.registry(),
            Origin::Layout { .. } => "",
        }
    }

    /// Whether a blob is there.
    pub async fn has_blob(
        &self,
        digest: &Digest,
        size: u64,
        cancel: &CancellationToken,
    ) -> Result<bool, OciError> {
        // Not every registry knows HEAD.
        let first = 0..size.min(1);
        let opened =
            self.stream(Blob { digest: *digest, size }, first, Access::Range, cancel).await;
        match opened {
            Err(OciError::BlobNotFound { .. }) => Ok(false),
            opened => opened.map(|_| true),
        }
    }

    /// Exactly `len` bytes from `offset` of a blob of `size` bytes.
    ///
    /// That they are the right bytes of the right blob only a digest of theirs can tell: that is
    /// the caller's to check, unless the range is the whole blob; if they are not, it may ask again
    /// with another `access`.
    pub async fn blob_range(
        &self,
        digest: &Digest,
        size: u64,
        offset: u64,
        len: u64,
        access: Access,
        cancel: &CancellationToken,
    ) -> Result<Bytes, OciError> {
        let range = offset..offset.saturating_add(len);
        let blob = within(digest, size, &range)?;
        let short = usize::try_from(len).ok().filter(|_| len <= MAX_RANGE);
        let count = short.ok_or_else(|| {
            let reason = format!("the limit is {MAX_RANGE} bytes");
            OciError::InvalidRange { digest: *digest, offset, len, reason }
        })?;
        if len == 0 {
            return Ok(Bytes::new());
        }
        let mut chunks = self.stream(blob, range, access, cancel).await?;
        let mut bytes = BytesMut::with_capacity(count);
        while let Some(chunk) = chunks.try_next().await? {
            bytes.extend_from_slice(&chunk);
        }
        let bytes = bytes.freeze();
        if len == size {
            let what = || format!("blob from {}", self.image);
            Document::verified(bytes, None, Some(*digest), what).map(|document| document.bytes)
        } else {
            Ok(bytes)
        }
    }

    async fn manifest(
        &self,
        digest: Digest,
        cancel: &CancellationToken,
    ) -> Result<Document, OciError> {
        match &self.origin {
            Origin::Registry { registry, .. } => {
                registry.manifest(&digest.to_string(), Some(digest), cancel).await
            }
            Origin::Layout { layout, .. } => layout.manifest(digest).await,
        }
    }

    fn choose(&self, entries: &[IndexEntry], wanted: Wanted<'_>) -> Result<Choice, OciError> {
        choose_entry(entries, wanted.platform, wanted.pinned).map_err(|why| match why {
            NoChoice::NoneFits(available) => OciError::NoSuchPlatform {
                image: self.image.clone(),
                wanted: wanted.platform.to_string(),
                available,
            },
            NoChoice::Unreadable(reason) => {
                self.broken(format!("its index's entry for {}: {reason}", wanted.platform))
            }
        })
    }

    async fn image(
        &self,
        document: Document,
        manifest: ImageManifest,
        wanted: Wanted<'_>,
        said: Option<Platform>,
        cancel: &CancellationToken,
    ) -> Result<ResolvedImage, OciError> {
        let raw_config = self.config(manifest.config, cancel).await?;
        let (config, diff_ids) =
            ImageConfig::parse(&raw_config).map_err(|reason| self.broken(reason))?;
        if diff_ids.len() != manifest.layers.len() {
            return Err(self.broken(format!(
                "it has {} layers, but its config has {} diff ids",
                manifest.layers.len(),
                diff_ids.len()
            )));
        }
        let told = (!config.os.is_empty() && !config.architecture.is_empty())
            .then(|| Platform::new(&config.os, &config.architecture, Some(&config.variant)));
        let same = |a: &Platform, b: &Platform| a.os == b.os && a.architecture == b.architecture;
        let pinned = wanted.pinned == Some(document.digest);
        let mut warnings = Vec::new();
        // Configs are often wrong, about the variant most of all: the index has decided already.
        let platform = match (said, told) {
            (Some(said), Some(told)) if !same(&said, &told) => {
                warnings.push(format!("the index says {said}, the image's config {told}"));
                said
            }
            (Some(said), None) => said,
            (None, Some(told)) if !pinned && !same(&told, wanted.platform) => {
                return Err(OciError::NoSuchPlatform {
                    image: self.image.clone(),
                    wanted: wanted.platform.to_string(),
                    available: vec![told.to_string()],
                });
            }
            (_, Some(told)) => told,
            (None, None) => wanted.platform.clone(),
        };
        Ok(ResolvedImage {
            reference: self.pinned(document.digest),
            named_digest: document.digest,
            manifest_digest: document.digest,
            raw_manifest: document.bytes,
            raw_config,
            platform,
            config,
            diff_ids,
            layers: manifest.layers,
            warnings,
        })
    }

    async fn config(&self, blob: Blob, cancel: &CancellationToken) -> Result<Bytes, OciError> {
        if blob.size > MAX_CONFIG {
            let what = format!("the config of image {}", self.image);
            return Err(OciError::TooLarge { what, limit: MAX_CONFIG });
        }
        match &self.origin {
            Origin::Registry { registry, .. } => registry.small_blob(blob, cancel).await,
            Origin::Layout { layout, .. } => layout.small_blob(blob).await,
        }
    }

    fn pinned(&self, digest: Digest) -> PinnedReference {
        match &self.origin {
            Origin::Registry { reference, .. }
            | Origin::Layout { published_as: Some(reference), .. } => {
                PinnedReference::new(reference, digest)
            }
            Origin::Layout { published_as: None, tag, .. } => PinnedReference {
                registry: "localhost".to_owned(),
                repository: "oci-layout".to_owned(),
                tag: tag.clone(),
                digest,
            },
        }
    }

    fn broken(&self, reason: String) -> OciError {
        OciError::BrokenImage { image: self.image.clone(), reason }
    }
}

/// The blob, if `range` is within it.
fn within(digest: &Digest, size: u64, range: &Range<u64>) -> Result<Blob, OciError> {
    if range.start <= range.end && range.end <= size {
        return Ok(Blob { digest: *digest, size });
    }
    let (offset, len) = (range.start, range.end.saturating_sub(range.start));
    let reason = format!("the blob has {size} bytes");
    Err(OciError::InvalidRange { digest: *digest, offset, len, reason })
}
