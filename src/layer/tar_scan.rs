//! Tar framing: a stream of uncompressed bytes, pushed in pieces of any size, becomes entries.
//!
//! The framing is ours because an index needs the exact offset of each file's content, limits on
//! every length, and extended headers whose values may hold any byte. Where formats differ it does
//! as Go's `archive/tar` (CONTRACT B.1: content starts after the last header block).

/// What a header says of its entry.
mod entries;
/// What extension headers say of the entry after them.
mod extensions;
/// One header block.
mod header;
/// Hard link targets that are kept aside.
mod pseudo_links;
/// Sparse files.
mod sparse_file;

use super::entry::Entry;
use super::limits::TreeCost;
use super::sparse::Expansion;
use super::{Contents, Excess, Limit, Limits, at_most};
use crate::examples::Examples;
use crate::memory::MemoryAccount;
use extensions::{Extension, Extensions};
use header::TarHeader;
pub(super) use header::is_block;
use pseudo_links::PseudoLinks;
use sparse_file::Sparse;

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
    cost: TreeCost,
    /// Bytes of all sparse files made whole.
    expanded: u64,
    pseudo_links: PseudoLinks,
    /// Headers that are no entries but cost what entries do.
    passed: u64,
    bookkeeping: Examples,
    globals: Examples,
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

impl TarScanner {
    /// A scanner at the start of a stream. `account` pays for the memory that its entries take.
    pub fn new(limits: Limits, account: &MemoryAccount) -> Self {
        Self {
            limits,
            state: State::Header { after_zero: false },
            block: [0; BLOCK],
            filled: 0,
            position: 0,
            extensions: Extensions::default(),
            entries: Vec::new(),
            cost: TreeCost::new(&limits, account),
            expanded: 0,
            pseudo_links: PseudoLinks::default(),
            passed: 0,
            bookkeeping: Examples::default(),
            globals: Examples::default(),
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
    pub fn finish(mut self) -> Result<(Vec<Entry>, Vec<String>), ScanError> {
        let whole = match std::mem::replace(&mut self.state, State::Ended) {
            State::Header { .. } => self.filled == 0,
            // Go, too, does without the padding.
            State::Content { remaining, .. } => remaining == 0,
            State::Extension { kind, data, size, .. } if data.len() >= size => {
                self.extension(kind, data, size)?;
                true
            }
            State::Extension { .. } | State::Map(_) => false,
            State::Ended => true,
        };
        if !whole {
            return Err(malformed(self.position, "the stream ends inside an entry"));
        }
        for path in self.pseudo_links.unlinked() {
            self.bookkeeping.push(path);
        }
        let mut notes = Vec::new();
        if !self.bookkeeping.is_empty() {
            let left_out = "left out, AUFS bookkeeping is no content";
            notes.push(format!("{left_out}: {}", self.bookkeeping));
        }
        if !self.globals.is_empty() {
            notes.push(format!("global PAX headers were ignored: {}", self.globals));
        }
        if self.extensions.present {
            notes.push("its last extension header describes no entry".to_owned()); // as Go takes it
        }
        Ok((self.entries, notes))
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
                let (kind, size, data) = (*kind, *size, std::mem::take(data));
                self.extension(kind, data, size)?;
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
            return Ok(if after_zero { State::Ended } else { State::Header { after_zero: true } });
        }
        if after_zero {
            return Err(malformed(offset, "content follows a lone zero block"));
        }
        let block = self.block;
        let header = TarHeader::new(&block, offset)?;
        match Extension::of(header.kind()) {
            Some(kind) => self.begin_extension(kind, header, offset),
            None => self.entry(header, offset, contents),
        }
    }

    fn begin_extension(
        &mut self,
        kind: Extension,
        header: TarHeader<'_>,
        offset: u64,
    ) -> Result<State, ScanError> {
        let size = header.size();
        let total = self.extensions.bytes.saturating_add(size);
        let place = || format!("at offset {offset}");
        Limit::ExtensionBytes.check(total, self.limits.extension_bytes, place)?;
        self.extensions.bytes = total;
        let size = usize::try_from(size).map_err(|_| malformed(offset, "it is beyond memory"))?;
        let remaining = size.next_multiple_of(BLOCK);
        Ok(State::Extension { kind, data: Vec::with_capacity(remaining), size, remaining })
    }

    /// An extension header of `size` bytes, and perhaps padding, has come.
    fn extension(
        &mut self,
        kind: Extension,
        mut data: Vec<u8>,
        size: usize,
    ) -> Result<(), ScanError> {
        let start = self.position - data.len() as u64;
        data.truncate(size);
        if self.extensions.take(kind, data, start)? {
            self.globals.push(format_args!("at offset {start}"));
        }
        if matches!(kind, Extension::PaxGlobal) {
            self.pass()?;
        }
        Ok(())
    }
}

/// A file's last bytes have come.
fn end(expansion: Option<&mut Expansion>, contents: &mut dyn Contents) -> Result<(), ScanError> {
    if let Some(file) = expansion {
        file.finish(contents).map_err(refused)?;
    }
    contents.end().map_err(refused)
}

#[expect(clippy::needless_pass_by_value, reason = "it is what `map_err` calls")]
fn refused(error: std::io::Error) -> ScanError {
    ScanError::Contents(error.to_string())
}

fn malformed(offset: u64, detail: &str) -> ScanError {
    ScanError::Malformed { offset, detail: detail.to_owned() }
}

#[cfg(test)]
mod tests;
