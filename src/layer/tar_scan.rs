//! Tar framing: a stream of uncompressed bytes, pushed in pieces of any size, becomes entries.
//!
//! Header fields are decoded by the `tar` crate. The framing is ours because an index needs the
//! exact offset of each file's content, limits on every length, and extended headers whose values
//! may hold any byte. Where formats differ it does as Go's `archive/tar`, which made most layers
//! and reads them in every other tool (CONTRACT B.1: content starts after the last header block).

use tar::Header;

use super::entry::{Entry, EntryKind, Meta, Name, Time, classify, clean};
use super::limits::NODE_COST;
use super::pax::Pax;
use super::sparse::{Expansion, Form, MapText, PaxSparse, old_fields, old_size};
use super::{Contents, Excess, Limit, Limits, at_most};
use crate::clip::node::{NodePath, Special};

pub(super) const BLOCK: usize = 512;

/// Why a stream is not a tar that can be indexed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanError {
    /// The bytes are not what the format says.
    Malformed {
        /// Offset of the header in the uncompressed stream.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// A limit was passed.
    Limit(Excess),
    /// Whoever takes the content failed.
    Contents(String),
}

impl From<Excess> for ScanError {
    fn from(excess: Excess) -> Self {
        Self::Limit(excess)
    }
}

/// Takes a tar apart as its bytes come by.
#[derive(Debug)]
pub struct TarScanner {
    limits: Limits,
    state: State,
    block: [u8; BLOCK],
    filled: usize,
    /// Offset of the next byte in the uncompressed stream.
    position: u64,
    /// Extension headers that wait for the entry they describe.
    extensions: Extensions,
    entries: Vec<Entry>,
    /// Bytes of memory that the entries take.
    cost: u64,
    /// Bytes of all sparse files made whole.
    expanded: u64,
    notes: Vec<String>,
}

#[derive(Debug)]
enum State {
    /// Collecting a header block; `after_zero` when the last one was all zeros.
    Header { after_zero: bool },
    /// Collecting the content of an extension header: `size` bytes and then padding.
    Extension { kind: Extension, data: Vec<u8>, size: usize, remaining: usize },
    /// Passing over content, then over its padding.
    Content { remaining: u64, padding: u64, wanted: bool, expansion: Option<Box<Expansion>> },
    /// Collecting the blocks that hold the map of a sparse file.
    Map(Box<Sparse>),
    /// After the end marker nothing means anything.
    Ended,
}

/// A sparse file whose map is still coming.
#[derive(Debug)]
struct Sparse {
    path: NodePath,
    meta: Meta,
    /// Of the whole file.
    size: u64,
    /// Bytes in the tar, and then padding.
    remaining: u64,
    padding: u64,
    map: Map,
}

#[derive(Debug)]
enum Map {
    /// In blocks that continue the header; offsets and lengths so far.
    Old(Vec<u64>),
    /// At the start of the content.
    Text(MapText),
}

#[derive(Debug, Clone, Copy)]
enum Extension {
    Pax,
    PaxGlobal,
    LongName,
    LongLink,
}

#[derive(Debug, Default)]
struct Extensions {
    pax: Pax,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
    /// Content bytes of the headers so far.
    bytes: u64,
    present: bool,
}

