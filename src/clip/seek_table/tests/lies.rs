//! Tables that say what can't be.

use super::*;

/// A table with right digests, whatever it says.
pub(super) fn assemble(windows: &[u8], entries: &[u8], records: &[Record]) -> Vec<u8> {
    let mut directory = Vec::new();
    for record in records {
        record.encode(&mut directory);
    }
    let parts = [&plain_archive(), &HEAD[..], windows, entries, &directory].concat();
    let table_length = (parts.len() - plain_archive().len() + Trailer::LENGTH) as u64;
    let trailer = Trailer {
        directory: Digest::of(&directory),
        table_length,
        directory_length: u32::try_from(directory.len()).unwrap(),
        version: VERSION,
    };
    [parts, trailer.encode()].concat()
}

pub(super) fn record(windows: &[u8], entries: &[u8]) -> Record {
    Record {
        digest: Digest::of(b"layer"),
        kind: Encoding::Gzip.kind(),
        plain_size: 1000,
        compressed_size: 100,
        span: SPAN,
        windows_length: windows.len() as u64,
        entries_length: entries.len() as u64,
        entries: Digest::of(entries),
    }
}

/// An entry as docs/format.md tells it; `bits` and `plain` as varints.
pub(super) fn entry(bits: &[u8], plain: &[u8], kind: u8, window: Option<&[u8]>) -> Vec<u8> {
    let mut entry = [bits, plain, &[kind]].concat();
    crate::clip::fields::put_varint(&mut entry, window.map_or(0, <[u8]>::len) as u64);
    entry.extend(window.iter().flat_map(|window| *Digest::of(window).as_bytes()));
    entry.extend(Digest::of(b"span").as_bytes());
    entry
}

#[test]
fn lies_about_ranges_are_refused() {
    let start = entry(&[80], &[100], 0, None);
    let block = entry(&[0xd0, 0x05], &[0x84, 0x07], 1, Some(b"window")); // 720 bits, 900 bytes
    let sound = [&start[..], &block].concat();
    let check = |windows: &[u8], entries: &[u8]| {
        read_all(&assemble(windows, entries, &[record(windows, entries)]))
    };
    let spans = check(b"window", &sound).unwrap().unwrap().remove(0);
    assert_eq!((spans[1].compressed.clone(), spans[1].plain_length), (10..100, 900));
    assert_eq!(spans[1].start.window.encoded(), b"window");

    let with = |at: usize, value: u8| {
        let mut entries = sound.clone();
        entries[at] = value;
        entries
    };
    let second = start.len();
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let no_end = [&sound[..], &entry(&[8], &[1], 0, None)].concat();
    let empty = [&entry(&[8], &[0], 0, None)[..], &sound].concat();
    for (what, windows, entries) in [
        ("no spans", &b""[..], vec![]),
        ("no bits", b"window", with(0, 0)),
        ("a block that starts the layer", b"window", with(2, 1)),
        ("an unknown kind", b"window", with(2, 2)),
        ("too few plain bytes", b"window", with(1, 99)),
        ("too many plain bytes", b"window", with(1, 101)),
        ("an end midway in a byte", b"window", with(0, 79)),
        ("an end behind the layer", b"window", with(0, 88)),
        ("a member start with a window", b"window", with(second + 4, 0)),
        ("a span behind the end", b"window", no_end),
        ("an empty span", b"window", empty),
        ("a window cut off", b"windo", sound.clone()),
        ("a window too long", b"windows", sound.clone()),
        ("an entry cut off", b"window", sound[..sound.len() - 1].to_vec()),
        ("bits beyond all measure", b"", entry(&huge, &[100], 0, None)),
        ("bytes beyond all measure", b"", entry(&[80], &huge, 0, None)),
    ] {
        let error = check(windows, &entries).expect_err(what).to_string();
        assert!(error.contains(&format!("layer {}", Digest::of(b"layer"))), "{what}: {error}");
    }
    let large = vec![0; usize::try_from(MAX_WINDOW).unwrap() + 1];
    let entries = [&start[..], &entry(&[0xd0, 0x05], &[0x84, 0x07], 1, Some(&large))].concat();
    assert!(check(&large, &entries).is_err());
    check(
        &large[1..],
        &[&start[..], &entry(&[0xd0, 0x05], &[0x84, 0x07], 1, Some(&large[1..]))].concat(),
    )
    .unwrap();
}

/// Entries of kinds 2 and 3 to the byte, as docs/format.md tells them.
#[test]
fn whole_spans_are_stored_as_the_format_says() {
    let layer = Layer::whole(1, Encoding::Tar);
    let table = encode(&[layer.given()]).unwrap();
    let mut entries = Vec::new();
    for part in layer.plain.chunks(40_000) {
        let length = part.len();
        let varint = match length {
            40_000 => vec![0xc0, 0xb8, 0x02],
            _ => vec![u8::try_from(length).unwrap()],
        };
        entries.extend([&varint[..], &varint, Digest::of(part).as_bytes()].concat());
    }
    assert_eq!(table[..8], HEAD);
    assert_eq!(table[8..8 + entries.len()], entries);
    let record = &table[8 + entries.len()..table.len() - 88];
    let numbers =
        [layer.plain.len() as u64, layer.plain.len() as u64, SPAN, 0, entries.len() as u64];
    let numbers = numbers.map(u64::to_le_bytes).concat();
    let digests = (layer.digest, Digest::of(&entries));
    let expected =
        [&digests.0.as_bytes()[..], &[2, 0, 0, 0], &numbers, digests.1.as_bytes()].concat();
    assert_eq!(record, expected);
}

