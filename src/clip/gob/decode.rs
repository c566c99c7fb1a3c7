//! Reading gob from bytes that nobody vouches for: every length is held against what is left of
//! the input before anything is allocated, and types may not nest without end.

/// The types that a stream defines.
mod definitions;
/// Numbers, bytes and lengths.
mod primitive;
/// Passing over values.
mod skip;

use std::collections::HashMap;
use std::rc::Rc;

use super::builtin;

/// Nesting of values that are passed over.
const MAX_DEPTH: usize = 64;
/// Bytes of type definitions in one stream; upstream's take about one KiB.
const MAX_DEFINITIONS: usize = 64 << 10;
/// Elements of all slices and maps in one stream. An element may take one byte here and two hundred
/// in memory, so that the input's size alone is no bound. The largest index that upstream's
/// readers accept has about a million nodes.
const MAX_ELEMENTS: usize = 3 << 20;

/// A type id as the stream uses it.
pub(crate) type TypeId = i64;

/// Why bytes are not the gob that was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("gob at byte {offset}: {detail}")]
pub struct GobError {
    /// Offset in the stream.
    pub offset: usize,
    /// Expected and found.
    pub detail: String,
}

#[derive(Debug, Clone)]
enum WireType {
    Slice {
        element: TypeId,
    },
    Array {
        element: TypeId,
        length: u64,
    },
    Struct {
        fields: Rc<[Field]>,
    },
    Map {
        key: TypeId,
        element: TypeId,
    },
    /// Encodes itself into bytes: `GobEncoder`, `BinaryMarshaler`, `TextMarshaler`.
    Opaque,
}

#[derive(Debug)]
struct Field {
    name: Box<str>,
    id: TypeId,
}

/// How to read one struct type for a caller who knows some field names.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    names: &'static [&'static str],
    /// For each field of the type the place of its name in `names`, or `None` to pass over it.
    fields: Rc<[(Option<usize>, TypeId)]>,
}

/// A cursor over one stream.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    input: &'a [u8],
    offset: usize,
    types: HashMap<TypeId, WireType>,
    /// Made once a type, however many values there are.
    plans: Vec<(TypeId, Plan)>,
    /// How many more elements there may be.
    elements_left: usize,
}

type Result<T> = std::result::Result<T, GobError>;

