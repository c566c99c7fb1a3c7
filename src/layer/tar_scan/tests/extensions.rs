//! What other headers say of an entry: PAX records, GNU long names, sparse files.

use tar::{EntryType, Header};

use super::*;
use crate::layer::entry::{EntryKind, Time};

#[test]
fn long_names_and_pax_records_win_over_the_header() {
    let long = format!("{}/{}", "a".repeat(150), "b".repeat(150));
    let tar = build(|b| {
        file(b, &long, b"gnu"); // the builder writes a GNU long name
        b.append_link(&mut header(EntryType::Symlink, 0), "s", &long).unwrap();
        b.append_pax_extensions([
            ("path", &b"p/q"[..]),
            ("mtime", b"12.5"),
            ("uid", b"3000000"),
            ("SCHILY.xattr.user.a", b"1\n2"),
        ])
        .unwrap();
        file(b, "short", b"pax");
        file(b, "after", b"");
    });
    let entries = scan(&tar).unwrap();
    assert_eq!(entries[0].path.as_bytes(), format!("/{long}").as_bytes());
    assert!(
        matches!(&entries[1].kind, EntryKind::Symlink { target, .. } if *target == long.as_bytes())
    );
    assert_eq!(entries[2].path.as_bytes(), b"/p/q");
    let EntryKind::File { meta, offset, length } = &entries[2].kind else { panic!() };
    assert_eq!(&tar[usize::try_from(*offset).unwrap()..][..3], b"pax");
    assert_eq!(
        (*length, meta.uid, meta.mtime),
        (3, 3_000_000, Time { seconds: 12, nanos: 500_000_000 })
    );
    assert_eq!(meta.xattrs[&b"user.a"[..]], b"1\n2");
    let EntryKind::File { meta, .. } = &entries[3].kind else { panic!() };
    assert!(meta.xattrs.is_empty(), "extensions act on one entry only");
}

#[test]
fn a_pax_size_frames_the_content() {
    let mut tar = build(|b| {
        b.append_pax_extensions([("size", &b"600"[..])]).unwrap();
    });
    tar.truncate(1024);
    tar.extend(block(b'0', b"big", b"0"));
    tar.extend([1; 600]);
    tar.extend([0; 424]);
    tar.extend(block(b'0', b"next", b"0"));
    let entries = scan(&tar).unwrap();
    assert_eq!(entries.len(), 2);
    assert!(matches!(entries[0].kind, EntryKind::File { length: 600, .. }));
}

#[test]
fn extension_headers_may_be_empty_or_describe_nothing() {
    for kind in [b'x', b'g', b'L', b'K'] {
        let empty = block(kind, b"e", b"0");
        let then = [&empty[..], &block(b'0', b"f", b"0")].concat();
        assert_eq!(scan(&then).unwrap()[0].path.to_string(), "/f", "{kind}");
        for end in [0, BLOCK, 2 * BLOCK] {
            let last = [&block(b'0', b"f", b"0")[..], &empty, &vec![0; end]].concat();
            assert_eq!(scan(&last).unwrap().len(), 1, "{kind} and {end} zeros");
        }
    }
}

#[test]
fn the_last_extension_header_has_to_make_sense() {
    let broken = [&block(b'x', b"e", b"4")[..], b"nope"].concat();
    for padding in [0, 7, BLOCK - 4] {
        let tar = [&broken[..], &vec![0; padding]].concat();
        scan(&tar).unwrap_err();
    }
}

#[test]
fn the_last_record_of_a_key_counts() {
    let records = [("uid", &b"x"[..]), ("uid", b"5"), ("GNU.sparse.name", b"other")];
    let tar = build(|b| b.append_pax_extensions(records).unwrap());
    let tar = [&tar[..1024], &block(b'0', b"f", b"0")].concat();
    let entry = scan(&tar).unwrap().remove(0);
    assert_eq!(entry.path.to_string(), "/f", "no sparse file, no sparse name");
    let EntryKind::File { meta, .. } = entry.kind else { panic!() };
    assert_eq!(meta.uid, 5);
    // The padding of the last header may be missing.
    let cut = [&block(b'0', b"f", b"0")[..], &tar[..600]].concat();
    assert_eq!(scan(&cut).unwrap().len(), 1);
    // What comes before a global header is forgotten, as by Go.
    let global = [&tar[..1024], &block(b'g', b"g", b"0")[..], &block(b'0', b"f", b"0")].concat();
    let EntryKind::File { meta, .. } = scan(&global).unwrap().remove(0).kind else { panic!() };
    assert_eq!(meta.uid, 0);
}

/// A header of type `S` with one piece of 512 bytes at the start of a file of 1024.
fn old_sparse(magic: &[u8]) -> Vec<u8> {
    let mut block = block(b'S', b"old", b"1000");
    block[257..257 + magic.len()].copy_from_slice(magic);
    for (at, number) in [(386, b"00000000000\0"), (398, b"00000001000\0"), (483, b"00000002000\0")]
    {
        block[at..at + 12].copy_from_slice(number);
    }
    let mut header = Header::from_byte_slice(&block).clone();
    header.set_cksum();
    [&header.as_bytes()[..], &[7; 512]].concat()
}

#[test]
fn old_sparse_files_are_gnus_and_what_their_header_says() {
    for magic in [&b"ustar\x0000"[..], b"ustar 00", b"ustar ", b""] {
        let error = format!("{:?}", scan(&old_sparse(magic)).unwrap_err());
        assert!(error.contains("/old: a header of a sparse file that is not GNU's"), "{error}");
    }
    let gnu = old_sparse(b"ustar  \0");
    let whole = scan(&gnu).unwrap();
    assert!(matches!(whole[0].kind, EntryKind::Sparse { length: 1024, .. }), "{whole:?}");
    // Records that would make another file of it mean nothing beside it.
    for records in [
        &[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "x")][..],
        &[("GNU.sparse.map", "512,512"), ("GNU.sparse.size", "1024"), ("GNU.sparse.name", "x")],
        &[("GNU.sparse.major", "7")],
    ] {
        let pax = build(|b| {
            b.append_pax_extensions(records.iter().map(|(k, v)| (*k, v.as_bytes()))).unwrap();
        });
        let headers = pax.len() - 1024; // without the end
        let found = scan(&[&pax[..headers], &gnu].concat()).unwrap();
        assert_eq!(found[0].path, whole[0].path);
        assert!(matches!(found[0].kind, EntryKind::Sparse { length: 1024, .. }), "{found:?}");
    }
}

#[test]
fn values_in_global_headers_need_not_make_sense() {
    let global = |records: &[u8]| {
        let mut header = header(EntryType::XGlobalHeader, records.len() as u64);
        header.set_cksum();
        let mut content = records.to_vec();
        content.resize(records.len().next_multiple_of(BLOCK), 0);
        [&header.as_bytes()[..], &content, &build(|b| file(b, "f", b""))].concat()
    };
    for records in [&b"11 mtime=x\n"[..], b"10 size=x\n", b"24 GNU.sparse.map=0,5,x\n"] {
        let (entries, notes) = scan_in_pieces(&global(records), 1000).unwrap();
        assert_eq!(entries.len(), 1);
        assert!(notes[0].contains("global PAX headers were ignored"), "{notes:?}");
    }
    assert!(scan(&global(b"99 mtime=x\n")).is_err());
}
