//! A layer index as bytes and back, so that a layer need not be read again.
//!
//! ```text
//! magic (8) | version u32 | request (32) | plain and packed length of the body, u32 each
//!     | SHA-256 of all that stands before and after it (32) | body, one zstd frame | windows
//! ```
//!
//! The *request* says which layer was read and how; bytes that answer another one are refused. The
//! body holds numbers as LEB128 varints, paths as what they have in common with the one before and
//! the rest, spans as a seek table does (docs/format.md). Decoding takes any bytes: it fails, and
//! never panics, on what `encode` did not make, and what it gives keeps the request's limits.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::entry::Time;
use super::limits::NODE_COST;
use super::{Encoding, Entry, EntryKind, LayerIndex, LayerRead, Limits, Meta};
use crate::clip::fields::{Fields, put_varint};
use crate::clip::node::{NodePath, Special};
use crate::clip::seek_table::{LayerDescription, SpanIndex, put_spans};
use crate::digest::Digest;

const MAGIC: [u8; 8] = *b"CWLAYIDX";
/// To be raised with every change of the form, or of what reading a layer comes to.
const VERSION: u32 = 2;
/// The longest body: more than the default limits let a layer have.
const MAX_BODY: usize = 256 << 20;
/// Higher levels save little and take longer.
const LEVEL: i32 = 3;

/// Where the checksum stands in the head, and where the head ends.
const CHECKSUM: usize = 52;
const HEAD: usize = CHECKSUM + 32;

/// Added to an entry's kind: attributes as those of the entry before, but for its times.
const SAME_OWNER: u8 = 0x10;
/// Added to an entry's kind: all three times are one.
const ONE_TIME: u8 = 0x20;
/// Added to an entry's kind: extended attributes follow.
const XATTRS: u8 = 0x40;

/// Why bytes are not the layer index that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a usable index of layer {layer}: {detail}")]
pub struct InvalidIndex {
    /// Digest of the compressed layer.
    pub layer: Digest,
    /// What is wrong.
    pub detail: String,
}

/// Names a layer, how it is to be read, and the form of [`encode`]: what has the same name has the
/// same index. All parameters count, so that no kept index is larger than a limit of today.
pub fn request(read: &LayerRead) -> Digest {
    Digest::of(format!("version {VERSION} {read:?}").as_bytes())
}

/// The bytes of an index that `read` came to; `None` if it is too large to be kept.
pub fn encode(read: &LayerRead, index: &LayerIndex) -> Option<Vec<u8>> {
    let (body, windows) = encode_body(index);
    let plain = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY)?;
    let packed = zstd::bulk::compress(&body, LEVEL).ok()?;
    let mut bytes = Vec::with_capacity(HEAD + packed.len() + windows.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(request(read).as_bytes());
    bytes.extend_from_slice(&plain.to_le_bytes());
    bytes.extend_from_slice(&u32::try_from(packed.len()).ok()?.to_le_bytes());
    let checksum = checksum(&bytes, &[&packed[..], &windows].concat());
    bytes.extend_from_slice(checksum.as_bytes());
    bytes.extend_from_slice(&packed);
    bytes.extend_from_slice(&windows);
    // What would not be read back is not kept.
    (decode(read, &bytes).as_ref() == Ok(index)).then_some(bytes)
}

