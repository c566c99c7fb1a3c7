//! Documents that come compressed though nobody asked: some proxies answer every text with
//! `Content-Encoding: gzip`, and some registries store it so and don't even say it.
//!
//! The digest decides, so the header is not needed. Decoding is bounded like the document itself.

use std::io::Read;

use bytes::Bytes;
use flate2::bufread::MultiGzDecoder;

use crate::digest::Digest;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The document in `bytes`: they themselves, or what they hold compressed if that has the digest
/// that is `expected`. Without an expected digest, whatever looks like gzip is decoded: JSON never
/// does. What can't be decoded within `limit` is given back as it came.
pub(super) fn decoded(bytes: Bytes, expected: Option<Digest>, limit: u64) -> Bytes {
    if !bytes.starts_with(&GZIP_MAGIC) || expected == Some(Digest::of(&bytes)) {
        return bytes;
    }
    let mut plain = Vec::new();
    let read = MultiGzDecoder::new(&bytes[..]).take(limit + 1).read_to_end(&mut plain);
    let fits = read.is_ok_and(|length| length as u64 <= limit)
        && expected.is_none_or(|expected| expected == Digest::of(&plain));
    if fits { plain.into() } else { bytes }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn packed(plain: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn the_digest_decides() {
        let plain = Bytes::from_static(b"{}");
        let gzip = packed(&plain);
        let digest = Some(Digest::of(&plain));
        assert_eq!(decoded(gzip.clone(), digest, 2), plain);
        assert_eq!(decoded(gzip.clone(), None, 2), plain);
        assert_eq!(decoded(plain.clone(), digest, 2), plain);
        // What was meant to be gzip stays gzip.
        assert_eq!(decoded(gzip.clone(), Some(Digest::of(&gzip)), 2), gzip);
        assert_eq!(decoded(gzip.clone(), Some(Digest::of(b"other")), 2), gzip);
    }

    #[test]
    fn within_limits() {
        let bomb = packed(&vec![b' '; 1 << 20]);
        assert_eq!(decoded(bomb.clone(), None, (1 << 20) - 1), bomb);
        assert_eq!(decoded(bomb, None, 1 << 20).len(), 1 << 20);
        let cut = packed(b"{}").slice(..12);
        assert_eq!(decoded(cut.clone(), None, 99), cut);
    }
}
