//! What entries say of themselves.

use tar::{EntryType, Header};

use super::*;
use crate::clip::node::Special;
use crate::layer::entry::{EntryKind, Time};
use crate::layer::tar_scan::header::number;

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
fn names_need_not_be_utf8() {
    let tar = [&block(b'0', b"\xff\xfe", b"0")[..], &[0; 1024]].concat();
    assert_eq!(scan(&tar).unwrap()[0].path.as_bytes(), b"/\xff\xfe");
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
