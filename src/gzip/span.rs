//! Plain bytes out of a span's compressed bytes.

use super::checkpoint::Checkpoint;
use super::error::{GzipError, Problem};
use super::inflate::Engine;
use super::reader::GzipReader;

/// Inflates from `start`, passes over `skip` plain bytes and fills `out`; gives the number of bytes
/// filled, which is less than asked for only if the pieces end before.
///
/// `pieces` are stretches of the compressed stream with their offsets, in order: the bytes of the
/// span that begins at `start`, and of as many spans after it as are wanted. Neighbours may share
/// bytes, as spans do. Nothing is read beyond what `out` needs. The caller has compared the pieces
/// with their digests: without that, damage shows only where it breaks the format.
pub fn inflate_span<'a>(
    start: &Checkpoint,
    pieces: impl IntoIterator<Item = (u64, &'a [u8])>,
    skip: u64,
    out: &mut [u8],
    engine: Engine,
) -> Result<usize, GzipError> {
    let mut reader = GzipReader::resume(start, engine)?;
    let (mut skip, mut filled) = (skip, 0);
    for (offset, bytes) in pieces {
        let next = reader.compressed_offset();
        let mut input = next
            .checked_sub(offset)
            .and_then(|shared| bytes.get(usize::try_from(shared).ok()?..))
            .ok_or_else(|| Problem::Gap(offset).at(next))?;
        while filled < out.len()
            && let Some(plain) = reader.next(&mut input)?
        {
            let passed = skip.min(plain.len() as u64) as usize;
            skip -= passed as u64;
            let plain = &plain[passed..];
            let length = plain.len().min(out.len() - filled);
            out[filled..filled + length].copy_from_slice(&plain[..length]);
            filled += length;
        }
        if filled == out.len() {
            break;
        }
    }
    Ok(filled)
}
