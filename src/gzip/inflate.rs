//! Raw deflate (RFC 1951) behind a small trait, so that the fast loop and its reference are
//! interchangeable. Knows nothing of gzip's framing or of checkpoints, save that someone may ask
//! which old bytes are referred to.

mod code;
mod cursor;
mod decoder;
mod fast;
mod references;
mod zlib;

pub use references::References;

use super::error::DeflateError;

/// How far back a distance may reach, in bytes.
pub const WINDOW: usize = 32 * 1024;

/// Which implementation inflates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// Our own.
    #[default]
    Own,
    /// zlib-rs, through its C interface: the reference.
    Zlib,
}

impl Engine {
    /// A decoder that stands at the start of a stream with no history.
    pub fn start(self) -> Box<dyn Inflate> {
        match self {
            Self::Own => Box::new(decoder::Decoder::new()),
            Self::Zlib => Box::new(zlib::Zlib::new()),
        }
    }
}

/// Where inflated bytes go.
#[derive(Debug)]
pub struct Output<'a> {
    /// The bytes before `at` are what was inflated so far, or the history given at the start, as
    /// far back as distances may reach; those from `at` are free, and may all be overwritten.
    pub buffer: &'a mut [u8],
    /// Where the next byte goes.
    pub at: usize,
    /// A block that ends at this index of `buffer` or later pauses the decoder, unless it is the
    /// last. `usize::MAX`: none does.
    pub pause_from: usize,
}

/// How far a call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// Bytes taken from the input.
    pub read: usize,
    /// Bytes put into the output.
    pub written: usize,
    /// The highest bits of the last byte read that were not used, 0 to 7. Meaningful for
    /// [`Pause::Block`] alone: at the end of the stream the rest of the byte is padding.
    pub unused_bits: u8,
    /// Why the call returned.
    pub pause: Pause,
}

/// Why a decoder returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pause {
    /// All input is used up.
    Input,
    /// The output has no room, or too little to go on at full speed (less than 1 KiB).
    Output,
    /// A block that is not the last has ended, at or after `pause_from`.
    Block,
    /// The last block has ended.
    End,
}

/// The free output bytes with which every decoder makes progress.
pub(super) const ROOM: usize = 1024;

/// A decoder of raw deflate that can be stopped and continued at any byte of input or output.
pub trait Inflate: Send {
    /// Forgets all state and stands at a block's beginning. The lowest `skip_bits` (0 to 7) bits of
    /// the first input byte belong to what came before. `history`, at most [`WINDOW`] bytes, is the
    /// plain text before; the caller also keeps it in front of [`Output::at`].
    fn start(&mut self, skip_bits: u8, history: &[u8]);

    /// Inflates until something in [`Pause`] happens. With `references`, every use of bytes that
    /// lie before a mark is noted there; a decoder that can't tell notes that all are used.
    fn advance(
        &mut self,
        input: &[u8],
        output: Output<'_>,
        references: Option<&mut References>,
    ) -> Result<Advance, DeflateError>;
}
