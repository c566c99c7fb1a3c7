//! The data of a v1 archive: where blocks are and, for the deep way, every byte of them.

use std::ops::Range;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::archive::ArchiveError;
use crate::clip::check::Check;
use crate::clip::reader::Parts;
use crate::clip::storage_info::StorageInfo;
use crate::content::ContentError;
use crate::content::blocks::{Block, BlockData, BlockReader};
use crate::content::read::ReadSettings;

/// How many bytes of data there are; `None` if that would take the S3 object, and `reach` is not
/// allowed.
pub(super) async fn size(
    file: &Path,
    storage: &StorageInfo,
    settings: &ReadSettings,
    reach: bool,
) -> Result<Option<u64>, ArchiveError> {
    if matches!(storage, StorageInfo::S3(_)) && !reach {
        return Ok(None);
    }
    match BlockData::open(file, storage, &settings.s3).await? {
        Some(data) => Ok(Some(data.size().await?)),
        None => Ok(None),
    }
}

/// Blocks are inside the data, none in another one, none in the archive's own index.
pub(super) fn blocks(parts: &Parts, size: Option<u64>) -> Check {
    let mut check = Check::new("blocks", "blocks");
    let blocks = all(parts);
    check.checked = blocks.len() as u64;
    let index = match parts.storage {
        StorageInfo::Local => parts.header.index.clone(),
        _ => 0..0,
    };
    let mut before: Option<(&Block, Range<u64>)> = None;
    for block in &blocks {
        let extent = match block.extent(size.unwrap_or(i64::MAX as u64)) {
            Ok(extent) => extent,
            Err(error) => {
                check.error(error.to_string());
                continue;
            }
        };
        if extent.start < index.end && index.start < extent.end {
            check.error(format!("{}: its block {extent:?} overlaps the index", block.path));
        }
        if let Some((other, place)) = &before
            && extent.start < place.end
        {
            let (path, other) = (&block.path, &other.path);
            check.error(format!("{path}: its block {extent:?} overlaps that of {other}"));
        }
        before = Some((block, extent));
    }
    check
}

/// Every block's type, CRC-64 and SHA-256.
pub(super) async fn content(
    file: &Path,
    parts: &Parts,
    settings: &ReadSettings,
    cancel: &CancellationToken,
) -> Result<Check, ArchiveError> {
    let mut check = Check::new("content", "blocks");
    let Some(data) = BlockData::open(file, &parts.storage, &settings.s3).await? else {
        return Ok(check);
    };
    let size = data.size().await?;
    // What lies outside or in another block was found before, and can't be read in order.
    let mut end = 0;
    let (blocks, extents): (Vec<Block>, Vec<Range<u64>>) = all(parts)
        .into_iter()
        .filter_map(|block| {
            let extent = block.extent(size).ok().filter(|extent| extent.start >= end)?;
            end = extent.end;
            Some((block, extent))
        })
        .unzip();
    let read = move |mut reader: BlockReader| {
        for block in &blocks {
            check.checked += 1;
            match reader.block(block, &mut |_| Ok(())) {
                Err(bad @ ContentError::Block { .. }) => check.error(bad.to_string()),
                read => drop(read?),
            }
            if block.sha256.is_none() {
                check.warning(format!("{}: the index has no SHA-256 of it", block.path));
            }
        }
        Ok(check)
    };
    Ok(data.read(&extents, cancel, read).await?)
}

fn all(parts: &Parts) -> Vec<Block> {
    Block::all(parts.nodes.iter())
}