#[test]
fn lies_about_whole_spans_are_refused() {
    let span = *Digest::of(b"span").as_bytes();
    let entry = |compressed: &[u8], plain: &[u8]| [compressed, plain, &span].concat();
    let check = |encoding: Encoding, sizes: (u64, u64), entries: &[u8]| {
        let (plain_size, compressed_size) = sizes;
        let record =
            Record { kind: encoding.kind(), plain_size, compressed_size, ..record(b"", entries) };
        read_all(&assemble(b"", entries, &[record]))
    };
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    check(Encoding::Tar, (9, 9), &entry(&[9], &[9])).unwrap();
    check(Encoding::Zstd, (9, 7), &entry(&[5], &[9])).unwrap();
    for (what, encoding, sizes, entries) in [
        ("a tar that grows", Encoding::Tar, (9, 9), entry(&[8], &[9])),
        ("a span behind the end", Encoding::Zstd, (9, 4), entry(&[5], &[9])),
        ("too few plain bytes", Encoding::Zstd, (9, 7), entry(&[5], &[8])),
        ("an empty span", Encoding::Zstd, (9, 7), entry(&[0], &[9])),
        ("no spans", Encoding::Tar, (0, 0), vec![]),
        ("an entry cut off", Encoding::Zstd, (9, 7), entry(&[5], &[9])[..33].to_vec()),
        ("bytes beyond all measure", Encoding::Zstd, (9, u64::MAX), entry(&huge, &[9])),
        ("plain bytes beyond all measure", Encoding::Tar, (u64::MAX, 9), entry(&[9], &huge)),
    ] {
        let error = check(encoding, sizes, &entries).expect_err(what).to_string();
        assert!(error.contains(&format!("layer {}", Digest::of(b"layer"))), "{what}: {error}");
    }
    // A window that no span has.
    let entries = entry(&[9], &[9]);
    let kind = Encoding::Tar.kind();
    let record = Record { kind, plain_size: 9, compressed_size: 9, ..record(b"w", &entries) };
    assert!(error(&assemble(b"w", &entries, &[record])).contains("belong to no window"));
}

#[test]
fn sums_do_not_overflow() {
    let huge = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let first = entry(&[8], &[1], 0, None);
    let entries = [&first[..], &entry(&huge, &[1], 1, None).repeat(4)].concat();
    let sizes = Record { plain_size: u64::MAX, compressed_size: u64::MAX, ..record(b"", &entries) };
    assert!(error(&assemble(b"", &entries, &[sizes])).contains("span 2"));
    let entries = [entry(&[8], &huge, 0, None).repeat(4), entry(&[8], &[1], 0, None)].concat();
    let sizes = Record { plain_size: u64::MAX, compressed_size: u64::MAX, ..record(b"", &entries) };
    assert!(error(&assemble(b"", &entries, &[sizes])).contains("span 2"));
}

#[test]
fn lies_in_the_directory_are_refused() {
    let entries = entry(&[0xa0, 0x06], &[0xe8, 0x07], 0, None);
    let sound = record(b"", &entries);
    assert!(read_all(&assemble(b"", &entries, &[sound])).is_ok());
    let zero = Record { digest: Digest::from_bytes([0; 32]), entries_length: 0, ..sound };
    let unknown = Record { kind: 7, ..zero };
    // A kind that is not known is passed over with all its bytes.
    let known = Record { windows_length: 0, ..sound };
    let mixed = assemble(b"dict", &entries, &[Record { windows_length: 4, ..unknown }, known]);
    assert_eq!(read_all(&mixed).unwrap().unwrap().len(), 1);
    assert_eq!(open(&mixed).unwrap().unwrap().layer(&unknown.digest), None);
    for (what, records) in [
        ("entries missing", vec![Record { entries_length: sound.entries_length - 1, ..sound }]),
        ("entries too long", vec![Record { entries_length: u64::MAX, ..sound }]),
        ("windows too long", vec![Record { windows_length: 1 << 40, ..sound }]),
        (
            "a sum that wraps",
            vec![
                Record { windows_length: u64::MAX, ..zero },
                Record { windows_length: 1, ..sound },
            ],
        ),
        ("out of order", vec![sound, zero]),
        ("one layer twice", vec![sound, Record { entries_length: 0, ..sound }]),
    ] {
        let error = error(&assemble(b"", &entries, &records));
        assert!(error.starts_with("seek table: directory: "), "{what}: {error}");
    }
    // A directory that is no whole number of records, or longer than the table.
    let archive = assemble(b"", &entries, &[sound]);
    let at = archive.len() - Trailer::LENGTH;
    for length in [107, 109, 100_000, u32::MAX] {
        let mut trailer = Trailer::decode(&archive[at..]).unwrap().unwrap();
        trailer.directory_length = length;
        let from = at.saturating_sub(usize::try_from(length).unwrap());
        trailer.directory = Digest::of(&archive[from..at]);
        let archive = [&archive[..at], &trailer.encode()].concat();
        assert!(error(&archive).starts_with("seek table: directory: "), "{length}");
    }
}
