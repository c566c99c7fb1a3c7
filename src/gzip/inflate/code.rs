//! Huffman codes (RFC 1951 3.2.2) as look-up tables. One look-up gives all there is to know of a
//! symbol: what it means, how many bits its code has and how many extra bits follow.

/// What a bit pattern means.
///
/// ```text
/// bits 0..8    bits to consume: code and extra bits (for a link: the bits of the first look-up)
/// bits 8..13   bits of the code alone; for a link how many more bits choose in the table it leads to
/// bit 13       LINK: look again, in the table at the value
/// bit 14       SPECIAL: the end of the block if the value is 0, otherwise no meaning
/// bit 15       LITERAL
/// bits 16..32  value: the literal, base of a length or distance, or place of a table
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u32);

const LINK: u32 = 1 << 13;
const SPECIAL: u32 = 1 << 14;
const LITERAL: u32 = 1 << 15;

impl Entry {
    /// No meaning.
    const INVALID: Self = Self(1 << 16 | SPECIAL);
    const END: Self = Self(SPECIAL);

    const fn literal(byte: u8) -> Self {
        Self((byte as u32) << 16 | LITERAL)
    }

    const fn base(base: u16, extra_bits: u8) -> Self {
        Self((base as u32) << 16 | extra_bits as u32)
    }

    const fn link(place: usize, more_bits: u32, bits: u32) -> Self {
        Self((place as u32) << 16 | LINK | more_bits << 8 | bits)
    }

    /// The entry for a symbol whose code has `length` bits.
    const fn with_code(self, length: u32) -> Self {
        Self(self.0 + (length << 8) + length)
    }

    #[inline]
    pub(super) const fn is_literal(self) -> bool {
        self.0 & LITERAL != 0
    }

    #[inline]
    pub(super) const fn is_link(self) -> bool {
        self.0 & LINK != 0
    }

    /// Whether it is neither a literal nor a base: a link, the end or invalid.
    #[inline]
    pub(super) const fn is_exceptional(self) -> bool {
        self.0 & (LINK | SPECIAL) != 0
    }

    #[inline]
    pub(super) const fn is_end(self) -> bool {
        self.0 >> 14 == 1
    }

    /// Bits to consume.
    #[inline]
    pub(super) const fn bits(self) -> u32 {
        self.0 & 0xff
    }

    /// Bits of the code alone; for a link, the bits that choose in its table.
    #[inline]
    pub(super) const fn code_bits(self) -> u32 {
        self.0 >> 8 & 0x1f
    }

    #[inline]
    pub(super) const fn value(self) -> u32 {
        self.0 >> 16
    }

    /// The base and the extra bits after the code, which is lowest in `bits`.
    #[inline]
    pub(super) const fn extended(self, bits: u64) -> u32 {
        let mask = (1_u64 << (self.0 & 63)) - 1;
        // For a base, bit 13 is 0: so these are the code's bits, and the shift needs no other mask.
        self.value() + ((bits & mask) >> (self.0 >> 8 & 63)) as u32
    }
}

/// The symbols of an alphabet, before codes are given to them.
pub(super) struct Alphabet<const N: usize>([Entry; N]);

/// Literals, end of block and lengths (RFC 1951 3.2.5).
pub(super) static LITERALS: Alphabet<288> = Alphabet::literals();
/// Distances.
pub(super) static DISTANCES: Alphabet<32> = Alphabet::distances();
/// Code lengths and repeats (3.2.7), as bare numbers.
pub(super) static LENGTHS: Alphabet<19> = Alphabet::lengths();

impl Alphabet<288> {
    const fn literals() -> Self {
        let mut symbols = [Entry::INVALID; 288];
        let mut byte = 0;
        while byte < 256 {
            symbols[byte] = Entry::literal(byte as u8);
            byte += 1;
        }
        symbols[256] = Entry::END;
        // Eight lengths without extra bits, then four each with one more bit; 258 has its own.
        let mut base = 3;
        let mut symbol = 257;
        while symbol < 285 {
            let extra_bits = if symbol < 265 { 0 } else { (symbol - 261) / 4 };
            symbols[symbol] = Entry::base(base, extra_bits as u8);
            base += 1 << extra_bits;
            symbol += 1;
        }
        symbols[285] = Entry::base(258, 0);
        Self(symbols)
    }
}

impl Alphabet<32> {
    const fn distances() -> Self {
        let mut symbols = [Entry::INVALID; 32];
        let mut base = 1;
        let mut symbol = 0;
        while symbol < 30 {
            let extra_bits = if symbol < 4 { 0 } else { (symbol - 2) / 2 };
            symbols[symbol] = Entry::base(base, extra_bits as u8);
            base += 1 << extra_bits;
            symbol += 1;
        }
        Self(symbols)
    }
}

impl Alphabet<19> {
    const fn lengths() -> Self {
        let mut symbols = [Entry::INVALID; 19];
        let mut symbol = 0;
        while symbol < 19 {
            symbols[symbol] = Entry::base(symbol as u16, 0);
            symbol += 1;
        }
        Self(symbols)
    }
}

/// The code is over-subscribed, or incomplete where it may not be.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadCode;

/// The longest code.
const MAX_BITS: usize = 15;

/// A code's table: `1 << BITS` entries by the first bits, and after them the tables of longer codes.
/// `SIZE` must hold the worst case for the alphabet.
#[derive(Debug, Clone)]
pub(super) struct Table<const BITS: u32, const SIZE: usize>(pub(super) [Entry; SIZE]);

