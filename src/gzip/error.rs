//! What can be wrong with a gzip stream, and where.

use crate::error::{Classify, Fault};

use super::window::WindowError;

/// A gzip stream that can't be read on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the gzip stream is broken at compressed byte {at}: {problem}")]
pub struct GzipError {
    /// The offset in the compressed stream near which the problem was seen, in bytes. Inside a
    /// block it is where the decoder stood, at most a chunk's unread rest beyond the cause.
    pub at: u64,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a gzip stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The stream does not begin with the two identifying bytes (RFC 1952 2.3.1).
    #[error("expected the gzip magic 1f8b, found {0:02x}{1:02x}")]
    Magic(u8, u8),
    /// CM is not 8.
    #[error("expected compression method 8 (deflate), found {0}")]
    Method(u8),
    /// FLG has one of the reserved bits, which may announce a field that we can't skip.
    #[error("the header's flags {0:#04x} hold reserved bits")]
    ReservedFlags(u8),
    /// FHCRC does not match the header.
    #[error("the header's CRC is {found:04x}, expected {expected:04x}")]
    HeaderCrc {
        /// As the header says.
        expected: u16,
        /// As computed.
        found: u16,
    },
    /// The deflate data breaks RFC 1951.
    #[error(transparent)]
    Deflate(#[from] DeflateError),
    /// CRC32 of the trailer does not match the member's plain bytes.
    #[error("the member's CRC is {found:08x}, expected {expected:08x}")]
    Crc {
        /// As the trailer says.
        expected: u32,
        /// As computed.
        found: u32,
    },
    /// ISIZE of the trailer does not match the member's plain bytes.
    #[error("the member has {found} plain bytes (modulo 2^32), expected {expected}")]
    Length {
        /// As the trailer says.
        expected: u32,
        /// As counted.
        found: u32,
    },
    /// The stream ends inside a member.
    #[error("the stream ends inside a member")]
    Truncated,
    /// A checkpoint's window can't be decoded.
    #[error(transparent)]
    Window(#[from] WindowError),
}

/// What is wrong with deflate data. The set is what zlib refuses, and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeflateError {
    /// BTYPE 3.
    #[error("a block has the reserved type 3")]
    BlockType,
    /// LEN and NLEN of a stored block don't match.
    #[error("a stored block's length does not match its complement")]
    StoredLength,
    /// More than 286 literal/length or 30 distance codes.
    #[error("a block declares too many symbols")]
    TooManySymbols,
    /// A code length code that is over-subscribed or incomplete.
    #[error("a block's code length code is over-subscribed or incomplete")]
    CodeLengthCode,
    /// A repeated length with none before it, or past the end.
    #[error("a block's code lengths repeat wrongly")]
    Repeat,
    /// No code for the end of the block.
    #[error("a block has no code for its end")]
    NoEndOfBlock,
    /// A literal/length code that is over-subscribed or incomplete.
    #[error("a block's literal/length code is over-subscribed or incomplete")]
    LiteralCode,
    /// A distance code that is over-subscribed or incomplete.
    #[error("a block's distance code is over-subscribed or incomplete")]
    DistanceCode,
    /// A bit pattern or symbol with no meaning.
    #[error("a block uses a literal/length or distance code that has no meaning")]
    Symbol,
    /// A distance beyond the bytes that exist.
    #[error("a distance reaches back before the start of the window")]
    TooFarBack,
    /// The reference decoder refused the data; its own message.
    #[error("zlib says: {0}")]
    Zlib(&'static str),
}

impl Problem {
    /// The problem as an error at the compressed byte `at`.
    pub(super) fn at(self, at: u64) -> GzipError {
        GzipError { at, problem: self }
    }
}

impl Classify for GzipError {
    fn is_transient(&self) -> bool {
        false
    }

    fn fault(&self) -> Fault {
        Fault::User
    }

    fn code(&self) -> &'static str {
        match self.problem {
            Problem::Magic(..) => "not_gzip",
            Problem::Truncated => "gzip_truncated",
            _ => "gzip_corrupt",
        }
    }
}
