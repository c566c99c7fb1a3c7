//! The loop in which nearly all time is spent: symbols, while input and output are far from their
//! ends. Knows nothing of blocks.
//!
//! What makes it fast: 64 bits of input in a register, refilled without a branch; one look-up for
//! all there is to know of a symbol; the next symbol looked up before the last one's bytes are
//! copied; copies of 16 bytes at a time that may overshoot. Checked slices cost a tenth of the speed,
//! so this file, and no other of our inflate, uses raw pointers. They stay inside their slices
//! because a round begins only with [`INPUT_AHEAD`] and [`OUTPUT_AHEAD`] bytes to spare, and takes less.
#![allow(
    unsafe_code,
    reason = "raw pointers in the innermost loop; the head comment says why they hold"
)]

use super::code::Codes;
use super::cursor::Cursor;
use super::{DeflateError, References};

/// A round reads at most 3 times 8 bytes at places at most 7 apart: no more than 22.
const INPUT_AHEAD: usize = 32;

/// A match is at most 258 bytes, copied in steps of 32.
const COPY_AHEAD: usize = 288;

/// A round writes at most 4 literals and a match.
pub(super) const OUTPUT_AHEAD: usize = 4 + COPY_AHEAD;

/// Why decoding symbols stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// The block has ended.
    EndOfBlock,
    /// An end of input or output is near.
    NearEnd,
}

/// Decodes symbols into `output` from `at` on, and moves `cursor` and `at`. Distances reach back
/// to `floor` at most. With `NOTE`, notes them.
pub(super) fn symbols<const NOTE: bool>(
    codes: &Codes,
    cursor: &mut Cursor<'_>,
    output: &mut [u8],
    at: &mut usize,
    floor: usize,
    references: &mut References,
) -> Result<Stop, DeflateError> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("bmi2") {
        // SAFETY: the processor has the feature.
        return unsafe { symbols_bmi2::<NOTE>(codes, cursor, output, at, floor, references) };
    }
    symbols_anywhere::<NOTE>(codes, cursor, output, at, floor, references)
}

/// With BMI2's shifts, which leave the flags and need no fixed register: 5 % faster.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "bmi2")]
fn symbols_bmi2<const NOTE: bool>(
    codes: &Codes,
    cursor: &mut Cursor<'_>,
    output: &mut [u8],
    at: &mut usize,
    floor: usize,
    references: &mut References,
) -> Result<Stop, DeflateError> {
    symbols_anywhere::<NOTE>(codes, cursor, output, at, floor, references)
}

#[inline(always)]
#[allow(clippy::inline_always, reason = "compiled once for each set of processor features")]
fn symbols_anywhere<const NOTE: bool>(
    codes: &Codes,
    cursor: &mut Cursor<'_>,
    output: &mut [u8],
    at: &mut usize,
    floor: usize,
    references: &mut References,
) -> Result<Stop, DeflateError> {
    let (input, length) = (cursor.input, output.len());
    if input.len().saturating_sub(cursor.read) <= INPUT_AHEAD
        || length.saturating_sub(*at) <= OUTPUT_AHEAD
        || floor > *at
    {
        return Ok(Stop::NearEnd);
    }
    let start = input.as_ptr();
    let base = output.as_mut_ptr();
    // SAFETY: `read`, `at` and `floor` were just seen to lie inside their slices, the first two with
    // more to spare than the constants.
    let (mut from, from_end, mut to, to_end, floor) = unsafe {
        (
            start.add(cursor.read),
            start.add(input.len() - INPUT_AHEAD),
            base.add(*at),
            base.add(length - OUTPUT_AHEAD),
            base.add(floor),
        )
    };
    // `count` is right modulo 256, which spares masking what is subtracted. After a refill it is 56 to
    // 63, and all 64 bits of `bits` are input.
    let (mut bits, mut count) = (cursor.bits, cursor.count);

    macro_rules! refill {
        () => {
            // SAFETY: a round begins with `from` at most 7 past `from_end`, refills twice, and moves by
            // at most 7 each time.
            unsafe {
                bits |= u64::from_le(from.cast::<u64>().read_unaligned()) << (count & 63);
                from = from.add(7 - (count >> 3 & 7) as usize);
            }
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
            // SAFETY: a round begins with `to` before `to_end` and puts at most 4 literals.
            unsafe {
                to.write($entry.value() as u8);
                to = to.add(1);
            }
        };
    }

    refill!();
    let mut entry = codes.literals.look_up(bits);
    let result = 'rounds: loop {
        // In a round: 3 short literals, and a length with its extra bits, take at most 33 + 20 of 56
        // bits. So would a fourth literal, for which the next round's look-up has bits left.
        'literals: {
            for _ in 0..3 {
                if !entry.is_literal() {
                    break 'literals;
                }
                put!(entry);
                consume!(entry);
                entry = codes.literals.look_up(bits);
            }
            if entry.is_literal() {
                put!(entry);
                consume!(entry);
                entry = codes.literals.look_up(bits);
                refill!();
                if from >= from_end || to >= to_end {
                    break 'rounds Ok(Stop::NearEnd);
                }
                continue 'rounds;
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
                    if from >= from_end || to >= to_end {
                        break 'rounds Ok(Stop::NearEnd);
                    }
                    continue;
                }
            }
            if entry.is_end() {
                consume!(entry);
                break 'rounds Ok(Stop::EndOfBlock);
            }
            if entry.is_exceptional() {
                break Err(DeflateError::Symbol);
            }
        }
        let length = entry.extended(bits) as usize;
        consume!(entry);
        // A distance takes at most 28 bits, and the next symbol's look-up 11.
        entry = codes.distances.look_up(bits);
        refill!();
        if entry.is_exceptional() {
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
        entry = codes.literals.look_up(bits);
        refill!();
        // SAFETY: both pointers are into `output`, and `to` only grows from where it was not before
        // `floor`; so from here on the distance lies inside, and there is room ahead.
        unsafe {
            if distance > to.offset_from_unsigned(floor) {
                break Err(DeflateError::TooFarBack);
            }
            if NOTE {
                references.copied(to.offset_from_unsigned(base), distance, length);
            }
            copy_within(to, distance, length);
            to = to.add(length);
        }
        if from >= from_end || to >= to_end {
            break 'rounds Ok(Stop::NearEnd);
        }
    };
    cursor.bits = bits;
    cursor.count = count & 63;
    // SAFETY: the pointers are still into the slices they came from.
    unsafe {
        cursor.read = from.offset_from_unsigned(start);
        *at = to.offset_from_unsigned(base);
    }
    result
}

