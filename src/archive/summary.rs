//! What a finished archive holds and cost, for people and programs.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::archive::index::IndexedImage;
use crate::archive::pack::PackedImage;
use crate::clip::node::NodeKind;
use crate::clip::tree::Tree;
use crate::digest::Digest;
use crate::layer::LayerIndex;
use crate::oci::ResolvedImage;

/// What an archive was made from and holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// The source, normalised and pinned: `host/repository@sha256:...`.
    pub reference: String,
    /// Digest of the platform manifest.
    #[schema(value_type = String)]
    pub manifest_digest: Digest,
    /// `os/architecture[/variant]` of the image.
    pub platform: String,
    /// The archive's version.
    pub clip_version: u8,
    /// Bottom to top.
    pub layers: Vec<LayerSummary>,
    /// Sum of the compressed layers, in bytes.
    pub compressed_bytes: u64,
    /// Sum of the uncompressed layers, in bytes.
    pub plain_bytes: u64,
    /// Regular files in the tree (hard links counted each).
    pub files: u64,
    /// All nodes in the tree.
    pub nodes: u64,
    /// What the user should know, one sentence each.
    pub warnings: Vec<String>,
}

/// One layer of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LayerSummary {
    /// Digest of the compressed bytes.
    #[schema(value_type = String)]
    pub digest: Digest,
    /// Digest of the uncompressed stream.
    #[schema(value_type = String)]
    pub diff_id: Digest,
    /// Compressed bytes.
    pub size: u64,
    /// Uncompressed bytes.
    pub plain_size: u64,
    /// Whether its index was known, so that it was not downloaded.
    #[serde(default)]
    pub cached: bool,
}

impl Summary {
    /// Sums up what was made of `image`.
    pub fn of(image: &ResolvedImage, indexed: &IndexedImage) -> Self {
        let mut summary = Self::new(image, 2, &indexed.layers, &indexed.tree, &indexed.warnings);
        for layer in &mut summary.layers {
            layer.cached = indexed.cached.contains(&layer.digest);
        }
        summary
    }

    /// Sums up what was packed of `image`.
    pub fn of_packed(image: &ResolvedImage, packed: &PackedImage) -> Self {
        Self::new(image, 1, &packed.layers, &packed.tree, &packed.warnings)
    }

    fn new(
        image: &ResolvedImage,
        clip_version: u8,
        layers: &[Arc<LayerIndex>],
        tree: &Tree,
        warnings: &[String],
    ) -> Self {
        let is_file = |kind: &NodeKind| matches!(kind, NodeKind::File(_));
        let layers: Vec<_> = layers
            .iter()
            .map(|layer| LayerSummary {
                digest: layer.digest,
                diff_id: layer.diff_id,
                size: layer.compressed_size,
                plain_size: layer.plain_size,
                cached: false,
            })
            .collect();
        Self {
            reference: image.reference.to_string(),
            manifest_digest: image.manifest_digest,
            platform: image.platform.to_string(),
            clip_version,
            compressed_bytes: layers.iter().map(|layer| layer.size).sum(),
            plain_bytes: layers.iter().map(|layer| layer.plain_size).sum(),
            layers,
            files: tree.iter().filter(|node| is_file(&node.kind)).count() as u64,
            nodes: tree.len() as u64,
            warnings: warnings.to_vec(),
        }
    }
}
