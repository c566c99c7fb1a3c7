//! What must hold of the tree (CONTRACT A.4, A.5).

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Check, known_weakness};
use crate::clip::inode;
use crate::clip::node::{Attr, FileContent, Node, NodeKind, NodePath, S_IFMT};
use crate::clip::reader::Parts;
use crate::clip::storage_info::StorageInfo;
use crate::digest::Digest;

/// Checks the nodes of an archive, those of the storage info among them.
pub fn tree(parts: &Parts) -> Check {
    let mut check = Check::new("tree", "nodes");
    check.checked = (parts.nodes.len() + parts.special.len()) as u64;
    order(&parts.nodes, &mut check);
    let nodes: Vec<&Node> = parts.nodes.iter().chain(&parts.special).collect();
    paths(&nodes, &parts.storage, &mut check);
    inodes(&nodes, &parts.storage, &mut check);
    for node in &parts.nodes {
        if matches!(node.kind, NodeKind::Special(_)) {
            check
                .error(format!("{}: a device or fifo, which the index has no type for", node.path));
        }
    }
    let layers = match &parts.storage {
        StorageInfo::Oci(image) => image.layers.iter().copied().collect(),
        _ => HashSet::new(),
    };
    for node in nodes {
        one(node, &parts.storage, &layers, &mut check);
    }
    check
}

fn order(index: &[Node], check: &mut Check) {
    if let Some(pair) = index.windows(2).find(|pair| pair[0].path > pair[1].path) {
        check.warning(format!("{}: stands before {}", pair[0].path, pair[1].path));
    }
}

fn paths(nodes: &[&Node], storage: &StorageInfo, check: &mut Check) {
    let mut kinds: HashMap<&NodePath, &NodeKind> = HashMap::new();
    for node in nodes {
        if kinds.insert(&node.path, &node.kind).is_some() {
            check.error(format!("{}: stands there twice", node.path));
        }
    }
    match kinds.get(&NodePath::root()) {
        None => check.error("/: is missing"),
        Some(NodeKind::Directory) => {}
        Some(_) => check.error("/: is no directory"),
    }
    for node in nodes {
        let Some(parent) = node.path.parent() else { continue };
        let detail = match kinds.get(&parent) {
            Some(NodeKind::Directory) => continue,
            Some(_) => "is no directory",
            None => "is missing",
        };
        let text = format!("{}: its parent {detail}: readers never find it", node.path);
        check.find(known_weakness(storage), text);
    }
}

/// Equal numbers are one inode to the kernel: only names of one file may share one.
fn inodes(nodes: &[&Node], storage: &StorageInfo, check: &mut Check) {
    let mut first: BTreeMap<u64, (&Node, u32)> = BTreeMap::new();
    for node in nodes {
        let number = node.attr.ino;
        match number {
            0 | u64::MAX => check.error(format!("{}: inode {number} is reserved", node.path)),
            inode::ROOT if !node.path.is_root() => {
                check.error(format!("{}: inode {number} is the root's", node.path));
            }
            _ => {}
        }
        if node.path.is_root() && number != inode::ROOT {
            check.warning(format!("/: expected inode {}, found {number}", inode::ROOT));
        }
        let (one, names) = first.entry(number).or_insert((node, 0));
        *names += 1;
        if *names == 1 || one.path == node.path {
            continue;
        }
        let (a, b) = (&one.path, &node.path);
        if node.kind == NodeKind::Directory || node.kind != one.kind {
            let text = format!("{b}: shares inode {number} with {a}, but is another file");
            check.find(known_weakness(storage), text);
        } else if !same_inode(&one.attr, &node.attr) {
            let text = format!("{b}: is {a} by inode {number}, but has other attributes");
            check.find(known_weakness(storage), text);
        }
    }
    for (node, names) in first.values() {
        // Only the number says so: nothing goes by it.
        if node.kind != NodeKind::Directory && node.attr.nlink != *names {
            let (path, found) = (&node.path, node.attr.nlink);
            check.warning(format!("{path}: has {names} names, but says {found}"));
        }
    }
}

fn same_inode(a: &Attr, b: &Attr) -> bool {
    Attr { nlink: 0, ..*a } == Attr { nlink: 0, ..*b }
}

fn one(node: &Node, storage: &StorageInfo, layers: &HashSet<Digest>, check: &mut Check) {
    let (path, attr) = (&node.path, &node.attr);
    let weakness = known_weakness(storage);
    let (expected, found) = (node.kind.type_bits(), attr.mode & S_IFMT);
    if expected != found {
        let text = format!("{path}: expected type {expected:o} in its mode, found {found:o}");
        check.find(weakness, text);
    }
    if [attr.atime_nsec, attr.mtime_nsec, attr.ctime_nsec].iter().any(|n| *n >= 1_000_000_000) {
        check.error(format!("{path}: a time has more than a second of nanoseconds"));
    }
    let size = match &node.kind {
        NodeKind::File(content) => content.len(),
        NodeKind::Symlink { target } => {
            if target.is_empty() || target.contains(&0) {
                check.error(format!("{path}: a symbolic link whose target is no path"));
            }
            target.len() as u64
        }
        NodeKind::Directory | NodeKind::Special(_) => attr.size,
    };
    if size != attr.size {
        let text = format!("{path}: its size is {}, its content has {size} bytes", attr.size);
        check.find(weakness, text);
    }
    match (&node.kind, storage) {
        (NodeKind::File(FileContent::Remote(remote)), StorageInfo::Oci(_))
            if !layers.contains(&remote.layer) =>
        {
            check.error(format!("{path}: is in layer {}, which is none", remote.layer));
        }
        (NodeKind::File(FileContent::Embedded { .. }), StorageInfo::Oci(_)) => {
            check.find(weakness, format!("{path}: is in no layer: readers find it empty"));
        }
        (NodeKind::File(FileContent::Remote(_)), _) => {
            check.error(format!("{path}: is in a layer, but the archive points to no image"));
        }
        _ => {}
    }
}
