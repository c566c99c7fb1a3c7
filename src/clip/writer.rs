//! Writing archives. The same tree and storage info give the same bytes.

use std::io::Write;

use sha2::{Digest as _, Sha256};

use super::error::ClipError;
use super::header::{self, Header};
use super::node::{FileContent, Node, NodeKind};
use super::seek_table::{self, LayerSpans};
use super::storage_info::StorageInfo;
use super::tree::Tree;
use super::{MAX_INDEX_BYTES, MAX_V1_INDEX_BYTES, index_codec, storage_codec};
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
    let (mut archive, special) = encode_index(vec![0; header::LENGTH], tree, storage)?;
    let end = archive.len() as u64;
    let storage_bytes = storage_codec::encode(storage, &special);
    archive.extend_from_slice(&storage_bytes);
    let storage_end = archive.len() as u64;
    if !layers.is_empty() {
        archive.append(&mut seek_table::encode(layers)?);
    }
    let size = archive.len() as u64;
    let limit = match storage {
        StorageInfo::Oci(_) => MAX_INDEX_BYTES,
        StorageInfo::Local | StorageInfo::S3(_) => MAX_V1_INDEX_BYTES,
    };
    if size > limit {
        return Err(ClipError::TooLarge { size, limit });
    }
    let header = Header {
        index: START..end,
        storage: (!storage_bytes.is_empty()).then_some(end..storage_end),
        storage_type: storage_codec::type_name(storage),
    };
    archive[..header::LENGTH].copy_from_slice(&header.encode());
    Ok(archive)
}

/// Appends the index to `bytes`; gives the nodes that don't go into it, too.
fn encode_index<'a>(
    bytes: Vec<u8>,
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
        _ => Ok((index_codec::encode(bytes, &shown), special)),
    }
}

/// Writes a local v1 archive: content first, block by block, then the index (CONTRACT A.2, A.3).
///
/// The header, which says where the index is, is known last and stands first: `out` gets zeros in
/// its place, and whoever owns `out` puts it there in the end.
#[derive(Debug)]
pub struct LocalWriter<W> {
    out: W,
    position: u64,
    block: Option<Block>,
}

/// The file whose content is being written.
#[derive(Debug)]
struct Block {
    offset: u64,
    sha256: Sha256,
    crc: crc_fast::Digest,
}

/// A v1 archive that is whole but for its header.
#[derive(Debug)]
pub struct FinishedArchive<W> {
    /// Where it went; not flushed.
    pub out: W,
    /// Replaces the zeros at the start.
    pub head: Vec<u8>,
    /// Bytes of the archive, the header included.
    pub size: u64,
    /// SHA-256 of the header and the index. The index holds the SHA-256 of each file, so that this
    /// names the whole archive, and at the cost of its smallest part.
    pub digest: Digest,
}

/// Type of the only kind of block there is.
const BLOCK_FILE: u8 = 0;

impl<W: Write> LocalWriter<W> {
    /// Starts an archive at the beginning of `out`.
    pub fn new(mut out: W) -> std::io::Result<Self> {
        out.write_all(&[0; header::LENGTH])?;
        Ok(Self { out, position: START, block: None })
    }

    /// Begins one file's content; [`Self::bytes`] and [`Self::end`] follow.
    pub fn begin(&mut self) -> std::io::Result<()> {
        self.out.write_all(&[BLOCK_FILE])?;
        self.position += 1;
        let crc = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64GoIso);
        self.block = Some(Block { offset: self.position, sha256: Sha256::new(), crc });
        Ok(())
    }

    /// Appends to the file's content.
    pub fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let block = self.block.as_mut().ok_or_else(no_block)?;
        block.sha256.update(bytes);
        block.crc.update(bytes);
        self.out.write_all(bytes)?;
        self.position += bytes.len() as u64;
        Ok(())
    }

    /// Ends the file's content; the result belongs into its node.
    pub fn end(&mut self) -> std::io::Result<FileContent> {
        let Block { offset, sha256, crc } = self.block.take().ok_or_else(no_block)?;
        let length = self.position - offset;
        self.out.write_all(&crc.finalize().to_be_bytes())?;
        self.position += 8;
        Ok(FileContent::Embedded { offset, length, sha256: Some(Digest::from_hasher(sha256)) })
    }

    /// Appends one file's whole content.
    pub fn block(&mut self, content: &[u8]) -> std::io::Result<FileContent> {
        self.begin()?;
        self.bytes(content)?;
        self.end()
    }

    /// Bytes so far, the header included.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Appends the index.
    pub fn finish(mut self, tree: &Tree) -> Result<FinishedArchive<W>, ClipError> {
        let (index, _) = encode_index(Vec::new(), tree, &StorageInfo::Local)?;
        let size = self.position + index.len() as u64;
        let header = Header { index: self.position..size, storage: None, storage_type: "" };
        self.out
            .write_all(&index)
            .map_err(|source| ClipError::Io { what: "can't write the archive".into(), source })?;
        let head = header.encode();
        let digest = Digest::from_hasher(Sha256::new().chain_update(&head).chain_update(&index));
        Ok(FinishedArchive { out: self.out, head, size, digest })
    }
}

fn no_block() -> std::io::Error {
    std::io::Error::other("no file was begun")
}

#[cfg(test)]
mod tests;
