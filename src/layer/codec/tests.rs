use crate::memory::MemoryAccount;
use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;
use crate::layer::{NoContents, read_layer};

fn request_of(digest: Digest) -> LayerRead {
    LayerRead { digest, limits: Limits::default(), span: Some(1 << 16) }
}

/// The index of a real layer of many blocks, with spans and windows.
fn real() -> (LayerRead, LayerIndex) {
    let mut builder = tar::Builder::new(Vec::new());
    for file in 0..40_u8 {
        let content: String = (0..150).map(|n| Digest::of(&[n, file]).hex()).collect();
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000 + u64::from(file));
        builder.append_data(&mut header, format!("dir/{file}"), content.as_bytes()).unwrap();
    }
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(&builder.into_inner().unwrap()).unwrap();
    let layer = encoder.finish().unwrap();
    let read = request_of(Digest::of(&layer));
    let index = read_layer(read, &MemoryAccount::default(), &layer[..], &mut NoContents).unwrap();
    assert!(index.spans.iter().any(|span| !span.start.window.encoded().is_empty()));
    (read, index)
}

/// Gives bytes the checksum that belongs to them, as whoever lies would.
fn signed(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&bytes[..CHECKSUM], &bytes[HEAD..]);
    bytes[CHECKSUM..HEAD].copy_from_slice(sum.as_bytes());
    bytes
}

/// The same index with other bytes for a body.
fn with_body(bytes: &[u8], body: &[u8], windows: &[u8]) -> Vec<u8> {
    let packed = zstd::bulk::compress(body, 1).unwrap();
    let mut head = bytes[..HEAD].to_vec();
    head[44..48].copy_from_slice(&u32::try_from(body.len()).unwrap().to_le_bytes());
    head[48..52].copy_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
    signed([head, packed, windows.to_vec()].concat())
}

#[test]
fn a_real_index_comes_back_and_is_small() {
    let (read, index) = real();
    let bytes = encode(&read, &index).unwrap();
    assert_eq!(decode(&read, &bytes).unwrap(), index);
    let windows: usize = index.spans.iter().map(|s| s.start.window.encoded().len()).sum();
    assert!(bytes.len() < windows + 3000, "{} bytes, {windows} of them windows", bytes.len());
}

#[test]
fn damage_anywhere_is_found() {
    let (read, index) = real();
    let bytes = encode(&read, &index).unwrap();
    for at in (0..HEAD).chain((HEAD..bytes.len()).step_by(97)) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(decode(&read, &damaged).is_err(), "byte {at}");
    }
    for length in (0..=HEAD).chain((HEAD..bytes.len()).step_by(97)) {
        assert!(decode(&read, &bytes[..length]).is_err(), "{length} bytes");
    }
    assert!(decode(&read, &[&bytes[..], b"x"].concat()).is_err());
}

#[test]
fn what_was_read_otherwise_is_refused() {
    let (read, index) = real();
    let bytes = encode(&read, &index).unwrap();
    let limits = read.limits;
    for other in [
        LayerRead { digest: Digest::of(b"another"), ..read },
        LayerRead { span: None, ..read },
        LayerRead { limits: Limits { entries: 5, ..limits }, ..read },
        LayerRead { limits: Limits { extension_bytes: 5, ..limits }, ..read },
    ] {
        assert_ne!(request(&other), request(&read));
        let error = decode(&other, &bytes).unwrap_err().to_string();
        assert!(error.contains("another layer"), "{error}");
    }
}

#[test]
fn limits_hold_for_those_who_lie_too() {
    let (read, index) = real();
    let bytes = encode(&read, &index).unwrap();
    let limits = read.limits;
    for limits in [
        Limits { entries: 39, ..limits },
        Limits { plain_bytes: index.plain_size - 1, ..limits },
        Limits { path_bytes: 5, ..limits },
        Limits { tree_bytes: 5000, ..limits },
    ] {
        let strict = LayerRead { limits, ..read };
        let mut lie = bytes.clone();
        lie[12..44].copy_from_slice(request(&strict).as_bytes());
        assert!(decode(&strict, &signed(lie)).is_err());
        assert_eq!(encode(&strict, &index), None);
    }
    // A body of gigabytes, or of as many entries, is not even made room for.
    let mut bomb = bytes.clone();
    bomb[44..48].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(decode(&read, &signed(bomb)).unwrap_err().detail.contains("too large"));
    let (body, windows) = encode_body(&LayerIndex { entries: Vec::new(), ..index });
    let mut many = body[..body.len() - 1].to_vec();
    put_varint(&mut many, 3_000_000);
    assert!(decode(&read, &with_body(&bytes, &many, &windows)).is_err());
}

