//! Tar headers as we read them and as Go's `archive/tar` does: every magic with every version and
//! type, and fields in every spelling.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clipwright::clip::node::NodePath;
use clipwright::layer::tar_scan::TarScanner;
use clipwright::layer::{Contents, Entry, EntryKind, Limits, Meta};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use crate::support::upstream::interop;

mod extensions;

const MAGICS: [&[u8]; 6] =
    [b"ustar\0", b"ustar ", b"USTAR\0", b"ustar1", b"\0\0\0\0\0\0", b"tar\0\0\0"];
const VERSIONS: [&[u8]; 6] = [b"00", b"  ", b" \0", b"\0\0", b"07", b"\xff\xff"];
const TRAILERS: [&[u8]; 2] = [b"tar\0", b"\0\0\0\0"];
const KINDS: &[u8] = b"0\x001234567xgLK";
/// Spellings tried of each combination.
const TURNS: usize = 12;

/// A numeric field: octal in the ways that writers end and fill it, or base 256.
fn numeric(random: &mut StdRng, width: usize, value: i64) -> Vec<u8> {
    let mut field = vec![0; width];
    let octal = format!("{value:o}");
    if value < 0 || octal.len() > width || random.random_ratio(1, 4) {
        let value = i128::from(value).to_be_bytes();
        field.copy_from_slice(&value[value.len() - width..]);
        field[0] |= 0x80;
        if value[0] == 0 {
            field[0] &= 0xbf;
        }
        return field;
    }
    let (room, less) = (width - octal.len(), width - 1);
    let text = match random.random_range(0..5) {
        0 => format!("{octal:0>width$}"),
        1 if room > 0 => format!("{octal:0>less$}\0"),
        2 if room > 0 => format!("{octal:0>less$} "),
        3 if room > 1 => format!(" {octal}\0"),
        _ if value == 0 => String::new(),
        _ => format!("{octal: >width$}"),
    };
    field[..text.len()].copy_from_slice(text.as_bytes());
    field
}

fn put(block: &mut [u8; 512], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A field that says one of `values`.
fn one_of(random: &mut StdRng, width: usize, values: &[i64]) -> Vec<u8> {
    let value = *values.choose(random).unwrap();
    numeric(random, width, value)
}

/// A header and what belongs to it.
fn member(random: &mut StdRng, kind: u8, magic: &[u8], version: &[u8], trailer: &[u8]) -> Vec<u8> {
    let mut block = [0; 512];
    let long = "n".repeat(100);
    let names = ["f", "d/", "a/b", "./x", "sp ace", "\u{e9}", long.as_str()];
    put(&mut block, 0, names.choose(random).unwrap().as_bytes());
    put(&mut block, 100, &one_of(random, 8, &[0, 0o644, 0o4755, 0o100_644, -1]));
    let owners = [0, 1, 1000, 2_097_151, 2_097_152, i64::from(u32::MAX), -2];
    for at in [108, 116] {
        put(&mut block, at, &one_of(random, 8, &owners));
    }
    let content =
        if b"0\x007".contains(&kind) { *[0, 1, 512, 700].choose(random).unwrap() } else { 0 };
    let size = if b"123456".contains(&kind) { *[0, 7].choose(random).unwrap() } else { content };
    put(&mut block, 124, &numeric(random, 12, size));
    let times = [0, 1, 1_700_000_000, 1 << 33, -1, -2_208_988_800];
    put(&mut block, 136, &one_of(random, 12, &times));
    block[156] = kind;
    put(&mut block, 157, if b"12".contains(&kind) { b"some/target" } else { b"" });
    put(&mut block, 257, magic);
    put(&mut block, 263, version);
    for at in [329, 337] {
        put(&mut block, at, &one_of(random, 8, &[0, 1, 7, 255]));
    }
    // What is here depends on the format.
    let long = "p".repeat(155);
    match random.random_range(0..6) {
        0 => {}
        1 => put(&mut block, 345, long.as_bytes()),
        2 => put(&mut block, 345, b"pre/fix"),
        3 => put(&mut block, 345, "pr\u{e9}".as_bytes()),
        _ => {
            for at in [345, 357, 476, 488] {
                put(&mut block, at, &one_of(random, 12, &times));
            }
        }
    }
    put(&mut block, 508, trailer);
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut block, 148, format!("{sum:06o}\0").as_bytes());
    let content = usize::try_from(content).unwrap().next_multiple_of(512);
    [&block[..], &vec![0; content]].concat()
}

/// The content of files, one after the other.
#[derive(Default)]
struct Taken(Vec<Vec<u8>>);

impl Contents for Taken {
    fn begin(&mut self, _: &NodePath, _: u64, _: u64) -> std::io::Result<bool> {
        self.0.push(Vec::new());
        Ok(true)
    }

    fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.last_mut().unwrap().extend_from_slice(bytes);
        Ok(())
    }

    fn end(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The entries, and the content of those that are files.
fn ours(tar: &[u8]) -> Result<(Vec<Entry>, Vec<Vec<u8>>), String> {
    let (mut scanner, mut taken) = (TarScanner::new(Limits::default()), Taken::default());
    scanner.push(tar, &mut taken).map_err(|error| format!("{error:?}"))?;
    let (entries, _) = scanner.finish().map_err(|error| format!("{error:?}"))?;
    Ok((entries, taken.0))
}

/// A name as a path (CONTRACT A.6).
fn cleaned(name: &[u8]) -> Vec<u8> {
    let parts = name.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b"."));
    let path: Vec<u8> = parts.flat_map(|part| [b"/", part].concat()).collect();
    if path.is_empty() { b"/".to_vec() } else { path }
}

fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap()
}

fn pair(value: &Value) -> (i64, i64) {
    (value[0].as_i64().unwrap(), value[1].as_i64().unwrap())
}

fn assert_same(entry: &Entry, go: &Value, case: &str) {
    assert_eq!(entry.path.as_bytes(), cleaned(&bytes(&go["Name"])), "{case}");
    let same = |meta: &Meta| {
        let number = |key: &str| go[key].as_i64().unwrap();
        assert_eq!(i64::from(meta.mode), number("Mode") & 0o7777, "mode: {case}");
        let owners = [meta.uid, meta.gid].map(|owner| i64::from(owner.cast_signed()));
        let cast = |key| i64::from(i32::try_from(number(key) << 32 >> 32).unwrap());
        assert_eq!(owners, [cast("UID"), cast("GID")], "owners: {case}");
        let mtime = pair(&go["Mtime"]);
        let time = |key: &str| if go[key].is_null() { mtime } else { pair(&go[key]) };
        for (ours, go) in
            [(meta.mtime, mtime), (meta.atime, time("Atime")), (meta.ctime, time("Ctime"))]
        {
            assert_eq!((ours.seconds, i64::from(ours.nanos)), go, "times: {case}");
        }
    };
    let kind = go["Type"].as_str().unwrap();
    match &entry.kind {
        EntryKind::File { meta, length, .. } | EntryKind::Sparse { meta, length, .. } => {
            assert!(matches!(kind, "0" | "7" | "S"), "{case}");
            assert_eq!(i64::try_from(*length).ok(), go["Size"].as_i64(), "{case}");
            same(meta);
        }
        EntryKind::Directory(meta) => {
            assert_eq!(kind, "5", "{case}");
            same(meta);
        }
        EntryKind::Symlink { meta, target } => {
            assert_eq!((kind, target), ("2", &bytes(&go["Link"])), "{case}");
            same(meta);
        }
        EntryKind::HardLink { target } => {
            assert_eq!(
                (kind, target.as_bytes()),
                ("1", &cleaned(&bytes(&go["Link"]))[..]),
                "{case}"
            );
        }
        EntryKind::Special { meta, rdev, .. } => {
            let (major, minor) = if kind == "6" { (0, 0) } else { pair(&go["Device"]) };
            assert_eq!(i64::from(*rdev), (minor & 0xff) | (major << 8), "{case}");
            same(meta);
        }
        other => panic!("{other:?}: {case}"),
    }
}

#[test]
fn headers_mean_what_they_mean_to_go() {
    let Some(interop) = interop() else { return };
    let seed = rand::random();
    let random = &mut StdRng::seed_from_u64(seed);
    let mut cases = Vec::new();
    for magic in MAGICS {
        for version in VERSIONS {
            for trailer in TRAILERS {
                for &kind in KINDS {
                    for _ in 0..TURNS {
                        let first = member(random, kind, magic, version, trailer);
                        let then = member(random, b'0', b"ustar\0", b"00", b"\0\0\0\0");
                        cases.push([first, then, vec![0; 1024]].concat());
                    }
                }
            }
        }
    }
    compare(interop, &cases, seed);
}

/// Takes tars apart as Go does and as we do. At most half of them may be such that Go can't read.
fn compare(interop: &Path, cases: &[Vec<u8>], seed: u64) {
    let mut go = Command::new(interop)
        .arg("tar-headers")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = go.stdin.take().unwrap();
    let sent = cases.to_vec();
    let sending = std::thread::spawn(move || {
        for case in &sent {
            input.write_all(&(case.len() as u64).to_le_bytes()).unwrap();
            input.write_all(case).unwrap();
        }
    });
    let output = go.wait_with_output().unwrap();
    sending.join().unwrap();
    assert!(output.status.success());
    let answers = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let (mut compared, mut refused) = (0, 0);
    for (case, answer) in cases.iter().zip(answers) {
        let answer = answer.unwrap();
        if answer["Error"] != "" {
            refused += 1;
            continue; // what Go can't read, we may
        }
        let start = String::from_utf8_lossy(&case[..2048]).replace('\0', "");
        let shown = format!("seed {seed}, {start:?}");
        let (entries, contents) = ours(case).unwrap_or_else(|error| panic!("{error}: {shown}"));
        // Go shows global headers, which are no entries.
        let go = answer["Entries"].as_array().unwrap().iter().filter(|entry| entry["Type"] != "g");
        let go: Vec<_> = go.collect();
        assert_eq!(entries.len(), go.len(), "{shown}");
        let mut contents = contents.into_iter();
        for (entry, go) in entries.iter().zip(go) {
            assert_same(entry, go, &shown);
            if matches!(entry.kind, EntryKind::File { .. } | EntryKind::Sparse { .. }) {
                assert!(contents.next().unwrap() == bytes(&go["Content"]), "content: {shown}");
            }
            compared += 1;
        }
        assert_eq!(contents.next(), None, "{shown}");
    }
    assert!(
        compared > cases.len(),
        "{compared} entries of {} tars, {refused} refused",
        cases.len()
    );
}
