//! The index: nodes to and from a gob slice of `*ClipNode` (CONTRACT A.4).

use std::collections::BTreeMap;

use super::error::ClipError;
use super::gob::{Decoder, Definitions, Encoder, GobError, TypeId, builtin};
use super::node::{Attr, FileContent, Node, NodeKind, NodePath, RemoteRef, Special};
use crate::digest::Digest;

static NODE: [&str; 9] = [
    "NodeType",
    "Path",
    "Attr",
    "Target",
    "ContentHash",
    "DataPos",
    "DataLen",
    "Remote",
    // An extra field: upstream's decoder passes over it.
    "Xattrs",
];
static ATTR: [&str; 15] = [
    "Ino",
    "Size",
    "Blocks",
    "Atime",
    "Mtime",
    "Ctime",
    "Atimensec",
    "Mtimensec",
    "Ctimensec",
    "Mode",
    "Nlink",
    "Owner",
    "Rdev",
    "Blksize",
    "Padding",
];
static OWNER: [&str; 2] = ["Uid", "Gid"];
static REMOTE: [&str; 3] = ["LayerDigest", "UOffset", "ULength"];

/// Defines `ClipNode`; gives its id.
pub(super) fn define_node(types: &mut Definitions) -> i64 {
    let owner = types.structure("Owner", &zip(OWNER, [builtin::UINT; 2]));
    let mut attr = [builtin::UINT; 15];
    attr[11] = owner;
    let attr = types.structure("Attr", &zip(ATTR, attr));
    let remote =
        types.structure("RemoteRef", &zip(REMOTE, [builtin::STRING, builtin::INT, builtin::INT]));
    let xattrs = types.map("map[string][]uint8", builtin::STRING, builtin::BYTES);
    let (string, int) = (builtin::STRING, builtin::INT);
    let ids = [string, string, attr, string, string, int, int, remote, xattrs];
    types.structure("ClipNode", &zip(NODE, ids))
}

pub(super) fn zip<const N: usize>(
    names: [&'static str; N],
    ids: [i64; N],
) -> Vec<(&'static str, i64)> {
    names.into_iter().zip(ids).collect()
}

/// Appends the index, one gob stream, to `bytes`.
pub(super) fn encode(mut bytes: Vec<u8>, nodes: &[&Node]) -> Vec<u8> {
    // What is reserved and not written to costs nothing; growing costs a copy.
    bytes.reserve(nodes.iter().map(|node| NODE_BYTES + node.path.as_bytes().len()).sum());
    let mut types = Definitions::after(bytes);
    let node = define_node(&mut types);
    let slice = types.slice("", node);
    types.finish(slice, false, |e| e.slice(nodes.iter(), |e, node| encode_node(e, node)))
}

/// What a node mostly takes beside its path.
const NODE_BYTES: usize = 160;

pub(super) fn encode_node(encoder: &mut Encoder, node: &Node) {
    encoder.structure(|f| {
        let name = match &node.kind {
            NodeKind::Directory => "dir",
            NodeKind::File(_) => "file",
            NodeKind::Symlink { .. } => "symlink",
            NodeKind::Special(Special::CharDevice) => "char",
            NodeKind::Special(Special::BlockDevice) => "block",
            NodeKind::Special(Special::Fifo) => "fifo",
        };
        f.bytes(0, name.as_bytes());
        f.bytes(1, node.path.as_bytes());
        encode_attr(f.field(2), &node.attr);
        match &node.kind {
            NodeKind::Symlink { target } => f.bytes(3, target),
            NodeKind::File(FileContent::Embedded { offset, length, sha256 }) => {
                if let Some(sha256) = sha256 {
                    f.bytes(4, sha256.hex().as_bytes());
                }
                f.int(5, offset.cast_signed());
                f.int(6, length.cast_signed());
            }
            NodeKind::File(FileContent::Remote(remote)) => f.field(7).structure(|f| {
                f.bytes(0, &remote.layer.text());
                f.int(1, remote.offset.cast_signed());
                f.int(2, remote.length.cast_signed());
            }),
            NodeKind::Directory | NodeKind::Special(_) => {}
        }
        if !node.xattrs.is_empty() {
            let encoder = f.field(8);
            encoder.slice(node.xattrs.iter(), |e, (name, value)| {
                e.bytes(name);
                e.bytes(value);
            });
        }
    });
}

fn encode_attr(encoder: &mut Encoder, attr: &Attr) {
    encoder.structure(|f| {
        f.uint(0, attr.ino);
        f.uint(1, attr.size);
        f.uint(2, attr.blocks);
        f.uint(3, attr.atime.cast_unsigned());
        f.uint(4, attr.mtime.cast_unsigned());
        f.uint(5, attr.ctime.cast_unsigned());
        f.uint(6, attr.atime_nsec.into());
        f.uint(7, attr.mtime_nsec.into());
        f.uint(8, attr.ctime_nsec.into());
        f.uint(9, attr.mode.into());
        f.uint(10, attr.nlink.into());
        f.field(11).structure(|f| {
            f.uint(0, attr.uid.into());
            f.uint(1, attr.gid.into());
        });
        f.uint(12, attr.rdev.into());
    });
}

/// Reads a whole index stream.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Node>, ClipError> {
    let mut decoder = Decoder::new(bytes);
    let id = decoder.begin()?;
    NodeDecoder::default().nodes(&mut decoder, id)
}