#[test]
fn spans_that_do_not_cover_the_layer_are_refused() {
    let (read, index) = real();
    let mut gap = index.clone();
    gap.spans.remove(1);
    assert_eq!(encode(&read, &gap), None);
    let mut content = index;
    let plain_size = content.plain_size;
    let last = content.entries.last_mut().unwrap();
    if let EntryKind::File { length, .. } = &mut last.kind {
        *length = plain_size;
    }
    assert_eq!(encode(&read, &content), None, "content behind the layer's end");
}

fn any_path() -> impl Strategy<Value = NodePath> {
    vec(vec(97..101_u8, 1..4), 0..4).prop_map(|components| {
        let path = components.iter().flat_map(|c| [b"/", &c[..]].concat()).collect::<Vec<_>>();
        NodePath::new(if path.is_empty() { b"/" } else { &path }).unwrap()
    })
}

prop_compose! {
    fn any_time()(seconds in -1_i64 << 61..1 << 61, nanos: u32) -> Time {
        Time { seconds, nanos }
    }
}

prop_compose! {
    fn any_meta()(
        (mode, uid, gid) in prop_oneof![Just((0o644, 0, 0)), any::<(u32, u32, u32)>()],
        mtime in any_time(),
        others in proptest::option::of((any_time(), any_time())),
        xattrs in btree_map(vec(any::<u8>(), 0..5), vec(any::<u8>(), 0..5), 0..3),
    ) -> Meta {
        let (atime, ctime) = others.unwrap_or((mtime, mtime));
        Meta { mode, uid, gid, mtime, atime, ctime, xattrs }
    }
}

fn any_kind() -> impl Strategy<Value = EntryKind> {
    let special =
        prop_oneof![Just(Special::CharDevice), Just(Special::BlockDevice), Just(Special::Fifo)];
    prop_oneof![
        any_meta().prop_map(EntryKind::Directory),
        // A gap before the content here, its offset once the order is known.
        (any_meta(), 0..1_u64 << 40, 0..1_u64 << 40)
            .prop_map(|(meta, offset, length)| EntryKind::File { meta, offset, length }),
        (any_meta(), 0..1_u64 << 40, any::<u32>()).prop_map(|(meta, offset, length)| {
            EntryKind::Sparse { meta, offset, length: u64::from(length) << 31 }
        }),
        (any_meta(), vec(any::<u8>(), 0..9))
            .prop_map(|(meta, target)| EntryKind::Symlink { meta, target }),
        any_path().prop_map(|target| EntryKind::HardLink { target }),
        (any_meta(), special, any::<u32>()).prop_map(|(meta, special, rdev)| EntryKind::Special {
            meta,
            special,
            rdev
        }),
        Just(EntryKind::Whiteout),
        Just(EntryKind::Opaque),
    ]
}

prop_compose! {
    fn any_index()(
        mut entries in vec((any_path(), any_kind()), 0..20),
        notes in vec("\\PC{0,9}", 0..3),
        compressed_size in 0..1_u64 << 63,
        encoding in prop_oneof![Just(Encoding::Gzip), Just(Encoding::Tar), Just(Encoding::Zstd)],
    ) -> LayerIndex {
        let mut end = 0;
        for (_, kind) in &mut entries {
            if let EntryKind::File { offset, length, .. } = kind {
                *offset += end;
                end = *offset + *length;
            } else if let EntryKind::Sparse { offset, .. } = kind {
                *offset += end;
                end = *offset;
            }
        }
        let entries = entries.into_iter().map(|(path, kind)| Entry { path, kind }).collect();
        LayerIndex {
            digest: Digest::of(b"layer"),
            encoding,
            diff_id: Digest::of(b"diff"),
            compressed_size,
            plain_size: end,
            entries,
            notes,
            spans: Vec::new(),
        }
    }
}

proptest! {
    #[test]
    fn every_index_comes_back(index in any_index()) {
        let mut read = request_of(index.digest);
        read.limits.plain_bytes = u64::MAX;
        let bytes = encode(&read, &index);
        prop_assert_eq!(decode(&read, &bytes.unwrap()), Ok(index));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200)) {
        let read = request_of(Digest::of(b"layer"));
        prop_assert!(decode(&read, &bytes).is_err());
    }

    /// With a checksum and a frame that are right, so that the inner parts are reached.
    #[test]
    fn no_body_makes_it_panic(
        index in any_index(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        windows in vec(any::<u8>(), 0..3),
    ) {
        let mut read = request_of(index.digest);
        read.limits.plain_bytes = u64::MAX;
        let bytes = encode(&read, &index).unwrap();
        let (mut body, _) = encode_body(&index);
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        // Whatever comes out is an index that can be written again.
        if let Ok(index) = decode(&read, &with_body(&bytes, &body, &windows)) {
            prop_assert!(encode(&read, &index).is_some());
        }
    }
}
