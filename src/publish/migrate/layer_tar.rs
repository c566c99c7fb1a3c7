//! A tree as one layer: a tar, compressed while it is written. Directories and links come first, in
//! the order of their paths, then files in the order in which a v1 archive holds their content, so
//! that this is read from its start to its end. The same archive gives the same bytes.
//!
//! POSIX tar says most of an entry in its fixed header. What doesn't fit there goes into PAX
//! records: long names, big numbers, nanoseconds, extended attributes, and the times of access and
//! change where they differ from the time of modification.

use std::collections::HashMap;
use std::io::{self, Write};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use tar::{Builder, EntryType, Header};

use super::MigrateError;
use crate::clip::node::{FileContent, Node, NodeKind, NodePath};
use crate::clip::tree::Tree;
use crate::digest::{Digest, HashingWriter};

/// The level that gzip has when nobody asks.
const LEVEL: u32 = 6;
/// What a header's octal numbers can say: ids, and sizes and times.
const MAX_ID: u64 = 0o7_777_777;
const MAX_SIZE: u64 = 0o77_777_777_777;
/// Bytes of a header's names.
const MAX_NAME: usize = 100;
const BLOCK: usize = 512;

/// A layer that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenLayer {
    /// Digest of the compressed bytes.
    pub digest: Digest,
    /// Digest of the tar.
    pub diff_id: Digest,
    /// Compressed bytes.
    pub size: u64,
    /// Bytes of the tar.
    pub plain_size: u64,
    /// SHA-256 of every regular file, in the order of the tree.
    pub files: Vec<Digest>,
}

/// Takes the next bytes of a file.
pub type Take<'a> = dyn FnMut(&[u8]) -> Result<(), MigrateError> + 'a;

/// Writes the layer to `out`. `content` hands the bytes of one file on, all of them or none after
/// an error, and gives their SHA-256; it is asked in the order of the content.
pub fn write_layer(
    tree: &Tree,
    mut content: impl FnMut(&Node, &mut Take<'_>) -> Result<Digest, MigrateError>,
    out: impl Write,
) -> Result<WrittenLayer, MigrateError> {
    let gzip = GzBuilder::new().write(HashingWriter::new(out), Compression::new(LEVEL));
    let mut layer = Layer { tar: Builder::new(HashingWriter::new(gzip)) };
    let mut files = Vec::new();
    for node in tree.iter() {
        if let Some(name) = node.path.components().find(|name| name.starts_with(b".wh.")) {
            let name = String::from_utf8_lossy(name);
            return Err(impossible(node, &format!("a layer takes {name} for a whiteout")));
        }
        match &node.kind {
            NodeKind::Directory => layer.entry(node, EntryType::Directory, b"", 0)?,
            NodeKind::Symlink { target } if target.is_empty() || target.contains(&0) => {
                return Err(impossible(node, "its target is no path"));
            }
            NodeKind::Symlink { target } => layer.entry(node, EntryType::Symlink, target, 0)?,
            NodeKind::File(FileContent::Embedded { offset, length, .. }) => {
                files.push(File { node, offset: *offset, length: *length });
            }
            NodeKind::File(FileContent::Remote(_)) | NodeKind::Special(_) => {
                return Err(impossible(node, "no v1 archive has such a thing"));
            }
        }
    }
    let mut by_content: Vec<usize> = (0..files.len()).collect();
    by_content.sort_by_key(|at| files[*at].offset); // stable: names of one file stay in order
    let mut digests = vec![None; files.len()];
    // Of the names of one inode the first has the content.
    let mut first_names: HashMap<u64, usize> = HashMap::new();
    for at in by_content {
        let File { node, length, .. } = files[at];
        let first = first_names.get(&node.attr.ino).copied();
        if let Some(first) = first.filter(|first| is_same(files[*first].node, node)) {
            layer.entry(node, EntryType::Link, name(&files[first].node.path), 0)?;
            digests[at] = digests[first];
            continue;
        }
        layer.entry(node, EntryType::Regular, b"", length)?;
        let mut left = length;
        let digest = content(node, &mut |bytes| {
            left = left
                .checked_sub(bytes.len() as u64)
                .ok_or_else(|| impossible(node, "it has more content than it has bytes"))?;
            layer.tar.get_mut().write_all(bytes).map_err(unwritable)
        })?;
        if left > 0 {
            return Err(impossible(node, &format!("{left} bytes of its content are missing")));
        }
        layer.pad(length)?;
        digests[at] = Some(digest);
        first_names.insert(node.attr.ino, at);
    }
    layer.finish(digests.into_iter().flatten().collect())
}

/// A regular file of the tree.
#[derive(Clone, Copy)]
struct File<'a> {
    node: &'a Node,
    offset: u64,
    length: u64,
}

/// Whether two nodes of one inode number are names of one file.
fn is_same(first: &Node, node: &Node) -> bool {
    (&first.kind, &first.attr, &first.xattrs) == (&node.kind, &node.attr, &node.xattrs)
}

