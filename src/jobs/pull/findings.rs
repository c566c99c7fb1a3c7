//! What keeps beta9's workers from using a v2 archive of an image: as far as its manifest tells, and
//! as its layers and its tree turn out to be.

use crate::archive::{ArchiveError, MISREAD_NAMES};
use crate::clip::ClipError;
use crate::clip::node::NodePath;
use crate::clip::tree::Tree;
use crate::layer::LayerError;
use crate::oci::{Compression, LayerDescriptor, ResolvedImage};

use super::decide::Finding;

/// As far as the manifest tells.
pub(super) fn of_manifest(image: &ResolvedImage) -> Vec<Finding> {
    if image.layers.is_empty() {
        return vec![Finding::NoLayers];
    }
    let layers = image.layers.iter();
    layers
        .filter_map(|layer| Some((layer, told_kind(layer)?)))
        .map(|(layer, kind)| Finding::UnreadableLayer {
            layer: layer.digest,
            kind: format!("{kind} ({})", layer.media_type),
        })
        .collect()
}

/// As the tree turned out to be.
pub(super) fn of_tree(tree: &Tree) -> Vec<Finding> {
    let names = MISREAD_NAMES.iter().filter_map(|name| NodePath::new(name.as_bytes()).ok());
    let there = names.filter(|name| tree.get(name).is_some());
    there.map(|path| Finding::MisreadName { path }).collect()
}

/// What an image could not be indexed for, or an archive not be written, if that keeps it from
/// being v2 and nothing else.
pub(super) fn of_error(error: &ArchiveError) -> Option<Finding> {
    match error {
        ArchiveError::Clip(ClipError::TooLarge { size, .. }) => {
            Some(Finding::TooLarge { size: *size })
        }
        ArchiveError::Layer(LayerError::Sparse { layer, path }) => {
            Some(Finding::SparseFile { layer: *layer, path: path.clone() })
        }
        ArchiveError::UnsupportedLayer { layer, kind, media_type, .. } => {
            let kind = format!("{kind}, whatever is meant by {media_type}");
            Some(Finding::UnreadableLayer { layer: *layer, kind })
        }
        _ => None,
    }
}

/// What the media type says, if it is something that workers can't read. What it doesn't say will
/// show when the layer is read.
fn told_kind(layer: &LayerDescriptor) -> Option<&'static str> {
    match layer.compression {
        Compression::Zstd => Some("compressed with zstd"),
        Compression::None => Some("not compressed"),
        Compression::Gzip | Compression::Unknown => None,
    }
}
