//! A gzip stream (RFC 1952) as it arrives: members, their headers and trailers, and what follows the
//! last. Lends out the plain bytes from its own buffer, or gives them away with it.

use flate2::Crc;

use super::checkpoint::{Checkpoint, CheckpointKind, Span, SpanBuilder};
use super::error::{GzipError, Problem};
use super::header::{Header, MAGIC};
use super::inflate::{Engine, Inflate, Output, Pause, ROOM, WINDOW};
use super::plain::{BUFFER, PlainBytes};

/// With less room than this the history moves to the front.
const LOW_ROOM: usize = 64 * 1024;

/// How to read a stream.
#[derive(Debug, Clone, Copy, Default)]
pub struct GzipOptions {
    /// What inflates.
    pub engine: Engine,
    /// Whether to leave out the check of each member's CRC: when the plain bytes are compared with
    /// a digest, it says nothing new. The length is always checked.
    pub skip_crc: bool,
    /// Make spans of at least so many plain bytes; none if `None`.
    pub span: Option<u64>,
}

/// What was found in a whole stream.
#[derive(Debug)]
pub struct Summary {
    /// The plain bytes of all members.
    pub plain: u64,
    /// The compressed bytes up to the end of the last member.
    pub compressed: u64,
    /// The number of members.
    pub members: u64,
    /// What follows the last member.
    pub trailing: Trailing,
    /// The spans, if asked for; the first begins at 0 and each next where the one before ends.
    pub spans: Vec<Span>,
}

/// Bytes after the last member: neither part of the plain stream nor an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trailing {
    /// How many.
    pub bytes: u64,
    /// How many of them are not zero.
    pub nonzero: u64,
}

/// Reads a gzip stream from chunks of any size.
pub struct GzipReader {
    engine: Box<dyn Inflate>,
    phase: Phase,
    buffer: Box<[u8]>,
    /// The end of the bytes inflated into the buffer.
    at: usize,
    /// The end of those that were lent out.
    lent: usize,
    /// Whether inflating waits until the buffer has been lent out.
    full: bool,
    /// Whether the decoder may go on without more input.
    pending: bool,
    /// The compressed and plain bytes so far.
    compressed: u64,
    plain: u64,
    members: u64,
    member: Member,
    skip_crc: bool,
    trailing: Trailing,
    spans: Option<SpanBuilder>,
}

/// What is next in the stream.
enum Phase {
    /// A member's magic, of which the first byte may have been seen; or, after a member, anything.
    Magic(bool),
    Header(Box<Header>),
    Deflate,
    /// The trailer, of which so many bytes have been seen.
    Trailer([u8; 8], usize),
    Trailing,
}

/// What is known of the member in progress.
struct Member {
    crc: Crc,
    /// Plain bytes so far.
    plain: u64,
    /// Whether it was entered at a checkpoint, so that its trailer can't be checked.
    entered_late: bool,
}

impl Member {
    fn new() -> Self {
        Self { crc: Crc::new(), plain: 0, entered_late: false }
    }
}

impl GzipReader {
    /// Reads from a stream's first byte.
    pub fn new(options: GzipOptions) -> Self {
        Self {
            engine: options.engine.start(),
            phase: Phase::Magic(false),
            buffer: PlainBytes::new().buffer,
            at: WINDOW,
            lent: WINDOW,
            full: false,
            pending: false,
            compressed: 0,
            plain: 0,
            members: 0,
            member: Member::new(),
            skip_crc: options.skip_crc,
            trailing: Trailing::default(),
            spans: options.span.map(SpanBuilder::new),
        }
    }

    /// Reads from a checkpoint on: the first input byte is the one that holds the checkpoint's bit,
    /// the first plain byte is the one at its plain offset.
    pub fn resume(checkpoint: &Checkpoint, engine: Engine) -> Result<Self, GzipError> {
        // Whoever made the checkpoint may have left CRCs out; the spans' digests say more.
        let mut reader = Self::new(GzipOptions { engine, skip_crc: true, span: None });
        reader.compressed = checkpoint.compressed_bit / 8;
        reader.plain = checkpoint.plain;
        if checkpoint.kind == CheckpointKind::Block {
            let history = checkpoint
                .window
                .decode()
                .map_err(|error| Problem::from(error).at(reader.compressed))?;
            reader.buffer[WINDOW - history.len()..WINDOW].copy_from_slice(&history);
            reader.engine.start((checkpoint.compressed_bit % 8) as u8, &history);
            reader.phase = Phase::Deflate;
            reader.members = 1;
            reader.member.entered_late = true;
        }
        Ok(reader)
    }

