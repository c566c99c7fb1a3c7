//! The loop in which nearly all time is spent: symbols, while input and output are far from their
//! ends. Knows nothing of blocks.

use super::code::{Distances, Literals};
use super::cursor::Cursor;
use super::{DeflateError, References};

/// The loop needs so many input bytes ahead: a round reads 8 at up to three places 7 apart.
const INPUT_AHEAD: usize = 32;
/// And so much room: a round writes three literal pairs and a match of 258, whose copy may overshoot by
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
#[inline(always)]
pub(super) fn symbols<const NOTE: bool>(
    literals: &Literals,
    distances: &Distances,
    cursor: &mut Cursor<'_>,
    output: &mut [u8],
    at: &mut usize,
    floor: usize,
    references: &mut References,
) -> Result<Stop, DeflateError> {
    let input = cursor.input;
    let input_end = input.len().saturating_sub(INPUT_AHEAD);
    let output_end = output.len().saturating_sub(OUTPUT_AHEAD);
    if cursor.read >= input_end || *at >= output_end {
        return Ok(Stop::NearEnd);
    }
    let (mut read, mut bits, mut count, mut to) = (cursor.read, cursor.bits, cursor.count, *at);

    macro_rules! refill {
        () => {
            bits |= load(input, read) << (count & 63);
            read += 7 - (count as usize >> 3 & 7);
            count |= 56;
        };
    }
    macro_rules! consume {
        ($entry:expr) => {
            bits >>= $entry.0 & 63;
            count = count.wrapping_sub($entry.bits());
        };
    }
    macro_rules! put {
        ($entry:expr) => {
            output[to..to + 2].copy_from_slice(&($entry.value() as u16).to_le_bytes());
            to += $entry.count();
        };
    }

    let result = loop {
        if read >= input_end || to >= output_end {
            break Ok(Stop::NearEnd);
        }
        refill!();
        let mut entry = literals.look_up(bits);
        // Three look-ups of literals use at most 33 of 56 bits.
        if entry.is_literal() {
            put!(entry);
            consume!(entry);
            entry = literals.look_up(bits);
            if entry.is_literal() {
                put!(entry);
                consume!(entry);
                entry = literals.look_up(bits);
                if entry.is_literal() {
                    put!(entry);
                    consume!(entry);
                    continue;
                }
            }
        }
        if entry.is_exceptional() {
            if entry.is_link() {
                consume!(entry);
                entry = literals.follow(entry, bits);
                if entry.is_literal() {
                    put!(entry);
                    consume!(entry);
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
        if count < 28 {
            refill!();
        }
        entry = distances.look_up(bits);
        if entry.is_exceptional() {
            if entry.is_link() {
                consume!(entry);
                entry = distances.follow(entry, bits);
            }
            if entry.is_exceptional() {
                break Err(DeflateError::Symbol);
            }
        }
        let distance = entry.extended(bits) as usize;
        consume!(entry);
        if distance > to - floor {
            break Err(DeflateError::TooFarBack);
        }
        if NOTE {
            references.copied(to, distance, length);
        }
        copy(output, to, distance, length);
        to += length;
    };
    (cursor.read, cursor.bits, cursor.count, *at) = (read, bits, count, to);
    result
}

#[inline(always)]
fn load(input: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&input[at..at + 8]);
    u64::from_le_bytes(word)
}

#[inline(always)]
fn copy_16(output: &mut [u8], from: usize, to: usize) {
    let mut chunk = [0; 16];
    chunk.copy_from_slice(&output[from..from + 16]);
    output[to..to + 16].copy_from_slice(&chunk);
}

/// Repeats `length` bytes from `distance` before `to`; may write up to 31 bytes beyond.
#[inline(always)]
pub(super) fn copy(output: &mut [u8], to: usize, distance: usize, length: usize) {
    let end = to + length;
    if distance >= 16 {
        let mut to = to;
        loop {
            copy_16(output, to - distance, to);
            copy_16(output, to + 16 - distance, to + 16);
            to += 32;
            if to >= end {
                break;
            }
        }
    } else if distance == 1 {
        let byte = output[to - 1];
        let mut to = to;
        while to < end {
            output[to..to + 16].fill(byte);
            to += 16;
        }
    } else {
        for index in to..to + 16 {
            output[index] = output[index - distance];
        }
        // The pattern also repeats at the first multiple of the distance that is wide enough.
        let distance = distance * 16_usize.div_ceil(distance);
        let mut to = to + 16;
        while to < end {
            copy_16(output, to - distance, to);
            to += 16;
        }
    }
}
