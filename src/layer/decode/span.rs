//! Plain bytes out of spans' compressed bytes.

use std::ops::Range;

use zstd::bulk;

use crate::clip::seek_table::SpanEntry;
use crate::gzip::{Checkpoint, Engine, GzipReader};
use crate::layer::{Encoding, at_most};

/// A span that does not hold what the table says, though its bytes are right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct SpanError {
    /// Which of the spans given.
    pub index: usize,
    /// What is wrong.
    pub detail: String,
}

/// The plain bytes of neighbouring `spans`, of which `start` is where the first begins and
/// `compressed` all bytes. The caller has compared these with the spans' digests; that each span
/// gives exactly as many plain bytes as its entry says is checked here. Takes memory for what the
/// entries say, which is the caller's to bound.
pub fn decode_spans(
    encoding: Encoding,
    start: &Checkpoint,
    spans: &[SpanEntry],
    compressed: &[u8],
) -> Result<Vec<u8>, SpanError> {
    let plain = |span: &SpanEntry| length(&span.plain);
    let mut out = Vec::with_capacity(spans.iter().map(plain).sum());
    let first = spans.first().map_or(0, |span| span.compressed.start);
    let mut gzip: Option<GzipReader> = None;
    for (index, span) in spans.iter().enumerate() {
        let broken = |detail: String| SpanError { index, detail };
        let [from, to] = [span.compressed.start, span.compressed.end]
            .map(|at| at_most(compressed.len(), at.saturating_sub(first)));
        let bytes = &compressed[from..to];
        let before = out.len();
        match encoding {
            Encoding::Tar => out.extend_from_slice(bytes),
            Encoding::Zstd => {
                out.resize(before + plain(span), 0);
                let count = bulk::decompress_to_buffer(bytes, &mut out[before..])
                    .map_err(|error| broken(format!("its zstd frames can't be read: {error}")))?;
                out.truncate(before + count);
            }
            Encoding::Gzip => {
                let resumed = match gzip.take() {
                    Some(reader) => Ok(reader),
                    None => GzipReader::resume(start, Engine::default()),
                };
                let reader = gzip.insert(resumed.map_err(|error| broken(error.to_string()))?);
                // Neighbours may share a byte.
                let shared = reader.compressed_offset().saturating_sub(span.compressed.start);
                let mut input = &bytes[at_most(bytes.len(), shared)..];
                while out.len() - before <= plain(span)
                    && let Some(plain) =
                        reader.next(&mut input).map_err(|error| broken(error.to_string()))?
                {
                    out.extend_from_slice(plain);
                }
            }
        }
        let found = out.len() - before;
        if found != plain(span) {
            let more = if found > plain(span) { "at least " } else { "" };
            return Err(broken(format!(
                "the seek table says {} plain bytes, there are {more}{found}",
                plain(span)
            )));
        }
    }
    Ok(out)
}

fn length(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}
