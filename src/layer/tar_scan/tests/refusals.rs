//! What is refused, and how that is said.

use proptest::prelude::*;

use super::*;

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
