use crate::memory::MemoryAccount;
use std::io::Cursor;

use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::header::number;
use super::*;
use crate::clip::node::{NodePath, Special};
use crate::layer::NoContents;
use crate::layer::entry::{EntryKind, Time};

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o104_755);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1_700_000_000);
    header
}

fn build(fill: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    fill(&mut builder);
    builder.into_inner().unwrap()
}

fn file(builder: &mut Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = header(EntryType::Regular, content.len() as u64);
    builder.append_data(&mut header, name, Cursor::new(content)).unwrap();
}

fn scan_in_pieces(tar: &[u8], piece: usize) -> Result<(Vec<Entry>, Vec<String>), ScanError> {
    let mut scanner = TarScanner::new(Limits::default(), &MemoryAccount::default());
    for bytes in tar.chunks(piece) {
        scanner.push(bytes, &mut NoContents)?;
    }
    scanner.finish()
}

fn scan(tar: &[u8]) -> Result<Vec<Entry>, ScanError> {
    scan_in_pieces(tar, 10_000).map(|(entries, _)| entries)
}

/// A raw header block with these fields, its checksum right.
fn block(kind: u8, name: &[u8], size: &[u8]) -> [u8; BLOCK] {
    let mut header = Header::new_old();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(5);
    header.as_old_mut().size[..size.len()].copy_from_slice(size);
    header.as_old_mut().linkflag = [kind];
    header.set_cksum();
    *header.as_bytes()
}

