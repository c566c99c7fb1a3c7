//! Extension headers: what they say of the entry that comes after them.

use super::ScanError;
use super::malformed;
use crate::layer::pax::{self, Pax};

/// What kind of extension header it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Extension {
    Pax,
    PaxGlobal,
    LongName,
    LongLink,
}

impl Extension {
    /// By the type of its header; `None` is an entry.
    pub(super) fn of(kind: u8) -> Option<Self> {
        match kind {
            b'x' => Some(Self::Pax),
            b'g' => Some(Self::PaxGlobal),
            b'L' => Some(Self::LongName),
            b'K' => Some(Self::LongLink),
            _ => None,
        }
    }
}

/// Those that wait for the entry that they describe.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// The records of a PAX header, whose values an entry may yet find senseless.
    pub(super) pax: Vec<u8>,
    pub(super) long_name: Option<Vec<u8>>,
    pub(super) long_link: Option<Vec<u8>>,
    /// Content bytes of the headers so far.
    pub(super) bytes: u64,
    pub(super) present: bool,
}

impl Extensions {
    /// Takes the content of one that came from offset `at`. Gives whether it is a global one that
    /// would mean something.
    pub(super) fn take(
        &mut self,
        kind: Extension,
        data: Vec<u8>,
        at: u64,
    ) -> Result<bool, ScanError> {
        match kind {
            Extension::Pax => {
                pax::check(&data).map_err(|e| malformed(at, &e))?;
                self.pax = data;
            }
            Extension::LongName => self.long_name = until_nul(data),
            Extension::LongLink => self.long_link = until_nul(data),
            Extension::PaxGlobal => {
                // Go and umoci leave these out too; a comment is all that is found in practice.
                pax::check(&data).map_err(|e| malformed(at, &e))?;
                // Go forgets those that came before it, too.
                *self = Self::default();
                return Ok(Pax::parse(&data).ok() != Some(Pax::default()));
            }
        }
        self.present = true;
        Ok(false)
    }
}

/// An empty name is none.
fn until_nul(mut bytes: Vec<u8>) -> Option<Vec<u8>> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    (!bytes.is_empty()).then_some(bytes)
}
