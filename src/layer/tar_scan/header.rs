//! One header block of a tar, read as Go's `archive/tar` reads it: that library made most layers
//! and reads them in every other tool (CONTRACT B.1).
//!
//! The `tar` crate knows where the fields of the oldest format are. Which further fields there are
//! follows from the magic alone: the crate wants a version beside it that many writers get wrong,
//! and knows nothing of star's format.

use std::ops::Range;

use tar::Header;

use super::{BLOCK, ScanError, malformed};
use crate::layer::entry::{Time, low_bits};

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

/// A header block of which every field makes sense, also those that say nothing of its entry: Go
/// refuses a tar with any other.
#[derive(Debug, Clone, Copy)]
pub(super) struct TarHeader<'a> {
    block: &'a [u8; BLOCK],
    format: Format,
    /// Below 0 in headers of what has no content alone.
    size: i64,
    /// Permission bits (07777).
    pub(super) mode: u32,
    /// As [`Meta`](crate::layer::Meta) has them.
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mtime: Time,
    /// Last access and last change of attributes, where the format has them.
    pub(super) further_times: [Option<Time>; 2],
    /// Major and minor number, packed as Linux does for 32-bit device numbers.
    pub(super) device: u32,
    /// What goes before the name; empty if there is none.
    prefix: &'a [u8],
}

impl<'a> TarHeader<'a> {
    pub(super) fn new(block: &'a [u8; BLOCK], offset: u64) -> Result<Self, ScanError> {
        verify_checksum(block, offset)?;
        let format = match (&block[MAGIC], &block[VERSION]) {
            (b"ustar\0", _) if &block[STAR_TRAILER] == b"tar\0" => Format::Star,
            (b"ustar\0", _) => Format::Ustar,
            (b"ustar ", b" \0") => Format::Gnu,
            _ => Format::V7,
        };
        let fields = old_fields(block);
        let number = |field: &[u8], name| number(field, name, offset);
        let time = |field: &[u8], name| -> Result<Time, ScanError> {
            Ok(Time { seconds: number(field, name)?, nanos: 0 })
        };
        let mode = low_bits(number(&fields.mode, "mode")?) & 0o7777;
        let device = match format {
            Format::V7 => 0,
            _ => packed(number(&block[MAJOR], "devmajor")?, number(&block[MINOR], "devminor")?),
        };
        let (prefix, further_times) = match format {
            Format::V7 => (&b""[..], [None; 2]),
            Format::Ustar => (text(&block[PREFIX]), [None; 2]),
            Format::Star => {
                let atime = time(&block[STAR_ATIME], "atime")?;
                let ctime = time(&block[STAR_CTIME], "ctime")?;
                (text(&block[STAR_PREFIX]), [Some(atime), Some(ctime)])
            }
            // Some writers mistook the format: where there are no times there may be a prefix.
            Format::Gnu => match [GNU_ATIME, GNU_CTIME].map(|at| match block[at.start] {
                0 => Ok(None),
                _ => time(&block[at], "time").map(Some),
            }) {
                [Ok(atime), Ok(ctime)] => (&b""[..], [atime, ctime]),
                _ => (text(&block[PREFIX]), [None; 2]),
            },
        };
        let is_no_prefix = format == Format::Gnu && !prefix.is_ascii();
        let header = Self {
            block,
            format,
            size: number(&fields.size, "size")?,
            mode,
            uid: low_bits(number(&fields.uid, "uid")?),
            gid: low_bits(number(&fields.gid, "gid")?),
            mtime: time(&fields.mtime, "mtime")?,
            further_times,
            device,
            prefix: if is_no_prefix { b"" } else { prefix },
        };
        if header.size < 0 && !is_header_only(header.kind()) {
            return Err(malformed(offset, &format!("the size is {}", header.size)));
        }
        Ok(header)
    }

    pub(super) fn block(self) -> &'a [u8; BLOCK] {
        self.block
    }

    /// Whether it is in GNU's own format, which alone has old sparse files.
    pub(super) fn is_gnu(self) -> bool {
        self.format == Format::Gnu
    }

    pub(super) fn kind(self) -> u8 {
        old_fields(self.block).linkflag[0]
    }

    /// The name with its prefix.
    pub(super) fn name(self) -> Vec<u8> {
        let name = text(&old_fields(self.block).name);
        if self.prefix.is_empty() { name.to_vec() } else { [self.prefix, b"/", name].concat() }
    }

    /// The target of a link; empty if there is none.
    pub(super) fn link_name(self) -> &'a [u8] {
        text(&old_fields(self.block).linkname)
    }

    /// Bytes of content.
    pub(super) fn size(self) -> u64 {
        if is_header_only(self.kind()) { 0 } else { u64::try_from(self.size).unwrap_or(0) }
    }
}

/// What has no content, whatever its size field says.
pub(super) fn is_header_only(kind: u8) -> bool {
    matches!(kind, b'1'..=b'6')
}

fn old_fields(block: &[u8; BLOCK]) -> &tar::OldHeader {
    Header::from_byte_slice(block).as_old()
}

/// A device number of Linux: what is beyond its bits is cut, as by Go and the kernel.
fn packed(major: i64, minor: i64) -> u32 {
    let (major, minor) = (low_bits(major), low_bits(minor));
    (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & !0xff) << 12)
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

/// A numeric field as Go reads it: base 256 with the first bit set, or octal digits.
pub(super) fn number(field: &[u8], name: &str, offset: u64) -> Result<i64, ScanError> {
    if field[0] & 0x80 == 0 {
        return octal(field, name, offset);
    }
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7f };
    let start = if negative { -1_i128 } else { 0 };
    let bytes = std::iter::once(&first).chain(&field[1..]);
    let value = bytes.fold(start, |value, byte| (value << 8) | i128::from(*byte));
    i64::try_from(value).map_err(|_| not_a_number(name, offset))
}

/// Octal digits with blanks and NULs around them, up to the first NUL among them; none at all is 0.
fn octal(field: &[u8], name: &str, offset: u64) -> Result<i64, ScanError> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !blank(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    text(&field[start..end]).iter().try_fold(0_i64, |value, digit| match digit {
        b'0'..=b'7' => Ok((value << 3) | i64::from(digit - b'0')), // 12 digits fit
        _ => Err(not_a_number(name, offset)),
    })
}

fn not_a_number(name: &str, offset: u64) -> ScanError {
    malformed(offset, &format!("the {name} field is not a number"))
}

/// A numeric field that can't be negative.
pub(super) fn count(field: &[u8], name: &str, offset: u64) -> Result<u64, ScanError> {
    let value = number(field, name, offset)?;
    u64::try_from(value).map_err(|_| malformed(offset, &format!("the {name} is {value}")))
}

fn verify_checksum(block: &[u8; BLOCK], offset: u64) -> Result<(), ScanError> {
    let expected = octal(&old_fields(block).cksum, "checksum", offset)?;
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
