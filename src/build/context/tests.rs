use super::*;

fn tar_of(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        let is_file = *kind == tar::EntryType::Regular;
        if !is_file {
            let bytes = header.as_mut_bytes();
            bytes[157..157 + content.len()].copy_from_slice(content.as_bytes());
        }
        header.set_size(if is_file { content.len() as u64 } else { 0 });
        header.set_cksum();
        builder.append(&header, if is_file { content.as_bytes() } else { b"" }).unwrap();
    }
    builder.into_inner().unwrap()
}

fn unpacked(bytes: &[u8], limits: ContextLimits) -> (tempfile::TempDir, Result<(), String>) {
    let dir = tempfile::tempdir().unwrap();
    let (file, into) = (dir.path().join("context.tar"), dir.path().join("context"));
    fs::write(&file, bytes).unwrap();
    fs::create_dir(&into).unwrap();
    let done = unpack(&file, &into, limits).map_err(|error| error.to_string());
    (dir, done)
}

use tar::EntryType::{Char, Directory, Link, Regular, Symlink};

#[test]
fn every_format_becomes_the_same_tree() {
    let plain = tar_of(&[
        ("dir/", Directory, ""),
        ("./dir/file", Regular, "content"),
        ("dir/link", Symlink, "../../outside"),
        ("dir/again", Link, "dir/file"),
        ("dir/file", Regular, "newer"),
    ]);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&plain).unwrap();
    let mut zipped = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().unix_permissions(0o755);
    zipped.start_file("dir/file", options).unwrap();
    zipped.write_all(b"newer").unwrap();
    zipped.start_file("dir/again", options).unwrap();
    zipped.write_all(b"content").unwrap();
    zipped.add_symlink("dir/link", "../../outside", options).unwrap();
    let zipped = zipped.finish().unwrap().into_inner();
    for bytes in
        [plain.clone(), gzip.finish().unwrap(), zstd::encode_all(&plain[..], 1).unwrap(), zipped]
    {
        let (dir, done) = unpacked(&bytes, ContextLimits::default());
        done.unwrap();
        let root = dir.path().join("context/dir");
        assert_eq!(fs::read_to_string(root.join("file")).unwrap(), "newer");
        assert_eq!(fs::read_to_string(root.join("again")).unwrap(), "content");
        assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new("../../outside"));
        let mode = fs::metadata(root.join("file")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o755, "no bit that would count here");
    }
}

#[test]
fn nothing_gets_out_and_nothing_odd_gets_in() {
    let long = "x".repeat(99);
    for (entries, expected) in [
        (&[("../x", Regular, "x")][..], "\"../x\": leads out of the context"),
        (&[("a/../../x", Regular, "x")], "leads out of the context"),
        (&[("/etc/x", Regular, "x")], "is absolute"),
        (&[("a", Symlink, "/etc"), ("a/x", Regular, "x")], "lies below a, which is no directory"),
        (&[("a", Symlink, ".."), ("a/", Directory, "")], "is something else already"),
        (
            &[("a", Symlink, "/etc/passwd"), ("b", Link, "a")],
            "is a link to \"a\", which is no file before it",
        ),
        (&[("b", Link, "../x")], "is a link to what can't be in a context"),
        (&[("d/", Directory, ""), ("d", Regular, "x")], "is a directory already"),
        (&[("dev", Char, "")], "is of the type Char"),
        (&[("s", Symlink, "")], "without a usable target"),
        (&[(long.as_str(), Regular, "x")], "has 99 bytes: expected at most 50"),
        (
            &[("1", Regular, ""), ("2", Regular, ""), ("3", Regular, ""), ("4", Regular, "")],
            "more than 3 entries",
        ),
        (&[("1/2/3/4", Regular, "")], "more than 3 entries"),
        (&[("1/2/3/4/5", Regular, "")], "is 5 deep: expected at most 4"),
        (&[("a", Regular, "123456"), ("b", Regular, "78901")], "more than 10 bytes"),
    ] {
        let limits = ContextLimits { bytes: 10, entries: 3, path: 50, depth: 4, fields: 4096 };
        let (dir, done) = unpacked(&tar_of(entries), limits);
        let error = done.unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing beside the context");
    }
    for bytes in [&b"no archive"[..], b"", b"PK\x03\x04 cut off", &[0x1f, 0x8b, 8, 0]] {
        assert!(unpacked(bytes, ContextLimits::default()).1.is_err());
    }
}

