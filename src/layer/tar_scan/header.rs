//! One header block of a tar, read as Go's `archive/tar` reads it: that library made most layers
//! and reads them in every other tool (CONTRACT B.1).
//!
//! The `tar` crate knows where the fields of the oldest format are. Which further fields there are
//! follows from the magic alone: the crate wants a version beside it that many writers get wrong,
//! and knows nothing of star's format.

use std::ops::Range;

use tar::Header;

use super::{BLOCK, ScanError, malformed};
use crate::layer::entry::{Time, owner};

const MAGIC: Range<usize> = 257..263;
const VERSION: Range<usize> = 263..265;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_ATIME: Range<usize> = 476..488;
const STAR_CTIME: Range<usize> = 488..500;
const STAR_TRAILER: Range<usize> = 508..512;
const GNU_ATIME: Range<usize> = 345..357;
const GNU_CTIME: Range<usize> = 357..369;

/// Which fields there are beside those of the oldest format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// None.
    V7,
    /// POSIX.1-1988: devices, and a prefix of the name.
    Ustar,
    /// Schilling's star: a shorter prefix, and two more times.
    Star,
    /// GNU's: devices, and two more times where others have the prefix.
    Gnu,
}

/// A header block with the right checksum.
#[derive(Debug, Clone, Copy)]
pub(super) struct TarHeader<'a> {
    block: &'a [u8; BLOCK],
    format: Format,
    /// Where it is in the uncompressed stream, for errors.
    offset: u64,
}

impl<'a> TarHeader<'a> {
    /// Verifies the checksum; nothing else is looked at yet.
    pub(super) fn new(block: &'a [u8; BLOCK], offset: u64) -> Result<Self, ScanError> {
        verify_checksum(block, offset)?;
        let format = match (&block[MAGIC], &block[VERSION]) {
            (b"ustar\0", _) if &block[STAR_TRAILER] == b"tar\0" => Format::Star,
            (b"ustar\0", _) => Format::Ustar,
            (b"ustar ", b" \0") => Format::Gnu,
            _ => Format::V7,
        };
        Ok(Self { block, format, offset })
    }

