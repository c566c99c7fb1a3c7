//! Opening archives of every kind, our own and upstream's. Of a local v1 archive only the index
//! is read, never the data.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use super::error::ClipError;
use super::header::{self, Header};
use super::storage_info::StorageInfo;
use super::tree::Tree;
use super::{MAX_INDEX_BYTES, index_codec, storage_codec};

/// An archive's structure, in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Archive {
    /// Where its parts are.
    pub header: Header,
    /// The files; taken as leniently as upstream's reader takes them ([`Tree::lenient`]).
    pub tree: Tree,
    /// Where the content lives.
    pub storage: StorageInfo,
}

impl Archive {
    /// Opens an archive file.
    pub fn open(file: &Path) -> Result<Self, ClipError> {
        let what = || format!("can't read {}", file.display());
        let mut archive =
            File::open(file).map_err(|source| ClipError::Io { what: what(), source })?;
        Self::read(&mut archive).map_err(|error| match error {
            ClipError::Io { source, .. } => ClipError::Io { what: what(), source },
            ClipError::Header(detail) => ClipError::Header(format!("{}: {detail}", file.display())),
            error => error,
        })
    }

    /// Reads an archive from wherever it lies.
    pub fn read(archive: &mut (impl Read + Seek)) -> Result<Self, ClipError> {
        let io = |source| ClipError::Io { what: "can't read the archive".into(), source };
        let size = archive.seek(SeekFrom::End(0)).map_err(io)?;
        let mut read = |range: Range<u64>| {
            let length = range.end - range.start;
            if length > MAX_INDEX_BYTES {
                return Err(ClipError::TooLarge { size: length, limit: MAX_INDEX_BYTES });
            }
            // The header keeps `length` within the file's size.
            let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
            archive.seek(SeekFrom::Start(range.start)).map_err(io)?;
            archive.take(length).read_to_end(&mut bytes).map_err(io)?;
            if bytes.len() as u64 == length {
                Ok(bytes)
            } else {
                Err(io(std::io::ErrorKind::UnexpectedEof.into()))
            }
        };
        let header = Header::decode(&read(0..size.min(header::LENGTH as u64))?, size)?;
        let index = read(header.index.clone())?;
        let storage = header.storage.clone().map(read).transpose()?;
        Self::decode(header, &index, storage.as_deref())
    }

    /// Puts an archive together from the bytes of its parts.
    pub fn decode(header: Header, index: &[u8], storage: Option<&[u8]>) -> Result<Self, ClipError> {
        let mut nodes = index_codec::decode(index)?;
        let storage = match storage {
            None => StorageInfo::Local,
            Some(bytes) => {
                let (storage, special) = storage_codec::decode(bytes)?;
                nodes.extend(special);
                storage
            }
        };
        Ok(Self { tree: Tree::lenient(nodes)?, header, storage })
    }
}