#[test]
fn every_kind_is_read_with_its_offset_and_attributes() {
    let tar = build(|b| {
        let mut dir = header(EntryType::Directory, 0);
        b.append_data(&mut dir, "d/", std::io::empty()).unwrap();
        file(b, "d/f", b"hello");
        file(b, "d/empty", b"");
        b.append_link(&mut header(EntryType::Symlink, 0), "d/s", "../x").unwrap();
        b.append_link(&mut header(EntryType::Link, 0), "d/h", "./d/f").unwrap();
        let mut device = header(EntryType::Char, 0);
        device.set_device_major(10).unwrap();
        device.set_device_minor(0x1_02).unwrap();
        b.append_data(&mut device, "d/c", std::io::empty()).unwrap();
        b.append_data(&mut header(EntryType::Fifo, 0), "d/p", std::io::empty()).unwrap();
        file(b, "d/.wh.gone", b"");
        file(b, "e/.wh..wh..opq", b"");
    });
    let entries = scan(&tar).unwrap();
    let at = |path: &str| {
        entries.iter().find(|e| e.path.as_bytes() == path.as_bytes()).unwrap().kind.clone()
    };
    assert_eq!(entries.len(), 9);
    let EntryKind::Directory(meta) = at("/d") else { panic!() };
    assert_eq!((meta.mode, meta.uid, meta.gid), (0o4755, 7, 8));
    assert_eq!((meta.mtime, meta.atime), (Time { seconds: 1_700_000_000, nanos: 0 }, meta.mtime));
    let EntryKind::File { offset, length, .. } = at("/d/f") else { panic!() };
    assert_eq!(&tar[usize::try_from(offset).unwrap()..][..5], b"hello");
    assert_eq!(length, 5);
    assert!(matches!(at("/d/empty"), EntryKind::File { length: 0, .. }));
    assert!(matches!(at("/d/s"), EntryKind::Symlink { target, .. } if target == b"../x"));
    assert!(matches!(at("/d/h"), EntryKind::HardLink { target } if target.as_bytes() == b"/d/f"));
    let EntryKind::Special { special, rdev, .. } = at("/d/c") else { panic!() };
    assert_eq!((special, rdev), (Special::CharDevice, 0x10_0a02));
    assert!(matches!(at("/d/p"), EntryKind::Special { special: Special::Fifo, .. }));
    assert_eq!(at("/d/gone"), EntryKind::Whiteout);
    assert_eq!(at("/e"), EntryKind::Opaque);
}

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
fn names_need_not_be_utf8() {
    let tar = [&block(b'0', b"\xff\xfe", b"0")[..], &[0; 1024]].concat();
    assert_eq!(scan(&tar).unwrap()[0].path.as_bytes(), b"/\xff\xfe");
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
fn odd_but_valid_streams() {
    assert_eq!(scan(b"").unwrap(), []);
    assert_eq!(scan(&[0; 1024]).unwrap(), []);
    let mut tar = build(|b| file(b, "f", b"x"));
    tar.extend(b"anything at all after the end");
    assert_eq!(scan(&tar).unwrap().len(), 1);
    assert_eq!(scan(&tar[..1024]).unwrap().len(), 1, "no end marker");
    assert_eq!(scan(&tar[..513]).unwrap().len(), 1, "no padding");
    // Header-only kinds have no content, whatever their size says.
    let tar = [block(b'5', b"d", b"10000"), block(b'0', b"f", b"0")].concat();
    assert_eq!(scan(&tar).unwrap().len(), 2);
    let tar = block(b'\0', b"old/", b"0");
    assert!(matches!(scan(&tar).unwrap()[0].kind, EntryKind::Directory(_)));
}

#[test]
fn numbers_are_read_as_go_reads_them() {
    let read = |field: &[u8]| number(field, "n", 0).ok();
    assert_eq!(read(b"0000644\0"), Some(0o644));
    assert_eq!(read(b"  644 \0 "), Some(0o644));
    assert_eq!(read(&[0; 8]), Some(0));
    assert_eq!(read(b"777777777777"), Some(0o777_777_777_777));
    assert_eq!(read(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
    assert_eq!(read(&[0xff; 12]), Some(-1));
    assert_eq!(read(&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0]), None);
    assert_eq!(read(b"0000648\0"), None);
    assert_eq!(read(b"-1\0\0\0\0\0\0"), None);
}

#[test]
fn what_is_left_out_is_noted() {
    let tar = build(|b| {
        b.append_pax_extensions([("comment", &b"git"[..])]).unwrap();
        file(b, "a", b"");
        file(b, ".wh..wh.plnk/1.2", b"");
    });
    let mut global = tar.clone();
    global[156] = b'g';
    let mut fixed = Header::from_byte_slice(&global[..512]).clone();
    fixed.set_cksum();
    global[..512].copy_from_slice(fixed.as_bytes());
    let (entries, notes) = scan_in_pieces(&global, 512).unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("plnk"), "{notes:?}");
}

/// A header block of any format: `fields` are bytes at offsets, its checksum is made right.
fn raw(kind: u8, fields: &[(usize, &[u8])]) -> [u8; BLOCK] {
    let mut block = block(kind, b"f", b"0");
    for (at, bytes) in fields {
        block[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}

#[test]
fn the_magic_alone_tells_the_format() {
    let path = |block: [u8; BLOCK]| scan(&block).unwrap()[0].path.to_string();
    for version in [&b"00"[..], b"  ", b"\0\0", b"77"] {
        let fields: [(usize, &[u8]); 3] = [(257, b"ustar\0"), (263, version), (345, b"pre/fix")];
        assert_eq!(path(raw(b'0', &fields)), "/pre/fix/f", "{version:?}");
    }
    let device = [(257, &b"ustar\0  "[..]), (329, b"0000012"), (337, b"0000003")];
    let entry = scan(&raw(b'3', &device)).unwrap().remove(0);
    assert!(matches!(entry.kind, EntryKind::Special { rdev: 0xa03, .. }), "{entry:?}");

    let star = [
        (257, &b"ustar\0"[..]),
        (345, &[b'p'; 131]),
        (476, b"00000000007\0"),
        (488, b"00000000011\0"),
        (508, b"tar\0"),
    ];
    let entry = scan(&raw(b'0', &star)).unwrap().remove(0);
    assert_eq!(entry.path.to_string(), format!("/{}/f", "p".repeat(131)));
    let EntryKind::File { meta, .. } = entry.kind else { panic!() };
    assert_eq!((meta.atime.seconds, meta.ctime.seconds), (7, 9));

    // GNU has times there.
    let gnu = [(257, &b"ustar  \0"[..]), (345, b"00000000007\0")];
    let entry = scan(&raw(b'0', &gnu)).unwrap().remove(0);
    let EntryKind::File { meta, .. } = &entry.kind else { panic!() };
    assert_eq!((entry.path.to_string(), meta.atime.seconds), ("/f".to_owned(), 7));
    assert_eq!(path(raw(b'0', &[(257, b"ustar  \0"), (345, b"pre")])), "/pre/f");
    assert_eq!(path(raw(b'0', &[(257, b"ustar "), (345, b"pre")])), "/f");
}

#[test]
fn owners_and_times_may_be_negative() {
    let meta = |tar: &[u8]| match scan(tar).unwrap().remove(0).kind {
        EntryKind::File { meta, .. } => meta,
        other => panic!("{other:?}"),
    };
    let base = |value: i64, width: usize| {
        let mut bytes = vec![0xff; width];
        bytes[width - 8..].copy_from_slice(&value.to_be_bytes());
        bytes
    };
    let found = meta(&raw(b'0', &[(108, &base(-2, 8)), (136, &base(-100, 12))]));
    assert_eq!((found.uid, found.mtime), (u32::MAX - 1, Time { seconds: -100, nanos: 0 }));
    let pax = |records: &[(&str, &[u8])]| {
        let mut tar = build(|b| b.append_pax_extensions(records.to_vec()).unwrap());
        tar.truncate(1024);
        [tar, raw(b'0', &[]).to_vec()].concat()
    };
    let found = meta(&pax(&[("gid", b"-2"), ("mtime", b"-1.25"), ("atime", b"-0.5")]));
    assert_eq!(found.gid, u32::MAX - 1);
    assert_eq!(found.mtime, Time { seconds: -2, nanos: 750_000_000 });
    assert_eq!(found.atime, Time { seconds: -1, nanos: 500_000_000 });
    let found = meta(&pax(&[("SCHILY.xattr.user.a", b"x"), ("SCHILY.xattr.user.a", b"")]));
    assert!(found.xattrs.is_empty());
    // What a hard link or a whiteout says beside its name means nothing, but has to be a number.
    let link = |owner: &[u8]| scan(&raw(b'1', &[(108, owner), (157, b"other")]));
    assert!(matches!(link(&base(-2, 8)).unwrap()[0].kind, EntryKind::HardLink { .. }));
    link(b"12 34").unwrap_err();
    let whiteout =
        |time: &[u8]| scan(&raw(b'0', &[(0, b".wh.x"), (108, &base(-2, 8)), (136, time)]));
    assert_eq!(whiteout(b"7").unwrap()[0].kind, EntryKind::Whiteout);
    whiteout(b"no number").unwrap_err();
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

#[test]
fn a_target_is_text() {
    let deep = "../".repeat(30);
    let tar = build(|b| {
        b.append_link(&mut header(EntryType::Symlink, 0), "s", &deep).unwrap();
    });
    let limits = Limits { path_depth: 5, ..Limits::default() };
    TarScanner::new(limits, &MemoryAccount::default()).push(&tar, &mut NoContents).unwrap();
}

#[test]
fn links_to_files_that_aufs_kept_aside() {
    let tar = build(|b| {
        file(b, ".wh..wh.plnk/7.1", b"kept");
        file(b, ".wh..wh.plnk/8.1", b"for nobody");
        for name in ["a", "b"] {
            let mut link = header(EntryType::Link, 0);
            b.append_link(&mut link, name, "./.wh..wh.plnk/7.1").unwrap();
        }
    });
    let (entries, notes) = scan_in_pieces(&tar, 512).unwrap();
    // A file each, as docker makes them: one that is replaced leaves the others as they are.
    for (entry, name) in entries.iter().zip(["/a", "/b"]) {
        assert_eq!(entry.path.to_string(), name);
        let EntryKind::File { offset, length, .. } = entry.kind else { panic!("{entry:?}") };
        assert_eq!((offset, length), (512, 4));
    }
    assert_eq!(notes.len(), 1);
    assert!(notes[0].contains("8.1") && !notes[0].contains("7.1"), "{notes:?}");
}

#[test]
fn bookkeeping_counts_and_is_told_in_one_note() {
    let names = (0..1000).map(|n| format!(".wh..wh.{n}")).collect::<Vec<_>>();
    let tar = build(|b| names.iter().for_each(|name| file(b, name, b"")));
    let (entries, notes) = scan_in_pieces(&tar, tar.len()).unwrap();
    assert!(entries.is_empty());
    assert_eq!(notes.len(), 1);
    assert!(notes[0].len() < 200 && notes[0].contains("and 995 more"), "{notes:?}");
    let limits = Limits { entries: 999, ..Limits::default() };
    let error =
        TarScanner::new(limits, &MemoryAccount::default()).push(&tar, &mut NoContents).unwrap_err();
    assert!(matches!(&error, ScanError::Limit(e) if e.limit == Limit::Entries), "{error:?}");
}

#[test]
fn what_is_wrong_is_said() {
    let mut flipped = block(b'0', b"f", b"0");
    flipped[0] ^= 1;
    let lone = [&[0; 512][..], &block(b'0', b"f", b"0")].concat();
    let cut = build(|b| file(b, "f", &[7; 5000]));
    for (tar, expected) in [
        (flipped.to_vec(), "the checksum is"),
        (lone, "content follows a lone zero block"),
        (cut[..1000].to_vec(), "the stream ends inside an entry"),
        (cut[..100].to_vec(), "the stream ends inside an entry"),
        (block(b'0', b"f", b"zz").to_vec(), "the size field is not a number"),
        (
            raw(b'S', &[(257, b"ustar  \0"), (124, b"7")]).to_vec(),
            "a sparse file maps 0 bytes of the 7 that it has",
        ),
        (block(b'S', b"sparse", b"7").to_vec(), "a header of a sparse file that is not GNU's"),
        (block(b'M', b"multi", b"0").to_vec(), "tar entry type 'M' is not supported"),
        (block(b'2', b"s", b"0").to_vec(), "a symbolic link without a target"),
        (block(b'0', b"a/.wh.", b"0").to_vec(), "is a whiteout of nothing"),
    ] {
        let error = format!("{:?}", scan(&tar).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
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

#[test]
fn limits_hold() {
    let limits = Limits {
        entries: 2,
        path_bytes: 20,
        path_depth: 5,
        extension_bytes: 1000,
        xattr_bytes: 30,
        ..Limits::default()
    };
    let tar_of = |name: &str| build(|b| file(b, name, b""));
    let three = build(|b| ["a", "b", "c"].iter().for_each(|name| file(b, name, b"")));
    let attributes = |count| {
        build(|b| {
            let value = vec![1; count];
            b.append_pax_extensions([("SCHILY.xattr.user.x", &value[..])]).unwrap();
            file(b, "a", b"");
        })
    };
    for (tar, limits, expected) in [
        (three, limits, Limit::Entries),
        (tar_of(&"n".repeat(30)), limits, Limit::PathBytes),
        (tar_of("1/2/3/4/5/6"), limits, Limit::PathDepth),
        (tar_of(&"n/".repeat(1000)), limits, Limit::ExtensionBytes),
        (attributes(25), limits, Limit::XattrBytes),
        (tar_of("a"), Limits { tree_bytes: 100, ..limits }, Limit::TreeBytes),
    ] {
        let mut scanner = TarScanner::new(limits, &MemoryAccount::default());
        let error = scanner.push(&tar, &mut NoContents).unwrap_err();
        assert!(matches!(&error, ScanError::Limit(e) if e.limit == expected), "{error:?}");
    }
    TarScanner::new(limits, &MemoryAccount::default())
        .push(&attributes(20), &mut NoContents)
        .unwrap();
    // A header may claim any size; nothing is allocated for it.
    let claim = block(b'x', b"x", b"77777777777");
    assert!(matches!(scan(&claim), Err(ScanError::Limit(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn pieces_of_any_size_make_the_same_entries(piece in 1_usize..3000) {
        let tar = build(|b| {
            file(b, &"long/".repeat(60), &[1; 700]);
            file(b, "f", &[2; 512]);
            file(b, "g", b"");
        });
        prop_assert_eq!(scan_in_pieces(&tar, piece), scan_in_pieces(&tar, tar.len()));
    }

    #[test]
    fn never_panics(at in 0_usize..2048, value: u8, cut in 0_usize..4096) {
        let mut tar = build(|b| {
            b.append_pax_extensions([("path", &b"x"[..])]).unwrap();
            file(b, "f", &[2; 512]);
        });
        let at = at % tar.len();
        tar[at] = value;
        tar.truncate(cut.max(1));
        let _ = scan(&tar);
    }
}

#[test]
fn wanted_content_comes_whole_and_in_order() {
    #[derive(Default)]
    struct Taken {
        files: Vec<(String, u64, Vec<u8>)>,
        ended: usize,
    }
    impl Contents for Taken {
        fn begin(&mut self, path: &NodePath, offset: u64, _: u64) -> std::io::Result<bool> {
            let wanted = !path.as_bytes().ends_with(b"skip");
            if wanted {
                self.files.push((path.to_string(), offset, Vec::new()));
            }
            Ok(wanted)
        }
        fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
            self.files.last_mut().unwrap().2.extend_from_slice(bytes);
            Ok(())
        }
        fn end(&mut self) -> std::io::Result<()> {
            self.ended += 1;
            Ok(())
        }
    }
    let tar = build(|builder| {
        file(builder, "a", &[1; 700]);
        file(builder, "skip", &[2; 700]);
        file(builder, "empty", b"");
        file(builder, "b", &[3; 512]);
    });
    for piece in [1, 511, 512, 513, tar.len()] {
        let (mut scanner, mut taken) =
            (TarScanner::new(Limits::default(), &MemoryAccount::default()), Taken::default());
        for bytes in tar.chunks(piece) {
            scanner.push(bytes, &mut taken).unwrap();
        }
        scanner.finish().unwrap();
        assert_eq!(taken.ended, 3);
        assert_eq!(
            taken.files,
            [
                ("/a".to_owned(), 512, vec![1; 700]),
                ("/empty".to_owned(), 3584, Vec::new()),
                ("/b".to_owned(), 4096, vec![3; 512]),
            ]
        );
    }
}
