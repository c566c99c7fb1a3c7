//! The beginnings of many small files of an archive: those that are neighbours in a layer are read at once.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::read::{LayerContent, open_layer};
use crate::clip::node::{FileContent, Node, NodeKind, RemoteRef};
use crate::clip::reader::Archive;
use crate::clip::storage_info::StorageInfo;
use crate::content::blocks::BlockData;
use crate::content::{ContentError, FileParts, ReadSettings, SpanReader};
use crate::digest::Digest;
use crate::oci::OciSettings;

/// No more plain bytes are read at once, unless one file is longer.
const PIECE: u64 = 8 << 20;
/// What lies between two files is read with them if it is no longer.
const GAP: u64 = 1 << 20;

/// A file of which something is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Beginning<'a> {
    /// The file.
    pub node: &'a Node,
    /// As many of its bytes, or all that there are.
    pub most: u64,
}

/// Where a beginning is in its layer.
struct Place {
    /// Which of those that were asked for.
    number: usize,
    plain: Range<u64>,
}

impl Beginning<'_> {
    fn length(&self) -> u64 {
        self.node.content_length().min(self.most)
    }

    fn remote(&self) -> Option<RemoteRef> {
        match &self.node.kind {
            NodeKind::File(FileContent::Remote(remote)) => Some(*remote),
            _ => None,
        }
    }
}

/// Of a v2 archive, a copy of which lies in `file`. Each is handed to `take` with its number, in whatever
/// order. Those in layers that can't be read at random are left out: so many.
pub(crate) async fn of_layers(
    file: &Path,
    archive: &Archive,
    wanted: &[Beginning<'_>],
    oci: &OciSettings,
    cancel: &CancellationToken,
    take: &mut (dyn FnMut(usize, Bytes) + Send),
) -> Result<usize, ContentError> {
    let StorageInfo::Oci(image) = &archive.storage else { return Ok(wanted.len()) };
    let mut layers: BTreeMap<Digest, (RemoteRef, Vec<Place>)> = BTreeMap::new();
    let mut left_out = 0;
    for (number, beginning) in wanted.iter().enumerate() {
        match beginning.remote() {
            _ if beginning.length() == 0 => take(number, Bytes::new()),
            Some(remote) => {
                let plain = remote.offset..remote.offset.saturating_add(beginning.length());
                let (_, places) = layers.entry(remote.layer).or_insert((remote, Vec::new()));
                places.push(Place { number, plain });
            }
            None => left_out += 1,
        }
    }
    for (remote, mut places) in layers.into_values() {
        let settings = ReadSettings { oci: oci.clone(), ..ReadSettings::default() };
        let opened = open_layer(file, archive, image, remote, settings).await?;
        let LayerContent { spans: Some(spans), .. } = opened else {
            left_out += places.len();
            continue;
        };
        places.sort_by_key(|place| place.plain.start);
        for piece in pieces(&places) {
            left_out += read(&spans, piece, cancel, take).await?;
        }
    }
    Ok(left_out)
}

/// Of a v1 archive, whose data are `data`; as [`of_layers`].
pub(crate) async fn of_blocks(
    data: &BlockData,
    wanted: &[Beginning<'_>],
    cancel: &CancellationToken,
    take: &mut (dyn FnMut(usize, Bytes) + Send),
) -> Result<usize, ContentError> {
    for (number, beginning) in wanted.iter().enumerate() {
        let mut parts = FileParts::of_block(data, beginning.node, cancel).await?;
        take(number, parts.read(0, beginning.length(), cancel).await?);
    }
    Ok(0)
}

/// Those that are read at once: `places` are in their order.
fn pieces(places: &[Place]) -> impl Iterator<Item = &[Place]> {
    let mut rest = places;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let mut end = first.plain.end;
        let together = rest.iter().take_while(|place| {
            let is_near = place.plain.start <= end.saturating_add(GAP)
                && place.plain.end.saturating_sub(first.plain.start) <= PIECE;
            end = end.max(place.plain.end);
            is_near
        });
        let (piece, others) = rest.split_at(together.count().max(1));
        rest = others;
        Some(piece)
    })
}

async fn read(
    spans: &SpanReader,
    piece: &[Place],
    cancel: &CancellationToken,
    take: &mut (dyn FnMut(usize, Bytes) + Send),
) -> Result<usize, ContentError> {
    let start = piece.first().map_or(0, |first| first.plain.start);
    let end = piece.iter().map(|place| place.plain.end).max().unwrap_or(start);
    if !spans.is_seekable(&(start..end)) {
        return Ok(piece.len());
    }
    let bytes = spans.read(start..end, cancel).await?;
    let within = |at: u64| usize::try_from(at - start).unwrap_or(usize::MAX).min(bytes.len());
    for Place { number, plain } in piece {
        take(*number, bytes.slice(within(plain.start)..within(plain.end)));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_read_together() {
        let of = |ranges: &[Range<u64>]| -> Vec<usize> {
            let places = ranges.iter().cloned().enumerate();
            let places: Vec<_> = places.map(|(number, plain)| Place { number, plain }).collect();
            pieces(&places).map(<[Place]>::len).collect()
        };
        assert_eq!(of(&[]), Vec::<usize>::new());
        assert_eq!(of(&[0..10, 5..20, 20..30]), [3]);
        assert_eq!(of(&[0..10, 10 + GAP..11 + GAP, 12 + 2 * GAP..13 + 2 * GAP]), [2, 1]);
        let large = 0..PIECE + 1;
        assert_eq!(of(&[large.clone(), large, PIECE..PIECE + 2]), [1, 1, 1]);
    }
}
