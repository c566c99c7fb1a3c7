//! Opening archives of every kind, our own and upstream's. Of a local v1 archive only the index
//! is read, never the data.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use super::error::ClipError;
use super::header::{self, Header};
use super::node::Node;
use super::storage_info::StorageInfo;
use super::tree::Tree;
use super::{MAX_V1_INDEX_BYTES, index_codec, storage_codec};

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
        let RawParts { header, index, storage, .. } = RawParts::open(file)?;
        Self::decode(header, &index, storage.as_deref())
    }

    /// Reads an archive from wherever it lies.
    pub fn read(archive: &mut (impl Read + Seek)) -> Result<Self, ClipError> {
        let Parts { header, mut nodes, special, storage, .. } = Parts::read(archive)?;
        nodes.extend(special);
        Ok(Self { tree: Tree::lenient(nodes)?, header, storage })
    }

    /// Puts an archive together from the bytes of its parts.
    pub fn decode(header: Header, index: &[u8], storage: Option<&[u8]>) -> Result<Self, ClipError> {
        let (mut nodes, special, storage) = decode(index, storage)?;
        nodes.extend(special);
        Ok(Self { tree: Tree::lenient(nodes)?, header, storage })
    }
}

/// What an archive says, before a tree is made of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Parts {
    /// Bytes of the file.
    pub size: u64,
    /// Where its parts are.
    pub header: Header,
    /// The index, in its own order.
    pub nodes: Vec<Node>,
    /// Devices and fifos, which stand in the storage info.
    pub special: Vec<Node>,
    /// Where the content lives.
    pub storage: StorageInfo,
}

impl Parts {
    /// Reads the parts from wherever they lie.
    pub fn read(archive: &mut (impl Read + Seek)) -> Result<Self, ClipError> {
        let RawParts { size, header, index, storage } = RawParts::read(archive)?;
        let (nodes, special, storage) = decode(&index, storage.as_deref())?;
        Ok(Self { size, header, nodes, special, storage })
    }
}

/// The bytes of an archive's parts, before it is known what they say.
#[derive(Debug, Clone, PartialEq)]
pub struct RawParts {
    /// Bytes of the file.
    pub size: u64,
    /// Where its parts are.
    pub header: Header,
    /// The index.
    pub index: Vec<u8>,
    /// The storage info, if it has one.
    pub storage: Option<Vec<u8>>,
}

impl RawParts {
    /// Reads the parts of an archive file.
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

    /// Reads the parts from wherever they lie.
    pub fn read(archive: &mut (impl Read + Seek)) -> Result<Self, ClipError> {
        let io = |source| ClipError::Io { what: "can't read the archive".into(), source };
        let size = archive.seek(SeekFrom::End(0)).map_err(io)?;
        let mut read = |range: Range<u64>| {
            let length = range.end - range.start;
            // That a v2 archive has to be smaller is for those who make one to see to.
            if length > MAX_V1_INDEX_BYTES {
                return Err(ClipError::TooLarge { size: length, limit: MAX_V1_INDEX_BYTES });
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
        Ok(Self { size, header, index, storage })
    }
}

/// The index's nodes, those of the storage info, and the rest of it.
fn decode(
    index: &[u8],
    storage: Option<&[u8]>,
) -> Result<(Vec<Node>, Vec<Node>, StorageInfo), ClipError> {
    let nodes = index_codec::decode(index)?;
    let (storage, special) = match storage {
        None => (StorageInfo::Local, Vec::new()),
        Some(bytes) => storage_codec::decode(bytes)?,
    };
    Ok((nodes, special, storage))
}
