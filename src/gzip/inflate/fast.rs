//! The loop in which nearly all time is spent: symbols, while input and output are far from their
//! ends. Knows nothing of blocks.
#![allow(unsafe_code, reason = "TODO")]

use super::code::Codes;
use super::cursor::Cursor;
use super::{DeflateError, References};

/// The loop needs so many input bytes ahead: a round reads 8 at up to three places 7 apart.
const INPUT_AHEAD: usize = 32;
/// And so much room: a round writes three literals and a match of 258, whose copy may overshoot by
/// less than 32.
pub(super) const OUTPUT_AHEAD: usize = 6 + 258 + 32 + 8;

/// Where the loop stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// After the end of the block.
    EndOfBlock,
    /// Near an end of input or output.
    NearEnd,
}

/// Decodes symbols into `output` from `at` on. Distances reach back to `floor` at most.
#[inline(never)]
pub(super) fn symbols<const NOTE: bool>(
    codes: &Codes,
    cursor: &mut Cursor<'_>,
    output: &mut [u8],
    at: &mut usize,
    floor: usize,
    references: &mut References,
) -> Result<Stop, DeflateError> {
    if cursor.input.len() - cursor.read <= INPUT_AHEAD || output.len() - *at <= OUTPUT_AHEAD {
        return Ok(Stop::NearEnd);
    }
    let input = cursor.input.as_ptr();
    let base = output.as_mut_ptr();
    unsafe {
    let mut from = input.add(cursor.read);
    let from_end = input.add(cursor.input.len() - INPUT_AHEAD);
    let mut to = base.add(*at);
    let to_end = base.add(output.len() - OUTPUT_AHEAD);
    let floor = base.add(floor);
    let (mut bits, mut count) = (cursor.bits, cursor.count);

    macro_rules! refill {
        () => {
            bits |= from.cast::<u64>().read_unaligned() << (count & 63);
            from = from.add(7 - ((count >> 3) as usize & 7));
            count |= 56;
        };
    }
    macro_rules! consume {
        ($entry:expr) => {
            bits >>= $entry.0 & 63;
            count = count.wrapping_sub($entry.0);
        };
    }
    macro_rules! put {
        ($entry:expr) => {
            to.write($entry.value() as u8);
            to = to.add(1);
        };
    }

    refill!();
    let mut entry = codes.literals.look_up(bits);
    let result = loop {
        if entry.is_literal() {
            put!(entry);
            consume!(entry);
            entry = codes.literals.look_up(bits);
            if entry.is_literal() {
                put!(entry);
                consume!(entry);
                entry = codes.literals.look_up(bits);
                if entry.is_literal() {
                    put!(entry);
                    consume!(entry);
                    entry = codes.literals.look_up(bits);
                    refill!();
                    if from >= from_end || to >= to_end { break Ok(Stop::NearEnd); }
                    continue;
                }
            }
        }
        if entry.is_exceptional() {
            if entry.is_link() {
                consume!(entry);
                entry = codes.literals.follow(entry, bits);
                if entry.is_literal() {
                    put!(entry);
                    consume!(entry);
                    refill!();
                    entry = codes.literals.look_up(bits);
                    if from >= from_end || to >= to_end { break Ok(Stop::NearEnd); }
                    continue;
                }
            }
            if entry.is_end() {
                consume!(entry);
                break Ok(Stop::EndOfBlock);
            }
            if entry.is_exceptional() {
                break Err(DeflateError::Symbol);
            }
        }
        let length = entry.extended(bits) as usize;
        consume!(entry);
        entry = codes.distances.look_up(bits);
        if (count as u8) < 31 {
            refill!();
        }
        if entry.is_exceptional() {
            refill!();
            if entry.is_link() {
                consume!(entry);
                entry = codes.distances.follow(entry, bits);
            }
            if entry.is_exceptional() {
                break Err(DeflateError::Symbol);
            }
        }
        let distance = entry.extended(bits) as usize;
        consume!(entry);
        if distance > to.offset_from_unsigned(floor) {
            break Err(DeflateError::TooFarBack);
        }
        entry = codes.literals.look_up(bits);
        refill!();
        if NOTE {
            references.copied(to.offset_from_unsigned(base), distance, length);
        }
        copy_raw(to, distance, length);
        to = to.add(length);
        if from >= from_end || to >= to_end { break Ok(Stop::NearEnd); }
    };
    cursor.read = from.offset_from_unsigned(input);
    cursor.bits = bits;
    cursor.count = count & 63;
    *at = to.offset_from_unsigned(base);
    result
    }
}

#[inline(always)]
unsafe fn copy_16(to: *mut u8, distance: usize) {
    unsafe {
        to.copy_from_nonoverlapping(to.sub(distance), 16);
    }
}

/// Repeats `length` bytes from `distance` before `to`; may write up to 31 bytes beyond.
pub(super) fn copy(output: &mut [u8], to: usize, distance: usize, length: usize) {
    unsafe { copy_raw(output.as_mut_ptr().add(to), distance, length) }
}

#[inline(always)]
unsafe fn copy_raw(mut to: *mut u8, distance: usize, length: usize) {
    unsafe {
    let end = to.add(length);
    if distance >= 16 {
        loop {
            copy_16(to, distance);
            copy_16(to.add(16), distance);
            to = to.add(32);
            if to >= end {
                break;
            }
        }
    } else if distance == 1 {
        let chunk = [to.sub(1).read(); 16];
        while to < end {
            to.cast::<[u8; 16]>().write_unaligned(chunk);
            to = to.add(16);
        }
    } else {
        for i in 0..16 {
            to.add(i).write(to.add(i).sub(distance).read());
        }
        // The pattern also repeats at the first multiple of the distance that is wide enough.
        let distance = distance * 16_usize.div_ceil(distance);
        to = to.add(16);
        while to < end {
            copy_16(to, distance);
            to = to.add(16);
        }
    }
    }
}