/// The index that `read` came to, out of its bytes.
pub fn decode(read: &LayerRead, bytes: &[u8]) -> Result<LayerIndex, InvalidIndex> {
    let invalid = |detail: &str| InvalidIndex { layer: read.digest, detail: detail.to_owned() };
    let short = || invalid("it is cut off");
    let (head, rest) = bytes.split_at_checked(HEAD).ok_or_else(short)?;
    let mut fields = Fields(head);
    if fields.bytes(8) != Some(&MAGIC) {
        return Err(invalid("it begins as something else"));
    }
    match fields.u32().ok_or_else(short)? {
        VERSION => {}
        found => return Err(invalid(&format!("expected version {VERSION}, found {found}"))),
    }
    if fields.digest() != Some(request(read)) {
        return Err(invalid("it belongs to another layer or was read in another way"));
    }
    let (plain, packed) = fields.u32().zip(fields.u32()).ok_or_else(short)?;
    if fields.digest() != Some(checksum(&head[..CHECKSUM], rest)) {
        return Err(invalid("it is damaged: its checksum is wrong"));
    }
    let mut rest = Fields(rest);
    let packed = rest.bytes(packed.into()).ok_or_else(short)?;
    let plain = usize::try_from(plain).ok().filter(|plain| *plain <= MAX_BODY);
    let plain = plain.ok_or_else(|| invalid("its body is too large"))?;
    let body = zstd::bulk::decompress(packed, plain)
        .ok()
        .filter(|body| body.len() == plain)
        .ok_or_else(|| invalid("its body is no zstd frame of the length it says"))?;
    decode_body(read, &body, rest.0).map_err(|detail| invalid(&detail))
}

fn checksum(head: &[u8], rest: &[u8]) -> Digest {
    let mut hasher = Sha256::new();
    hasher.update(head);
    hasher.update(rest);
    Digest::from_hasher(hasher)
}

/// The body, and the windows, which are compressed already.
fn encode_body(index: &LayerIndex) -> (Vec<u8>, Vec<u8>) {
    let mut body = vec![match index.encoding {
        Encoding::Gzip => 0,
        Encoding::Tar => 1,
        Encoding::Zstd => 2,
    }];
    body.extend_from_slice(index.diff_id.as_bytes());
    put_varint(&mut body, index.compressed_size);
    put_varint(&mut body, index.plain_size);
    put_varint(&mut body, index.notes.len() as u64);
    for note in &index.notes {
        put_bytes(&mut body, note.as_bytes());
    }
    let (mut spans, mut windows) = (Vec::new(), Vec::new());
    put_spans(index.encoding, &index.spans, &mut spans, &mut windows);
    put_bytes(&mut body, &spans);
    put_varint(&mut body, index.entries.len() as u64);
    let mut writer = EntryWriter { body, path: &[], meta: &Meta::default(), content_end: 0 };
    index.entries.iter().for_each(|entry| writer.entry(entry));
    (writer.body, windows)
}

fn decode_body(read: &LayerRead, body: &[u8], windows: &[u8]) -> Result<LayerIndex, String> {
    let mut fields = Fields(body);
    let LayerRead { digest, limits, .. } = read;
    let short = || "its body is cut off or holds a malformed number".to_owned();
    let encoding = match fields.byte().ok_or_else(short)? {
        0 => Encoding::Gzip,
        1 => Encoding::Tar,
        2 => Encoding::Zstd,
        other => return Err(format!("encoding {other} is unknown")),
    };
    let diff_id = fields.digest().ok_or_else(short)?;
    let (compressed_size, plain_size) = fields.varint().zip(fields.varint()).ok_or_else(short)?;
    if plain_size > limits.plain_bytes {
        return Err(format!("its plain size of {plain_size} is over the limit"));
    }
    let mut notes = Vec::new();
    for _ in 0..fields.varint().ok_or_else(short)? {
        let note = take_bytes(&mut fields).ok_or_else(short)?;
        notes.push(String::from_utf8(note.to_vec()).map_err(|_| "a note is no text".to_owned())?);
    }
    let spans = match take_bytes(&mut fields).ok_or_else(short)? {
        [] if windows.is_empty() => Vec::new(),
        spans => {
            let windows_length = windows.len() as u64;
            let described = LayerDescription {
                digest: *digest,
                encoding,
                plain_size,
                compressed_size,
                windows: 0..windows_length,
            };
            SpanIndex::decode_all(spans, windows, &described).map_err(|error| error.to_string())?
        }
    };
    let count = fields.varint().ok_or_else(short)?;
    // An entry takes three bytes at least: a count can't ask for more memory than its bytes do.
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count <= fields.0.len() / 3 && *count as u64 <= limits.entries)
        .ok_or("it has more entries than bytes for them, or than the limit lets it")?;
    let mut reader = EntryReader {
        fields,
        path: Vec::new(),
        meta: Meta::default(),
        content_end: 0,
        plain_size,
        limits: *limits,
        cost: 0,
    };
    let mut entries = Vec::with_capacity(count);
    for at in 0..count {
        entries.push(reader.entry().ok_or_else(|| format!("entry {at} makes no sense"))?);
    }
    if !reader.fields.is_empty() {
        return Err("its body goes on behind the entries".to_owned());
    }
    Ok(LayerIndex {
        digest: *digest,
        encoding,
        diff_id,
        compressed_size,
        plain_size,
        entries,
        notes,
        spans,
    })
}

