//! Files out of a layer by its spans: when few files of a layer are wanted, only what holds them is
//! fetched, each span found to be what the seek table says.

use std::collections::{BTreeSet, VecDeque};
use std::io::{self, Write};
use std::ops::Range;

use super::files::{Failure, Files};
use super::plan::{InodeId, Plan, WantedFiles};
use crate::clip::seek_table::SpanIndex;
use crate::content::ContentError;

/// The content of a file in its layer, and whose it is.
pub(super) struct Piece {
    pub(super) range: Range<u64>,
    pub(super) inodes: Vec<InodeId>,
}

/// What is wanted, in the order of the layer. A layer's files don't overlap, and each has one length.
pub(super) fn pieces(plan: &Plan, wanted: &WantedFiles) -> Result<Vec<Piece>, ContentError> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (offset, inodes) in wanted {
        for inode in inodes {
            let node = plan.first(*inode);
            let end = offset.saturating_add(node.content_length());
            let wrong =
                |detail: String| Err(ContentError::Claim { path: node.path.to_string(), detail });
            if node.attr.size != node.content_length() {
                return wrong(format!("its size is {}, not its content's", node.attr.size));
            }
            match pieces.last_mut() {
                Some(last) if last.range == (*offset..end) => last.inodes.push(*inode),
                Some(last) if last.range.end > *offset => {
                    return wrong(format!("its content at {offset} overlaps another file's"));
                }
                _ => pieces.push(Piece { range: *offset..end, inodes: vec![*inode] }),
            }
        }
    }
    Ok(pieces)
}

/// Pieces that are best read together, as their spans are neighbours; `None` if reading the whole
/// layer, of `size` bytes, takes hardly more, or if a piece is in no span.
pub(super) fn runs(pieces: Vec<Piece>, spans: &SpanIndex, size: u64) -> Option<Vec<Vec<Piece>>> {
    let mut needed = BTreeSet::new();
    let mut runs: Vec<Vec<Piece>> = Vec::new();
    for piece in pieces {
        let first = spans.find(piece.range.start)?;
        let last = spans.find(piece.range.end.checked_sub(1)?)?;
        let near = needed.last().is_some_and(|before| first <= before + 1);
        needed.extend(first..=last);
        match runs.last_mut() {
            Some(run) if near => run.push(piece),
            _ => runs.push(vec![piece]),
        }
    }
    let bytes = needed.iter().map(|span| {
        let compressed = &spans.entries()[*span].compressed;
        compressed.end - compressed.start
    });
    (bytes.sum::<u64>() <= size / 2).then_some(runs)
}

/// Takes the plain bytes of a run, and makes its files of them.
pub(super) struct Split<'a> {
    files: &'a mut Files,
    pieces: VecDeque<Piece>,
    position: u64,
    failure: Failure,
}

impl<'a> Split<'a> {
    /// The plain bytes that are to be written to the rest.
    pub(super) fn new(
        files: &'a mut Files,
        run: Vec<Piece>,
        failure: Failure,
    ) -> (Range<u64>, Self) {
        let start = run.first().map_or(0, |piece| piece.range.start);
        let end = run.last().map_or(0, |piece| piece.range.end);
        (start..end, Self { files, pieces: run.into(), position: start, failure })
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), ContentError> {
        while let Some(piece) = self.pieces.front_mut()
            && !bytes.is_empty()
        {
            let have = bytes.len() as u64;
            if let Some(gap) = piece.range.start.checked_sub(self.position).filter(|gap| *gap > 0) {
                let skipped = gap.min(have);
                self.position += skipped;
                bytes = &bytes[usize::try_from(skipped).unwrap_or(bytes.len())..];
                continue;
            }
            if self.position == piece.range.start {
                self.files.begin(std::mem::take(&mut piece.inodes))?;
            }
            let taken = (piece.range.end - self.position).min(have);
            let (ours, rest) = bytes.split_at(usize::try_from(taken).unwrap_or(bytes.len()));
            self.files.write(ours)?;
            self.position += taken;
            bytes = rest;
            if self.position == piece.range.end {
                self.files.end()?;
                self.pieces.pop_front();
            }
        }
        Ok(())
    }
}

impl Write for Split<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = self.take(bytes);
        self.failure.keep(taken).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
