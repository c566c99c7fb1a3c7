//! One file of the cache: its bytes, and a trailer that says which they are.
//!
//! ```text
//! bytes | "CWSPAN01" | length (u64, little-endian) | key (32 bytes) | CRC-64/NVME of all before it (u64)
//! ```

use std::fs::{self, File};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crc_fast::{CrcAlgorithm, Digest as Crc};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};
use tempfile::NamedTempFile;

use crate::digest::Digest;

const MAGIC: [u8; 8] = *b"CWSPAN01";
/// Bytes of a trailer.
pub(super) const TRAILER: usize = 8 + 8 + 32 + 8;
/// Bytes read at a time while an entry is looked at.
const BUFFER: usize = 256 << 10;

/// An entry whose bytes were found to be what its trailer says.
#[derive(Debug)]
pub struct Entry {
    /// Locked, shared, for as long as it is open.
    pub(super) file: File,
    length: u64,
}

impl Entry {
    /// Opens an entry of `length` bytes, if that is known. `None`: it is not there. What is no such
    /// entry is an error of the kind `InvalidData`.
    pub(super) fn open(path: &Path, key: &Digest, length: Option<u64>) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        // Whoever has it exclusively is about to remove it.
        if file.try_lock_shared().is_err() {
            return Ok(None);
        }
        let length = check(&file, key, length)?;
        touch(&file);
        Ok(Some(Self { file, length }))
    }

    /// Bytes of the entry.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Fills `buffer` from `offset` on.
    pub fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.length) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buffer, offset)
    }
}

/// Opened last is evicted last. A cache that can only be read is not evicted from here.
pub(super) fn touch(file: &File) {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let keep = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let _ = futimens(file, &Timestamps { last_access: keep, last_modification: now });
}

/// Looks at every byte of an entry; gives how many there are without the trailer.
fn check(file: &File, key: &Digest, expected: Option<u64>) -> io::Result<u64> {
    let invalid = |detail: String| Err(io::Error::new(ErrorKind::InvalidData, detail));
    let size = file.metadata()?.len();
    let length = size.checked_sub(TRAILER as u64);
    let Some(length) = length.filter(|length| expected.is_none_or(|known| *length == known)) else {
        return invalid(format!("expected {expected:?} bytes and a trailer, found {size} bytes"));
    };
    let mut trailer = [0; TRAILER];
    file.read_exact_at(&mut trailer, length)?;
    check_bytes(file, key, length, &trailer)?;
    Ok(length)
}

/// Whether the first `length` bytes of a file are those that a trailer was made of.
pub(super) fn check_bytes(
    file: &File,
    key: &Digest,
    length: u64,
    trailer: &[u8; TRAILER],
) -> io::Result<()> {
    let invalid = |detail: &str| Err(io::Error::new(ErrorKind::InvalidData, detail));
    let (said, sum) = trailer.split_at(TRAILER - 8);
    if said != head(length, key) {
        return invalid("its trailer is another entry's, or none");
    }
    let mut crc = Crc::new(CrcAlgorithm::Crc64Nvme);
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    while at < length {
        let count = usize::try_from(length - at).map_or(BUFFER, |left| left.min(BUFFER));
        file.read_exact_at(&mut buffer[..count], at)?;
        crc.update(&buffer[..count]);
        at += count as u64;
    }
    crc.update(said);
    if sum != crc.finalize().to_le_bytes() {
        return invalid("its checksum is wrong");
    }
    Ok(())
}

/// The trailer without the checksum.
fn head(length: u64, key: &Digest) -> [u8; TRAILER - 8] {
    let mut head = [0; TRAILER - 8];
    head[..8].copy_from_slice(&MAGIC);
    head[8..16].copy_from_slice(&length.to_le_bytes());
    head[16..].copy_from_slice(key.as_bytes());
    head
}

/// An entry in the making; dropped before it is finished, it leaves nothing behind.
pub(super) struct Draft {
    out: BufWriter<NamedTempFile>,
    crc: Crc,
    length: u64,
    key: Digest,
}

impl Draft {
    pub(super) fn begin(temporary: &Path, key: &Digest) -> io::Result<Self> {
        let file = NamedTempFile::new_in(temporary)?;
        file.as_file().try_lock()?;
        let out = BufWriter::with_capacity(BUFFER, file);
        Ok(Self { out, crc: Crc::new(CrcAlgorithm::Crc64Nvme), length: 0, key: *key })
    }

    /// The entry appears at `path`, with its trailer behind its bytes.
    pub(super) fn finish(mut self, path: &Path) -> io::Result<()> {
        let trailer = self.trailer();
        self.out.write_all(&trailer)?;
        self.appear(path)
    }

    /// The trailer of what was written.
    pub(super) fn trailer(&mut self) -> [u8; TRAILER] {
        let head = head(self.length, &self.key);
        let mut crc = self.crc;
        crc.update(&head);
        let mut trailer = [0; TRAILER];
        trailer[..TRAILER - 8].copy_from_slice(&head);
        trailer[TRAILER - 8..].copy_from_slice(&crc.finalize().to_le_bytes());
        trailer
    }

    /// The file that is written to, with all that was written.
    pub(super) fn file(&mut self) -> io::Result<&File> {
        self.out.flush()?;
        Ok(self.out.get_ref().as_file())
    }

    /// What was written appears at `path`.
    pub(super) fn appear(self, path: &Path) -> io::Result<()> {
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        file.persist(path)?;
        Ok(())
    }
}

impl Write for Draft {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.crc.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