    /// The offset in the compressed stream of the next byte to be given, if all was taken so far.
    pub fn compressed_offset(&self) -> u64 {
        self.compressed
    }

    /// Takes bytes off the front of `input` until it can lend plain bytes, of which each is lent
    /// once; `None` when the input is empty and all is lent.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<&[u8]>, GzipError> {
        self.fill(input)?;
        self.full = false;
        let from = std::mem::replace(&mut self.lent, self.at);
        Ok(Some(&self.buffer[from..self.at]).filter(|plain| !plain.is_empty()))
    }

    /// Takes bytes off the front of `input` until it is empty (`false`) or the buffer is full
    /// (`true`); then [`Self::next`] or [`Self::swap`] has to empty it.
    pub fn fill(&mut self, input: &mut &[u8]) -> Result<bool, GzipError> {
        while !self.full && (self.pending || !input.is_empty()) {
            self.step(input)?;
        }
        Ok(self.full)
    }

    /// Gives away the plain bytes that were not lent, with the buffer they are in, and goes on in
    /// `spare`. So another thread can have them without a copy.
    pub fn swap(&mut self, spare: PlainBytes) -> PlainBytes {
        let mut buffer = spare.buffer;
        buffer[..WINDOW].copy_from_slice(&self.buffer[self.at - WINDOW..self.at]);
        let taken = PlainBytes {
            range: self.lent..self.at,
            buffer: std::mem::replace(&mut self.buffer, buffer),
        };
        self.full = false;
        self.at = WINDOW;
        self.lent = WINDOW;
        taken
    }

    /// Ends the stream.
    pub fn finish(mut self) -> Result<Summary, GzipError> {
        match self.phase {
            Phase::Trailing => {}
            Phase::Magic(half) if self.members > 0 => self.trailing.count(&MAGIC[..half.into()]),
            _ => return Err(Problem::Truncated.at(self.compressed)),
        }
        Ok(Summary {
            plain: self.plain,
            compressed: self.compressed - self.trailing.bytes,
            members: self.members,
            trailing: self.trailing,
            spans: self.spans.map_or_else(Vec::new, |spans| spans.finish(self.plain)),
        })
    }

    /// Goes on within one phase.
    fn step(&mut self, input: &mut &[u8]) -> Result<(), GzipError> {
        match &mut self.phase {
            Phase::Magic(half) => {
                let half = *half;
                self.magic(half, input)
            }
            Phase::Header(header) => {
                let taken = header.take(input).map_err(|problem| problem.at(self.compressed))?;
                if header.is_done() {
                    self.phase = Phase::Deflate;
                }
                self.take(input, taken);
                Ok(())
            }
            Phase::Deflate => self.deflate(input),
            Phase::Trailer(bytes, have) => {
                let taken = input.len().min(8 - *have);
                bytes[*have..*have + taken].copy_from_slice(&input[..taken]);
                *have += taken;
                let complete = (*have == 8).then_some(*bytes);
                self.take(input, taken);
                complete.map_or(Ok(()), |bytes| self.trailer(bytes))
            }
            Phase::Trailing => {
                self.trailing.count(input);
                self.compressed += input.len() as u64;
                *input = &[];
                Ok(())
            }
        }
    }

    /// Takes `length` bytes off the input.
    fn take(&mut self, input: &mut &[u8], length: usize) {
        let (taken, rest) = input.split_at(length);
        *input = rest;
        self.compressed += length as u64;
        if let Some(spans) = &mut self.spans {
            spans.compressed(taken);
        }
    }

    /// Looks at one byte where a member may begin. A span takes the magic only once it is whole:
    /// half of it may be the beginning of trailing bytes.
    fn magic(&mut self, half: bool, input: &mut &[u8]) -> Result<(), GzipError> {
        let Some((&byte, rest)) = input.split_first() else { return Ok(()) };
        if byte != MAGIC[usize::from(half)] {
            if self.members == 0 {
                let found =
                    if half { (MAGIC[0], byte) } else { (byte, *rest.first().unwrap_or(&0)) };
                return Err(Problem::Magic(found.0, found.1).at(self.compressed));
            }
            self.trailing.count(&MAGIC[..half.into()]);
            self.phase = Phase::Trailing;
            return Ok(());
        }
        *input = rest;
        self.compressed += 1;
        if !half {
            self.phase = Phase::Magic(true);
            return Ok(());
        }
        if let Some(spans) = &mut self.spans {
            spans.member(self.plain);
            spans.compressed(&MAGIC);
        }
        self.members += 1;
        self.member = Member::new();
        self.engine.start(0, &[]);
        self.phase = Phase::Header(Box::new(Header::new()));
        Ok(())
    }

    /// Inflates until the decoder pauses.
    fn deflate(&mut self, input: &mut &[u8]) -> Result<(), GzipError> {
        if self.buffer.len() - self.at < LOW_ROOM {
            if self.lent < self.at {
                self.full = true;
                return Ok(());
            }
            self.buffer.copy_within(self.at - WINDOW..self.at, 0);
            self.at = WINDOW;
            self.lent = WINDOW;
        }
        let mut end = self.buffer.len();
        let mut pause_from = usize::MAX;
        if let Some(spans) = &self.spans {
            let until = spans.wants_block_from().saturating_sub(self.plain);
            pause_from =
                usize::try_from(until).map_or(usize::MAX, |until| self.at.saturating_add(until));
            // Noting references is slow: have the decoder return when that is no longer needed.
            if let Some(watched) = spans.watched(self.plain) {
                end = end.min(self.at + watched.min(BUFFER as u64) as usize + ROOM);
            }
        }
        let output = Output { buffer: &mut self.buffer[..end], at: self.at, pause_from };
        let references =
            self.spans.as_mut().and_then(|spans| spans.references(self.at, self.plain));
        let advance = self
            .engine
            .advance(input, output, references)
            .map_err(|error| Problem::from(error).at(self.compressed))?;
        if !self.skip_crc && !self.member.entered_late {
            self.member.crc.update(&self.buffer[self.at..self.at + advance.written]);
        }
        self.pending = matches!(advance.pause, Pause::Output | Pause::Block);
        self.at += advance.written;
        self.plain += advance.written as u64;
        self.member.plain += advance.written as u64;
        self.take(input, advance.read);
        let ended = advance.pause == Pause::End;
        if let Some(spans) = &mut self.spans {
            spans
                .inflated(self.plain, ended)
                .map_err(|error| Problem::from(error).at(self.compressed))?;
            if advance.pause == Pause::Block {
                let history = self.member.plain.min(WINDOW as u64) as usize;
                let history = &self.buffer[self.at - history..self.at];
                spans.block(advance.unused_bits, self.plain, history);
            }
        }
        if ended {
            self.phase = Phase::Trailer([0; 8], 0);
        }
        Ok(())
    }

    /// Checks a member's trailer.
    fn trailer(&mut self, bytes: [u8; 8]) -> Result<(), GzipError> {
        let [c0, c1, c2, c3, l0, l1, l2, l3] = bytes;
        let at = self.compressed - 8;
        if !self.member.entered_late {
            let (expected, found) = (u32::from_le_bytes([c0, c1, c2, c3]), self.member.crc.sum());
            if !self.skip_crc && expected != found {
                return Err(Problem::Crc { expected, found }.at(at));
            }
            let (expected, found) =
                (u32::from_le_bytes([l0, l1, l2, l3]), self.member.plain as u32);
            if expected != found {
                return Err(Problem::Length { expected, found }.at(at + 4));
            }
        }
        self.phase = Phase::Magic(false);
        Ok(())
    }
}

impl Trailing {
    fn count(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.nonzero += bytes.iter().filter(|byte| **byte != 0).count() as u64;
    }
}
