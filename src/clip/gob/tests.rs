#![allow(
    clippy::redundant_closure_for_method_calls,
    reason = "the methods' lifetimes do not fit `fn`"
)]

use proptest::prelude::*;

use super::*;

fn encoded(fill: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    let mut encoder = Encoder::default();
    fill(&mut encoder);
    encoder.into_bytes()
}

#[test]
fn integers_are_as_in_the_contract() {
    for (value, bytes) in [
        (0, &b"\0"[..]),
        (7, b"\x07"),
        (127, b"\x7f"),
        (128, b"\xff\x80"),
        (200, b"\xff\xc8"),
        (256, b"\xfe\x01\x00"),
        (u64::MAX, b"\xf8\xff\xff\xff\xff\xff\xff\xff\xff"),
    ] {
        assert_eq!(encoded(|e| e.uint(value)), bytes, "{value}");
    }
    for (value, bytes) in [(0, &b"\0"[..]), (6, b"\x0c"), (-1, b"\x01"), (-65, b"\xff\x81")] {
        assert_eq!(encoded(|e| e.int(value)), bytes, "{value}");
    }
}

/// A stream of one struct with one field `F` of the type `id`.
fn stream(id: i64, value: impl FnOnce(&mut Encoder)) -> Vec<u8> {
    let mut types = Definitions::new();
    let structure = types.structure("T", &[("Unknown", id), ("F", id)]);
    types.finish(structure, true, |e| e.structure(|f| value(f.field(1))))
}

static FIELD: [&str; 1] = ["F"];

