//! What becomes of images that beta9's workers can't read as v2: their Go code knows gzip alone.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::archive::ArchiveError;
use crate::layer::{Encoding, LayerIndex};
use crate::oci::{Compression, LayerDescriptor, Source};

/// What becomes of layers that beta9's workers can't read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LayerPolicy {
    /// No v2 archive is made. A pull falls back to v1, unless that is not wanted either.
    #[default]
    Refuse,
    /// They are indexed as they are, with a warning. Clipwright's own readers can read them.
    AsIs,
    /// The image is published again, with all layers in gzip, and indexed from there. Whoever
    /// indexes takes nothing but gzip, as with [`Self::Refuse`].
    Gzip,
}

/// The text names no [`LayerPolicy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected refuse, as-is or gzip")]
pub struct InvalidLayerPolicy;

impl FromStr for LayerPolicy {
    type Err = InvalidLayerPolicy;

    fn from_str(text: &str) -> Result<Self, InvalidLayerPolicy> {
        match text {
            "refuse" => Ok(Self::Refuse),
            "as-is" => Ok(Self::AsIs),
            "gzip" => Ok(Self::Gzip),
            _ => Err(InvalidLayerPolicy),
        }
    }
}

impl fmt::Display for LayerPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refuse",
            Self::AsIs => "as-is",
            Self::Gzip => "gzip",
        })
    }
}

/// What to do when an image can't be served as v2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Make a v1 archive, and say so.
    V1,
    /// Fail.
    None,
}

/// The text is not a [`Fallback`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected v1 or none")]
pub struct InvalidFallback;

impl FromStr for Fallback {
    type Err = InvalidFallback;

    fn from_str(text: &str) -> Result<Self, InvalidFallback> {
        match text {
            "v1" => Ok(Self::V1),
            "none" => Ok(Self::None),
            _ => Err(InvalidFallback),
        }
    }
}

/// Why nothing but gzip is taken.
pub(crate) const GZIP_ALONE: &str = "beta9's workers read gzip alone";

impl LayerPolicy {
    /// Whether it is what is done when nothing is asked for.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

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
                (Self::AsIs, _) | (_, Compression::Gzip | Compression::Unknown) => {}
                (_, Compression::Zstd) => refuse(layer, Encoding::Zstd)?,
                (_, Compression::None) => refuse(layer, Encoding::Tar)?,
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
            (_, encoding) => refuse(layer, encoding),
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