impl TarScanner {
    /// A scanner at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            state: State::Header { after_zero: false },
            block: [0; BLOCK],
            filled: 0,
            position: 0,
            extensions: Extensions::default(),
            entries: Vec::new(),
            cost: 0,
            expanded: 0,
            notes: Vec::new(),
        }
    }

    /// Takes the next bytes of the stream; those of files go on to `contents`.
    pub fn push(&mut self, mut bytes: &[u8], contents: &mut dyn Contents) -> Result<(), ScanError> {
        while !bytes.is_empty() {
            let taken = match &mut self.state {
                State::Header { .. } | State::Map(_) => {
                    let taken = bytes.len().min(BLOCK - self.filled);
                    self.block[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
                    self.filled += taken;
                    taken
                }
                State::Extension { data, remaining, .. } => {
                    let taken = bytes.len().min(*remaining);
                    data.extend_from_slice(&bytes[..taken]);
                    *remaining -= taken;
                    taken
                }
                State::Content { remaining, padding, wanted, expansion } => {
                    let content = at_most(bytes.len(), *remaining);
                    *remaining -= content as u64;
                    if *wanted && content > 0 {
                        let stored = &bytes[..content];
                        match expansion {
                            None => contents.bytes(stored),
                            Some(file) => file.stored(stored, contents),
                        }
                        .map_err(refused)?;
                        if *remaining == 0 {
                            end(expansion.as_deref_mut(), contents)?;
                        }
                    }
                    let pad = at_most(bytes.len() - content, *padding);
                    *padding -= pad as u64;
                    content + pad
                }
                State::Ended => bytes.len(),
            };
            self.position += taken as u64;
            bytes = &bytes[taken..];
            self.advance(contents)?;
        }
        Ok(())
    }

    /// The entries, and notes on what was left out, once the stream has ended.
    pub fn finish(self) -> Result<(Vec<Entry>, Vec<String>), ScanError> {
        let whole = match &self.state {
            State::Header { .. } => self.filled == 0 && !self.extensions.present,
            State::Content { remaining, .. } => *remaining == 0, // Go, too, does without the padding
            State::Extension { .. } | State::Map(_) => false,
            State::Ended => true,
        };
        if whole {
            Ok((self.entries, self.notes))
        } else {
            Err(malformed(self.position, "the stream ends inside an entry"))
        }
    }

    /// Leaves every state that is complete.
    fn advance(&mut self, contents: &mut dyn Contents) -> Result<(), ScanError> {
        match &mut self.state {
            State::Header { after_zero } if self.filled == BLOCK => {
                let after_zero = *after_zero;
                self.filled = 0;
                self.state = self.header(after_zero, contents)?;
                // A state that needs no bytes is complete at once.
                if matches!(
                    self.state,
                    State::Content { remaining: 0, padding: 0, .. }
                        | State::Extension { remaining: 0, .. }
                ) {
                    return self.advance(contents);
                }
            }
            State::Map(_) if self.filled == BLOCK => {
                self.filled = 0;
                let State::Map(file) =
                    std::mem::replace(&mut self.state, State::Header { after_zero: false })
                else {
                    return Ok(());
                };
                self.state = self.map_block(file, contents)?;
                if matches!(self.state, State::Content { remaining: 0, padding: 0, .. }) {
                    return self.advance(contents);
                }
            }
            State::Extension { remaining: 0, kind, data, size } => {
                let (kind, size, mut data) = (*kind, *size, std::mem::take(data));
                let start = self.position - data.len() as u64;
                data.truncate(size);
                self.extension(kind, data, start)?;
                self.state = State::Header { after_zero: false };
            }
            State::Content { remaining: 0, padding: 0, .. } => {
                self.state = State::Header { after_zero: false };
            }
            _ => {}
        }
        Ok(())
    }

    /// Decides on a whole header block.
    fn header(
        &mut self,
        after_zero: bool,
        contents: &mut dyn Contents,
    ) -> Result<State, ScanError> {
        let offset = self.position - BLOCK as u64;
        if self.block.iter().all(|b| *b == 0) {
            if self.extensions.present {
                return Err(malformed(offset, "an extension header describes no entry"));
            }
            return Ok(if after_zero { State::Ended } else { State::Header { after_zero: true } });
        }
        if after_zero {
            return Err(malformed(offset, "content follows a lone zero block"));
        }
        let block = self.block;
        let header = Header::from_byte_slice(&block);
        verify_checksum(header, offset)?;
        let extension = match header.as_old().linkflag[0] {
            b'x' => Some(Extension::Pax),
            b'g' => Some(Extension::PaxGlobal),
            b'L' => Some(Extension::LongName),
            b'K' => Some(Extension::LongLink),
            _ => None,
        };
        match extension {
            Some(kind) => self.begin_extension(kind, header, offset),
            None => self.entry(header, offset, contents),
        }
    }

    fn begin_extension(
        &mut self,
        kind: Extension,
        header: &Header,
        offset: u64,
    ) -> Result<State, ScanError> {
        let size = count(&header.as_old().size, "size", offset)?;
        let total = self.extensions.bytes.saturating_add(size);
        let place = || format!("at offset {offset}");
        Limit::ExtensionBytes.check(total, self.limits.extension_bytes, place)?;
        self.extensions.bytes = total;
        let size = usize::try_from(size).map_err(|_| malformed(offset, "it is beyond memory"))?;
        let remaining = size.next_multiple_of(BLOCK);
        Ok(State::Extension { kind, data: Vec::with_capacity(remaining), size, remaining })
    }

    fn extension(&mut self, kind: Extension, data: Vec<u8>, at: u64) -> Result<(), ScanError> {
        match kind {
            Extension::Pax => {
                self.extensions.pax = Pax::parse(&data).map_err(|e| malformed(at, &e))?;
            }
            Extension::LongName => self.extensions.long_name = Some(until_nul(data)),
            Extension::LongLink => self.extensions.long_link = Some(until_nul(data)),
            Extension::PaxGlobal => {
                // Go and umoci leave these out too; a comment is all that is found in practice.
                let global = Pax::parse(&data).map_err(|e| malformed(at, &e))?;
                if global != Pax::default() {
                    self.note(format!("global PAX header at offset {at} was ignored"))?;
                }
                self.extensions.bytes = 0;
                return Ok(());
            }
        }
        self.extensions.present = true;
        Ok(())
    }

    /// Takes an entry down and says what follows its header.
    fn entry(
        &mut self,
        header: &Header,
        offset: u64,
        contents: &mut dyn Contents,
    ) -> Result<State, ScanError> {
        let Extensions { pax, long_name, long_link, .. } = std::mem::take(&mut self.extensions);
        let raw_name = (pax.sparse.name.clone())
            .or(long_name)
            .or_else(|| pax.path.clone())
            .unwrap_or_else(|| header.path_bytes().into_owned());
        let shown = String::from_utf8_lossy(&raw_name).chars().take(200).collect::<String>();
        let wrong = |detail: &str| malformed(offset, &format!("{shown:?}: {detail}"));
        let path = clean(&raw_name).map_err(|e| wrong(&e))?;
        self.check_length(path.as_bytes(), &shown)?;
        let link = long_link
            .or_else(|| pax.link_path.clone())
            .or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));

        let kind = header.as_old().linkflag[0];
        let size = match kind {
            // These have no content, whatever their size field says (as Go reads them).
            b'1'..=b'6' => 0,
            _ => pax.size.map_or_else(|| count(&header.as_old().size, "size", offset), Ok)?,
        };
        let padding = size.next_multiple_of(BLOCK as u64).checked_sub(size);
        let (Some(padding), Some(_)) = (padding, self.position.checked_add(size)) else {
            return Err(wrong("its size is beyond any stream"));
        };
        let follows = State::Content { remaining: size, padding, wanted: false, expansion: None };

        let path = match classify(path).map_err(|e| wrong(&e))? {
            Name::Bookkeeping => {
                self.note(format!("{shown} was left out: AUFS bookkeeping is no content"))?;
                return Ok(follows);
            }
            Name::Whiteout(path) => return self.take(path, EntryKind::Whiteout, follows),
            Name::Opaque(path) => return self.take(path, EntryKind::Opaque, follows),
            Name::Path(path) => path,
        };
        let sparse = pax.sparse.clone();
        let meta = meta(header, pax, offset)?;
        let place = || format!("{shown:?}");
        Limit::XattrBytes.check(meta.xattr_bytes(), self.limits.xattr_bytes, place)?;
        let directory_by_name = raw_name.last() == Some(&b'/');
        if matches!(kind, b'0' | b'\0' | b'7' | b'S') {
            let form = sparse.form().map_err(|e| wrong(&e))?;
            if form.is_some() || kind == b'S' {
                let file = (path, meta, size, padding);
                return self.sparse(header, file, &sparse, form, offset, contents);
            }
        }
        let entry = match kind {
            b'5' => EntryKind::Directory(meta),
            b'\0' if directory_by_name => EntryKind::Directory(meta), // as tars before POSIX
            b'0' | b'\0' | b'7' => EntryKind::File { meta, offset: self.position, length: size },
            b'2' => {
                let target = link.ok_or_else(|| wrong("a symbolic link without a target"))?;
                self.check_length(&target, &shown)?;
                if target.is_empty() || target.contains(&0) {
                    return Err(wrong("a symbolic link whose target is no path"));
                }
                EntryKind::Symlink { meta, target }
            }
            b'1' => {
                let target = link.ok_or_else(|| wrong("a hard link without a target"))?;
                let target = clean(&target).map_err(|e| wrong(&e))?;
                self.check_length(target.as_bytes(), &shown)?;
                EntryKind::HardLink { target }
            }
            b'3' | b'4' | b'6' => {
                let (special, rdev) = match kind {
                    b'3' => (Special::CharDevice, device_number(header, offset)?),
                    b'4' => (Special::BlockDevice, device_number(header, offset)?),
                    _ => (Special::Fifo, 0),
                };
                EntryKind::Special { meta, special, rdev }
            }
            other => {
                let shown = char::from(other).escape_default();
                return Err(wrong(&format!("tar entry type '{shown}' is not supported")));
            }
        };
        let follows = match &entry {
            EntryKind::File { offset, length, .. } => {
                let wanted = contents.begin(&path, *offset, *length).map_err(refused)?;
                if wanted && *length == 0 {
                    contents.end().map_err(refused)?;
                }
                let wanted = wanted && *length > 0;
                State::Content { remaining: size, padding, wanted, expansion: None }
            }
            _ => follows,
        };
        self.take(path, entry, follows)
    }

    /// Begins a sparse file: its map is in its headers, or comes before its content.
    fn sparse(
        &mut self,
        header: &Header,
        (path, meta, remaining, padding): (NodePath, Meta, u64, u64),
        pax: &PaxSparse,
        form: Option<Form>,
        offset: u64,
        contents: &mut dyn Contents,
    ) -> Result<State, ScanError> {
        let no_size = || malformed(offset, &format!("{path}: a sparse file without a size"));
        let block = header.as_bytes();
        let (size, numbers, map) = match form {
            Some(Form::InContent) => {
                (pax.size.ok_or_else(no_size)?, Vec::new(), Some(Map::Text(MapText::default())))
            }
            Some(Form::Known(numbers)) => (pax.size.ok_or_else(no_size)?, numbers, None),
            None => {
                let (fields, more) = old_fields(block, true);
                let numbers = numbers(fields, offset)?;
                let size = count(old_size(block), "real size", offset)?;
                if more {
                    (size, Vec::new(), Some(Map::Old(numbers)))
                } else {
                    (size, numbers, None)
                }
            }
        };
        let file = |map| Sparse { path, meta, size, remaining, padding, map };
        match map {
            Some(map) => Ok(State::Map(Box::new(file(map)))),
            None => self.mapped(file(Map::Old(Vec::new())), &numbers, contents),
        }
    }

    /// Takes the next block of a sparse file's map.
    fn map_block(
        &mut self,
        mut file: Box<Sparse>,
        contents: &mut dyn Contents,
    ) -> Result<State, ScanError> {
        let offset = self.position - BLOCK as u64;
        let wrong = |detail: &str| malformed(offset, detail);
        let place = || format!("at offset {offset}");
        let numbers = match &mut file.map {
            Map::Old(known) => {
                let (fields, more) = old_fields(&self.block, false);
                known.extend(numbers(fields, offset)?);
                let bytes = known.len() as u64 * 12;
                Limit::ExtensionBytes.check(bytes, self.limits.extension_bytes, place)?;
                (!more).then(|| std::mem::take(known))
            }
            Map::Text(text) => {
                file.remaining = file
                    .remaining
                    .checked_sub(BLOCK as u64)
                    .ok_or_else(|| wrong("the map of a sparse file is longer than the file"))?;
                let numbers = text.take(&self.block).map_err(|e| wrong(&e))?;
                Limit::ExtensionBytes.check(text.len(), self.limits.extension_bytes, place)?;
                numbers
            }
        };
        match numbers {
            Some(numbers) => self.mapped(*file, &numbers, contents),
            None => Ok(State::Map(file)),
        }
    }

    /// Takes a sparse file down whose map is known.
    fn mapped(
        &mut self,
        file: Sparse,
        numbers: &[u64],
        contents: &mut dyn Contents,
    ) -> Result<State, ScanError> {
        let Sparse { path, meta, size, remaining, padding, .. } = file;
        let offset = self.position;
        let wrong = |e: String| malformed(offset, &format!("{path}: {e}"));
        let mut expansion = Expansion::new(size, numbers, remaining).map_err(wrong)?;
        self.expanded = self.expanded.saturating_add(expansion.size());
        let place = || path.to_string();
        Limit::PlainBytes.check(self.expanded, self.limits.plain_bytes, place)?;
        // Holes cost nothing in the tar, but whoever takes files whole writes them.
        if self.expanded >= self.limits.ratio_from {
            let ratio = self.expanded / self.position.max(1);
            Limit::Ratio.check(ratio, self.limits.ratio, place)?;
        }
        let wanted = contents.begin(&path, offset, size).map_err(refused)?;
        if wanted && remaining == 0 {
            end(Some(&mut expansion), contents)?;
        }
        let expansion = Some(Box::new(expansion));
        let follows =
            State::Content { remaining, padding, wanted: wanted && remaining > 0, expansion };
        self.take(path, EntryKind::Sparse { meta, offset, length: size }, follows)
    }

    fn take(&mut self, path: NodePath, kind: EntryKind, then: State) -> Result<State, ScanError> {
        let entry = Entry { path, kind };
        self.cost += NODE_COST + entry.variable_bytes();
        Limit::Entries.check(self.entries.len() as u64 + 1, self.limits.entries, String::new)?;
        Limit::TreeBytes.check(self.cost, self.limits.tree_bytes, String::new)?;
        self.entries.push(entry);
        Ok(then)
    }

    fn note(&mut self, note: String) -> Result<(), ScanError> {
        self.cost += note.len() as u64;
        Limit::TreeBytes.check(self.cost, self.limits.tree_bytes, String::new)?;
        self.notes.push(note);
        Ok(())
    }

    fn check_length(&self, path: &[u8], shown: &str) -> Result<(), ScanError> {
        let place = || format!("{shown:?}");
        let depth = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).count();
        Limit::PathBytes.check(path.len() as u64, self.limits.path_bytes, place)?;
        Limit::PathDepth.check(depth as u64, self.limits.path_depth, place)?;
        Ok(())
    }
}

