//! Our own inflate: the blocks (RFC 1951 3.2.3), resumable anywhere. Symbols far from the ends of
//! input and output are the business of [`super::fast`].

use super::code::{Codes, DISTANCES, LENGTHS, LITERALS, Table};
use super::cursor::Cursor;
use super::fast::{self, OUTPUT_AHEAD, Stop};
use super::{Advance, DeflateError, Inflate, Output, Pause, ROOM, References, WINDOW};

const _: () = assert!(OUTPUT_AHEAD < ROOM, "the loop needs more room than callers promise");

/// The order in which the code length code's lengths are sent (3.2.7).
const LENGTH_ORDER: [u8; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/// One stream.
pub(super) struct Decoder {
    bits: u64,
    count: u32,
    /// Bits of the next input byte which belong to what came before.
    skip_bits: u8,
    /// Plain bytes before the next that distances may reach, at most [`WINDOW`].
    history: usize,
    next: Next,
    /// Whether the block is the last.
    last: bool,
    header: Header,
    codes: Codes,
    /// Whether the tables hold the fixed codes.
    fixed: bool,
}

/// What comes next.
#[derive(Debug, Clone, Copy)]
enum Next {
    Block,
    StoredLength,
    Stored(usize),
    Dynamic,
    LengthCode,
    Lengths,
    Symbols,
    Nothing,
}

/// A dynamic block's header, as far as it is known.
struct Header {
    literals: usize,
    distances: usize,
    length_codes: usize,
    /// How many lengths of the current kind are known.
    have: usize,
    length_code: [u8; 19],
    table: Table<7, 128>,
    lengths: [u8; 286 + 30],
}

/// A symbol of a block's data.
enum Symbol {
    Literal(u8),
    Copy { length: usize, distance: usize },
    End,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            bits: 0,
            count: 0,
            skip_bits: 0,
            history: 0,
            next: Next::Block,
            last: false,
            header: Header {
                literals: 0,
                distances: 0,
                length_codes: 0,
                have: 0,
                length_code: [0; 19],
                table: Table::new(),
                lengths: [0; 286 + 30],
            },
            codes: Codes { literals: Table::new(), distances: Table::new() },
            fixed: false,
        }
    }
}

impl Inflate for Decoder {
    fn start(&mut self, skip_bits: u8, history: &[u8]) {
        self.bits = 0;
        self.count = 0;
        self.skip_bits = skip_bits;
        self.history = history.len().min(WINDOW);
        self.next = Next::Block;
        self.last = false;
    }

    fn advance(
        &mut self,
        input: &[u8],
        output: Output<'_>,
        mut references: Option<&mut References>,
    ) -> Result<Advance, DeflateError> {
        let Output { buffer, at: start, pause_from } = output;
        let mut cursor = Cursor::new(input, self.bits, self.count);
        if self.skip_bits > 0 && cursor.take(self.skip_bits.into()).is_some() {
            self.skip_bits = 0;
        }
        let floor = start - self.history.min(start);
        let mut at = start;
        let pause = loop {
            let block_ended = match self.next {
                Next::Nothing => break Pause::End,
                Next::Stored(left) => {
                    cursor.give_back();
                    let length = left.min(input.len() - cursor.read).min(buffer.len() - at);
                    let bytes = &input[cursor.read..cursor.read + length];
                    buffer[at..at + length].copy_from_slice(bytes);
                    cursor.read += length;
                    at += length;
                    self.next = Next::Stored(left - length);
                    if left == length {
                        true
                    } else if at == buffer.len() {
                        break Pause::Output;
                    } else {
                        break Pause::Input;
                    }
                }
                Next::Symbols => {
                    if buffer.len() - at <= OUTPUT_AHEAD {
                        break Pause::Output;
                    }
                    match self.symbols(
                        &mut cursor,
                        buffer,
                        &mut at,
                        floor,
                        references.as_deref_mut(),
                    )? {
                        Some(Stop::EndOfBlock) => true,
                        Some(Stop::NearEnd) => false,
                        None => break Pause::Input,
                    }
                }
                _ => match self.header(&mut cursor)? {
                    Some(()) => false,
                    None => break Pause::Input,
                },
            };
            if block_ended {
                self.next = if self.last { Next::Nothing } else { Next::Block };
                if !self.last && at >= pause_from {
                    break Pause::Block;
                }
            }
        };
        if pause != Pause::Input {
            cursor.give_back();
        }
        self.history = (self.history + at - start).min(WINDOW);
        self.count = cursor.count;
        self.bits = cursor.bits & ((1 << cursor.count) - 1);
        let unused_bits = (cursor.count % 8) as u8;
        Ok(Advance { read: cursor.read, written: at - start, unused_bits, pause })
    }
}

