//! What the user should know of a tree: what beta9's current workers will not show or misread.

use std::sync::Arc;

use crate::clip::node::{Node, NodeKind};
use crate::clip::tree::Tree;
use crate::layer::{Encoding, LayerIndex};

use super::policy::{GZIP_ALONE, kind};

/// Paths named in one warning; the rest are counted.
const NAMED: usize = 5;

/// Larger spans, in plain bytes, are worth a word: to read anything in one, all of it has to be.
const LARGE_SPAN: u64 = 32 << 20;

/// Top-level names that workers take for parts of a v1 archive (CONTRACT A.12).
const MISREAD: [&str; 3] = ["/rootfs", "/config.json", "/initial_config.json"];

pub(super) fn of(tree: &Tree, layers: &[Arc<LayerIndex>]) -> Vec<String> {
    let mut warnings: Vec<String> = layers
        .iter()
        .flat_map(|layer| {
            let notes = layer.notes.iter().cloned().chain(unreadable(layer)).chain(large(layer));
            notes.map(|note| format!("layer {}: {note}", layer.digest))
        })
        .collect();
    warnings.dedup();
    let mut tell = |what: &str, says: fn(&Node) -> bool| {
        let paths: Vec<String> =
            tree.iter().filter(|node| says(node)).map(|node| node.path.to_string()).collect();
        if !paths.is_empty() {
            warnings.push(format!("{}: {what}", named(&paths)));
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
