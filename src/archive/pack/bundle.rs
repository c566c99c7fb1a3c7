//! The tree that workers expect in a v1 archive (CONTRACT A.12): that of a runtime bundle, the
//! image's root at `/rootfs` beside the runtime's `/config.json`, and the same under the name that
//! they read it by, `/initial_config.json`.

use std::collections::{BTreeMap, HashMap};

use crate::clip::ClipError;
use crate::clip::inode;
use crate::clip::node::{Attr, FileContent, Node, NodeKind, NodePath, RemoteRef};
use crate::clip::tree::Tree;

const ROOTFS: &[u8] = b"/rootfs";
const CONFIGS: [&[u8]; 2] = [b"/config.json", b"/initial_config.json"];

/// Puts the image's tree into a bundle. `content` says where the archive has a file's content,
/// `config` where it has the runtime spec. Devices and fifos are left out: v1 has no place for
/// them (CONTRACT A.8).
pub(super) fn tree(
    image: Tree,
    content: impl Fn(&RemoteRef) -> Option<FileContent>,
    config: &FileContent,
) -> Result<Tree, ClipError> {
    let mut nodes = vec![made_up(b"/", NodeKind::Directory, 0o755, 3)?];
    for path in CONFIGS {
        nodes.push(made_up(path, NodeKind::File(config.clone()), 0o644, 1)?);
    }
    for mut node in image.into_nodes() {
        match &node.kind {
            NodeKind::Special(_) => continue,
            NodeKind::File(FileContent::Remote(file)) => {
                let found = content(file).ok_or_else(|| ClipError::Tree {
                    path: node.path.to_string(),
                    detail: "its content was not found in its layer".into(),
                })?;
                node.kind = NodeKind::File(found);
            }
            _ => {}
        }
        let below = if node.path.is_root() { b"" } else { node.path.as_bytes() };
        node.path = path(&[ROOTFS, below].concat())?;
        nodes.push(node);
    }
    number(&mut nodes);
    Tree::new(nodes)
}

/// Inode numbers as upstream gives them: counted from the root's on in the order of paths
/// (CONTRACT A.5). Hard links keep sharing theirs.
fn number(nodes: &mut [Node]) {
    let mut next = inode::ROOT;
    let mut shared: HashMap<u64, u64> = HashMap::new();
    let mut fresh = || {
        next += 1;
        next - 1
    };
    for node in nodes {
        let links = matches!(node.kind, NodeKind::File(_) | NodeKind::Symlink { .. });
        node.attr.ino = match node.attr.ino {
            old if links && old != 0 && node.attr.nlink > 1 => {
                *shared.entry(old).or_insert_with(&mut fresh)
            }
            _ => fresh(),
        };
    }
}

/// A node that is in no layer, of the same bytes each time.
fn made_up(name: &[u8], kind: NodeKind, mode: u32, nlink: u32) -> Result<Node, ClipError> {
    let size = if let NodeKind::File(content) = &kind { content.len() } else { 0 };
    let mode = kind.type_bits() | mode;
    let attr = Attr { size, blocks: size.div_ceil(512), mode, nlink, ..Attr::default() };
    Ok(Node { path: path(name)?, kind, attr, xattrs: BTreeMap::new() })
}

fn path(bytes: &[u8]) -> Result<NodePath, ClipError> {
    NodePath::new(bytes).map_err(ClipError::Path)
}
