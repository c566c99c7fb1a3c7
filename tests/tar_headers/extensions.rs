//! Extension headers and the entry after them, in any order, with sparse files of every form.

use super::*;

fn block(kind: u8, name: &str, size: usize, magic: &[u8]) -> [u8; 512] {
    let mut block = [0; 512];
    put(&mut block, 0, name.as_bytes());
    put(&mut block, 100, b"0000644\0");
    put(&mut block, 124, format!("{size:011o}").as_bytes());
    block[156] = kind;
    put(&mut block, 157, if b"12".contains(&kind) { b"in/header" } else { b"" });
    put(&mut block, 257, magic);
    block
}

/// A header with its checksum, and content to the end of its last block.
fn whole(mut block: [u8; 512], content: &[u8]) -> Vec<u8> {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut block, 148, format!("{sum:06o}\0").as_bytes());
    let padding = content.len().next_multiple_of(512) - content.len();
    [&block[..], content, &vec![0; padding]].concat()
}

fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let length = (1..10_000).find(|n: &usize| n.to_string().len() + rest.len() == *n).unwrap();
    format!("{length}{rest}").into_bytes()
}

/// Pieces of a file with holes between: offsets and lengths, the bytes stored, and the whole size.
fn pieces(random: &mut StdRng) -> (Vec<usize>, Vec<u8>, usize) {
    let (mut numbers, mut stored, mut at) = (Vec::new(), Vec::new(), 0);
    for _ in 0..random.random_range(0..7) {
        at += *[0, 1, 512, 3000].choose(random).unwrap();
        let length = *[0, 1, 511, 512, 513].choose(random).unwrap();
        numbers.extend([at, length]);
        stored.extend((0..length).map(|_| random.random_range(1..=255_u8)));
        at += length;
    }
    (numbers, stored, at + *[0, 0, 700].choose(random).unwrap())
}

/// Extension headers and the entry that they describe.
fn extended(random: &mut StdRng) -> Vec<u8> {
    let text = |number: &usize| number.to_string();
    let (numbers, stored, size) = pieces(random);
    let map = numbers.iter().map(text).collect::<Vec<_>>();
    let (count, listed, size_text) = (text(&(map.len() / 2)), map.join(","), text(&size));
    let kind = *b"70000\x000S512".choose(random).unwrap();
    let form = if b"0\x007".contains(&kind) { random.random_range(0..5) } else { 0 };
    let mut records: Vec<(&str, &str)> = match form {
        1 => vec![("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")],
        2 => vec![("GNU.sparse.major", "0"), ("GNU.sparse.minor", "1")],
        _ => vec![],
    };
    if let 2 | 3 = form {
        records.extend([("GNU.sparse.numblocks", &*count), ("GNU.sparse.map", &*listed)]);
    }
    if form == 4 {
        records.push(("GNU.sparse.numblocks", &*count));
        for (at, number) in map.iter().enumerate() {
            let turn = ["GNU.sparse.offset", "GNU.sparse.numbytes"][at % 2];
            records.push((turn, number));
        }
    }
    if form > 0 || random.random_ratio(1, 20) {
        let key = ["GNU.sparse.size", "GNU.sparse.realsize"].choose(random).unwrap();
        records.push((key, &*size_text));
    }
    let some = [
        ("path", "from/pax"),
        ("path", ""),
        ("linkpath", "pax/target"),
        ("linkpath", ""),
        ("mtime", "1.5"),
        ("mtime", "-1.25"),
        ("mtime", ""),
        ("atime", "-0.000000001"),
        ("uid", "-2"),
        ("gid", "5"),
        ("gid", ""),
        ("comment", "a=b\nc"),
        ("SCHILY.xattr.user.a", "v"),
        ("GNU.sparse.name", "from/sparse"),
    ];
    for _ in 0..random.random_range(0..5) {
        records.push(*some.choose(random).unwrap());
    }
    // Of the content, the map of one form is a part.
    let lines = std::iter::once(count.clone()).chain(map.clone());
    let mut content: Vec<u8> = Vec::new();
    if form == 1 {
        content = lines.flat_map(|line| format!("{line}\n").into_bytes()).collect();
        content.resize(content.len().next_multiple_of(512), 0);
    }
    content.extend(&stored);
    if b"512".contains(&kind) {
        content.clear();
    }
    let content_size = text(&content.len());
    let mut stated = content.len();
    if kind != b'S' && random.random_ratio(1, 4) {
        records.push(("size", &*content_size));
        stated = 7;
    }
    let mut tar = Vec::new();
    for _ in 0..random.random_range(0..3) {
        let name = *b"LKg".choose(random).unwrap();
        let value = if name == b'g' { record("comment", "x") } else { b"from/gnu\0rest".to_vec() };
        tar.extend(whole(block(name, "extension", value.len(), b"ustar  \0"), &value));
    }
    if !records.is_empty() {
        let records = records.iter().flat_map(|(key, value)| record(key, value));
        let records: Vec<u8> = records.collect();
        let at = if random.random_ratio(1, 2) { 0 } else { tar.len() };
        let pax = whole(block(b'x', "pax", records.len(), b"ustar\x0000"), &records);
        tar.splice(at..at, pax);
    }
    let magic = if kind == b'S' { b"ustar  \0" } else { b"ustar\x0000" };
    let mut entry = block(kind, "in/header", stated, magic);
    let mut further = Vec::new();
    if kind == b'S' {
        put(&mut entry, 483, format!("{size:011o}").as_bytes());
        let fields: Vec<_> =
            numbers.iter().flat_map(|n| format!("{n:011o}\0").into_bytes()).collect();
        let (first, rest) = fields.split_at(fields.len().min(96));
        put(&mut entry, 386, first);
        if !rest.is_empty() {
            entry[482] = 1;
            further = rest.to_vec();
            further.resize(512, 0);
        }
    }
    let entry = whole(entry, &content);
    tar.extend([&entry[..512], &further, &entry[512..]].concat());
    tar
}

#[test]
fn extensions_mean_what_they_mean_to_go() {
    let Some(interop) = interop() else { return };
    let seed = rand::random();
    let random = &mut StdRng::seed_from_u64(seed);
    let cases: Vec<_> =
        (0..4000).map(|_| [extended(random), extended(random), vec![0; 1024]].concat()).collect();
    compare(interop, &cases, seed);
}
