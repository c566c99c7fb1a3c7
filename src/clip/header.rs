//! The fixed header (CONTRACT A.1): 54 bytes, little-endian, no checksum.

use std::ops::Range;

use super::error::ClipError;

/// Bytes of a header.
pub const LENGTH: usize = 54;

const START: [u8; 9] = *b"\x89CLIP\r\n\x1a\n";
const VERSION: u8 = 1;

/// Where the parts of an archive are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The index.
    pub index: Range<u64>,
    /// The storage info; `None` in local archives.
    pub storage: Option<Range<u64>>,
    /// What kind of storage info it is: `oci`, `s3` or nothing. Readers don't trust it.
    pub storage_type: &'static str,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let storage = self.storage.clone().unwrap_or(0..0);
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.extend_from_slice(&START);
        bytes.push(VERSION);
        for part in [&self.index, &storage] {
            bytes.extend_from_slice(&(part.end - part.start).to_le_bytes());
            bytes.extend_from_slice(&part.start.to_le_bytes());
        }
        bytes.extend_from_slice(self.storage_type.as_bytes());
        bytes.resize(LENGTH, 0);
        bytes
    }

    /// Reads a header of a file of `file_size` bytes, in which all that it points to must lie.
    pub fn decode(bytes: &[u8], file_size: u64) -> Result<Self, ClipError> {
        let Some(bytes) = bytes.get(..LENGTH) else {
            let detail = format!("expected a header of {LENGTH} bytes, found {}", bytes.len());
            return Err(ClipError::Header(detail));
        };
        if bytes[..9] != START {
            return Err(ClipError::Header("it does not start with CLIP's signature".into()));
        }
        if bytes[9] != VERSION {
            let detail = format!("expected format version {VERSION}, found {}", bytes[9]);
            return Err(ClipError::Header(detail));
        }
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            i64::from_le_bytes(number)
        };
        let [index_length, index_position, length, position] = [10, 18, 26, 34].map(number);
        let index = part("index", index_position, index_length, file_size)?;
        let storage = match length {
            0 => None,
            _ => Some(part("storage info", position, length, file_size)?),
        };
        let storage_type = match &bytes[42..54] {
            b"oci\0\0\0\0\0\0\0\0\0" => "oci",
            b"s3\0\0\0\0\0\0\0\0\0\0" => "s3",
            _ => "",
        };
        Ok(Self { index, storage, storage_type })
    }
}

fn part(
    part: &'static str,
    position: i64,
    length: i64,
    file_size: u64,
) -> Result<Range<u64>, ClipError> {
    let range = u64::try_from(position).ok().zip(u64::try_from(length).ok());
    let range = range.and_then(|(start, length)| Some(start..start.checked_add(length)?));
    match range {
        Some(range) if range.start >= LENGTH as u64 && range.end <= file_size => Ok(range),
        _ => {
            let detail = format!("the file has {file_size} bytes, {LENGTH} of them header");
            Err(ClipError::Bounds { part, position, length, detail })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const G4: &str = "89434c49500d0a1a0a010802000000000000360000000000000018050000000000003e02000000\
                      0000006f6369000000000000000000";

    #[test]
    fn the_golden_header() {
        let bytes = hex::decode(G4.replace(char::is_whitespace, "")).unwrap();
        let header = Header::decode(&bytes, 54 + 520 + 1304).unwrap();
        assert_eq!(header.index, 54..574);
        assert_eq!(header.storage, Some(574..1878));
        assert_eq!(header.storage_type, "oci");
        assert_eq!(header.encode(), bytes);
        assert_eq!(bytes.len(), LENGTH);
    }

    #[test]
    fn a_local_header_has_no_storage() {
        let header = Header { index: 100..200, storage: None, storage_type: "" };
        assert_eq!(Header::decode(&header.encode(), 200).unwrap(), header);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let bytes = hex::decode(G4.replace(char::is_whitespace, "")).unwrap();
        assert!(matches!(Header::decode(&bytes, 1877), Err(ClipError::Bounds { .. })));
        assert!(matches!(Header::decode(&bytes[..53], 1878), Err(ClipError::Header(_))));
        for (at, value) in [(0, 0), (9, 2)] {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            assert!(matches!(Header::decode(&bytes, 1878), Err(ClipError::Header(_))));
        }
        for at in [17, 25, 33, 41] {
            for value in [0x7f, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value; // the highest byte of a length or position
                assert!(Header::decode(&bytes, 1878).is_err(), "{at} {value}");
            }
        }
    }
}
