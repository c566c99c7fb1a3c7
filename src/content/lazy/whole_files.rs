//! Files of a layer as files of the cache: the kernel can read those past us.

use std::io::{self, Write};
use std::ops::Range;

use super::{AtHand, LazyLayer};
use crate::content::ContentError;
use crate::content::span_cache::WholeFile;
use crate::digest::Digest;

impl LazyLayer {
    /// The plain bytes in `range` as a file, if [`keep_file`](Self::keep_file) has made it, on this
    /// machine at any time. Blocks: may read all of it.
    pub fn file(&self, range: &Range<u64>) -> Option<WholeFile> {
        let key = self.file_key(range)?;
        self.0.shared.cache()?.file(&key, range.end - range.start)
    }

    /// Keeps the plain bytes in `range` as a file, if every span of them is in the cache on disk and nobody has done
    /// or does so. An error: it can't be kept. Blocks.
    pub fn keep_file(&self, range: &Range<u64>) -> io::Result<()> {
        let Some((cache, key)) = self.0.shared.cache().zip(self.file_key(range)) else {
            return Ok(());
        };
        let Ok(spans) = self.holding(range) else { return Ok(()) };
        let is_kept = |span| self.0.key(span).is_some_and(|key| cache.contains(&key));
        if !spans.clone().all(is_kept) {
            return Ok(());
        }
        // Another process may be at it: one is enough.
        let Some(_claim) = cache.claim(&key) else { return Ok(()) };
        if self.file(range).is_some() {
            return Ok(());
        }
        cache.put_file(&key, range.end - range.start, |out| {
            spans.into_iter().try_for_each(|span| self.write(span, range, out))
        })
    }

    /// Writes what of `range` is in `span`, which is kept.
    fn write(&self, span: usize, range: &Range<u64>, out: &mut dyn Write) -> io::Result<()> {
        let gone = || io::Error::new(io::ErrorKind::NotFound, "a span was evicted meanwhile");
        let entry = &self.0.reader.spans().entries()[span];
        let found = self
            .0
            .key(span)
            .zip(self.0.shared.cache())
            .and_then(|(key, cache)| cache.get(&key, entry.plain.end - entry.plain.start));
        let mut bytes = Vec::new();
        self.0
            .append(span, &AtHand::Disk(found.ok_or_else(gone)?), range, &mut bytes)
            .map_err(|error: ContentError| io::Error::other(error.to_string()))?;
        out.write_all(&bytes)
    }

    /// A digest of all that the bytes in `range` follow from.
    fn file_key(&self, range: &Range<u64>) -> Option<Digest> {
        let spans = self.holding(range).ok()?;
        let start = self.0.reader.spans().entries().get(spans.start)?.plain.start;
        let mut of = b"clipwright file\0".to_vec();
        of.extend_from_slice(&range.start.checked_sub(start)?.to_le_bytes());
        of.extend_from_slice(&(range.end - range.start).to_le_bytes());
        for span in spans {
            of.extend_from_slice(self.0.key(span)?.as_bytes());
        }
        Some(Digest::of(&of))
    }
}
