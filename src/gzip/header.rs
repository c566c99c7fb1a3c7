//! The header of a gzip member (RFC 1952 2.3), skipped as it arrives. Knows nothing of what follows.

use flate2::Crc;

use super::error::Problem;

/// The identifying bytes ID1 and ID2.
pub(super) const MAGIC: [u8; 2] = [0x1f, 0x8b];

const FHCRC: u8 = 1 << 1;
const FEXTRA: u8 = 1 << 2;
const FNAME: u8 = 1 << 3;
const FCOMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

/// A header of which the magic has been seen.
#[derive(Debug)]
pub(super) struct Header {
    crc: Crc,
    flags: u8,
    field: Field,
}

/// What comes next.
#[derive(Debug, Clone, Copy)]
enum Field {
    Method,
    Flags,
    /// MTIME, XFL and OS: so many bytes are left of them.
    Fixed(u8),
    ExtraLength(Option<u8>),
    Extra(u16),
    Name,
    Comment,
    Crc(Option<u8>),
    Done,
}

impl Header {
    pub(super) fn new() -> Self {
        let mut crc = Crc::new();
        crc.update(&MAGIC);
        Self { crc, flags: 0, field: Field::Method }
    }

    /// Whether the header is complete.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.field, Field::Done)
    }

    /// Takes bytes until the header or the input ends; gives the number taken.
    pub(super) fn take(&mut self, input: &[u8]) -> Result<usize, Problem> {
        let mut taken = 0;
        while let Some((&byte, rest)) = input[taken..].split_first() {
            let mut used = 1;
            let next = match self.field {
                Field::Done => break,
                Field::Method if byte == 8 => Field::Flags,
                Field::Method => return Err(Problem::Method(byte)),
                Field::Flags if byte & RESERVED != 0 => return Err(Problem::ReservedFlags(byte)),
                Field::Flags => {
                    self.flags = byte;
                    Field::Fixed(6)
                }
                Field::Fixed(1) => self.after(0),
                Field::Fixed(left) => Field::Fixed(left - 1),
                Field::ExtraLength(None) => Field::ExtraLength(Some(byte)),
                Field::ExtraLength(Some(low)) => match u16::from_le_bytes([low, byte]) {
                    0 => self.after(FEXTRA),
                    length => Field::Extra(length),
                },
                Field::Extra(left) => {
                    used = (1 + rest.len()).min(usize::from(left));
                    match left - used as u16 {
                        0 => self.after(FEXTRA),
                        left => Field::Extra(left),
                    }
                }
                Field::Name if byte == 0 => self.after(FNAME),
                Field::Comment if byte == 0 => self.after(FCOMMENT),
                unfinished @ (Field::Name | Field::Comment) => unfinished,
                Field::Crc(None) => Field::Crc(Some(byte)),
                Field::Crc(Some(low)) => {
                    let expected = u16::from_le_bytes([low, byte]);
                    let found = self.crc.sum() as u16;
                    if expected != found {
                        return Err(Problem::HeaderCrc { expected, found });
                    }
                    Field::Done
                }
            };
            if !matches!(self.field, Field::Crc(_)) {
                self.crc.update(&input[taken..taken + used]);
            }
            self.field = next;
            taken += used;
        }
        Ok(taken)
    }

    /// The first optional field present after the one with the flag `last` (0: after none).
    fn after(&self, last: u8) -> Field {
        // The order of the fields is not the order of their flags: the CRC comes last.
        let fields = [
            (FEXTRA, Field::ExtraLength(None)),
            (FNAME, Field::Name),
            (FCOMMENT, Field::Comment),
            (FHCRC, Field::Crc(None)),
        ];
        let passed = fields.iter().position(|(flag, _)| *flag == last).map_or(0, |index| index + 1);
        fields[passed..]
            .iter()
            .find(|(flag, _)| self.flags & flag != 0)
            .map_or(Field::Done, |(_, field)| *field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(flags: u8, optional: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x1f, 0x8b, 8, flags, 1, 2, 3, 4, 2, 3];
        bytes.extend_from_slice(optional);
        bytes
    }

    fn with_crc(mut bytes: Vec<u8>) -> Vec<u8> {
        let mut crc = Crc::new();
        crc.update(&bytes);
        bytes.extend_from_slice(&(crc.sum() as u16).to_le_bytes());
        bytes
    }

    fn take_by(bytes: &[u8], step: usize) -> Result<(usize, bool), Problem> {
        let mut header = Header::new();
        let mut taken = 0;
        for chunk in bytes[2..].chunks(step) {
            taken += header.take(chunk)?;
        }
        Ok((taken + 2, header.is_done()))
    }

    #[test]
    fn every_combination_of_optional_fields_is_skipped() {
        for flags in 0..32 {
            let mut bytes = header(flags, &[]);
            if flags & FEXTRA != 0 {
                bytes.extend_from_slice(b"\x05\0extra");
            }
            if flags & FNAME != 0 {
                bytes.extend_from_slice(b"name\0");
            }
            if flags & FCOMMENT != 0 {
                bytes.extend_from_slice(b"\0");
            }
            if flags & FHCRC != 0 {
                bytes = with_crc(bytes);
            }
            let length = bytes.len();
            for step in 1..=length {
                assert_eq!(take_by(&bytes, step), Ok((length, true)), "{flags:05b} by {step}");
                assert_eq!(take_by(&bytes[..length - 1], step), Ok((length - 1, false)));
            }
            bytes.extend_from_slice(b"deflate");
            assert_eq!(take_by(&bytes, 1000), Ok((length, true)));
        }
    }

    #[test]
    fn an_empty_extra_field_is_skipped() {
        assert_eq!(take_by(&header(FEXTRA, b"\0\0"), 1), Ok((12, true)));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        assert_eq!(take_by(&[0x1f, 0x8b, 7], 1), Err(Problem::Method(7)));
        assert_eq!(take_by(&header(0x20, &[]), 1), Err(Problem::ReservedFlags(0x20)));
        let mut bytes = with_crc(header(FHCRC, &[]));
        bytes[5] ^= 1;
        assert!(matches!(take_by(&bytes, 1), Err(Problem::HeaderCrc { .. })));
    }
}