    fn fields(self) -> &'a tar::OldHeader {
        Header::from_byte_slice(self.block).as_old()
    }

    pub(super) fn block(self) -> &'a [u8; BLOCK] {
        self.block
    }

    pub(super) fn is_gnu(self) -> bool {
        self.format == Format::Gnu
    }

    pub(super) fn kind(self) -> u8 {
        self.fields().linkflag[0]
    }

    /// The name with its prefix.
    pub(super) fn name(self) -> Vec<u8> {
        let prefix = match self.format {
            Format::Ustar => text(&self.block[PREFIX]),
            Format::Star => text(&self.block[STAR_PREFIX]),
            // As some writers mistook the format; where there are times there is no prefix.
            Format::Gnu if self.gnu_times().is_none() => {
                Some(text(&self.block[PREFIX])).filter(|text| text.is_ascii()).unwrap_or_default()
            }
            Format::Gnu | Format::V7 => b"",
        };
        let name = text(&self.fields().name);
        if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
    }

    /// The target of a link; empty if there is none.
    pub(super) fn link_name(self) -> &'a [u8] {
        text(&self.fields().linkname)
    }

    pub(super) fn size(self) -> Result<u64, ScanError> {
        count(&self.fields().size, "size", self.offset)
    }

    /// Permission bits (07777).
    pub(super) fn mode(self) -> Result<u32, ScanError> {
        let mode = number(&self.fields().mode, "mode", self.offset)? & 0o7777;
        Ok(u32::try_from(mode).unwrap_or(0))
    }

    pub(super) fn uid(self) -> Result<u32, ScanError> {
        self.owner(&self.fields().uid, "uid")
    }

    pub(super) fn gid(self) -> Result<u32, ScanError> {
        self.owner(&self.fields().gid, "gid")
    }

    fn owner(self, field: &[u8], name: &str) -> Result<u32, ScanError> {
        let value = number(field, name, self.offset)?;
        owner(value).ok_or_else(|| {
            malformed(self.offset, &format!("the {name} {value} is not one of 32 bits"))
        })
    }

    pub(super) fn mtime(self) -> Result<Time, ScanError> {
        self.time(&self.fields().mtime, "mtime")
    }

    /// Last access and last change of attributes, where the format has them.
    pub(super) fn further_times(self) -> Result<[Option<Time>; 2], ScanError> {
        match self.format {
            Format::V7 | Format::Ustar => Ok([None; 2]),
            Format::Star => Ok([
                Some(self.time(&self.block[STAR_ATIME], "atime")?),
                Some(self.time(&self.block[STAR_CTIME], "ctime")?),
            ]),
            Format::Gnu => Ok(self.gnu_times().unwrap_or_default()),
        }
    }

    /// `None` where there is something else in their place.
    fn gnu_times(self) -> Option<[Option<Time>; 2]> {
        let time = |field: &[u8]| match field[0] {
            0 => Some(None),
            _ => self.time(field, "time").ok().map(Some),
        };
        Some([time(&self.block[GNU_ATIME])?, time(&self.block[GNU_CTIME])?])
    }

    fn time(self, field: &[u8], name: &str) -> Result<Time, ScanError> {
        Ok(Time { seconds: number(field, name, self.offset)?, nanos: 0 })
    }

    /// Major and minor number, packed as Linux does for 32-bit device numbers.
    pub(super) fn device(self) -> Result<u32, ScanError> {
        if self.format == Format::V7 {
            return Ok(0);
        }
        let major = count(&self.block[MAJOR], "devmajor", self.offset)?;
        let minor = count(&self.block[MINOR], "devminor", self.offset)?;
        let packed = u32::try_from(major).ok().zip(u32::try_from(minor).ok());
        let Some((major, minor)) =
            packed.filter(|(major, minor)| *major <= 0xfff && *minor <= 0xf_ffff)
        else {
            let detail = format!("device number {major}:{minor} is not one of Linux");
            return Err(malformed(self.offset, &detail));
        };
        Ok((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
    }
}

/// Whether a layer that begins so can be a tar: a header with the right checksum, or the zeros that
/// an empty tar is made of.
pub(in crate::layer) fn is_block(prefix: &[u8]) -> bool {
    let Some(block) = prefix.first_chunk::<BLOCK>() else { return false };
    block.iter().all(|byte| *byte == 0) || verify_checksum(block, 0).is_ok()
}

/// A text field ends at its first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// A numeric field as Go reads it: octal digits between blanks and NULs (none at all is 0), or
/// base 256 with the first bit set.
pub(super) fn number(field: &[u8], name: &str, offset: u64) -> Result<i64, ScanError> {
    let wrong = || malformed(offset, &format!("the {name} field is not a number"));
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative { field[0] } else { field[0] & 0x7f };
        let start = if negative { -1_i128 } else { 0 };
        let bytes = std::iter::once(&first).chain(&field[1..]);
        let value = bytes.fold(start, |value, byte| (value << 8) | i128::from(*byte));
        return i64::try_from(value).map_err(|_| wrong());
    }
    let blank = |b: &u8| matches!(b, b' ' | 0);
    let digits: Vec<u8> =
        field.iter().copied().skip_while(blank).take_while(|b| !blank(b)).collect();
    digits.iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => Ok((value << 3) | i64::from(digit - b'0')), // 12 digits fit
        _ => Err(wrong()),
    })
}

/// A numeric field that can't be negative.
pub(super) fn count(field: &[u8], name: &str, offset: u64) -> Result<u64, ScanError> {
    let value = number(field, name, offset)?;
    u64::try_from(value).map_err(|_| malformed(offset, &format!("the {name} is {value}")))
}

fn verify_checksum(block: &[u8; BLOCK], offset: u64) -> Result<(), ScanError> {
    let expected = number(&Header::from_byte_slice(block).as_old().cksum, "checksum", offset)?;
    let sum = |value: fn(u8) -> i64| -> i64 {
        let spaces = 8 * value(b' ');
        let rest = block[..148].iter().chain(&block[156..]);
        rest.fold(spaces, |sum, byte| sum + value(*byte))
    };
    // Some old tars summed signed bytes.
    let found = sum(i64::from);
    if expected == found || expected == sum(|b| i64::from(b.cast_signed())) {
        return Ok(());
    }
    let detail = format!("the checksum is {found}, the header says {expected}");
    Err(malformed(offset, &detail))
}
