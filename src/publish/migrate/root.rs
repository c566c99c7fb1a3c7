//! Which part of a v1 archive is the image (CONTRACT A.12). An unpacked bundle has it at `/rootfs`,
//! beside the runtime configuration; an archive of a build container has it at the top, with two
//! configurations among its files.

use super::MigrateError;
use crate::clip::ClipError;
use crate::clip::node::{Node, NodeKind, NodePath};
use crate::clip::tree::Tree;

/// Runtime configurations, in the order in which workers look for them.
const CONFIGS: [&[u8]; 2] = [b"/initial_config.json", b"/config.json"];
const ROOTFS: &[u8] = b"/rootfs";

/// The image inside of a v1 archive.
#[derive(Debug, Clone)]
pub struct BundledImage {
    /// Its files, by their paths in the image.
    pub tree: Tree,
    /// The file that says how it is run, by its path in the archive. Workers can do without.
    pub config: Option<Node>,
    /// What lies beside the image and is no part of it, but for what is always there.
    pub left_out: Vec<NodePath>,
}

impl BundledImage {
    /// Finds the image in the tree of an archive.
    pub fn find(archive: &Tree) -> Result<Self, MigrateError> {
        let at = |path: &[u8]| archive.get(&NodePath::new(path).ok()?);
        let is_file = |node: &&Node| matches!(node.kind, NodeKind::File(_));
        let is_config = |node: &Node| CONFIGS.contains(&node.path.as_bytes()) && is_file(&node);
        let config = CONFIGS.iter().find_map(|path| at(path).filter(is_file)).cloned();
        let (nodes, left_out) = if at(ROOTFS).is_some() {
            // Whatever it is: workers take it for the image, and a tree with another root is none.
            let top = NodePath::root();
            let beside = archive.children(&top).map(|node| &node.path);
            let left_out = beside.filter(|path| !is_known(path)).cloned().collect();
            (archive.iter().filter_map(below_rootfs).collect::<Result<_, _>>()?, left_out)
        } else {
            let image = archive.iter().filter(|node| !is_config(node));
            (image.cloned().collect(), Vec::new())
        };
        let tree = Tree::lenient(nodes)?;
        let misread = |node: &&Node| {
            node.path.as_bytes() == ROOTFS || CONFIGS.contains(&node.path.as_bytes())
        };
        if let Some(node) = tree.iter().find(misread) {
            let detail = "at the top of a v2 archive workers would misread it".to_owned();
            return Err(MigrateError::Node { path: node.path.to_string(), detail });
        }
        Ok(Self { tree, config, left_out })
    }
}

/// The node as it is called inside of the image, if it belongs there.
fn below_rootfs(node: &Node) -> Option<Result<Node, ClipError>> {
    let path = match node.path.as_bytes().strip_prefix(ROOTFS)? {
        b"" => NodePath::root(),
        path if path[0] == b'/' => match NodePath::new(path) {
            Ok(path) => path,
            Err(invalid) => return Some(Err(ClipError::Path(invalid))),
        },
        _ => return None,
    };
    Some(Ok(Node { path, ..node.clone() }))
}

fn is_known(path: &NodePath) -> bool {
    let path = path.as_bytes();
    matches!(path, ROOTFS | b"/umoci.json") || CONFIGS.contains(&path) || path.ends_with(b".mtree")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::clip::node::{Attr, FileContent};

    fn tree(paths: &str) -> Tree {
        let nodes = paths.split(' ').map(|text| {
            let (path, kind) = if let Some(path) = text.strip_suffix('/') {
                (if path.is_empty() { "/" } else { path }, NodeKind::Directory)
            } else {
                let content = FileContent::Embedded { offset: 55, length: 0, sha256: None };
                (text, NodeKind::File(content))
            };
            let path = NodePath::new(path.as_bytes()).unwrap();
            Node { path, kind, attr: Attr::default(), xattrs: BTreeMap::new() }
        });
        Tree::new(nodes.collect()).unwrap()
    }

    fn shown(image: &BundledImage) -> String {
        image.tree.iter().map(|node| node.path.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_bundle_has_its_image_at_rootfs() {
        let bundle = "/ /config.json /rootfs/ /rootfs/a /rootfs-b /sha256_1.mtree /umoci.json";
        let image = BundledImage::find(&tree(bundle)).unwrap();
        assert_eq!(shown(&image), "/ /a");
        assert_eq!(image.config.unwrap().path.to_string(), "/config.json");
        assert_eq!(image.left_out, [NodePath::new(b"/rootfs-b").unwrap()]);
    }

    #[test]
    fn a_containers_image_is_at_the_top_without_its_configurations() {
        let container = "/ /bin/ /bin/sh /config.json /initial_config.json";
        let image = BundledImage::find(&tree(container)).unwrap();
        assert_eq!(shown(&image), "/ /bin /bin/sh");
        assert_eq!(image.config.unwrap().path.to_string(), "/initial_config.json");
        assert!(image.left_out.is_empty());
        assert!(BundledImage::find(&tree("/ /bin/")).unwrap().config.is_none());
    }

    #[test]
    fn what_workers_would_misread_is_refused() {
        for (paths, expected) in [
            ("/ /rootfs/ /rootfs/rootfs/", "/rootfs can't"),
            ("/ /rootfs/ /rootfs/config.json", "/config.json can't"),
            ("/ /rootfs", "tree: /: is not a directory"),
            ("/ /config.json/", "/config.json can't"),
        ] {
            let error = BundledImage::find(&tree(paths)).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{paths}: {error}");
        }
    }
}