/// A tar that is compressed, with both streams hashed.
struct Layer<W: Write> {
    tar: Builder<HashingWriter<GzEncoder<HashingWriter<W>>>>,
}

impl<W: Write> Layer<W> {
    /// Begins an entry; `size` bytes and their padding follow.
    fn entry(
        &mut self,
        node: &Node,
        kind: EntryType,
        link: &[u8],
        size: u64,
    ) -> Result<(), MigrateError> {
        let name = name(&node.path);
        let mut records = Records::default();
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(node.attr.mode & 0o7777);
        let old = header.as_old_mut();
        records.text(&mut old.name, "path", name);
        records.text(&mut old.linkname, "linkpath", link);
        header.set_uid(records.number("uid", node.attr.uid.into(), MAX_ID));
        header.set_gid(records.number("gid", node.attr.gid.into(), MAX_ID));
        header.set_size(records.number("size", size, MAX_SIZE));
        if kind != EntryType::Link {
            header.set_mtime(records.times(node));
            records.xattrs(node)?;
        }
        header.set_cksum();
        let records = records.0.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.tar
            .append_pax_extensions(records)
            .and_then(|()| self.tar.get_mut().write_all(header.as_bytes()))
            .map_err(unwritable)
    }

    fn pad(&mut self, size: u64) -> Result<(), MigrateError> {
        let over = usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0);
        self.tar.get_mut().write_all(&[0; BLOCK][..over]).map_err(unwritable)
    }

    fn finish(self, files: Vec<Digest>) -> Result<WrittenLayer, MigrateError> {
        let plain = self.tar.into_inner().map_err(unwritable)?;
        let (gzip, diff_id, plain_size) = plain.into_parts();
        let mut compressed = gzip.finish().map_err(unwritable)?;
        compressed.flush().map_err(unwritable)?;
        let (_, digest, size) = compressed.into_parts();
        Ok(WrittenLayer { digest, diff_id, size, plain_size, files })
    }
}

/// The PAX records of one entry, sorted as they are added.
#[derive(Default)]
struct Records(Vec<(String, Vec<u8>)>);

impl Records {
    fn add(&mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) {
        self.0.push((key.into(), value.into()));
    }

    /// As much of `text` as fits goes into the field.
    fn text(&mut self, field: &mut [u8; MAX_NAME], key: &str, text: &[u8]) {
        let fits = text.len().min(MAX_NAME);
        field[..fits].copy_from_slice(&text[..fits]);
        if fits < text.len() {
            self.add(key, text);
        }
    }

    /// What the field says.
    fn number(&mut self, key: &str, number: u64, max: u64) -> u64 {
        if number <= max {
            return number;
        }
        self.add(key, number.to_string());
        0
    }

    /// What the field for the time of modification says.
    fn times(&mut self, node: &Node) -> u64 {
        let attr = &node.attr;
        let mtime = (attr.mtime, attr.mtime_nsec);
        let seconds = u64::try_from(mtime.0).ok().filter(|seconds| *seconds <= MAX_SIZE);
        if mtime.1 != 0 || seconds.is_none() {
            self.add("mtime", time(mtime));
        }
        for (key, at) in
            [("atime", (attr.atime, attr.atime_nsec)), ("ctime", (attr.ctime, attr.ctime_nsec))]
        {
            if at != mtime {
                self.add(key, time(at));
            }
        }
        seconds.unwrap_or(0)
    }

    fn xattrs(&mut self, node: &Node) -> Result<(), MigrateError> {
        for (name, value) in &node.xattrs {
            let text = std::str::from_utf8(name).ok().filter(|name| !name.contains('='));
            let Some(name) = text else {
                let name = name.escape_ascii();
                return Err(impossible(
                    node,
                    &format!("no layer holds an attribute called {name}"),
                ));
            };
            if value.is_empty() {
                // A PAX record without a value takes it back.
                return Err(impossible(
                    node,
                    &format!("no layer holds an empty attribute ({name})"),
                ));
            }
            self.add(format!("SCHILY.xattr.{name}"), value.as_slice());
        }
        Ok(())
    }
}

/// As PAX has it: the fraction of a negative number counts backwards.
fn time((seconds, nanos): (i64, u32)) -> String {
    match (seconds, nanos) {
        (_, 0) => seconds.to_string(),
        (..0, _) => {
            let whole = (seconds + 1).unsigned_abs();
            format!("-{whole}.{:09}", 1_000_000_000_u32.saturating_sub(nanos))
        }
        _ => format!("{seconds}.{nanos:09}"),
    }
}

/// A path as a layer calls it.
fn name(path: &NodePath) -> &[u8] {
    if path.is_root() { b"./" } else { &path.as_bytes()[1..] }
}

fn impossible(node: &Node, detail: &str) -> MigrateError {
    MigrateError::Node { path: node.path.to_string(), detail: detail.to_owned() }
}

fn unwritable(source: io::Error) -> MigrateError {
    MigrateError::Io { what: "can't write the layer".to_owned(), source }
}

#[cfg(test)]
mod tests;