/// Whether a layer that begins so can be a tar: a header with the right checksum, or the zeros that
/// an empty tar is made of.
pub(super) fn is_block(prefix: &[u8]) -> bool {
    let Some(block) = prefix.first_chunk::<BLOCK>() else { return false };
    block.iter().all(|byte| *byte == 0)
        || verify_checksum(Header::from_byte_slice(block), 0).is_ok()
}

/// A file's last bytes have come.
fn end(expansion: Option<&mut Expansion>, contents: &mut dyn Contents) -> Result<(), ScanError> {
    if let Some(file) = expansion {
        file.finish(contents).map_err(refused)?;
    }
    contents.end().map_err(refused)
}

fn numbers<'a>(fields: impl Iterator<Item = &'a [u8]>, offset: u64) -> Result<Vec<u64>, ScanError> {
    fields.map(|field| count(field, "sparse map", offset)).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
fn refused(error: std::io::Error) -> ScanError {
    ScanError::Contents(error.to_string())
}

fn malformed(offset: u64, detail: &str) -> ScanError {
    ScanError::Malformed { offset, detail: detail.to_owned() }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

/// A numeric field as Go reads it: octal digits between blanks and NULs (none at all is 0), or
/// base 256 with the first bit set.
fn number(field: &[u8], name: &str, offset: u64) -> Result<i64, ScanError> {
    let wrong = || malformed(offset, &format!("the {name} field is not a number"));
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative { field[0] } else { field[0] & 0x7f };
        let start = if negative { -1_i128 } else { 0 };
        let bytes = std::iter::once(&first).chain(&field[1..]);
        let value = bytes.fold(start, |value, byte| (value << 8) | i128::from(*byte));
        return i64::try_from(value).map_err(|_| wrong());
    }
    let blank = |b: &u8| matches!(b, b' ' | 0);
    let digits: Vec<u8> =
        field.iter().copied().skip_while(blank).take_while(|b| !blank(b)).collect();
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => Ok((value << 3) | i64::from(digit - b'0')), // 12 digits fit
        _ => Err(wrong()),
    })
}