fn put_bytes(body: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(body, bytes.len() as u64);
    body.extend_from_slice(bytes);
}

fn take_bytes<'a>(fields: &mut Fields<'a>) -> Option<&'a [u8]> {
    let length = fields.varint()?;
    fields.bytes(length)
}

/// Writes entries one after another, each in terms of the one before.
struct EntryWriter<'a> {
    body: Vec<u8>,
    path: &'a [u8],
    meta: &'a Meta,
    content_end: u64,
}

impl<'a> EntryWriter<'a> {
    fn entry(&mut self, entry: &'a Entry) {
        let path = &entry.path;
        match &entry.kind {
            EntryKind::Directory(meta) => self.begin(0, path, Some(meta)),
            EntryKind::File { meta, offset, length } => {
                self.begin(1, path, Some(meta));
                // What a tar can't have, content that goes back, comes out as no varint.
                put_varint(&mut self.body, offset.wrapping_sub(self.content_end));
                put_varint(&mut self.body, *length);
                self.content_end = offset.wrapping_add(*length);
            }
            EntryKind::Symlink { meta, target } => {
                self.begin(2, path, Some(meta));
                put_bytes(&mut self.body, target);
            }
            EntryKind::HardLink { target } => {
                self.begin(3, path, None);
                self.path(target);
            }
            EntryKind::Special { meta, special, rdev } => {
                let kind = match special {
                    Special::CharDevice => 4,
                    Special::BlockDevice => 5,
                    Special::Fifo => 6,
                };
                self.begin(kind, path, Some(meta));
                put_varint(&mut self.body, (*rdev).into());
            }
            EntryKind::Sparse { meta, offset, length } => {
                self.begin(9, path, Some(meta));
                put_varint(&mut self.body, offset.wrapping_sub(self.content_end));
                put_varint(&mut self.body, *length);
                self.content_end = *offset;
            }
            EntryKind::Whiteout => self.begin(7, path, None),
            EntryKind::Opaque => self.begin(8, path, None),
        }
    }

    fn begin(&mut self, kind: u8, path: &'a NodePath, meta: Option<&'a Meta>) {
        let at = self.body.len();
        self.body.push(kind);
        self.path(path);
        let Some(meta) = meta else { return };
        let owner = |meta: &Meta| (meta.mode, meta.uid, meta.gid);
        if owner(meta) == owner(self.meta) {
            self.body[at] |= SAME_OWNER;
        } else {
            for number in [meta.mode, meta.uid, meta.gid] {
                put_varint(&mut self.body, number.into());
            }
        }
        self.time(meta.mtime);
        if meta.atime == meta.mtime && meta.ctime == meta.mtime {
            self.body[at] |= ONE_TIME;
        } else {
            self.time(meta.atime);
            self.time(meta.ctime);
        }
        if !meta.xattrs.is_empty() {
            self.body[at] |= XATTRS;
            put_varint(&mut self.body, meta.xattrs.len() as u64);
            for (name, value) in &meta.xattrs {
                put_bytes(&mut self.body, name);
                put_bytes(&mut self.body, value);
            }
        }
        self.meta = meta;
    }

    fn path(&mut self, path: &'a NodePath) {
        let path = path.as_bytes();
        let shared = self.path.iter().zip(path).take_while(|(a, b)| a == b).count();
        put_varint(&mut self.body, shared as u64);
        put_bytes(&mut self.body, &path[shared..]);
        self.path = path;
    }

    fn time(&mut self, time: Time) {
        put_varint(&mut self.body, zigzag(time.seconds));
        put_varint(&mut self.body, time.nanos.into());
    }
}

