//! `clipwright ls`: the files in an archive, as lines or as JSON.

use std::io::{BufWriter, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::DateTime;
use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use serde::Serialize;

use super::content::ArchiveArgs;
use super::place::ArchivePlace;
use super::printable;
use crate::clip::node::{FileContent, Node, NodeKind, RemoteRef, Special};

/// List the files in an archive.
#[derive(Debug, Args)]
pub(super) struct Ls {
    /// The archive: a file, `s3://BUCKET/KEY`, or `docker://REFERENCE` of an archive or of an image that has one
    #[arg(value_parser = OsStringValueParser::new().try_map(ArchivePlace::parse))]
    archive: ArchivePlace,
    /// Directory or file in the image
    #[arg(default_value = "/")]
    path: String,
    /// List everything below, not just the directory itself
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    from: ArchiveArgs,
}

impl Ls {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let local = self.from.fetch(&self.archive)?;
        let archive = super::open_archive(local.path())?;
        let start = archive.tree.resolve(self.path.as_bytes())?;
        let mut out = BufWriter::new(std::io::stdout().lock());
        let mut show = |node: &Node| {
            if self.json { json(node, &mut out) } else { line(node, &mut out) }
        };
        if start.kind != NodeKind::Directory {
            show(start)?;
        } else if self.recursive {
            show(start)?;
            archive.tree.below(&start.path).try_for_each(&mut show)?;
        } else {
            archive.tree.children(&start.path).try_for_each(&mut show)?;
        }
        out.flush()?;
        Ok(())
    }
}

/// As `ls -ln` shows it: mode, links, owner, size, time, path.
fn line(node: &Node, out: &mut impl Write) -> std::io::Result<()> {
    let attr = &node.attr;
    let time = DateTime::from_timestamp(attr.mtime, 0);
    let time = time.map_or_else(|| "-".into(), |at| at.format("%Y-%m-%d %H:%M").to_string());
    let mode = mode_text(&node.kind, attr.mode);
    write!(out, "{mode} {:>3} {:>5} {:>5} ", attr.nlink, attr.uid, attr.gid)?;
    write!(out, "{:>11} {time} {}", attr.size, printable(node.path.as_bytes()))?;
    if let NodeKind::Symlink { target } = &node.kind {
        write!(out, " -> {}", printable(target))?;
    }
    writeln!(out)
}

fn mode_text(kind: &NodeKind, mode: u32) -> String {
    let mut text = String::from(match kind {
        NodeKind::Directory => 'd',
        NodeKind::Symlink { .. } => 'l',
        NodeKind::File(_) => '-',
        NodeKind::Special(Special::CharDevice) => 'c',
        NodeKind::Special(Special::BlockDevice) => 'b',
        NodeKind::Special(Special::Fifo) => 'p',
    });
    for (shift, special, mark) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => mark,
            (true, false) => mark.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// A node as JSON. Names that are no UTF-8 stand there twice: readable, and exact in base64.
#[derive(Serialize)]
struct View {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    mode: String,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: i64,
    mtime_nsec: u32,
    nlink: u32,
    ino: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_base64: Option<String>,
    #[serde(flatten)]
    content: Option<Content>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rdev: Option<u32>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    xattrs: Vec<Xattr>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content {
    Remote { layer: crate::digest::Digest, offset: u64, length: u64 },
    Embedded { data_offset: u64, data_length: u64, sha256: Option<String> },
}

#[derive(Serialize)]
struct Xattr {
    name: String,
    value_base64: String,
}

fn json(node: &Node, out: &mut impl Write) -> std::io::Result<()> {
    let attr = &node.attr;
    let (path, path_base64) = text_or_base64(node.path.as_bytes());
    let (target, target_base64) = match &node.kind {
        NodeKind::Symlink { target } => {
            let (text, exact) = text_or_base64(target);
            (Some(text), exact)
        }
        _ => (None, None),
    };
    let content = match &node.kind {
        NodeKind::File(FileContent::Remote(RemoteRef { layer, offset, length })) => {
            Some(Content::Remote { layer: *layer, offset: *offset, length: *length })
        }
        NodeKind::File(FileContent::Embedded { offset, length, sha256 }) => {
            Some(Content::Embedded {
                data_offset: *offset,
                data_length: *length,
                sha256: sha256.map(|digest| digest.hex()),
            })
        }
        _ => None,
    };
    let kind = match &node.kind {
        NodeKind::Directory => "dir",
        NodeKind::Symlink { .. } => "symlink",
        NodeKind::File(_) => "file",
        NodeKind::Special(Special::CharDevice) => "char",
        NodeKind::Special(Special::BlockDevice) => "block",
        NodeKind::Special(Special::Fifo) => "fifo",
    };
    let view = View {
        path,
        path_base64,
        kind,
        mode: format!("{:04o}", attr.mode & 0o7777),
        uid: attr.uid,
        gid: attr.gid,
        size: attr.size,
        mtime: attr.mtime,
        mtime_nsec: attr.mtime_nsec,
        nlink: attr.nlink,
        ino: attr.ino,
        target,
        target_base64,
        content,
        rdev: matches!(node.kind, NodeKind::Special(_)).then_some(attr.rdev),
        xattrs: node
            .xattrs
            .iter()
            .map(|(name, value)| Xattr {
                name: String::from_utf8_lossy(name).into_owned(),
                value_base64: BASE64.encode(value),
            })
            .collect(),
    };
    serde_json::to_writer(&mut *out, &view)?;
    writeln!(out)
}

fn text_or_base64(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(BASE64.encode(bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_read_as_in_ls() {
        let directory = NodeKind::Directory;
        assert_eq!(mode_text(&directory, 0o41_777), "drwxrwxrwt");
        assert_eq!(mode_text(&directory, 0o40_750), "drwxr-x---");
        assert_eq!(mode_text(&NodeKind::Special(Special::Fifo), 0o6640), "prwSr-S---");
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\xff\n"), "a\\u{1b}[2Jb\\xff\\n");
        assert_eq!(printable("grün".as_bytes()), "grün");
    }
}