impl<const BITS: u32, const SIZE: usize> Table<BITS, SIZE> {
    pub(super) const fn new() -> Self {
        Self([Entry::INVALID; SIZE])
    }

    /// Gives codes of the `lengths` (0 to 15; 0: none) to the symbols. A code that leaves patterns
    /// unused is refused, except, as in zlib: with `may_be_sparse`, none at all or one of one bit.
    pub(super) fn build<const N: usize>(
        &mut self,
        lengths: &[u8],
        alphabet: &Alphabet<N>,
        may_be_sparse: bool,
    ) -> Result<(), BadCode> {
        let mut counts = [0_u16; MAX_BITS + 1];
        for &length in lengths {
            counts[usize::from(length & 15)] += 1;
        }
        let used = lengths.len() as u16 - counts[0];
        counts[0] = 0;
        // The share of all patterns of 15 bits that the codes take.
        let taken: u32 =
            (1..=MAX_BITS).map(|length| u32::from(counts[length]) << (MAX_BITS - length)).sum();
        if taken != 1 << MAX_BITS {
            let sparse = may_be_sparse && (used == 0 || (used == 1 && counts[1] == 1));
            if !sparse {
                return Err(BadCode);
            }
        }
        // Symbols in the order of their codes: by length, then by number.
        let mut next = [0_u16; MAX_BITS + 2];
        for length in 1..=MAX_BITS {
            next[length + 1] = next[length] + counts[length];
        }
        let mut sorted = [0_u16; N];
        for (symbol, &length) in lengths.iter().enumerate() {
            let length = usize::from(length & 15);
            if length > 0 {
                sorted[usize::from(next[length]) % N] = symbol as u16;
                next[length] += 1;
            }
        }
        let sorted = &sorted[..usize::from(used)];
        if taken != 1 << MAX_BITS {
            self.0[..1 << BITS].fill(Entry::INVALID.with_code(1));
            if let [symbol] = sorted {
                let entry = alphabet.0[usize::from(*symbol)].with_code(1);
                self.0[..1 << BITS].iter_mut().step_by(2).for_each(|slot| *slot = entry);
            }
            return Ok(());
        }
        self.fill(sorted, &counts, alphabet);
        Ok(())
    }

    /// Fills the table for a complete code. Codes are sent from their highest bit on, so that the
    /// table is indexed by reversed codes: counting up means to carry from the top down.
    fn fill<const N: usize>(
        &mut self,
        sorted: &[u16],
        counts: &[u16; MAX_BITS + 1],
        alphabet: &Alphabet<N>,
    ) {
        let mut symbols = sorted.iter().map(|&symbol| alphabet.0[usize::from(symbol) % N]);
        let mut code = 0_usize;
        // Short codes: fill as much of the table as codes of this length distinguish; for the next
        // length, the table so far is repeated once. So each entry reaches all its places by copying.
        for length in 1..=BITS {
            let size = 1 << length;
            self.0.copy_within(..size / 2, size / 2);
            for entry in symbols.by_ref().take(counts[length as usize].into()) {
                self.0[code] = entry.with_code(length);
                code = increment(code, length);
            }
        }
        // Long codes: a link for each of their beginnings to a table of just the size needed.
        let mut end = 1 << BITS;
        let (mut start, mut prefix) = (0, usize::MAX);
        for length in BITS + 1..=MAX_BITS as u32 {
            for left in (1..=counts[length as usize]).rev() {
                let Some(entry) = symbols.next() else { return };
                if code % (1 << BITS) != prefix {
                    prefix = code % (1 << BITS);
                    start = end;
                    let mut more_bits = length - BITS;
                    let mut room = 1_i32 << more_bits;
                    room -= i32::from(left);
                    while room > 0 && more_bits < MAX_BITS as u32 - BITS {
                        more_bits += 1;
                        room = 2 * room - i32::from(counts[(BITS + more_bits) as usize]);
                    }
                    end += 1 << more_bits;
                    self.0[prefix] = Entry::link(start, more_bits, BITS);
                }
                let entry = entry.with_code(length - BITS);
                let step = 1 << (length - BITS);
                self.0[start + (code >> BITS)..end]
                    .iter_mut()
                    .step_by(step)
                    .for_each(|slot| *slot = entry);
                code = increment(code, length);
            }
        }
    }

    /// The entry for the lowest bits of `bits`.
    #[inline]
    pub(super) fn look_up(&self, bits: u64) -> Entry {
        self.0[(bits % (1 << BITS)) as usize]
    }

    /// The entry that `link` leads to; `bits` without those of the link.
    #[inline]
    pub(super) fn follow(&self, link: Entry, bits: u64) -> Entry {
        let index = link.value() as usize + (bits & ((1 << link.code_bits()) - 1)) as usize;
        self.0[index]
    }
}

/// The code of `length` bits after `code`, both reversed.
fn increment(code: usize, length: u32) -> usize {
    // The highest zero becomes one; the ones above it become zero.
    let zeros = !code & ((1 << length) - 1);
    if zeros == 0 {
        return 0;
    }
    let bit = 1 << zeros.ilog2();
    code & (bit - 1) | bit
}

/// The literal/length code's table; no code of 288 symbols and 15 bits needs more than 2342 entries.
pub(super) type Literals = Table<11, 2342>;
/// The distance code's table; no code of 32 symbols and 15 bits needs more than 402 entries.
pub(super) type Distances = Table<8, 402>;

/// A block's codes, side by side so that one register leads to both.
pub(super) struct Codes {
    pub(super) literals: Literals,
    pub(super) distances: Distances,
}
