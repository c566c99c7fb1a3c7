//! How a layer's tar is stored, told from its first bytes: media types are often wrong, since
//! registries and builders pass them on as they came.

use super::tar_scan;
pub use crate::clip::seek_table::Encoding;

impl Encoding {
    /// As many of a layer's first bytes as [`Self::of`] looks at.
    pub const PREFIX: usize = tar_scan::BLOCK;

    /// Tells the encoding from a layer's first bytes.
    pub fn of(prefix: &[u8]) -> Option<Self> {
        match prefix {
            // Nothing at all is an empty tar.
            [] => Some(Self::Tar),
            [0x1f, 0x8b, ..] => Some(Self::Gzip),
            // A frame, or a skippable one (RFC 8878, 3.1).
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            // Old tars have no magic, but a checksum.
            _ => tar_scan::is_block(prefix).then_some(Self::Tar),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magic_tells_and_nothing_else_does() {
        let mut header = tar::Header::new_old();
        header.set_path("x").unwrap();
        header.set_cksum();
        for (prefix, encoding) in [
            (&b"\x1f\x8b\x08"[..], Some(Encoding::Gzip)),
            (b"\x28\xb5\x2f\xfd\0", Some(Encoding::Zstd)),
            (b"\x50\x2a\x4d\x18\0", Some(Encoding::Zstd)),
            (b"\x5f\x2a\x4d\x18\0", Some(Encoding::Zstd)),
            (b"\x60\x2a\x4d\x18\0", None),
            (header.as_bytes(), Some(Encoding::Tar)),
            (&header.as_bytes()[..511], None),
            (&[0; 512], Some(Encoding::Tar)),
            (&[1; 512], None),
            (b"\x1f", None),
            (b"", Some(Encoding::Tar)),
        ] {
            assert_eq!(Encoding::of(prefix), encoding, "{prefix:02x?}");
        }
    }
}
