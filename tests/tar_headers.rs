//! Tars as we read them and as Go's `archive/tar` does: every magic with every version and type,
//! fields in every spelling, PAX records, sparse files, streams that are cut. What Go refuses is
//! refused.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clipwright::clip::node::NodePath;
use clipwright::layer::tar_scan::TarScanner;
use clipwright::layer::{Contents, Entry, EntryKind, Limits, Meta};
use clipwright::memory::MemoryAccount;
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
const KINDS: &[u8] = b"0\x001234567xgLKS";
/// Spellings tried of each combination.
const TURNS: usize = 12;

/// A numeric field: octal in the ways that writers end and fill it, or base 256.
fn numeric(random: &mut StdRng, width: usize, value: i64) -> Vec<u8> {
    let mut field = vec![0; width];
    let octal = format!("{value:o}");
    if random.random_ratio(1, 200) {
        let odd = [&b"12 34"[..], b"12\0 34", b"12\x0034", b"8", b"+1", b"1_0", b"\xc1", b"\x80"];
        let odd = odd.choose(random).unwrap();
        field[..odd.len()].copy_from_slice(odd);
        field[width - 1] = *[0, b' ', b'7', 0xff].choose(random).unwrap();
        return field;
    }
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

/// Magic, version and the trailer of star's.
type Format = [&'static [u8]; 3];

/// A header and what belongs to it.
fn member(random: &mut StdRng, kind: u8, format: Format, content: &[u8]) -> Vec<u8> {
    let mut block = [0; 512];
    let long = "n".repeat(100);
    let names = ["f", "d/", "a/b", "./x", "sp ace", "\u{e9}", long.as_str()];
    put(&mut block, 0, names.choose(random).unwrap().as_bytes());
    put(&mut block, 100, &one_of(random, 8, &[0, 0o644, 0o4755, 0o100_644, -1]));
    let owners =
        [0, 1, 1000, 2_097_151, 2_097_152, i64::from(u32::MAX), -2, -1, 1 << 32, -(1 << 40)];
    for at in [108, 116] {
        put(&mut block, at, &one_of(random, 8, &owners));
    }
    let size = if b"123456".contains(&kind) {
        *[0, 7, -1].choose(random).unwrap()
    } else {
        length(content)
    };
    put(&mut block, 124, &numeric(random, 12, size));
    let times = [0, 1, 1_700_000_000, 1 << 33, -1, -2_208_988_800];
    put(&mut block, 136, &one_of(random, 12, &times));
    block[156] = kind;
    put(&mut block, 157, if b"12".contains(&kind) { b"some/target" } else { b"" });
    for (at, field) in [257, 263, 508].into_iter().zip(format) {
        put(&mut block, at, field);
    }
    let devices = [0, 1, 7, 255, 256, 0xfff, 0x1234, 0xf_ffff, 0x12_3456, -1, (1 << 32) | 5];
    for at in [329, 337] {
        put(&mut block, at, &one_of(random, 8, &devices));
    }
    // What is here depends on the format.
    let long = "p".repeat(155);
    match random.random_range(0..6) {
        _ if kind == b'S' => old_map(random, &mut block, length(content)),
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
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let [.., high, low] = sum.to_be_bytes();
    let spelled = match random.random_range(0..100) {
        0 => vec![0x80, 0, 0, 0, 0, 0, high, low],
        1 => format!("{sum:06o}x\0").into_bytes(),
        2 => format!("{sum:06o}\x007").into_bytes(),
        3 => format!("{sum:o} 7").into_bytes(),
        _ => format!("{sum:06o}\0").into_bytes(),
    };
    put(&mut block, 148, &spelled);
    let more = if kind == b'S' && block[482] != 0 { vec![0; 512] } else { Vec::new() };
    [&block[..], &more, &padded(content)].concat()
}

fn length(content: &[u8]) -> i64 {
    i64::try_from(content.len()).unwrap()
}

fn padded(content: &[u8]) -> Vec<u8> {
    let mut padded = content.to_vec();
    padded.resize(content.len().next_multiple_of(512), 0);
    padded
}

/// Pieces of a sparse file that has so many bytes stored, and its whole size; at times they make no
/// sense.
fn pieces(random: &mut StdRng, stored: i64) -> (Vec<(i64, i64)>, i64) {
    let (mut pieces, mut at, mut left) = (Vec::new(), 0, stored);
    while left > 0 && pieces.len() < 3 {
        at += random.random_range(0..600);
        let length = if pieces.len() == 2 { left } else { random.random_range(1..=left) };
        pieces.push((at, length));
        at += length;
        left -= length;
    }
    let mut size = at + random.random_range(0..2000);
    match random.random_range(0..12) {
        0 => size -= 1500,
        1 => pieces.push((at - 1, 1)),
        2 => pieces.push((at, 1)),
        3 => pieces.push((size, 0)),
        4 => drop(pieces.pop()),
        5 => pieces.push((-1, 1)),
        _ => {}
    }
    (pieces, size)
}

/// The map of GNU's old sparse files.
fn old_map(random: &mut StdRng, block: &mut [u8; 512], stored: i64) {
    let (pieces, size) = pieces(random, stored);
    for (n, (offset, length)) in pieces.into_iter().take(4).enumerate() {
        put(block, 386 + 24 * n, &numeric(random, 12, offset));
        put(block, 398 + 24 * n, &numeric(random, 12, length));
    }
    block[482] = u8::from(random.random_ratio(1, 4));
    put(block, 483, &numeric(random, 12, size));
}

/// One PAX record.
fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut length = body.len();
    while length != body.len() + length.to_string().len() {
        length = body.len() + length.to_string().len();
    }
    [length.to_string().as_bytes(), &body].concat()
}

/// Records that say one thing or another of an entry, some of them nonsense.
fn records(random: &mut StdRng) -> Vec<u8> {
    const NUMBERS: &[&[u8]] = &[b"0", b"5", b"-2", b"-1", b"+7", b"007", b"", b"4294967301"];
    const TIMES: &[&[u8]] = &[b"1", b"-1.25", b"-0.5", b"+3.", b"7.1234567891", b"", b"-5.0"];
    const NAMES: &[&[u8]] = &[b"p/q", b"", b"dir/", b"../up", "\u{e9}".as_bytes(), b"a\nb=c"];
    const BROKEN: &[&[u8]] =
        &[b"4 a\n", b"+7 a=b\n", b"6 a=b", b"9 a=b\n", b"5 =b\n", b"8 a\0=b\n\n", b"7 a\0=b\n"];
    const WRONG: &[&[u8]] = &[b"x", b"1 ", b"1.x", b"99999999999999999999", b"a\0b", b"1_0"];
    let keys: [(&str, &[&[u8]]); 12] = [
        ("size", NUMBERS),
        ("path", NAMES),
        ("linkpath", NAMES),
        ("uid", NUMBERS),
        ("gid", NUMBERS),
        ("mtime", TIMES),
        ("atime", TIMES),
        ("ctime", TIMES),
        ("SCHILY.xattr.user.a", NAMES),
        ("SCHILY.xattr.user.b=c", NAMES),
        ("comment", NAMES),
        ("uname", NAMES),
    ];
    let mut records = Vec::new();
    for _ in 0..random.random_range(0..5) {
        let (key, values) = keys.choose(random).unwrap();
        let values = if random.random_ratio(1, 30) { WRONG } else { values };
        records.extend(record(key, values.choose(random).unwrap()));
    }
    if random.random_ratio(1, 20) {
        records.extend(*BROKEN.choose(random).unwrap());
    }
    records
}

/// A sparse file as PAX records say it, in one of the ways: the records and what is stored.
fn pax_sparse(random: &mut StdRng) -> (Vec<u8>, Vec<u8>) {
    let mut content = vec![b'c'; *[0, 1, 512, 700].choose(random).unwrap()];
    let (pieces, size) = pieces(random, length(&content));
    let version = *["", "0.0", "0.1", "1.0", "1.1", "01.0"].choose(random).unwrap();
    let mut records = Vec::new();
    let mut say = |key: &str, value: String| {
        records.extend(record(&format!("GNU.sparse.{key}"), value.as_bytes()));
    };
    if let Some((major, minor)) = version.split_once('.') {
        say("major", major.to_owned());
        say("minor", minor.to_owned());
    }
    say("name", "sparse/name".to_owned());
    if random.random_ratio(9, 10) {
        say(["size", "realsize"].choose(random).unwrap(), size.to_string());
    }
    let count = if random.random_ratio(1, 20) { 7 } else { pieces.len() };
    let numbers = pieces.iter().flat_map(|(offset, length)| [offset, length]);
    let numbers: Vec<String> = numbers.map(ToString::to_string).collect();
    if random.random_ratio(19, 20) {
        say("numblocks", count.to_string());
    }
    match version {
        "1.0" => {
            let map: String = [count.to_string()]
                .iter()
                .chain(&numbers)
                .fold(String::new(), |map, number| map + number + "\n");
            content = [padded(map.as_bytes()), content].concat();
        }
        "0.0" => {
            for (n, number) in numbers.into_iter().enumerate() {
                say(["offset", "numbytes"][n % 2], number);
            }
        }
        _ => say("map", numbers.join(",")),
    }
    (records, content)
}

/// A tar of one entry with what comes before it, and an ordinary entry after it; at times cut.
fn tar(random: &mut StdRng, kind: u8, format: Format) -> Vec<u8> {
    const USTAR: Format = [b"ustar\0", b"00", b"\0\0\0\0"];
    let mut content = Vec::new();
    if b"0\x007S".contains(&kind) {
        content = vec![b'c'; *[0, 1, 512, 700].choose(random).unwrap()];
    }
    let mut before = Vec::new();
    match random.random_range(0..4) {
        0 => before = records(random),
        1 => {
            let sparse;
            (before, sparse) = pax_sparse(random);
            if b"0\x007S".contains(&kind) {
                content = sparse;
            }
        }
        _ => {}
    }
    if !before.is_empty() {
        let kind = if random.random_ratio(1, 20) { b'g' } else { b'x' };
        before = member(random, kind, USTAR, &before);
    }
    let entry = member(random, kind, format, &content);
    let then = member(random, b'0', USTAR, b"");
    let mut tar = [before, entry, then, vec![0; 1024]].concat();
    if random.random_ratio(1, 10) {
        tar.truncate(random.random_range(1..tar.len()));
    }
    tar
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
    let (mut scanner, mut taken) =
        (TarScanner::new(Limits::default(), &MemoryAccount::default()), Taken::default());
    scanner.push(tar, &mut taken).map_err(|error| format!("{error:?}"))?;
    let (entries, _) = scanner.finish().map_err(|error| format!("{error:?}"))?;
    Ok((entries, taken.0))
}

/// A name as a path (CONTRACT A.6).
fn cleaned(name: &[u8]) -> Vec<u8> {
    let mut parts = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    [b"/", &parts.join(&b'/')[..]].concat()
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
        let xattrs = go["Xattrs"].as_object().into_iter().flatten();
        let xattrs: BTreeMap<_, _> =
            xattrs.map(|(name, value)| (name.clone().into_bytes(), bytes(value))).collect();
        assert_eq!(meta.xattrs, xattrs, "{case}");
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
            // As mknod(2) takes it.
            let device = (minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xf_ff00) << 12);
            assert_eq!(i64::from(*rdev), device, "{case}");
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
                        cases.push(tar(random, kind, [magic, version, trailer]));
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
        let shown = format!("seed {seed}, {answer}, {}", case.escape_ascii());
        let ours = ours(case);
        assert_eq!(answer["Error"] != "", ours.is_err(), "{ours:?}: {shown}");
        let Ok((entries, contents)) = ours else {
            refused += 1;
            continue;
        };
        // Go shows global headers, which are no entries.
        let go = answer["Entries"].as_array().into_iter().flatten();
        let go: Vec<_> = go.filter(|entry| entry["Type"] != "g").collect();
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
        compared > cases.len() && refused > cases.len() / 40,
        "{compared} entries of {} tars, {refused} refused",
        cases.len()
    );
}
