//! Any bytes as an archive: header, index, storage info, seek table.
#![no_main]

use std::io::Cursor;

use floors::clip::reader::Archive;
use floors::clip::seek_table::SeekTable;
use floors::clip::writer::index_archive;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut file = Cursor::new(bytes);
    let Ok(archive) = Archive::read(&mut file) else { return };
    let size = bytes.len() as u64;
    assert!(archive.header.index.end <= size);
    assert!(archive.header.storage.iter().all(|range| range.end <= size));
    // What can be written again reads back the same.
    if let Ok(again) = index_archive(&archive.tree, &archive.storage) {
        let again = Archive::read(&mut Cursor::new(again)).expect("what we wrote");
        assert_eq!((&again.tree, &again.storage), (&archive.tree, &archive.storage));
    }
    let Ok(Some(table)) = SeekTable::open(&mut file, &archive.header) else { return };
    for layer in table.layers() {
        let Ok(spans) = layer.spans(&mut file) else { continue };
        for span in 0..spans.entries().len() {
            if let Ok(checkpoint) = spans.checkpoint(span, &mut file) {
                let _ = checkpoint.window.decode();
            }
        }
    }
});