/// A numeric field that can't be negative.
fn count(field: &[u8], name: &str, offset: u64) -> Result<u64, ScanError> {
    let value = number(field, name, offset)?;
    u64::try_from(value).map_err(|_| malformed(offset, &format!("the {name} is {value}")))
}

fn verify_checksum(header: &Header, offset: u64) -> Result<(), ScanError> {
    let expected = number(&header.as_old().cksum, "checksum", offset)?;
    let bytes = header.as_bytes();
    let sum = |value: fn(u8) -> i64| -> i64 {
        let spaces = 8 * value(b' ');
        let rest = bytes[..148].iter().chain(&bytes[156..]);
        rest.fold(spaces, |sum, byte| sum + value(*byte))
    };
    // Some old tars summed signed bytes.
    let found = sum(i64::from);
    if expected == found || expected == sum(|b| i64::from(b.cast_signed())) {
        return Ok(());
    }
    let detail = format!("the checksum is {found}, the header says {expected}");
    Err(malformed(offset, &detail))
}

fn meta(header: &Header, pax: Pax, offset: u64) -> Result<Meta, ScanError> {
    let fields = header.as_old();
    let id = |field: &[u8], name: &str| {
        let value = count(field, name, offset)?;
        u32::try_from(value)
            .map_err(|_| malformed(offset, &format!("the {name} {value} is over 32 bits")))
    };
    let mtime = if let Some(mtime) = pax.mtime {
        mtime
    } else {
        let seconds = number(&fields.mtime, "mtime", offset)?;
        Time { seconds: u64::try_from(seconds).unwrap_or(0), nanos: 0 }
    };
    let mode = u32::try_from(count(&fields.mode, "mode", offset)? & 0o7777).unwrap_or(0);
    Ok(Meta {
        mode,
        uid: pax.uid.map_or_else(|| id(&fields.uid, "uid"), Ok)?,
        gid: pax.gid.map_or_else(|| id(&fields.gid, "gid"), Ok)?,
        mtime,
        atime: pax.atime.unwrap_or(mtime),
        ctime: pax.ctime.unwrap_or(mtime),
        xattrs: pax.xattrs,
    })
}

/// Packs major and minor numbers as Linux does for 32-bit device numbers.
fn device_number(header: &Header, offset: u64) -> Result<u32, ScanError> {
    let [major, minor] = match (header.as_ustar(), header.as_gnu()) {
        (Some(fields), _) => [fields.dev_major, fields.dev_minor],
        (_, Some(fields)) => [fields.dev_major, fields.dev_minor],
        _ => [[0; 8]; 2],
    };
    let major = count(&major, "devmajor", offset)?;
    let minor = count(&minor, "devminor", offset)?;
    let packed = u32::try_from(major).ok().zip(u32::try_from(minor).ok());
    let Some((major, minor)) =
        packed.filter(|(major, minor)| *major <= 0xfff && *minor <= 0xf_ffff)
    else {
        let detail = format!("device number {major}:{minor} is not one of Linux");
        return Err(malformed(offset, &detail));
    };
    Ok((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

#[cfg(test)]
mod tests;
