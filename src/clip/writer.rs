//! Writing archives. The same tree and storage info give the same bytes.

use std::io::{Read, Seek, SeekFrom, Write};

use sha2::{Digest as _, Sha256};

use super::error::ClipError;
use super::header::{self, Header};
use super::node::{FileContent, Node, NodeKind};
use super::seek_table::{self, LayerSpans};
use super::storage_info::StorageInfo;
use super::tree::Tree;
use super::{MAX_INDEX_BYTES, index_codec, storage_codec};
use crate::digest::Digest;

/// Where whatever follows the header starts.
const START: u64 = header::LENGTH as u64;

/// The bytes of an archive that is all index: v2, or the `.rclip` of a v1 archive in S3.
pub fn index_archive(tree: &Tree, storage: &StorageInfo) -> Result<Vec<u8>, ClipError> {
    seekable_archive(tree, storage, &[])
}

/// The bytes of an archive that is all index, with a seek table for these layers, if there are any.
pub fn seekable_archive(
    tree: &Tree,
    storage: &StorageInfo,
    layers: &[LayerSpans<'_>],
) -> Result<Vec<u8>, ClipError> {
    let (index, special) = encode_index(tree, storage)?;
    let storage_bytes = storage_codec::encode(storage, &special);
    let end = START + index.len() as u64;
    let storage_end = end + storage_bytes.len() as u64;
    let table = if layers.is_empty() { Vec::new() } else { seek_table::encode(layers)? };
    let size = storage_end + table.len() as u64;
    if size > MAX_INDEX_BYTES {
        return Err(ClipError::TooLarge { size, limit: MAX_INDEX_BYTES });
    }
    let header = Header {
        index: START..end,
        storage: (!storage_bytes.is_empty()).then_some(end..storage_end),
        storage_type: storage_codec::type_name(storage),
    };
    Ok([header.encode(), index, storage_bytes, table].concat())
}

/// The index, and the nodes that don't go into it.
fn encode_index<'a>(
    tree: &'a Tree,
    storage: &StorageInfo,
) -> Result<(Vec<u8>, Vec<&'a Node>), ClipError> {
    let is_special = |node: &&Node| matches!(node.kind, NodeKind::Special(_));
    let (special, shown): (Vec<_>, Vec<_>) = tree.iter().partition(is_special);
    for node in &shown {
        let fits = match (&node.kind, storage) {
            (NodeKind::File(FileContent::Remote(_)), StorageInfo::Oci(_)) => true,
            (NodeKind::File(FileContent::Embedded { .. }), storage) => {
                !matches!(storage, StorageInfo::Oci(_))
            }
            (NodeKind::File(_), _) => false,
            _ => true,
        };
        if !fits {
            let detail = "its content is not where the storage info says that content is";
            return Err(ClipError::tree(&node.path, detail));
        }
    }
    match special.first() {
        Some(node) if !matches!(storage, StorageInfo::Oci(_)) => {
            Err(ClipError::tree(&node.path, "a v1 archive has no place for devices and fifos"))
        }
        _ => Ok((index_codec::encode(shown.into_iter()), special)),
    }
}

/// Writes a local v1 archive: content first, block by block, then the index (CONTRACT A.2, A.3).
#[derive(Debug)]
pub struct LocalWriter<W> {
    out: W,
    position: u64,
}

/// Type of the only kind of block there is.
const BLOCK_FILE: u8 = 0;

impl<W: Write + Seek> LocalWriter<W> {
    /// Starts an archive at the beginning of `out`.
    pub fn new(mut out: W) -> Result<Self, ClipError> {
        out.write_all(&[0; header::LENGTH]).map_err(write_error)?;
        Ok(Self { out, position: START })
    }

    /// Appends one file's content; the result belongs into its node.
    pub fn block(&mut self, mut content: impl Read) -> Result<FileContent, ClipError> {
        self.out.write_all(&[BLOCK_FILE]).map_err(write_error)?;
        let offset = self.position + 1;
        let (mut length, mut sha256) = (0_u64, Sha256::new());
        let mut crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64GoIso);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    let what = "can't read a file's content".into();
                    return Err(ClipError::Io { what, source });
                }
            };
            sha256.update(&buffer[..read]);
            crc.update(&buffer[..read]);
            self.out.write_all(&buffer[..read]).map_err(write_error)?;
            length += read as u64;
        }
        self.out.write_all(&crc.finalize().to_be_bytes()).map_err(write_error)?;
        self.position = offset + length + 8;
        Ok(FileContent::Embedded { offset, length, sha256: Some(Digest::from_hasher(sha256)) })
    }

    /// Appends the index and completes the header.
    pub fn finish(mut self, tree: &Tree) -> Result<W, ClipError> {
        let (index, _) = encode_index(tree, &StorageInfo::Local)?;
        let end = self.position + index.len() as u64;
        let header = Header { index: self.position..end, storage: None, storage_type: "" };
        self.out.write_all(&index).map_err(write_error)?;
        self.out.seek(SeekFrom::Start(0)).map_err(write_error)?;
        self.out.write_all(&header.encode()).map_err(write_error)?;
        self.out.flush().map_err(write_error)?;
        Ok(self.out)
    }
}

fn write_error(source: std::io::Error) -> ClipError {
    ClipError::Io { what: "can't write the archive".into(), source }
}

#[cfg(test)]
mod tests;
