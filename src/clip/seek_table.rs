//! The seek table: where reading can begin inside the layers of an archive, verified link by link
//! (docs/format.md, "Seek table"). Knows nothing of how compressed bytes are fetched or inflated.
//!
//! The table follows the storage info, where upstream's readers don't look (CONTRACT K):
//!
//! ```text
//! head | windows of every layer | entries of every layer | directory | trailer
//! ```
//!
//! Only lengths are stored, never positions, so that no part can overlap another. Each part is
//! held against the SHA-256 in the part that leads to it: trailer, directory, a layer's entries, a
//! window. Opening reads head, trailer and directory; reading one span takes its layer's entries
//! and one window more.

mod directory;
mod encode;
mod encoding;
mod section;
mod spans;
mod trailer;

use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;

use super::error::ClipError;
use super::header::Header;
use crate::digest::Digest;

pub use directory::LayerEntry;
pub(crate) use encode::put_spans;
pub use encode::{LayerSpans, encode};
pub use encoding::Encoding;
pub(crate) use spans::LayerDescription;
pub use spans::{SpanEntry, SpanIndex};

use section::{Section, read, wrong};
use trailer::Trailer;

/// What a table begins with, so that one that was cut off is told from none.
const HEAD: [u8; 8] = *b"CWSEEKTB";
/// The version that is written and read.
const VERSION: u32 = 1;
/// The longest directory: some 9,700 layers.
const MAX_DIRECTORY: u64 = 1 << 20;
/// The longest encoded window; zstd's bound for 32 KiB is less.
const MAX_WINDOW: u64 = 33 << 10;

/// The seek table of an archive, of which the directory is in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeekTable {
    /// Where it lies in the file.
    pub range: Range<u64>,
    /// By digest.
    layers: Vec<LayerEntry>,
}

impl SeekTable {
    /// Opens the table behind what `header`, the archive's own, points to.
    ///
    /// `None`: there is no table, or one of a later version. A table that was cut, damaged or that
    /// contradicts itself is an error.
    pub fn open(
        archive: &mut (impl Read + Seek),
        header: &Header,
    ) -> Result<Option<Self>, ClipError> {
        let io = |source| ClipError::Io { what: "can't read the archive".into(), source };
        let end = archive.seek(SeekFrom::End(0)).map_err(io)?;
        let start = header.index.end.max(header.storage.as_ref().map_or(0, |range| range.end));
        let range = start..end;
        let length = end.saturating_sub(start);
        if length == 0 {
            return Ok(None);
        }
        let head = read(archive, start..start + length.min(HEAD.len() as u64))?;
        let tail = end - length.min(Trailer::LENGTH as u64)..end;
        let trailer = Trailer::decode(&read(archive, tail.clone())?)?;
        let Some(trailer) = trailer else {
            return if HEAD.starts_with(&head) {
                Err(wrong("trailer", format!("expected one at {}, found none", tail.start)))
            } else {
                Ok(None) // others' bytes
            };
        };
        if head != HEAD {
            return Err(wrong(
                "head",
                format!("expected {HEAD:02x?} at {start}, found {head:02x?}"),
            ));
        }
        if trailer.version != VERSION {
            return Ok(None);
        }
        if trailer.table_length != length {
            let detail = format!("it tells of {} bytes, found {length}", trailer.table_length);
            return Err(wrong("trailer", detail));
        }
        let layers = Self::directory(archive, &range, &trailer)?;
        Ok(Some(Self { range, layers }))
    }

    /// The layer with this compressed digest, if the table can seek in it.
    pub fn layer(&self, digest: &Digest) -> Option<&LayerEntry> {
        let found = self.layers.binary_search_by_key(digest, |layer| layer.digest).ok()?;
        self.layers.get(found)
    }

    /// The layers that the table can seek in, ascending by digest.
    pub fn layers(&self) -> &[LayerEntry] {
        &self.layers
    }

    fn directory(
        archive: &mut (impl Read + Seek),
        table: &Range<u64>,
        trailer: &Trailer,
    ) -> Result<Vec<LayerEntry>, ClipError> {
        let length = u64::from(trailer.directory_length);
        let end = table.end - Trailer::LENGTH as u64;
        let parts = table.start + HEAD.len() as u64..end.saturating_sub(length);
        if length > MAX_DIRECTORY || parts.end < parts.start {
            let space = end.saturating_sub(parts.start).min(MAX_DIRECTORY);
            let detail = format!("expected at most {space} bytes, the trailer says {length}");
            return Err(wrong("directory", detail));
        }
        let section = Section { range: parts.end..end, digest: trailer.directory };
        directory::decode(&section.read(archive, || "directory".into())?, parts)
    }
}

#[cfg(test)]
mod tests;
