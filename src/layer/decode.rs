//! Compressed bytes in, plain bytes out, whatever a layer's encoding; on the way, spans: where
//! reading can begin again ([`crate::gzip::Span`]).

/// Spans that need no history.
mod cut;
/// The way back: plain bytes out of spans.
mod span;
/// Layers that are not compressed.
mod tar;
/// Layers of zstd frames.
mod zstd;

use super::{Encoding, Excess, Limits};
use crate::gzip::{GzipError, GzipOptions, GzipReader, PlainBytes, Span};

pub use span::{SpanError, decode_spans};

use self::tar::TarReader;
use self::zstd::ZstdReader;

/// Decodes a layer from its first byte, from chunks of any size.
pub(super) enum Decoder {
    Gzip(Box<GzipReader>),
    Tar(TarReader),
    Zstd(ZstdReader),
}

/// Why there are no more plain bytes.
#[derive(Debug)]
pub(super) enum DecodeError {
    /// The bytes are not what the encoding says.
    Corrupt {
        /// Compressed byte near which it was seen.
        offset: u64,
        /// What is wrong.
        detail: String,
    },
    /// A limit was passed.
    Limit(Excess),
}

impl Decoder {
    /// With `span`, spans of about so many plain bytes are made.
    pub(super) fn new(encoding: Encoding, span: Option<u64>, limits: &Limits) -> Self {
        match encoding {
            Encoding::Gzip => {
                // The diff id that is verified in the end says more than a CRC.
                let options = GzipOptions { skip_crc: true, span, ..GzipOptions::default() };
                Self::Gzip(Box::new(GzipReader::new(options)))
            }
            Encoding::Tar => Self::Tar(TarReader::new(span)),
            Encoding::Zstd => Self::Zstd(ZstdReader::new(span, limits.zstd_window)),
        }
    }

    /// Takes bytes off the front of `input` until it is empty (`false`) or there are as many plain
    /// bytes as fit a buffer (`true`); then [`Self::swap`] has to take them.
    pub(super) fn fill(&mut self, input: &mut &[u8]) -> Result<bool, DecodeError> {
        match self {
            Self::Gzip(reader) => Ok(reader.fill(input)?),
            Self::Tar(reader) => Ok(reader.fill(input)),
            Self::Zstd(reader) => reader.fill(input),
        }
    }

    /// Gives away the plain bytes in their buffer, and goes on in `spare`.
    pub(super) fn swap(&mut self, mut spare: PlainBytes) -> PlainBytes {
        let plain = match self {
            Self::Gzip(reader) => return reader.swap(spare),
            Self::Tar(reader) => &mut reader.plain,
            Self::Zstd(reader) => &mut reader.plain,
        };
        spare.clear();
        std::mem::replace(plain, spare)
    }

    /// Ends the layer; gives its spans.
    pub(super) fn finish(self) -> Result<Vec<Span>, DecodeError> {
        match self {
            Self::Gzip(reader) => {
                let summary = reader.finish()?;
                if summary.trailing.bytes == 0 {
                    return Ok(summary.spans);
                }
                // gzip takes this for padding, but Go's reader, which upstream's mount uses, does not.
                let detail = format!("{} bytes follow its end", summary.trailing.bytes);
                Err(DecodeError::Corrupt { offset: summary.compressed, detail })
            }
            Self::Tar(reader) => Ok(reader.finish()),
            Self::Zstd(reader) => reader.finish(),
        }
    }
}

impl From<GzipError> for DecodeError {
    fn from(error: GzipError) -> Self {
        Self::Corrupt { offset: error.at, detail: error.problem.to_string() }
    }
}
