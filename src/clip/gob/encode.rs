//! Writing gob: primitives, struct fields with zeros left out, type definitions, messages.

use super::builtin;

/// Collects the bytes of one message's payload.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    pub(crate) fn uint(&mut self, value: u64) {
        if let Ok(small @ 0..=127) = u8::try_from(value) {
            self.bytes.push(small);
            return;
        }
        let bytes = value.to_be_bytes();
        let skip = (value.leading_zeros() / 8) as usize;
        let count = u8::try_from(bytes.len() - skip).unwrap_or(8);
        self.bytes.push(0_u8.wrapping_sub(count));
        self.bytes.extend_from_slice(&bytes[skip..]);
    }

    pub(crate) fn int(&mut self, value: i64) {
        self.uint((value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
    }

    pub(crate) fn bytes(&mut self, value: &[u8]) {
        self.uint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }

    /// A struct value: `fill` sends the fields in ascending order.
    pub(crate) fn structure(&mut self, fill: impl FnOnce(&mut Fields<'_>)) {
        fill(&mut Fields { encoder: self, last: -1 });
        self.bytes.push(0);
    }

    /// A slice value, elements without deltas.
    pub(crate) fn slice<T>(
        &mut self,
        items: impl ExactSizeIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) {
        self.uint(items.len() as u64);
        for item in items {
            each(self, item);
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Sends the fields of one struct; zero values are left out, as Go does.
pub(crate) struct Fields<'a> {
    encoder: &'a mut Encoder,
    last: i64,
}

impl Fields<'_> {
    /// Starts field `number` (counted from 0), whatever its value.
    pub(crate) fn field(&mut self, number: i64) -> &mut Encoder {
        self.encoder.uint((number - self.last).cast_unsigned());
        self.last = number;
        self.encoder
    }

    pub(crate) fn uint(&mut self, number: i64, value: u64) {
        if value != 0 {
            self.field(number).uint(value);
        }
    }

    pub(crate) fn int(&mut self, number: i64, value: i64) {
        if value != 0 {
            self.field(number).int(value);
        }
    }

    pub(crate) fn bytes(&mut self, number: i64, value: &[u8]) {
        if !value.is_empty() {
            self.field(number).bytes(value);
        }
    }

    pub(crate) fn strings(&mut self, number: i64, values: &[String]) {
        if !values.is_empty() {
            self.field(number).slice(values.iter(), |e, value| e.bytes(value.as_bytes()));
        }
    }
}

/// Builds a stream: type definitions, and the value that they go before.
#[derive(Debug)]
pub(crate) struct Definitions {
    stream: Vec<u8>,
    next: i64,
}

impl Definitions {
    pub(crate) fn new() -> Self {
        Self::after(Vec::new())
    }

    /// As [`Self::new`], for a stream that goes on behind these bytes.
    pub(crate) fn after(bytes: Vec<u8>) -> Self {
        Self { stream: bytes, next: builtin::FIRST_DEFINED + 1 }
    }

    pub(super) fn reserve(&mut self) -> i64 {
        self.next += 1;
        self.next - 1
    }

    pub(crate) fn structure(&mut self, name: &str, fields: &[(&str, i64)]) -> i64 {
        let id = self.reserve();
        self.define(id, 2, name, |f| {
            if !fields.is_empty() {
                f.field(1).slice(fields.iter(), |e, (name, id)| {
                    e.structure(|f| {
                        f.bytes(0, name.as_bytes());
                        f.int(1, *id);
                    });
                });
            }
        });
        id
    }

    pub(crate) fn slice(&mut self, name: &str, element: i64) -> i64 {
        let id = self.reserve();
        self.define_slice(id, name, element);
        id
    }

    /// Defines a slice under an id that was reserved.
    pub(super) fn define_slice(&mut self, id: i64, name: &str, element: i64) {
        self.define(id, 1, name, |f| f.int(1, element));
    }

    pub(crate) fn map(&mut self, name: &str, key: i64, element: i64) -> i64 {
        let id = self.reserve();
        self.define(id, 3, name, |f| {
            f.int(1, key);
            f.int(2, element);
        });
        id
    }

    /// A type that encodes itself, such as `time.Time`.
    pub(crate) fn gob_encoder(&mut self, name: &str) -> i64 {
        let id = self.reserve();
        self.define(id, 4, name, |_| {});
        id
    }

    fn define(&mut self, id: i64, kind: i64, name: &str, rest: impl FnOnce(&mut Fields<'_>)) {
        self.message(|message| {
            message.int(-id);
            message.structure(|wire_type| {
                wire_type.field(kind).structure(|f| {
                    f.field(0).structure(|common| {
                        common.bytes(0, name.as_bytes());
                        common.int(1, id);
                    });
                    rest(f);
                });
            });
        });
    }

    /// The whole stream: the definitions and one value of the type `id`.
    pub(crate) fn finish(
        mut self,
        id: i64,
        is_struct: bool,
        value: impl FnOnce(&mut Encoder),
    ) -> Vec<u8> {
        self.message(|message| {
            message.int(id);
            if !is_struct {
                message.uint(0);
            }
            value(message);
        });
        self.stream
    }

    /// Appends a message. Its length stands before it and is known after it: moving a large one up
    /// by a few bytes is cheaper than memory of its own.
    fn message(&mut self, fill: impl FnOnce(&mut Encoder)) {
        let start = self.stream.len();
        let mut encoder = Encoder { bytes: std::mem::take(&mut self.stream) };
        fill(&mut encoder);
        self.stream = encoder.into_bytes();
        let mut length = Encoder::default();
        length.uint((self.stream.len() - start) as u64);
        self.stream.splice(start..start, length.into_bytes());
    }
}
