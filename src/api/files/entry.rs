//! One entry of an image's tree, as JSON.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::clip::node::{FileContent, Node, NodeKind, Special};
use crate::digest::Digest;

/// One entry of an image's tree. Names that are no UTF-8 stand there twice: readable, and exact in hex.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "path": "/etc/os-release", "type": "symlink", "mode": "0777", "uid": 0, "gid": 0, "size": 21,
    "mtime": "2026-11-01T00:00:00Z", "links": 1, "target": "../usr/lib/os-release"
}))]
pub(super) struct FileEntry {
    /// From the root.
    path: String,
    /// The path's bytes, where `path` can't show them.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    /// What it is.
    #[serde(rename = "type")]
    kind: FileType,
    /// The permission bits, in octal.
    #[schema(pattern = "^[0-7]{4}$")]
    mode: String,
    /// Owner.
    uid: u32,
    /// Group.
    gid: u32,
    /// Bytes of its content, or of a link's target.
    size: u64,
    /// When its content was changed last; absent if that is no time.
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime: Option<DateTime<Utc>>,
    /// How many names it has.
    links: u32,
    /// Where a symbolic link leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    /// The target's bytes, where `target` can't show them.
    #[serde(skip_serializing_if = "Option::is_none")]
    target_hex: Option<String>,
    /// Digest of the layer that holds its content; of v2.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    layer: Option<Digest>,
    /// SHA-256 of its content, where the archive says it; of v1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    digest: Option<Digest>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum FileType {
    /// A directory.
    Dir,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
}

impl FileType {
    pub(super) fn of(kind: &NodeKind) -> Self {
        match kind {
            NodeKind::Directory => Self::Dir,
            NodeKind::File(_) => Self::File,
            NodeKind::Symlink { .. } => Self::Symlink,
            NodeKind::Special(Special::CharDevice) => Self::Char,
            NodeKind::Special(Special::BlockDevice) => Self::Block,
            NodeKind::Special(Special::Fifo) => Self::Fifo,
        }
    }
}

impl FileEntry {
    pub(super) fn of(node: &Node) -> Self {
        let attr = &node.attr;
        let kind = FileType::of(&node.kind);
        let (target, target_hex) = match &node.kind {
            NodeKind::Symlink { target } => {
                let (text, exact) = text_and_hex(target);
                (Some(text), exact)
            }
            _ => (None, None),
        };
        let (layer, digest) = match &node.kind {
            NodeKind::File(FileContent::Remote(remote)) => (Some(remote.layer), None),
            NodeKind::File(FileContent::Embedded { sha256, .. }) => (None, *sha256),
            _ => (None, None),
        };
        let (path, path_hex) = text_and_hex(node.path.as_bytes());
        Self {
            path,
            path_hex,
            kind,
            mode: format!("{:04o}", attr.mode & 0o7777),
            uid: attr.uid,
            gid: attr.gid,
            size: attr.size,
            mtime: DateTime::from_timestamp(attr.mtime, attr.mtime_nsec),
            links: attr.nlink,
            target,
            target_hex,
            layer,
            digest,
        }
    }
}

/// Bytes as text, and exactly where that can't show them.
pub(super) fn text_and_hex(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(hex::encode(bytes))),
    }
}
