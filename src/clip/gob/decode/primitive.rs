//! Numbers, bytes and lengths, whatever type they belong to.

use super::{Decoder, GobError, Result};

impl<'a> Decoder<'a> {
    pub(super) fn read_uint(&mut self) -> Result<u64> {
        let Some((&first, rest)) = self.input[self.offset..].split_first() else {
            return Err(self.wrong("the stream ends inside a value"));
        };
        if first < 0x80 {
            self.offset += 1;
            return Ok(first.into());
        }
        let count = usize::from(0_u8.wrapping_sub(first));
        if count > 8 {
            return Err(self.wrong(format!("expected an integer, found {first:#04x}")));
        }
        let Some(bytes) = rest.get(..count) else {
            return Err(self.wrong("the stream ends inside an integer"));
        };
        self.offset += 1 + count;
        Ok(bytes.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte)))
    }

    pub(super) fn read_int(&mut self) -> Result<i64> {
        let value = self.read_uint()?;
        let magnitude = (value >> 1).cast_signed();
        Ok(if value & 1 == 0 { magnitude } else { !magnitude })
    }

    pub(super) fn read_bytes(&mut self) -> Result<&'a [u8]> {
        let length = self.length("value")?;
        let bytes = &self.input[self.offset..self.offset + length];
        self.offset += length;
        Ok(bytes)
    }

    /// A length that what is left of the input can hold.
    pub(super) fn length(&mut self, of: &str) -> Result<usize> {
        let at = self.offset;
        let length = self.read_uint()?;
        let bounded = usize::try_from(length).ok().filter(|length| *length <= self.left());
        bounded.ok_or_else(|| GobError {
            offset: at,
            detail: format!("a {of} of {length} bytes, but {} are left", self.left()),
        })
    }
}
