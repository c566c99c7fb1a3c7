//! A part of a layer by its spans: the bytes that hold it are fetched by Range, verified span by
//! span, and only then inflated. Nothing else of the layer is asked for.

use std::fs::File;
use std::io::Write;
use std::ops::Range;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::ArchiveError;
use crate::clip::seek_table::SpanIndex;
use crate::digest::Digest;
use crate::gzip::{Engine, GzipError, GzipReader};
use crate::layer::at_most;
use crate::oci::Source;

/// Neighbouring spans are fetched together up to so many compressed bytes, which are in memory.
const BATCH: u64 = 8 << 20;

/// A layer whose spans are known.
pub(super) struct SpannedLayer<'a> {
    /// Where its bytes are.
    pub(super) source: &'a Source,
    /// Digest of the compressed layer.
    pub(super) digest: Digest,
    /// Its compressed bytes.
    pub(super) size: u64,
    /// Its spans.
    pub(super) spans: &'a SpanIndex,
}

impl SpannedLayer<'_> {
    /// Copies the plain bytes in `range` to `out`; windows come out of the open `archive`.
    pub(super) async fn copy(
        &self,
        archive: &mut File,
        range: Range<u64>,
        out: &mut (impl Write + Send),
        cancel: &CancellationToken,
    ) -> Result<(), ArchiveError> {
        if range.is_empty() {
            return Ok(());
        }
        let found = self.spans.find(range.start).zip(self.spans.find(range.end - 1));
        let Some((first, last)) = found else {
            let detail = format!("bytes {}..{} are past its end", range.start, range.end);
            return Err(self.broken(self.spans.entries().len(), detail));
        };
        let checkpoint = self.spans.checkpoint(first, archive)?;
        let mut skip = range.start - checkpoint.plain;
        let mut want = range.end - range.start;
        let mut reader = None;
        let mut fed = 0; // the end of what was inflated: neighbours may share a byte
        let mut next = first;
        while next <= last && want > 0 {
            let batch = next..self.batch_end(next, last);
            let bytes = self.fetch(batch.clone(), cancel).await?;
            let start = self.spans.entries()[batch.start].compressed.start;
            // Inflating borrows nothing across an await: its state need not be `Send` then.
            let unread = at_most(bytes.len(), u64::saturating_sub(fed, start));
            fed = start + bytes.len() as u64;
            let resumed = match reader.take() {
                Some(reader) => reader,
                None => GzipReader::resume(&checkpoint, Engine::default())
                    .map_err(|e| self.unreadable(first, &e))?,
            };
            let reader = reader.insert(resumed);
            let mut input = &bytes[unread..];
            while want > 0 {
                let plain =
                    reader.next(&mut input).map_err(|e| self.unreadable(batch.start, &e))?;
                let Some(plain) = plain else { break };
                let skipped = at_most(plain.len(), skip);
                skip -= skipped as u64;
                let taken = at_most(plain.len() - skipped, want);
                want -= taken as u64;
                out.write_all(&plain[skipped..skipped + taken]).map_err(|source| {
                    ArchiveError::Io { what: "can't keep the content".into(), source }
                })?;
            }
            next = batch.end;
        }
        if want > 0 {
            return Err(self.broken(last, format!("it ends {want} bytes before its table says")));
        }
        Ok(())
    }

    /// The end of the batch that begins at span `first`: always one span, more while they are small.
    fn batch_end(&self, first: usize, last: usize) -> usize {
        let entries = self.spans.entries();
        let fits =
            |at: usize| entries[at].compressed.end - entries[first].compressed.start <= BATCH;
        (first + 1..=last).take_while(|at| fits(*at)).last().unwrap_or(first) + 1
    }

    /// The compressed bytes of neighbouring spans, each found to be what the table says.
    async fn fetch(
        &self,
        batch: Range<usize>,
        cancel: &CancellationToken,
    ) -> Result<Bytes, ArchiveError> {
        let entries = &self.spans.entries()[batch.clone()];
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(Bytes::new());
        };
        let (start, end) = (first.compressed.start, last.compressed.end);
        let bytes =
            self.source.blob_range(&self.digest, self.size, start, end - start, cancel).await?;
        for (span, entry) in batch.zip(entries) {
            let [from, to] = [entry.compressed.start, entry.compressed.end]
                .map(|at| at_most(bytes.len(), at - start));
            let found = Digest::of(&bytes[from..to]);
            if found != entry.digest {
                let (layer, expected) = (self.digest, entry.digest);
                return Err(ArchiveError::SpanDigest { layer, span, expected, found });
            }
        }
        Ok(bytes)
    }

    fn unreadable(&self, span: usize, error: &GzipError) -> ArchiveError {
        self.broken(span, error.to_string())
    }

    fn broken(&self, span: usize, detail: String) -> ArchiveError {
        ArchiveError::Span { layer: self.digest, span, detail }
    }
}
