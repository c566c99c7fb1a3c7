//! What the user should know of a tree: what beta9's current workers will not show or misread.

use std::sync::Arc;

use crate::clip::node::{Node, NodeKind};
use crate::clip::tree::Tree;
use crate::examples::Examples;
use crate::layer::{Encoding, LayerIndex};

use crate::archive::policy::{GZIP_ALONE, kind};

/// Larger spans, in plain bytes, are worth a word: to read anything in one, all of it has to be.
const LARGE_SPAN: u64 = 32 << 20;

/// Top-level names that workers take for parts of a v1 archive (CONTRACT A.12).
pub const MISREAD_NAMES: [&str; 3] = ["/rootfs", "/config.json", "/initial_config.json"];

/// What to know of a v2 archive.
pub(super) fn of(tree: &Tree, layers: &[Arc<LayerIndex>]) -> Vec<String> {
    let mut warnings = notes(layers);
    for layer in layers {
        let warned = [unreadable(layer), large(layer)].into_iter().flatten();
        warnings.extend(warned.map(|what| format!("layer {}: {what}", layer.digest)));
    }
    warnings.extend(told(
        tree,
        "devices and fifos are kept in the archive but not shown by current workers",
        is_special,
    ));
    warnings.extend(told(tree, XATTRS, has_xattrs));
    warnings.extend(told(
        tree,
        "workers misread an image that has this at its top as a v1 archive",
        |node| MISREAD_NAMES.iter().any(|name| node.path.as_bytes() == name.as_bytes()),
    ));
    warnings
}

/// What to know of a v1 archive of the image with this tree.
pub(super) fn of_packed(tree: &Tree, layers: &[Arc<LayerIndex>]) -> Vec<String> {
    let mut warnings = notes(layers);
    let left_out = "devices and fifos are left out: a v1 archive has no place for them";
    warnings.extend(told(tree, left_out, is_special));
    warnings.extend(told(tree, XATTRS, has_xattrs));
    warnings
}

const XATTRS: &str = "extended attributes are kept in the archive but not shown by current workers";

fn is_special(node: &Node) -> bool {
    matches!(node.kind, NodeKind::Special(_))
}

fn has_xattrs(node: &Node) -> bool {
    !node.xattrs.is_empty()
}

/// What was noticed in the layers themselves.
fn notes(layers: &[Arc<LayerIndex>]) -> Vec<String> {
    let mut notes: Vec<String> = layers
        .iter()
        .flat_map(|layer| layer.notes.iter().map(|note| format!("layer {}: {note}", layer.digest)))
        .collect();
    notes.dedup();
    notes
}

/// One sentence on all nodes that a question is answered with yes for.
fn told(tree: &Tree, what: &str, says: impl Fn(&Node) -> bool) -> Option<String> {
    let paths: Examples = tree.iter().filter(|node| says(node)).map(|node| &node.path).collect();
    (!paths.is_empty()).then(|| format!("{paths}: {what}"))
}

fn unreadable(layer: &LayerIndex) -> Option<String> {
    let what = kind(layer.encoding);
    (layer.encoding != Encoding::Gzip).then(|| format!("it is {what}, but {GZIP_ALONE}"))
}

fn large(layer: &LayerIndex) -> Option<String> {
    let largest = layer.spans.iter().map(|span| span.plain_length).max()?;
    (layer.encoding == Encoding::Zstd && largest > LARGE_SPAN).then(|| {
        let (frames, mib) = (layer.spans.len(), largest >> 20);
        format!(
            "no random access in zstd frames of up to {mib} MiB ({frames} places to begin reading at)"
        )
    })
}
