//! zlib-rs behind [`Inflate`]: the reference that our own loop is compared with.
//!
//! Its safe interface can neither stop at a block nor begin inside a byte, so this file speaks to
//! the C interface.
#![allow(unsafe_code, reason = "zlib's C interface; every call is in this file")]
#![allow(clippy::cast_sign_loss, clippy::cast_possible_wrap, reason = "the C interface's types")]

use std::ffi::CStr;
use std::mem::MaybeUninit;

use libz_rs_sys as z;

use super::{Advance, DeflateError, Inflate, Output, Pause, References};

/// Flags of `z_stream::data_type` as zlib.h describes them at `inflate`.
const AT_BLOCK_END: i32 = 128;
const LAST_BLOCK: i32 = 64;
const UNUSED_BITS: i32 = 63;

/// One inflate stream of zlib-rs.
pub(super) struct Zlib {
    /// Boxed: the library keeps a pointer from its state to the stream.
    stream: Box<z::z_stream>,
    /// Bits of the first input byte that are not ours, until that byte is here.
    skip_bits: u8,
}

// SAFETY: the stream owns all that its pointers lead to, but for the input and output pointers,
// which are set anew by each call and not used between calls.
unsafe impl Send for Zlib {}

impl Zlib {
    pub(super) fn new() -> Self {
        // SAFETY: all-zero is a valid z_stream: null pointers and `None` functions.
        let mut stream: Box<z::z_stream> = Box::new(unsafe { MaybeUninit::zeroed().assume_init() });
        // SAFETY: the stream is valid, and version and size are the library's own. Should it fail,
        // later calls answer Z_STREAM_ERROR, which `advance` reports.
        unsafe {
            z::inflateInit2_(
                &raw mut *stream,
                -15,
                z::zlibVersion(),
                size_of::<z::z_stream>() as i32,
            );
        }
        Self { stream, skip_bits: 0 }
    }
}

impl Drop for Zlib {
    fn drop(&mut self) {
        // SAFETY: the stream came from inflateInit2_ and is ended once.
        unsafe { z::inflateEnd(&raw mut *self.stream) };
    }
}

impl Inflate for Zlib {
    fn start(&mut self, skip_bits: u8, history: &[u8]) {
        // SAFETY: the stream came from inflateInit2_; the library copies the history. Neither call
        // can fail on a raw stream that was just reset.
        unsafe {
            z::inflateReset(&raw mut *self.stream);
            if !history.is_empty() {
                z::inflateSetDictionary(
                    &raw mut *self.stream,
                    history.as_ptr(),
                    history.len() as u32,
                );
            }
        }
        self.skip_bits = skip_bits;
    }

    fn advance(
        &mut self,
        input: &[u8],
        output: Output<'_>,
        references: Option<&mut References>,
    ) -> Result<Advance, DeflateError> {
        if let Some(references) = references {
            references.all_copied();
        }
        let (mut read, mut written) = (0, 0);
        if self.skip_bits > 0
            && let Some(&byte) = input.first()
        {
            let bits = i32::from(8 - self.skip_bits);
            // SAFETY: the stream came from inflateInit2_ and stands at its start.
            unsafe {
                z::inflatePrime(&raw mut *self.stream, bits, i32::from(byte >> self.skip_bits));
            }
            self.skip_bits = 0;
            read = 1;
        }
        let may_pause = output.pause_from <= output.buffer.len();
        let flush = if may_pause { z::Z_BLOCK } else { z::Z_NO_FLUSH };
        loop {
            let from = &input[read..];
            let to = &mut output.buffer[output.at + written..];
            let (input_room, output_room) = (clamp(from.len()), clamp(to.len()));
            self.stream.next_in = from.as_ptr();
            self.stream.avail_in = input_room;
            self.stream.next_out = to.as_mut_ptr();
            self.stream.avail_out = output_room;
            // SAFETY: both slices live through the call and have the lengths given.
            let code = unsafe { z::inflate(&raw mut *self.stream, flush) };
            read += (input_room - self.stream.avail_in) as usize;
            written += (output_room - self.stream.avail_out) as usize;
            let flags = self.stream.data_type;
            let done = |pause| {
                let unused_bits = (flags & UNUSED_BITS) as u8;
                Ok(Advance { read, written, unused_bits, pause })
            };
            match code {
                z::Z_STREAM_END => return done(Pause::End),
                z::Z_OK | z::Z_BUF_ERROR => {}
                _ => return Err(DeflateError::Zlib(self.message())),
            }
            let at_block_end = may_pause && flags & AT_BLOCK_END != 0;
            if at_block_end && flags & LAST_BLOCK == 0 && output.at + written >= output.pause_from {
                return done(Pause::Block);
            }
            if at_block_end {
                continue;
            }
            if output.at + written == output.buffer.len() {
                return done(Pause::Output);
            }
            if read == input.len() {
                return done(Pause::Input);
            }
        }
    }
}

impl Zlib {
    fn message(&self) -> &'static str {
        if self.stream.msg.is_null() {
            return "no message";
        }
        // SAFETY: zlib's messages are static, NUL-terminated strings.
        unsafe { CStr::from_ptr(self.stream.msg) }.to_str().unwrap_or("not UTF-8")
    }
}

fn clamp(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
