//! Taking fields off bytes: little-endian integers, digests and LEB128 varints.

use crate::digest::Digest;

/// The bytes that are left. Every method gives `None` where they don't suffice.
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn digest(&mut self) -> Option<Digest> {
        self.array().map(Digest::from_bytes)
    }

    /// An unsigned LEB128 number in its shortest form, below 2^63.
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..63).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return (byte != 0 || shift == 0).then_some(value);
            }
        }
        None
    }

    pub(crate) fn bytes(&mut self, length: u64) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }
}

/// Appends a number below 2^63 as [`Fields::varint`] reads it.
pub(crate) fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while let (low, rest @ 1..) = (value.to_le_bytes()[0], value >> 7) {
        bytes.push(low | 0x80);
        value = rest;
    }
    bytes.push(value.to_le_bytes()[0]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back() {
        for value in [0, 1, 127, 128, 300, 16_383, 16_384, u64::from(u32::MAX), (1 << 63) - 1] {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            let mut fields = Fields(&bytes);
            assert_eq!(fields.varint(), Some(value));
            assert!(fields.is_empty());
            assert_eq!(Fields(&bytes[..bytes.len() - 1]).varint(), None);
        }
    }

    #[test]
    fn other_forms_are_refused() {
        for bytes in [&[0x80, 0][..], &[0x81, 0x80, 0], &[0xff; 9], &[0xff; 10], &[]] {
            assert_eq!(Fields(bytes).varint(), None, "{bytes:02x?}");
        }
    }
}
