//! Tars made by hand, and what is made of them.

use std::io::Cursor;

use tar::{Builder, EntryType, Header};

use super::*;
use crate::layer::NoContents;
use crate::memory::MemoryAccount;

/// However a stream is cut into pieces.
mod contents;
/// What entries say of themselves.
mod entries;
/// What other headers say of an entry.
mod extensions;
/// What is refused.
mod refusals;

fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o104_755);
    header.set_uid(7);
    header.set_gid(8);
    header.set_mtime(1_700_000_000);
    header
}

fn build(fill: impl FnOnce(&mut Builder<Vec<u8>>)) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    fill(&mut builder);
    builder.into_inner().unwrap()
}

fn file(builder: &mut Builder<Vec<u8>>, name: &str, content: &[u8]) {
    let mut header = header(EntryType::Regular, content.len() as u64);
    builder.append_data(&mut header, name, Cursor::new(content)).unwrap();
}

fn scan_in_pieces(tar: &[u8], piece: usize) -> Result<(Vec<Entry>, Vec<String>), ScanError> {
    let mut scanner = TarScanner::new(Limits::default(), &MemoryAccount::default());
    for bytes in tar.chunks(piece) {
        scanner.push(bytes, &mut NoContents)?;
    }
    scanner.finish()
}

fn scan(tar: &[u8]) -> Result<Vec<Entry>, ScanError> {
    scan_in_pieces(tar, 10_000).map(|(entries, _)| entries)
}

/// A raw header block with these fields, its checksum right.
fn block(kind: u8, name: &[u8], size: &[u8]) -> [u8; BLOCK] {
    let mut header = Header::new_old();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(5);
    header.as_old_mut().size[..size.len()].copy_from_slice(size);
    header.as_old_mut().linkflag = [kind];
    header.set_cksum();
    *header.as_bytes()
}

/// A header block of any format: `fields` are bytes at offsets, its checksum is made right.
fn raw(kind: u8, fields: &[(usize, &[u8])]) -> [u8; BLOCK] {
    let mut block = block(kind, b"f", b"0");
    for (at, bytes) in fields {
        block[*at..*at + bytes.len()].copy_from_slice(bytes);
    }
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
    block
}