/// Reads what [`EntryWriter`] wrote. Every method gives `None` where that can't have been written.
struct EntryReader<'a> {
    fields: Fields<'a>,
    path: Vec<u8>,
    /// Of the last entry that has any; without extended attributes.
    meta: Meta,
    content_end: u64,
    plain_size: u64,
    limits: Limits,
    /// What the entries take in memory so far.
    cost: u64,
}

impl EntryReader<'_> {
    fn entry(&mut self) -> Option<Entry> {
        let kind = self.fields.byte()?;
        let flags = kind & !0xf;
        let path = self.path()?;
        let kind = match kind & 0xf {
            0 => EntryKind::Directory(self.meta(flags)?),
            1 => {
                let meta = self.meta(flags)?;
                let offset = self.content_end.checked_add(self.fields.varint()?)?;
                let length = self.fields.varint()?;
                self.content_end = offset.checked_add(length).filter(|e| *e <= self.plain_size)?;
                EntryKind::File { meta, offset, length }
            }
            2 => {
                let meta = self.meta(flags)?;
                let target = take_bytes(&mut self.fields)?;
                let target = self.is_short(target).then(|| target.to_vec())?;
                EntryKind::Symlink { meta, target }
            }
            kind @ 4..=6 => EntryKind::Special {
                meta: self.meta(flags)?,
                special: match kind {
                    4 => Special::CharDevice,
                    5 => Special::BlockDevice,
                    _ => Special::Fifo,
                },
                rdev: self.u32()?,
            },
            9 => {
                let meta = self.meta(flags)?;
                let offset = self.content_end.checked_add(self.fields.varint()?)?;
                self.content_end = (offset <= self.plain_size).then_some(offset)?;
                EntryKind::Sparse { meta, offset, length: self.fields.varint()? }
            }
            _ if flags != 0 => return None,
            3 => EntryKind::HardLink { target: self.path()? },
            7 => EntryKind::Whiteout,
            8 => EntryKind::Opaque,
            _ => return None,
        };
        let entry = Entry { path, kind };
        self.cost += NODE_COST + entry.variable_bytes();
        (self.cost <= self.limits.tree_bytes).then_some(entry)
    }

    /// Cleaning may have put a slash before the name.
    fn is_short(&self, path: &[u8]) -> bool {
        path.len() as u64 <= self.limits.path_bytes.saturating_add(1)
    }

    fn path(&mut self) -> Option<NodePath> {
        let shared = usize::try_from(self.fields.varint()?).ok()?;
        if shared > self.path.len() {
            return None;
        }
        self.path.truncate(shared);
        self.path.extend_from_slice(take_bytes(&mut self.fields)?);
        NodePath::new(&self.path).ok().filter(|path| self.is_short(path.as_bytes()))
    }

    fn meta(&mut self, flags: u8) -> Option<Meta> {
        if flags & !(SAME_OWNER | ONE_TIME | XATTRS) != 0 {
            return None;
        }
        if flags & SAME_OWNER == 0 {
            (self.meta.mode, self.meta.uid, self.meta.gid) =
                (self.u32()?, self.u32()?, self.u32()?);
        }
        self.meta.mtime = self.time()?;
        (self.meta.atime, self.meta.ctime) = match flags & ONE_TIME {
            0 => (self.time()?, self.time()?),
            _ => (self.meta.mtime, self.meta.mtime),
        };
        let mut xattrs = BTreeMap::new();
        if flags & XATTRS != 0 {
            for _ in 0..self.fields.varint()? {
                let name = take_bytes(&mut self.fields)?.to_vec();
                xattrs.insert(name, take_bytes(&mut self.fields)?.to_vec());
            }
        }
        Some(Meta { xattrs, ..self.meta.clone() })
    }

    fn time(&mut self) -> Option<Time> {
        let (seconds, nanos) = (self.fields.varint()?, self.u32()?);
        Some(Time { seconds: unzigzag(seconds), nanos })
    }

    fn u32(&mut self) -> Option<u32> {
        u32::try_from(self.fields.varint()?).ok()
    }
}

/// Small numbers of either sign become small ones.
fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

#[cfg(test)]
mod tests;
