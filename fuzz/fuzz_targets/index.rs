//! Any bytes as the two gob streams of an archive, behind a header that is right: two bytes for
//! the length of the index, the index, the storage info.
#![no_main]

use std::io::Cursor;

use floors::clip::header::{Header, LENGTH};
use floors::clip::reader::Archive;
use floors::clip::writer::index_archive;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let [low, high, gobs @ ..] = bytes else { return };
    let index = u64::from(u16::from_le_bytes([*low, *high])).min(gobs.len() as u64);
    let start = LENGTH as u64;
    let (middle, end) = (start + index, start + gobs.len() as u64);
    let storage = (middle < end).then_some(middle..end);
    let header = Header { index: start..middle, storage, storage_type: "oci" };
    let file = [&header.encode(), gobs].concat();
    let Ok(archive) = Archive::read(&mut Cursor::new(file)) else { return };
    let nodes: Vec<_> = archive.tree.iter().map(|node| &node.path).collect();
    assert!(nodes.is_sorted_by(|a, b| a < b), "paths ascend and are unique");
    for node in archive.tree.iter() {
        assert_eq!(archive.tree.get(&node.path), Some(node));
        let _ = archive.tree.resolve(node.path.as_bytes());
    }
    // What can be written again reads back the same, and is written the same.
    if let Ok(written) = index_archive(&archive.tree, &archive.storage) {
        let again = Archive::read(&mut Cursor::new(&written)).expect("what we wrote");
        assert_eq!((&again.tree, &again.storage), (&archive.tree, &archive.storage));
        assert!(index_archive(&again.tree, &again.storage).is_ok_and(|bytes| bytes == written));
    }
});
