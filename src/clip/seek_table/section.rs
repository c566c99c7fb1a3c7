//! Stretches of the file, read and held against their digests.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::ops::Range;

use crate::clip::{ClipError, MAX_INDEX_BYTES};
use crate::digest::Digest;

/// Bytes of the file and what they hash to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Section {
    /// Where they are; inside the table, as whoever makes a section has checked.
    pub(super) range: Range<u64>,
    /// Their digest.
    pub(super) digest: Digest,
}

impl Section {
    /// Reads the bytes and checks them; `place` names them in the error.
    pub(super) fn read(
        &self,
        archive: &mut (impl Read + Seek),
        place: impl FnOnce() -> String,
    ) -> Result<Vec<u8>, ClipError> {
        let bytes = read(archive, self.range.clone())?;
        let found = Digest::of(&bytes);
        if found == self.digest {
            return Ok(bytes);
        }
        let Range { start, end } = self.range;
        let detail = format!("bytes {start}..{end}: expected {}, found {found}", self.digest);
        Err(wrong(place(), detail))
    }
}

/// Reads a stretch of the file.
pub(super) fn read(
    archive: &mut (impl Read + Seek),
    range: Range<u64>,
) -> Result<Vec<u8>, ClipError> {
    let length = range.end - range.start;
    if length > MAX_INDEX_BYTES {
        return Err(ClipError::TooLarge { size: length, limit: MAX_INDEX_BYTES });
    }
    let what = || format!("can't read bytes {}..{} of the archive", range.start, range.end);
    let io = |source| ClipError::Io { what: what(), source };
    archive.seek(SeekFrom::Start(range.start)).map_err(io)?;
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    archive.take(length).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(io(ErrorKind::UnexpectedEof.into())) }
}

/// What is wrong with a part of the table.
pub(super) fn wrong(place: impl Into<String>, detail: impl Into<String>) -> ClipError {
    ClipError::SeekTable { place: place.into(), detail: detail.into() }
}
