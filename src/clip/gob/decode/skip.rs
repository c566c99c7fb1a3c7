//! Passing over values of any type.

use super::{Decoder, MAX_DEPTH, Result, TypeId, WireType};
use crate::clip::gob::builtin;

impl Decoder<'_> {
    pub(super) fn skip_nested(&mut self, id: TypeId, depth: usize) -> Result<()> {
        if depth > MAX_DEPTH {
            return Err(self.wrong("values are nested too deeply"));
        }
        match id {
            builtin::BOOL | builtin::INT | builtin::UINT | builtin::FLOAT => {
                self.read_uint()?;
            }
            builtin::BYTES | builtin::STRING => {
                self.read_bytes()?;
            }
            builtin::COMPLEX => {
                self.read_uint()?;
                self.read_uint()?;
            }
            builtin::INTERFACE => return self.skip_interface(),
            _ => match self.types.get(&id).cloned() {
                None => return Err(self.wrong(format!("type {id} is not defined"))),
                Some(WireType::Opaque) => {
                    self.read_bytes()?;
                }
                Some(WireType::Slice { element } | WireType::Array { element, .. }) => {
                    for _ in 0..self.count(id)? {
                        self.skip_nested(element, depth + 1)?;
                    }
                }
                Some(WireType::Map { key, element }) => {
                    for _ in 0..self.count(id)? {
                        self.skip_nested(key, depth + 1)?;
                        self.skip_nested(element, depth + 1)?;
                    }
                }
                Some(WireType::Struct { fields }) => {
                    let mut number = 0;
                    while let Some(next) = self.next_field(number, fields.len())? {
                        self.skip_nested(fields[next - 1].id, depth + 1)?;
                        number = next;
                    }
                }
            },
        }
        Ok(())
    }

    /// An interface value: a type name, a type id and a length that covers the value.
    fn skip_interface(&mut self) -> Result<()> {
        if !self.read_bytes()?.is_empty() {
            self.read_int()?;
            self.read_bytes()?;
        }
        Ok(())
    }
}
