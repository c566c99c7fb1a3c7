//! Layers of zstd frames (RFC 8878): one, as most tools write, or many, as zstd:chunked and the
//! seekable format have them. Frames need nothing of each other, so spans are groups of whole
//! ones; skippable frames say nothing and go with the frame behind them.

use zstd::zstd_safe::{
    DCtx, DParameter, ErrorCode, InBuffer, OutBuffer, ResetDirective, get_error_name,
};

use super::DecodeError;
use super::cut::Cutter;
use crate::gzip::{PlainBytes, Span};
use crate::layer::{Excess, Limit};

/// `ZSTD_error_frameParameter_windowTooLarge`; error codes are negated.
const WINDOW_TOO_LARGE: ErrorCode = 0_usize.wrapping_sub(16);

/// Decodes a layer from its first byte.
pub(in crate::layer) struct ZstdReader {
    context: DCtx<'static>,
    pub(super) plain: PlainBytes,
    /// Compressed and plain bytes so far.
    compressed: u64,
    decoded: u64,
    /// Whether a frame has begun and not ended.
    inside: bool,
    /// Whether there may be plain bytes without more input.
    pending: bool,
    cutter: Option<Cutter>,
    window: u64,
}

impl ZstdReader {
    pub(super) fn new(span: Option<u64>, window: u64) -> Self {
        Self {
            context: DCtx::create(),
            plain: PlainBytes::new(),
            compressed: 0,
            decoded: 0,
            inside: false,
            pending: false,
            cutter: span.map(Cutter::new),
            window,
        }
    }

    pub(super) fn fill(&mut self, input: &mut &[u8]) -> Result<bool, DecodeError> {
        if self.compressed == 0 {
            self.limit_window()?;
        }
        while self.pending || !input.is_empty() {
            let room = self.plain.room();
            if room.is_empty() {
                return Ok(true);
            }
            let space = room.len();
            let mut output = OutBuffer::around(room);
            let mut given = InBuffer::around(input);
            let more = self.context.decompress_stream(&mut output, &mut given);
            let (written, read) = (output.pos(), given.pos());
            let more = more.map_err(|code| self.broken(code))?;
            let (taken, rest) = input.split_at(read);
            *input = rest;
            self.plain.grow(written);
            self.decoded += written as u64;
            self.compressed += read as u64;
            // 0: a frame has ended, and all of it is out.
            self.inside = more != 0 && (self.inside || read > 0);
            self.pending = self.inside && written == space;
            if let Some(cutter) = &mut self.cutter {
                cutter.compressed(taken);
                if !self.inside {
                    cutter.boundary(self.compressed, self.decoded);
                }
            }
        }
        Ok(false)
    }

    pub(super) fn finish(self) -> Result<Vec<Span>, DecodeError> {
        if self.inside {
            let detail = "the stream ends inside a frame".into();
            return Err(DecodeError::Corrupt { offset: self.compressed, detail });
        }
        Ok(self.cutter.map_or_else(Vec::new, |c| c.finish(self.compressed, self.decoded)))
    }

    /// Has the decoder refuse frames that need more memory.
    fn limit_window(&mut self) -> Result<(), DecodeError> {
        let log = self.window.max(1).ilog2().clamp(10, 31);
        self.context
            .reset(ResetDirective::SessionAndParameters)
            .and_then(|_| self.context.set_parameter(DParameter::WindowLogMax(log)))
            .map(drop)
            .map_err(|code| self.broken(code))
    }

    fn broken(&self, code: ErrorCode) -> DecodeError {
        let offset = self.compressed;
        if code == WINDOW_TOO_LARGE {
            return DecodeError::Limit(Excess {
                limit: Limit::ZstdWindow,
                found: self.window.saturating_add(1),
                allowed: self.window,
                place: format!("the frame at byte {offset}"),
            });
        }
        let mut detail = get_error_name(code).to_lowercase();
        if !self.inside && offset > 0 {
            detail = format!("what follows a frame is no other: {detail}");
        }
        DecodeError::Corrupt { offset, detail }
    }
}