/// Decodes nodes; what repeats from node to node is worked out once.
#[derive(Default)]
pub(super) struct NodeDecoder {
    layer: Option<(Vec<u8>, Digest)>,
}

/// A node's fields as they stand in the stream.
#[derive(Default)]
struct Raw<'a> {
    kind: &'a [u8],
    path: &'a [u8],
    attr: Attr,
    target: &'a [u8],
    content_hash: &'a [u8],
    data_pos: i64,
    data_len: i64,
    remote: Option<(&'a [u8], i64, i64)>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl NodeDecoder {
    pub(super) fn nodes(
        &mut self,
        decoder: &mut Decoder<'_>,
        id: TypeId,
    ) -> Result<Vec<Node>, ClipError> {
        let element = decoder.element(id)?;
        let mut nodes = Vec::new();
        for _ in 0..decoder.count(id)? {
            nodes.push(self.node(decoder, element)?);
        }
        Ok(nodes)
    }

    fn node(&mut self, decoder: &mut Decoder<'_>, id: TypeId) -> Result<Node, ClipError> {
        let plan = decoder.plan(id, &NODE)?;
        let mut raw = Raw::default();
        decoder.structure(&plan, |d, field, id| {
            match field {
                0 => raw.kind = d.string(id)?,
                1 => raw.path = d.string(id)?,
                2 => raw.attr = decode_attr(d, id)?,
                3 => raw.target = d.string(id)?,
                4 => raw.content_hash = d.string(id)?,
                5 => raw.data_pos = d.int(id)?,
                6 => raw.data_len = d.int(id)?,
                7 => {
                    let plan = d.plan(id, &REMOTE)?;
                    let (mut layer, mut offset, mut length) = (&b""[..], 0, 0);
                    d.structure(&plan, |d, field, id| {
                        match field {
                            0 => layer = d.string(id)?,
                            1 => offset = d.int(id)?,
                            _ => length = d.int(id)?,
                        }
                        Ok(())
                    })?;
                    raw.remote = Some((layer, offset, length));
                }
                _ => d.map(id, |d, key, value| {
                    raw.xattrs.insert(d.string(key)?.to_vec(), d.bytes(value)?.to_vec());
                    Ok(())
                })?,
            }
            Ok(())
        })?;
        self.finish(raw)
    }

    /// Makes a node of its raw fields, or says what is wrong with them.
    fn finish(&mut self, raw: Raw<'_>) -> Result<Node, ClipError> {
        let path = NodePath::new(raw.path).map_err(ClipError::Path)?;
        let wrong = |detail: String| ClipError::node(&path, detail);
        let kind = match raw.kind {
            b"dir" => NodeKind::Directory,
            b"symlink" => NodeKind::Symlink { target: raw.target.to_vec() },
            b"file" => NodeKind::File(self.content(&raw).map_err(wrong)?),
            b"char" => NodeKind::Special(Special::CharDevice),
            b"block" => NodeKind::Special(Special::BlockDevice),
            b"fifo" => NodeKind::Special(Special::Fifo),
            other => {
                let shown = String::from_utf8_lossy(&other[..other.len().min(40)]).into_owned();
                return Err(wrong(format!("node type {shown:?} is unknown")));
            }
        };
        Ok(Node { path, kind, attr: raw.attr, xattrs: raw.xattrs })
    }

    fn content(&mut self, raw: &Raw<'_>) -> Result<FileContent, String> {
        let (offset, length) = match raw.remote {
            Some((_, offset, length)) => (offset, length),
            None => (raw.data_pos, raw.data_len),
        };
        let range = || u64::try_from(offset).ok().zip(u64::try_from(length).ok());
        let Some((start, size)) = offset.checked_add(length).and_then(|_| range()) else {
            return Err(format!("its content range {offset}+{length} is none"));
        };
        if let Some((layer, ..)) = raw.remote {
            let layer = self.layer(layer)?;
            return Ok(FileContent::Remote(RemoteRef { layer, offset: start, length: size }));
        }
        let sha256 = match raw.content_hash {
            b"" => None,
            hash => Some(
                std::str::from_utf8(hash)
                    .ok()
                    .and_then(|hash| Digest::from_hex(hash).ok())
                    .ok_or("its content hash is no SHA-256")?,
            ),
        };
        Ok(FileContent::Embedded { offset: start, length: size, sha256 })
    }

    /// Parses a layer digest; neighbours mostly share it.
    fn layer(&mut self, text: &[u8]) -> Result<Digest, String> {
        if let Some((known, digest)) = &self.layer
            && known == text
        {
            return Ok(*digest);
        }
        let shown = || String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned();
        let digest: Digest = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("its layer {:?} is no digest", shown()))?;
        self.layer = Some((text.to_vec(), digest));
        Ok(digest)
    }
}

