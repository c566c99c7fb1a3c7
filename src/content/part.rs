//! Parts of a file's content, as they are asked for: by spans where the archive has a way in, else out of
//! a copy that was verified as a whole before.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use tempfile::SpooledTempFile;
use tokio_util::sync::CancellationToken;

use super::read::{LayerContent, from_block, layer_content, open_layer};
use crate::clip::node::{FileContent, Node, NodeKind};
use crate::clip::reader::Archive;
use crate::clip::storage_info::StorageInfo;
use crate::content::blocks::{Block, BlockData};
use crate::content::{ContentError, ReadSettings, SpanReader};
use crate::local::{blocking, io_error};

/// One file's content.
#[derive(Debug)]
pub struct FileParts {
    length: u64,
    way: Way,
}

/// How to get at it.
#[derive(Debug)]
enum Way {
    /// There is nothing to get.
    Empty,
    /// In a layer, from here on.
    Spans { spans: SpanReader, start: u64 },
    /// In a copy.
    Copy(Option<SpooledTempFile>),
}

impl FileParts {
    /// Of a v1 archive, whose data are `data`.
    pub(crate) async fn of_block(
        data: &BlockData,
        node: &Node,
        cancel: &CancellationToken,
    ) -> Result<Self, ContentError> {
        let way = match Block::of(node) {
            Some(block) => Way::Copy(Some(from_block(data, block, cancel).await?)),
            None => Way::Empty,
        };
        Ok(Self { length: node.content_length(), way })
    }

    /// Of a v2 archive, a copy of which lies in `file`.
    pub(crate) async fn of_layer(
        file: &Path,
        archive: &Archive,
        node: &Node,
        settings: ReadSettings,
        cancel: &CancellationToken,
    ) -> Result<Self, ContentError> {
        let length = node.content_length();
        let (NodeKind::File(FileContent::Remote(remote)), StorageInfo::Oci(image)) =
            (&node.kind, &archive.storage)
        else {
            let (path, detail) = (node.path.to_string(), super::read::MISPLACED.to_owned());
            return Err(ContentError::NotAFile { path, detail });
        };
        if length == 0 {
            return Ok(Self { length, way: Way::Empty });
        }
        let layer = open_layer(file, archive, image, *remote, settings).await?;
        let way = match layer {
            LayerContent { spans: Some(spans), .. } => Way::Spans { spans, start: remote.offset },
            layer => Way::Copy(Some(layer_content(layer, *remote, cancel).await?)),
        };
        Ok(Self { length, way })
    }

    /// How many bytes there are.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// `length` bytes from `offset`, or as many as there are.
    pub async fn read(
        &mut self,
        offset: u64,
        length: u64,
        cancel: &CancellationToken,
    ) -> Result<Bytes, ContentError> {
        let end = offset.saturating_add(length).min(self.length);
        let start = offset.min(end);
        match &mut self.way {
            Way::Empty => Ok(Bytes::new()),
            Way::Spans { spans, start: first } => {
                spans.read(*first + start..*first + end, cancel).await
            }
            Way::Copy(copy) => {
                // Given away while it is read; a read that was given up has lost it.
                let Some(mut file) = copy.take() else { return Err(ContentError::Cancelled) };
                let read = move || {
                    let mut bytes = Vec::new();
                    file.seek(SeekFrom::Start(start))?;
                    file.by_ref().take(end - start).read_to_end(&mut bytes)?;
                    Ok((file, bytes))
                };
                let (file, bytes) = blocking(read).await?.map_err(io_error("can't read a copy"))?;
                *copy = Some(file);
                Ok(bytes.into())
            }
        }
    }
}
