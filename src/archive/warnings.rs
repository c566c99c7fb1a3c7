//! What the user should know of a tree: what beta9's current workers will not show or misread.

use std::sync::Arc;

use crate::clip::node::{Node, NodeKind};
use crate::clip::tree::Tree;
use crate::layer::LayerIndex;

/// Paths named in one warning; the rest are counted.
const NAMED: usize = 5;

/// What to know of a v2 archive.
pub(super) fn of(tree: &Tree, layers: &[Arc<LayerIndex>]) -> Vec<String> {
    let mut warnings = notes(layers);
    warnings.extend(told(
        tree,
        "devices and fifos are kept in the archive but not shown by current workers",
        is_special,
    ));
    warnings.extend(told(tree, XATTRS, has_xattrs));
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
    let paths: Vec<String> =
        tree.iter().filter(|node| says(node)).map(|node| node.path.to_string()).collect();
    (!paths.is_empty()).then(|| format!("{}: {what}", named(&paths)))
}

fn named(paths: &[String]) -> String {
    let shown = paths[..paths.len().min(NAMED)].join(", ");
    match paths.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_counted() {
        let paths: Vec<String> = (1..=7).map(|n| format!("/{n}")).collect();
        assert_eq!(named(&paths[..2]), "/1, /2");
        assert_eq!(named(&paths), "/1, /2, /3, /4, /5 and 2 more");
    }
}