fn decode_attr(decoder: &mut Decoder<'_>, id: TypeId) -> Result<Attr, GobError> {
    let plan = decoder.plan(id, &ATTR)?;
    let mut attr = Attr::default();
    decoder.structure(&plan, |d, field, id| {
        match field {
            0 => attr.ino = d.uint(id)?,
            1 => attr.size = d.uint(id)?,
            2 => attr.blocks = d.uint(id)?,
            3 => attr.atime = seconds(d.uint(id)?),
            4 => attr.mtime = seconds(d.uint(id)?),
            5 => attr.ctime = seconds(d.uint(id)?),
            6 => attr.atime_nsec = d.uint32(id)?,
            7 => attr.mtime_nsec = d.uint32(id)?,
            8 => attr.ctime_nsec = d.uint32(id)?,
            9 => attr.mode = d.uint32(id)?,
            10 => attr.nlink = d.uint32(id)?,
            11 => {
                let plan = d.plan(id, &OWNER)?;
                d.structure(&plan, |d, field, id| {
                    let value = d.uint32(id)?;
                    match field {
                        0 => attr.uid = value,
                        _ => attr.gid = value,
                    }
                    Ok(())
                })?;
            }
            12 => attr.rdev = d.uint32(id)?,
            _ => d.skip(id)?, // Blksize and Padding: clip never sets them
        }
        Ok(())
    })?;
    Ok(attr)
}

/// Upstream casts times before 1970 (CONTRACT A.5), and so do we: the kernel casts them back. Go's
/// zero time, which upstream writes where a tar has none, becomes 1970.
fn seconds(time: u64) -> i64 {
    match time.cast_signed() {
        GO_ZERO_TIME => 0,
        seconds => seconds,
    }
}

/// The beginning of the year 1.
const GO_ZERO_TIME: i64 = -62_135_596_800;