impl Decoder {
    /// Takes one part of a block's header; `None` when the input ends before it does.
    fn header(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<()>, DeflateError> {
        let header = &mut self.header;
        match self.next {
            Next::Block => {
                let Some(bits) = cursor.take(3) else { return Ok(None) };
                self.last = bits & 1 == 1;
                self.next = match bits >> 1 {
                    0 => {
                        cursor.consume(cursor.count % 8);
                        Next::StoredLength
                    }
                    1 => {
                        self.load_fixed()?;
                        Next::Symbols
                    }
                    2 => Next::Dynamic,
                    _ => return Err(DeflateError::BlockType),
                };
            }
            Next::StoredLength => {
                let Some(bits) = cursor.take(32) else { return Ok(None) };
                if bits & 0xffff != !bits >> 16 {
                    return Err(DeflateError::StoredLength);
                }
                self.next = Next::Stored(bits as usize & 0xffff);
            }
            Next::Dynamic => {
                let Some(bits) = cursor.take(14) else { return Ok(None) };
                header.literals = 257 + (bits & 31) as usize;
                header.distances = 1 + (bits >> 5 & 31) as usize;
                header.length_codes = 4 + (bits >> 10) as usize;
                if header.literals > 286 || header.distances > 30 {
                    return Err(DeflateError::TooManySymbols);
                }
                header.have = 0;
                header.length_code = [0; 19];
                self.next = Next::LengthCode;
            }
            Next::LengthCode => {
                while header.have < header.length_codes {
                    let Some(bits) = cursor.take(3) else { return Ok(None) };
                    header.length_code[usize::from(LENGTH_ORDER[header.have])] = bits as u8;
                    header.have += 1;
                }
                header
                    .table
                    .build(&header.length_code, &LENGTHS, false)
                    .map_err(|_| DeflateError::CodeLengthCode)?;
                header.have = 0;
                self.next = Next::Lengths;
            }
            _ => {
                while header.have < header.literals + header.distances {
                    if header.length(cursor)?.is_none() {
                        return Ok(None);
                    }
                }
                self.load_dynamic()?;
                self.next = Next::Symbols;
            }
        }
        Ok(Some(()))
    }

    fn load_fixed(&mut self) -> Result<(), DeflateError> {
        if self.fixed {
            return Ok(());
        }
        let mut lengths = [8; 288];
        lengths[144..256].fill(9);
        lengths[256..280].fill(7);
        self.codes
            .literals
            .build(&lengths, &LITERALS, false)
            .map_err(|_| DeflateError::LiteralCode)?;
        self.codes
            .distances
            .build(&[5; 32], &DISTANCES, false)
            .map_err(|_| DeflateError::DistanceCode)?;
        self.fixed = true;
        Ok(())
    }

    fn load_dynamic(&mut self) -> Result<(), DeflateError> {
        self.fixed = false;
        let total = self.header.literals + self.header.distances;
        let (literals, distances) = self.header.lengths[..total].split_at(self.header.literals);
        if literals[256] == 0 {
            return Err(DeflateError::NoEndOfBlock);
        }
        self.codes
            .literals
            .build(literals, &LITERALS, true)
            .map_err(|_| DeflateError::LiteralCode)?;
        self.codes
            .distances
            .build(distances, &DISTANCES, true)
            .map_err(|_| DeflateError::DistanceCode)
    }

    /// Decodes symbols; `None` when the input is used up.
    fn symbols(
        &mut self,
        cursor: &mut Cursor<'_>,
        output: &mut [u8],
        at: &mut usize,
        floor: usize,
        references: Option<&mut References>,
    ) -> Result<Option<Stop>, DeflateError> {
        let mut unused = References::default();
        let note = references.is_some();
        let references = references.unwrap_or(&mut unused);
        let stop = if note {
            fast::symbols::<true>(&self.codes, cursor, output, at, floor, references)
        } else {
            fast::symbols::<false>(&self.codes, cursor, output, at, floor, references)
        }?;
        if stop == Stop::EndOfBlock {
            return Ok(Some(stop));
        }
        // Near the end of the input: symbol by symbol, each only if it is there whole.
        while output.len() - *at > OUTPUT_AHEAD {
            match self.symbol(cursor)? {
                None => return Ok(None),
                Some(Symbol::End) => return Ok(Some(Stop::EndOfBlock)),
                Some(Symbol::Literal(byte)) => {
                    output[*at] = byte;
                    *at += 1;
                }
                Some(Symbol::Copy { length, distance }) => {
                    if distance > *at - floor {
                        return Err(DeflateError::TooFarBack);
                    }
                    references.copied(*at, distance, length);
                    fast::copy(output, *at, distance, length);
                    *at += length;
                }
            }
        }
        Ok(Some(Stop::NearEnd))
    }

    /// Takes one symbol with all that belongs to it, or nothing.
    fn symbol(&self, cursor: &mut Cursor<'_>) -> Result<Option<Symbol>, DeflateError> {
        cursor.fill();
        let mut bits = cursor.bits;
        let mut used = 0;
        let mut entry = self.codes.literals.look_up(bits);
        if entry.is_link() {
            used += entry.bits();
            bits >>= entry.bits();
            entry = self.codes.literals.follow(entry, bits);
        }
        used += entry.bits();
        if used > cursor.count {
            return Ok(None);
        }
        if entry.is_literal() || entry.is_end() {
            cursor.consume(used);
            let symbol =
                if entry.is_end() { Symbol::End } else { Symbol::Literal(entry.value() as u8) };
            return Ok(Some(symbol));
        }
        if entry.is_exceptional() {
            return Err(DeflateError::Symbol);
        }
        let length = entry.extended(bits) as usize;
        bits >>= entry.bits();
        entry = self.codes.distances.look_up(bits);
        if entry.is_link() {
            used += entry.bits();
            bits >>= entry.bits();
            entry = self.codes.distances.follow(entry, bits);
        }
        used += entry.bits();
        if used > cursor.count {
            return Ok(None);
        }
        if entry.is_exceptional() {
            return Err(DeflateError::Symbol);
        }
        cursor.consume(used);
        Ok(Some(Symbol::Copy { length, distance: entry.extended(bits) as usize }))
    }
}

impl Header {
    /// Takes one code length or repeat with all its bits; `None` if the input ends before.
    fn length(&mut self, cursor: &mut Cursor<'_>) -> Result<Option<()>, DeflateError> {
        if cursor.count < 14 {
            cursor.fill();
        }
        let entry = self.table.look_up(cursor.bits);
        let code = entry.bits();
        let (extra, least) = match entry.value() {
            16 => (2, 3),
            17 => (3, 3),
            18 => (7, 11),
            _ => (0, 1),
        };
        if code + extra > cursor.count {
            return Ok(None);
        }
        cursor.consume(code);
        let count = least + cursor.take(extra).map_or(0, |extra| extra as usize);
        let value = match entry.value() {
            16 if self.have == 0 => return Err(DeflateError::Repeat),
            16 => self.lengths[self.have - 1],
            17 | 18 => 0,
            length => length as u8,
        };
        if self.have + count > self.literals + self.distances {
            return Err(DeflateError::Repeat);
        }
        self.lengths[self.have..self.have + count].fill(value);
        self.have += count;
        Ok(Some(()))
    }
}