fn field<T>(
    stream: &[u8],
    read: impl Fn(&mut Decoder<'_>, TypeId) -> Result<T, GobError>,
) -> Result<T, GobError> {
    let mut decoder = Decoder::new(stream);
    let id = decoder.begin()?;
    let plan = decoder.plan(id, &FIELD)?;
    let mut found = None;
    decoder.structure(&plan, |d, _, id| {
        found = Some(read(d, id)?);
        Ok(())
    })?;
    found.ok_or_else(|| decoder.wrong("no field F"))
}

#[test]
fn signed_and_unsigned_are_different_types() {
    let bytes = stream(builtin::INT, |e| e.int(4));
    assert_eq!(field(&bytes, |d, id| d.int(id)).unwrap(), 4);
    let error = field(&bytes, |d, id| d.uint(id)).unwrap_err();
    assert_eq!(error.detail, "F: expected an unsigned integer, found a signed integer");
    let bytes = stream(builtin::UINT, |e| e.uint(1 << 32));
    let error = field(&bytes, |d, id| d.uint32(id)).unwrap_err();
    assert_eq!(error.detail, "F: expected a 32-bit number, found 4294967296");
}

#[test]
fn absurd_lengths_are_refused_before_anything_is_allocated() {
    for (claim, expected) in [
        (&b"\xf8\xff\xff\xff\xff\xff\xff\xff\xff"[..], "a message of 18446744073709551615 bytes"),
        (b"\xfc\xff\xff\xff\xff", "a message of 4294967295 bytes, but 0 are left"),
        (b"\xf0\x01", "expected an integer, found 0xf0"),
        (b"\xfe\x01", "the stream ends inside an integer"),
        (b"", "the stream ends inside a value"),
    ] {
        let error = Decoder::new(claim).begin().unwrap_err();
        assert!(error.detail.starts_with(expected), "{error}");
    }
    let bytes = stream(builtin::STRING, |e| e.uint(1 << 40));
    let error = field(&bytes, |d, id| d.string(id).map(<[u8]>::to_vec)).unwrap_err();
    assert!(error.detail.starts_with("F: a value of 1099511627776 bytes"), "{error}");
    let mut types = Definitions::new();
    let slice = types.slice("", builtin::INT);
    let bytes = types.finish(slice, false, |e| e.uint(1 << 40));
    let mut decoder = Decoder::new(&bytes);
    let id = decoder.begin().unwrap();
    let error = decoder.slice(id, |d, id| d.skip(id)).unwrap_err();
    assert!(error.detail.starts_with("1099511627776 elements, but 0 bytes are left"), "{error}");
}

/// Each of these takes a byte in the stream and far more in memory.
#[test]
fn what_swells_in_memory_is_counted() {
    let mut types = Definitions::new();
    let fields = vec![("", 0); 70_000];
    types.structure("T", &fields);
    let bytes = types.finish(builtin::INT, false, |e| e.int(0));
    let error = Decoder::new(&bytes).begin().unwrap_err();
    assert_eq!(error.detail, "more than 65536 bytes of type definitions");

    let mut types = Definitions::new();
    let empty = types.structure("", &[]);
    let slice = types.slice("", empty);
    let elements = [(); (3 << 20) + 1];
    let bytes =
        types.finish(slice, false, |e| e.slice(elements.iter(), |e, ()| e.structure(|_| {})));
    let mut decoder = Decoder::new(&bytes);
    let id = decoder.begin().unwrap();
    assert_eq!(decoder.skip(id).unwrap_err().detail, "more than 3145728 elements in one stream");
}

#[test]
fn types_that_hold_themselves_end() {
    // type T []T, and a value nested without end
    let mut types = Definitions::new();
    let slice = types.reserve();
    types.define_slice(slice, "T", slice);
    let bytes = types.finish(slice, false, |e| (0..200).for_each(|_| e.uint(1)));
    let mut decoder = Decoder::new(&bytes);
    let id = decoder.begin().unwrap();
    assert_eq!(decoder.skip(id).unwrap_err().detail, "values are nested too deeply");
}

#[test]
fn unknown_fields_of_every_type_are_passed_over() {
    let mut types = Definitions::new();
    let time = types.gob_encoder("Time");
    let strings = types.slice("", builtin::STRING);
    let map = types.map("", builtin::STRING, strings);
    let inner = types.structure("I", &[("A", builtin::INT), ("M", map)]);
    let structure = types.structure(
        "T",
        &[
            ("B", builtin::BOOL),
            ("D", builtin::FLOAT),
            ("C", builtin::COMPLEX),
            ("S", builtin::BYTES),
            ("I", inner),
            ("T", time),
            ("N", builtin::INTERFACE),
            ("F", builtin::UINT),
        ],
    );
    let bytes = types.finish(structure, true, |e| {
        e.structure(|f| {
            f.field(0).uint(1);
            f.field(1).uint(3);
            let complex = f.field(2);
            complex.uint(1);
            complex.uint(2);
            f.bytes(3, b"abc");
            f.field(4).structure(|f| {
                f.int(0, -5);
                f.field(1).slice([["x", "y"]].iter(), |e, strings| {
                    e.bytes(b"key");
                    e.slice(strings.iter(), |e, text| e.bytes(text.as_bytes()));
                });
            });
            f.bytes(5, &[1; 15]);
            let interface = f.field(6);
            interface.bytes(b"int");
            interface.int(builtin::INT);
            interface.bytes(b"\0\x04");
            f.field(7).uint(5);
        });
    });
    assert_eq!(field(&bytes, |d, id| d.uint(id)).unwrap(), 5);
}

proptest! {
    #[test]
    fn integers_survive(unsigned: u64, signed: i64) {
        let bytes = stream(builtin::UINT, |e| e.uint(unsigned));
        prop_assert_eq!(field(&bytes, |d, id| d.uint(id)).unwrap(), unsigned);
        let bytes = stream(builtin::INT, |e| e.int(signed));
        prop_assert_eq!(field(&bytes, |d, id| d.int(id)).unwrap(), signed);
    }

    #[test]
    fn bytes_survive(value in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = stream(builtin::BYTES, |e| e.bytes(&value));
        prop_assert_eq!(field(&bytes, |d, id| d.bytes(id).map(<[u8]>::to_vec)).unwrap(), value);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut decoder = Decoder::new(&bytes);
        if let Ok(id) = decoder.begin() {
            let _ = decoder.skip(id);
        }
    }
}