/// Repeats `length` (to 258) bytes from `distance` before `at`; overwrites at most [`COPY_AHEAD`].
pub(super) fn copy(output: &mut [u8], at: usize, distance: usize, length: usize) {
    assert!(
        (1..=at).contains(&distance)
            && length <= 258
            && output.len().saturating_sub(at) >= COPY_AHEAD,
        "the decoder has checked the distance and the room"
    );
    // SAFETY: as just checked.
    unsafe { copy_within(output.as_mut_ptr().add(at), distance, length) }
}

/// What a number of so many bytes is multiplied by to repeat it in 8 bytes.
const REPEAT: [u64; 8] = {
    let mut factors = [0; 8];
    let mut bytes = 1;
    while bytes < 8 {
        let mut shift = 0;
        while shift < 64 {
            factors[bytes] |= 1 << shift;
            shift += 8 * bytes;
        }
        bytes += 1;
    }
    factors
};

/// How many of 8 bytes are whole patterns of so many bytes.
const STEP: [usize; 8] = [8, 8, 8, 6, 8, 5, 6, 7];

/// # Safety
///
/// `distance` bytes before `to` and [`COPY_AHEAD`] after belong to one buffer; `distance` is not 0
/// and `length` at most 258.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of the loop")]
unsafe fn copy_within(mut to: *mut u8, distance: usize, length: usize) {
    /// Copies 16 bytes over a distance of 16 at least.
    #[inline(always)]
    unsafe fn copy_16(to: *mut u8, distance: usize) {
        // SAFETY: as the caller promises; so the two don't overlap.
        unsafe { to.copy_from_nonoverlapping(to.sub(distance), 16) }
    }
    // SAFETY: steps of 32 or 8 end at most 30 bytes after `length`, within `COPY_AHEAD`; what is read
    // begins at `to - distance` or later, and ends before what is written or is masked.
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
        } else if distance >= 8 {
            while to < end {
                to.copy_from_nonoverlapping(to.sub(distance), 8);
                to = to.add(8);
            }
        } else {
            // The pattern, as often as it fits into 8 bytes and a part of it once more; each store
            // begins where one of the fitting patterns ends.
            let pattern = u64::from_le(to.sub(distance).cast::<u64>().read_unaligned());
            let pattern =
                (pattern & (u64::MAX >> (64 - 8 * distance))).wrapping_mul(REPEAT[distance & 7]);
            while to < end {
                to.cast::<u64>().write_unaligned(pattern.to_le());
                to = to.add(STEP[distance & 7]);
            }
        }
    }
}
