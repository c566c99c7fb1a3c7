//! Bits from bytes, lowest first.

/// Input being read, and the bits taken from it but not used.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    pub(super) input: &'a [u8],
    /// How many bytes of the input have gone into `bits`.
    pub(super) read: usize,
    /// The next bits. Those above `count` are zero or what will come there anyway.
    pub(super) bits: u64,
    pub(super) count: u32,
}

impl<'a> Cursor<'a> {
    /// Goes on with `bits` held from before.
    pub(super) fn new(input: &'a [u8], bits: u64, count: u32) -> Self {
        Self { input, read: 0, bits, count }
    }

    /// Fills up to 56 bits or more, or with all that is left.
    pub(super) fn fill(&mut self) {
        while self.count < 56
            && let Some(&byte) = self.input.get(self.read)
        {
            self.bits |= u64::from(byte) << self.count;
            self.count += 8;
            self.read += 1;
        }
    }

    /// Takes `count` (to 32) bits, if there are so many.
    pub(super) fn take(&mut self, count: u32) -> Option<u32> {
        if self.count < count {
            self.fill();
            if self.count < count {
                return None;
            }
        }
        let value = self.bits & ((1 << count) - 1);
        self.consume(count);
        Some(value as u32)
    }

    /// Drops bits that are there.
    pub(super) fn consume(&mut self, count: u32) {
        self.bits >>= count;
        self.count -= count;
    }

    /// Gives whole bytes back to the input, so that fewer than 8 bits are held. They can't be from
    /// before this input: what was held then was too little for what was decoded since.
    pub(super) fn give_back(&mut self) {
        let bytes = (self.count / 8) as usize;
        debug_assert!(bytes <= self.read, "bits outlived the input they came from");
        self.read = self.read.saturating_sub(bytes);
        self.count %= 8;
        self.bits &= (1 << self.count) - 1;
    }
}