impl<'a> Decoder<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            offset: 0,
            types: HashMap::new(),
            plans: Vec::new(),
            elements_left: MAX_ELEMENTS,
        }
    }

    /// Reads definitions up to the first value, and gives that value's type.
    pub(crate) fn begin(&mut self) -> Result<TypeId> {
        let mut definitions = 0;
        loop {
            let length = self.length("message")?;
            // Nothing is read beyond the message's end.
            let stream = std::mem::take(&mut self.input);
            self.input = &stream[..self.offset + length];
            let id = self.read_int()?;
            if id >= 0 {
                // A struct starts with its fields; anything else behind one zero byte.
                if !matches!(self.types.get(&id), Some(WireType::Struct { .. })) {
                    let zero = self.read_uint()?;
                    if zero != 0 {
                        return Err(self.wrong(format!("expected a zero byte, found {zero}")));
                    }
                }
                return Ok(id);
            }
            let Some(id) = id.checked_neg() else {
                return Err(self.wrong("type id out of range"));
            };
            definitions += length;
            if definitions > MAX_DEFINITIONS {
                let detail = format!("more than {MAX_DEFINITIONS} bytes of type definitions");
                return Err(self.wrong(detail));
            }
            let definition = self.definition()?;
            if self.left() > 0 {
                return Err(self.wrong("a type definition does not fill its message"));
            }
            self.input = stream;
            self.types.insert(id, definition);
        }
    }

    /// Reads a struct's fields as `plan` says, calling `each` with the place of a field in the list
    /// that the plan was made with, and the field's type. An error in `each` names the field.
    pub(crate) fn structure(
        &mut self,
        plan: &Plan,
        mut each: impl FnMut(&mut Self, usize, TypeId) -> Result<()>,
    ) -> Result<()> {
        let mut number = 0;
        while let Some(next) = self.next_field(number, plan.fields.len())? {
            match plan.fields[next - 1] {
                (Some(place), id) => each(self, place, id).map_err(|e| GobError {
                    detail: format!("{}: {}", plan.names[place], e.detail),
                    ..e
                })?,
                (None, id) => self.skip(id)?,
            }
            number = next;
        }
        Ok(())
    }

    /// The number of the next field sent after field `last` of a struct with `fields` fields, both
    /// counted from 1; `None` at the struct's end.
    fn next_field(&mut self, last: usize, fields: usize) -> Result<Option<usize>> {
        let delta = self.read_uint()?;
        if delta == 0 {
            return Ok(None);
        }
        let next = usize::try_from(delta).ok().and_then(|delta| last.checked_add(delta));
        match next.filter(|next| *next <= fields) {
            None => Err(self.wrong(format!("a struct has no field {delta} after {last}"))),
            next => Ok(next),
        }
    }

    /// Matches a struct type's fields with `names`.
    pub(crate) fn plan(&mut self, id: TypeId, names: &'static [&'static str]) -> Result<Plan> {
        let known = |(of, plan): &&(TypeId, Plan)| *of == id && std::ptr::eq(plan.names, names);
        if let Some((_, plan)) = self.plans.iter().find(known) {
            return Ok(plan.clone());
        }
        let Some(WireType::Struct { fields }) = self.types.get(&id) else {
            return Err(self.mismatch("a struct", id));
        };
        let place = |field: &Field| names.iter().position(|name| **name == *field.name);
        let fields = fields.iter().map(|field| (place(field), field.id)).collect();
        let plan = Plan { names, fields };
        self.plans.push((id, plan.clone()));
        Ok(plan)
    }

    /// The element type of a slice or array.
    pub(crate) fn element(&self, id: TypeId) -> Result<TypeId> {
        match self.types.get(&id) {
            Some(WireType::Slice { element } | WireType::Array { element, .. }) => Ok(*element),
            _ => Err(self.mismatch("a slice", id)),
        }
    }

    /// How many elements follow. Each takes at least a byte, so that the input bounds the count;
    /// [`MAX_ELEMENTS`] bounds it too.
    pub(crate) fn count(&mut self, id: TypeId) -> Result<usize> {
        let fixed = match self.types.get(&id) {
            Some(WireType::Array { length, .. }) => Some(*length),
            _ => None,
        };
        let at = self.offset;
        let count = self.read_uint()?;
        let bounded = usize::try_from(count).ok().filter(|count| *count <= self.left());
        if fixed.is_some_and(|fixed| fixed != count) {
            return Err(GobError { offset: at, detail: "an array of another length".into() });
        }
        let Some(bounded) = bounded else {
            let detail = format!("{count} elements, but {} bytes are left", self.left());
            return Err(GobError { offset: at, detail });
        };
        let Some(left) = self.elements_left.checked_sub(bounded) else {
            let detail = format!("more than {MAX_ELEMENTS} elements in one stream");
            return Err(GobError { offset: at, detail });
        };
        self.elements_left = left;
        Ok(bounded)
    }

    /// Reads a slice, calling `each` once an element.
    pub(crate) fn slice(
        &mut self,
        id: TypeId,
        mut each: impl FnMut(&mut Self, TypeId) -> Result<()>,
    ) -> Result<()> {
        let element = self.element(id)?;
        for _ in 0..self.count(id)? {
            each(self, element)?;
        }
        Ok(())
    }

    /// Reads a map, calling `each` once a pair with the types of key and value; it reads both.
    pub(crate) fn map(
        &mut self,
        id: TypeId,
        mut each: impl FnMut(&mut Self, TypeId, TypeId) -> Result<()>,
    ) -> Result<()> {
        let Some(WireType::Map { key, element }) = self.types.get(&id) else {
            return Err(self.mismatch("a map", id));
        };
        let (key, element) = (*key, *element);
        for _ in 0..self.count(id)? {
            each(self, key, element)?;
        }
        Ok(())
    }

    pub(crate) fn boolean(&mut self, id: TypeId) -> Result<bool> {
        self.expect(id, builtin::BOOL, "a bool")?;
        Ok(self.read_uint()? != 0)
    }

    pub(crate) fn uint(&mut self, id: TypeId) -> Result<u64> {
        self.expect(id, builtin::UINT, "an unsigned integer")?;
        self.read_uint()
    }

    pub(crate) fn uint32(&mut self, id: TypeId) -> Result<u32> {
        let at = self.offset;
        let value = self.uint(id)?;
        u32::try_from(value).map_err(|_| GobError {
            offset: at,
            detail: format!("expected a 32-bit number, found {value}"),
        })
    }

    pub(crate) fn int(&mut self, id: TypeId) -> Result<i64> {
        self.expect(id, builtin::INT, "a signed integer")?;
        self.read_int()
    }

    /// The bytes of a string.
    pub(crate) fn string(&mut self, id: TypeId) -> Result<&'a [u8]> {
        self.expect(id, builtin::STRING, "a string")?;
        self.read_bytes()
    }

    /// The text of a string, which must be UTF-8.
    pub(crate) fn text(&mut self, id: TypeId) -> Result<String> {
        let at = self.offset;
        let bytes = self.string(id)?;
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned)
            .map_err(|_| GobError { offset: at, detail: "expected UTF-8 text".into() })
    }

    pub(crate) fn bytes(&mut self, id: TypeId) -> Result<&'a [u8]> {
        self.expect(id, builtin::BYTES, "bytes")?;
        self.read_bytes()
    }

    /// What a type that encodes itself made.
    pub(crate) fn opaque(&mut self, id: TypeId) -> Result<&'a [u8]> {
        match self.types.get(&id) {
            Some(WireType::Opaque) => self.read_bytes(),
            _ => Err(self.mismatch("a type that encodes itself", id)),
        }
    }

    /// Passes over a value of any type.
    pub(crate) fn skip(&mut self, id: TypeId) -> Result<()> {
        self.skip_nested(id, 0)
    }

    /// An error at this place.
    pub(crate) fn wrong(&self, detail: impl Into<String>) -> GobError {
        GobError { offset: self.offset, detail: detail.into() }
    }

    /// A type in full, as text: for a struct its fields by name, else one nameless entry. Type
    /// names are left out, since no decoder looks at them.
    #[cfg(test)]
    pub(crate) fn shape(&self, id: TypeId) -> std::collections::BTreeMap<String, String> {
        let text = |id| format!("{:?}", self.shape(id));
        match self.types.get(&id) {
            None => [(String::new(), id.to_string())].into(),
            Some(WireType::Opaque) => [(String::new(), "opaque".to_owned())].into(),
            Some(WireType::Slice { element } | WireType::Array { element, .. }) => {
                [("[]".to_owned(), text(*element))].into()
            }
            Some(WireType::Map { key, element }) => {
                [(format!("map {}", text(*key)), text(*element))].into()
            }
            Some(WireType::Struct { fields }) => {
                fields.iter().map(|f| (f.name.to_string(), text(f.id))).collect()
            }
        }
    }

    /// The next message, whole.
    #[cfg(test)]
    pub(crate) fn message(&mut self) -> Result<&'a [u8]> {
        self.read_bytes()
    }

    #[cfg(test)]
    pub(crate) fn offset(&self) -> usize {
        self.offset
    }

    fn left(&self) -> usize {
        self.input.len() - self.offset
    }

    fn expect(&self, found: TypeId, expected: TypeId, name: &str) -> Result<()> {
        if found == expected { Ok(()) } else { Err(self.mismatch(name, found)) }
    }

    fn mismatch(&self, expected: &str, found: TypeId) -> GobError {
        let found = match found {
            builtin::BOOL => "a bool".into(),
            builtin::INT => "a signed integer".into(),
            builtin::UINT => "an unsigned integer".into(),
            builtin::FLOAT => "a float".into(),
            builtin::BYTES => "bytes".into(),
            builtin::STRING => "a string".into(),
            id => match self.types.get(&id) {
                Some(WireType::Slice { .. }) => "a slice".into(),
                Some(WireType::Array { .. }) => "an array".into(),
                Some(WireType::Struct { .. }) => "a struct".into(),
                Some(WireType::Map { .. }) => "a map".into(),
                Some(WireType::Opaque) => "a type that encodes itself".into(),
                None => format!("type {id}"),
            },
        };
        self.wrong(format!("expected {expected}, found {found}"))
    }
}
