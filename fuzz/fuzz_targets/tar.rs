//! Any bytes as a tar, pushed in any pieces. Checksums that are wrong are mended first, as no fuzzer
//! guesses them: the scanner's complaint tells where.
#![no_main]

use floors::memory::MemoryAccount;
use std::io;

use floors::clip::node::NodePath;
use floors::layer::entry::EntryKind;
use floors::layer::tar_scan::{ScanError, TarScanner};
use floors::layer::{Contents, Entry, Limits};
use libfuzzer_sys::fuzz_target;

const LIMITS: Limits =
    Limits { entries: 64, path_bytes: 256, path_depth: 20, extension_bytes: 2048, ..Limits::NONE };

/// Keeps the content that it is given.
#[derive(Default)]
struct Kept {
    /// Offset, length and content of each file.
    files: Vec<(u64, u64, Vec<u8>)>,
    open: bool,
}

impl Contents for Kept {
    fn begin(&mut self, _path: &NodePath, offset: u64, length: u64) -> io::Result<bool> {
        assert!(!self.open);
        let wanted = self.files.len() % 3 != 2;
        if wanted {
            self.open = true;
            self.files.push((offset, length, Vec::new()));
        } else {
            self.files.push((offset, 0, Vec::new()));
        }
        Ok(wanted)
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        assert!(self.open);
        if let Some((.., content)) = self.files.last_mut() {
            content.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn end(&mut self) -> io::Result<()> {
        assert!(std::mem::take(&mut self.open));
        let (_, length, content) = self.files.last().unwrap();
        assert_eq!(content.len() as u64, *length);
        Ok(())
    }
}

type Scanned = Result<(Vec<Entry>, Vec<String>), ScanError>;

fn scan(tar: &[u8], piece: usize) -> (Scanned, Kept) {
    let mut scanner = TarScanner::new(LIMITS, &MemoryAccount::default());
    let mut kept = Kept::default();
    let pushed = tar.chunks(piece).try_for_each(|bytes| scanner.push(bytes, &mut kept));
    (pushed.and_then(|()| scanner.finish()), kept)
}

/// Sets the checksum of the header at `offset`; whether it was wrong.
fn mend(tar: &mut [u8], offset: u64) -> bool {
    let Some(block) = usize::try_from(offset).ok().and_then(|at| tar.get_mut(at..at + 512)) else {
        return false;
    };
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    let checksum = format!("{sum:06o}\0 ");
    block[148..156].copy_from_slice(checksum.as_bytes());
    true
}

fuzz_target!(|bytes: &[u8]| {
    let [piece, rest @ ..] = bytes else { return };
    let mut tar = rest.to_vec();
    let (mut scanned, mut kept) = scan(&tar, usize::MAX);
    let mut mended = None;
    while let Err(ScanError::Malformed { offset, .. }) = &scanned
        && mended.is_none_or(|last| last < *offset)
    {
        mended = Some(*offset);
        if !mend(&mut tar, *offset) {
            break;
        }
        (scanned, kept) = scan(&tar, usize::MAX);
    }
    let (again, others) = scan(&tar, usize::from(*piece) + 1);
    assert_eq!(scanned, again);
    assert_eq!(kept.files, others.files);
    let Ok((entries, notes)) = scanned else { return };
    assert!(!kept.open, "a file that was left open");
    assert!(entries.len() as u64 <= LIMITS.entries && notes.len() <= tar.len() / 512);
    for (offset, length, content) in &kept.files {
        assert_eq!(content, &tar[*offset as usize..(*offset + *length) as usize]);
    }
    for entry in &entries {
        assert!(entry.path.as_bytes().len() as u64 <= LIMITS.path_bytes);
        if let EntryKind::File { offset, length, .. } = &entry.kind {
            assert!(*offset + *length <= tar.len() as u64);
        }
    }
});
