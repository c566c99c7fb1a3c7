//! The types that a stream defines before it uses them.

use super::{Decoder, Field, Result, WireType};

impl Decoder<'_> {
    /// A `wireType` struct (CONTRACT A.10).
    pub(super) fn definition(&mut self) -> Result<WireType> {
        let mut found = None;
        self.fields(|d, kind| {
            let mut numbers = [0_i64; 2];
            let mut fields = Vec::new();
            d.fields(|d, field| match (kind, field) {
                (_, 1) => d.fields(|d, field| match field {
                    1 => d.read_bytes().map(|_| ()),
                    2 => d.read_int().map(|_| ()),
                    _ => Err(d.wrong("a type's common part has an unknown field")),
                }),
                (3, 2) => {
                    for _ in 0..d.count(0)? {
                        fields.push(d.field_definition()?);
                    }
                    Ok(())
                }
                (1 | 2 | 4, 2 | 3) => {
                    numbers[field - 2] = d.read_int()?;
                    Ok(())
                }
                _ => Err(d.wrong("a type definition has an unknown field")),
            })?;
            found = Some(match kind {
                1 => WireType::Array {
                    element: numbers[0],
                    length: u64::try_from(numbers[1]).map_err(|_| d.wrong("negative length"))?,
                },
                2 => WireType::Slice { element: numbers[0] },
                3 => WireType::Struct { fields: std::mem::take(&mut fields).into() },
                4 => WireType::Map { key: numbers[0], element: numbers[1] },
                5..=7 => WireType::Opaque,
                _ => return Err(d.wrong(format!("type definition of unknown kind {kind}"))),
            });
            Ok(())
        })?;
        found.ok_or_else(|| self.wrong("an empty type definition"))
    }

    fn field_definition(&mut self) -> Result<Field> {
        let (mut name, mut id) = (String::new(), 0);
        self.fields(|d, field| {
            match field {
                1 => name = String::from_utf8_lossy(d.read_bytes()?).into_owned(),
                2 => id = d.read_int()?,
                _ => return Err(d.wrong("a field definition has an unknown field")),
            }
            Ok(())
        })?;
        Ok(Field { name: name.into(), id })
    }

    /// Reads the fields of a struct that every stream knows, numbered from 1.
    pub(super) fn fields(
        &mut self,
        mut each: impl FnMut(&mut Self, usize) -> Result<()>,
    ) -> Result<()> {
        let mut number = 0_usize;
        loop {
            let delta = self.read_uint()?;
            if delta == 0 {
                return Ok(());
            }
            let next = usize::try_from(delta).ok().and_then(|delta| number.checked_add(delta));
            number = next.ok_or_else(|| self.wrong("field number out of range"))?;
            each(self, number)?;
        }
    }
}