#[test]
fn what_is_held_in_memory_is_limited() {
    let limits = ContextLimits { fields: 4096, ..ContextLimits::default() };
    let with_comment = |bytes: usize| {
        let mut builder = tar::Builder::new(Vec::new());
        for name in ["a", "b"] {
            let comment = vec![b'x'; bytes];
            builder.append_pax_extensions([("comment", &comment[..])]).unwrap();
            let mut header = tar::Header::new_ustar();
            header.set_size(8192);
            builder.append_data(&mut header, name, &[0; 8192][..]).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let with_files = |count: usize| {
        let mut writer = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
        for number in 0..count {
            let options = zip::write::SimpleFileOptions::default();
            writer.start_file(format!("file-{number}"), options).unwrap();
            writer.write_all(&[0; 8192]).unwrap();
        }
        writer.finish().unwrap().into_inner()
    };
    unpacked(&with_comment(1024), limits).1.unwrap();
    unpacked(&with_files(4), limits).1.unwrap();
    for bytes in [with_comment(8192), with_files(200)] {
        let error = unpacked(&bytes, limits).1.unwrap_err();
        assert!(error.contains("its fields have more than 4096 bytes"), "{error}");
    }
}

#[test]
fn a_deep_tree_and_a_long_name_are_fine_as_long_as_the_system_takes_them() {
    let deep = vec!["d"; 50].join("/");
    let (dir, done) = unpacked(&tar_of(&[(&deep, Regular, "x")]), ContextLimits::default());
    done.unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("context").join(deep)).unwrap(), "x");
    let of_name = |bytes: usize| {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        builder.append_data(&mut header, "x".repeat(bytes), io::empty()).unwrap();
        builder.into_inner().unwrap()
    };
    unpacked(&of_name(255), ContextLimits::default()).1.unwrap();
    let error = unpacked(&of_name(256), ContextLimits::default()).1.unwrap_err();
    assert!(error.contains("a name of 256 bytes"), "{error}");
}

#[test]
fn a_directory_is_packed_the_same_each_time_but_for_what_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("src/deep")).unwrap();
    fs::create_dir_all(root.join("out/kept")).unwrap();
    for (name, text) in [
        ("Dockerfile", "FROM scratch"),
        (".dockerignore", "*\n!src\n!out/kept\n**/*.o\n"),
        ("src/a.c", "a"),
        ("src/deep/b.o", "b"),
        ("out/kept/x", "x"),
        ("out/y", "y"),
        ("z", "z"),
    ] {
        fs::write(root.join(name), text).unwrap();
    }
    symlink("/etc/passwd", root.join("src/link")).unwrap();
    let file = dir.path().join("packed");
    pack::pack(&root, &["Dockerfile"], &file).unwrap();
    let first = fs::read(&file).unwrap();
    fs::File::open(root.join("src/a.c")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    pack::pack(&root, &["Dockerfile"], &file).unwrap();
    assert_eq!(fs::read(&file).unwrap(), first);
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&first[..]));
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().path().unwrap().display().to_string())
        .collect();
    assert_eq!(
        names,
        [
            ".dockerignore",
            "Dockerfile",
            "out/kept",
            "out/kept/x",
            "src",
            "src/a.c",
            "src/deep",
            "src/link"
        ]
    );
}

#[test]
fn the_dockerfile_is_read_without_following_links() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("Dockerfile"), "FROM scratch").unwrap();
    symlink("/etc", dir.path().join("etc")).unwrap();
    symlink("/etc/hostname", dir.path().join("link")).unwrap();
    fs::write(dir.path().join("large"), vec![b'x'; MAX_DOCKERFILE + 1]).unwrap();
    assert_eq!(read_text(dir.path(), "./Dockerfile").unwrap(), "FROM scratch");
    for path in ["etc/hostname", "link", "../x", "/etc/hostname", "missing", "", "large"] {
        assert!(read_text(dir.path(), path).is_err(), "{path}");
    }
}
