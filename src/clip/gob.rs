//! The parts of Go's `encoding/gob` that the archive format uses (CONTRACT A.10). Wire rules only:
//! nothing here knows of CLIP.
//!
//! A stream is a row of messages: type definitions with negative ids, then one value. Structs are
//! sent as deltas of field numbers, fields with zero values left out; a decoder goes by the names
//! in the definitions that came with the stream, so unknown fields are passed over.

/// Reading.
pub(crate) mod decode;
/// Writing.
pub(crate) mod encode;

pub use decode::GobError;
pub(crate) use decode::{Decoder, TypeId};
pub(crate) use encode::{Definitions, Encoder};

/// Ids of the types that every stream knows.
pub(crate) mod builtin {
    pub(crate) const BOOL: i64 = 1;
    pub(crate) const INT: i64 = 2;
    pub(crate) const UINT: i64 = 3;
    pub(crate) const FLOAT: i64 = 4;
    pub(crate) const BYTES: i64 = 5;
    pub(crate) const STRING: i64 = 6;
    pub(crate) const COMPLEX: i64 = 7;
    pub(crate) const INTERFACE: i64 = 8;
    /// The first id that a stream may define.
    pub(crate) const FIRST_DEFINED: i64 = 64;
}

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod tests;
