//! What the user should know of a tree: what beta9's current workers will not show or misread.

use std::sync::Arc;

use super::noted::Noted;
use crate::clip::node::{Node, NodeKind};
use crate::clip::tree::Tree;
use crate::layer::LayerIndex;

/// Top-level names that workers take for parts of a v1 archive (CONTRACT A.12).
const MISREAD: [&str; 3] = ["/rootfs", "/config.json", "/initial_config.json"];

pub(super) fn of(tree: &Tree, layers: &[Arc<LayerIndex>]) -> Vec<String> {
    let mut warnings: Vec<String> = layers
        .iter()
        .flat_map(|layer| layer.notes.iter().map(|note| format!("layer {}: {note}", layer.digest)))
        .collect();
    warnings.dedup();
    let mut tell = |what: &str, says: fn(&Node) -> bool| {
        let paths: Noted = tree.iter().filter(|node| says(node)).map(|node| &node.path).collect();
        if !paths.is_empty() {
            warnings.push(format!("{paths}: {what}"));
        }
    };
    tell("devices and fifos are kept in the archive but not shown by current workers", |node| {
        matches!(node.kind, NodeKind::Special(_))
    });
    tell("extended attributes are kept in the archive but not shown by current workers", |node| {
        !node.xattrs.is_empty()
    });
    tell("workers misread an image that has this at its top as a v1 archive", |node| {
        MISREAD.iter().any(|name| node.path.as_bytes() == name.as_bytes())
    });
    warnings
}
