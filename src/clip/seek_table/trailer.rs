//! The trailer: the last bytes of the file. Its shape is the same in every version.

use super::section::wrong;
use crate::clip::ClipError;
use crate::clip::fields::Fields;
use crate::digest::Digest;

/// What a file with a table ends with.
const MAGIC: [u8; 8] = *b"CWSEEKTE";

/// Where the table and its directory begin.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Trailer {
    /// The directory's digest.
    pub(super) directory: Digest,
    /// Bytes of the table, from its head to the end of the file.
    pub(super) table_length: u64,
    /// Bytes of the directory, which ends where the trailer begins.
    pub(super) directory_length: u32,
    /// The version of everything before.
    pub(super) version: u32,
}

impl Trailer {
    /// Bytes of a trailer: 48 of fields, their SHA-256, the magic.
    pub(super) const LENGTH: usize = 48 + 32 + 8;

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.directory.as_bytes().to_vec();
        bytes.extend_from_slice(&self.table_length.to_le_bytes());
        bytes.extend_from_slice(&self.directory_length.to_le_bytes());
        bytes.extend_from_slice(&self.version.to_le_bytes());
        let checksum = Digest::of(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes.extend_from_slice(&MAGIC);
        bytes
    }

    /// Reads a file's last bytes; `None` if they don't end as a trailer does.
    pub(super) fn decode(bytes: &[u8]) -> Result<Option<Self>, ClipError> {
        if !bytes.ends_with(&MAGIC) {
            return Ok(None);
        }
        let mut fields = Fields(bytes);
        let mut take = || {
            let trailer = Self {
                directory: fields.digest()?,
                table_length: fields.u64()?,
                directory_length: fields.u32()?,
                version: fields.u32()?,
            };
            Some((trailer, fields.digest()?))
        };
        match take() {
            Some((trailer, checksum)) if checksum == Digest::of(&bytes[..48]) => Ok(Some(trailer)),
            Some(_) => Err(wrong("trailer", "its checksum does not match")),
            None => {
                let (expected, found) = (Self::LENGTH, bytes.len());
                Err(wrong("trailer", format!("expected {expected} bytes, found {found}")))
            }
        }
    }
}
