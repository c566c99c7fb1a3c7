//! Which layers are taken: beta9's workers read archives with Go code that knows gzip alone.

use std::fmt;
use std::str::FromStr;

use tokio_util::sync::CancellationToken;

use crate::archive::ArchiveError;
use crate::layer::{Encoding, LayerIndex};
use crate::oci::{Compression, LayerDescriptor, Source};

/// What becomes of layers that beta9's workers can't read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LayerPolicy {
    /// The image is refused.
    #[default]
    Refuse,
    /// They are indexed as they are, with a warning.
    AsIs,
}

/// The text names no [`LayerPolicy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected refuse or as-is")]
pub struct InvalidLayerPolicy;

impl FromStr for LayerPolicy {
    type Err = InvalidLayerPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidLayerPolicy> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "as-is" => Ok(Self::AsIs),
            _ => Err(InvalidLayerPolicy),
        }
    }
}

impl fmt::Display for LayerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refuse",
            Self::AsIs => "as-is",
        })
    }
}

/// Why nothing but gzip is taken.
pub(crate) const GZIP_ALONE: &str = "beta9's workers read gzip alone";

impl LayerPolicy {
    /// Judges layers before anything is downloaded: by their media types, and foreign ones by
    /// whether `source` holds them all the same. What that doesn't tell, the bytes will.
    pub(crate) async fn check(
        self,
        source: &Source,
        layers: &[LayerDescriptor],
        cancel: &CancellationToken,
    ) -> Result<(), ArchiveError> {
        for layer in layers {
            match (self, layer.compression) {
                (Self::Refuse, Compression::Zstd) => refuse(layer, Encoding::Zstd)?,
                (Self::Refuse, Compression::None) => refuse(layer, Encoding::Tar)?,
                _ => {}
            }
            if layer.foreign && !source.has_blob(&layer.digest, layer.size, cancel).await? {
                let (layer, media_type) = (layer.digest, layer.media_type.clone());
                return Err(ArchiveError::ForeignLayer { layer, media_type });
            }
        }
        Ok(())
    }

    /// Judges a layer by what it was found to be: media types are often wrong.
    pub(crate) fn check_read(
        self,
        layer: &LayerDescriptor,
        index: &LayerIndex,
    ) -> Result<(), ArchiveError> {
        match (self, index.encoding) {
            (Self::AsIs, _) | (_, Encoding::Gzip) => Ok(()),
            (Self::Refuse, encoding) => refuse(layer, encoding),
        }
    }
}

/// What a layer is, as it stands in sentences.
pub(crate) fn kind(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Gzip => "compressed with gzip",
        Encoding::Zstd => "compressed with zstd",
        Encoding::Tar => "not compressed",
    }
}

fn refuse(layer: &LayerDescriptor, encoding: Encoding) -> Result<(), ArchiveError> {
    Err(ArchiveError::UnsupportedLayer {
        layer: layer.digest,
        kind: kind(encoding),
        media_type: layer.media_type.clone(),
        reason: GZIP_ALONE,
    })
}
