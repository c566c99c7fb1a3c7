//! Reads a file of an archive without mounting it, as a program does that has the library in itself.
//!
//!     cargo run --example read_file -- ARCHIVE PATH [CACHE] > content
//!
//! Only the spans that hold the file are fetched, each verified. With a cache they are kept there, for this
//! program, for mounts, and for all others that are given the same directory.

use std::error::Error;
use std::io::Write as _;
use std::path::Path;

use clipwright::content::{ReadSettings, SpanCache};
use clipwright::mount::{ContentSettings, Ino, MountArchive, MountContent};

/// Bytes that are held in memory at a time.
const PIECE: u64 = 1 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, path, rest @ ..] = &arguments[..] else {
        return Err("usage: read_file ARCHIVE PATH [CACHE]".into());
    };
    let cache = rest.first().map(|directory| SpanCache::open(Path::new(directory), 1 << 30));
    // What `ls -R` would show; inodes are numbers of this tree.
    let MountArchive { header, storage, tree } =
        MountArchive::open(Path::new(file), cache.as_ref())?;
    eprintln!("{file}: {} inodes, {} bytes of content", tree.len(), tree.content_length());
    let mut found = Ino::ROOT;
    for name in path.split('/').filter(|name| !name.is_empty()) {
        let inside = tree.lookup(found, name.as_bytes());
        found = inside.ok_or_else(|| format!("{path}: there is no {name}"))?;
    }
    let size = tree.inode(found).ok_or("no such inode")?.size;

    let settings = ContentSettings {
        read: ReadSettings::default(),
        ambient: true,
        check: false,
        cache,
        trace: None,
        guess: false,
        note: None,
        fill_rate: None,
    };
    let content = MountContent::open(Path::new(file), &header, &storage, &tree, settings).await?;
    let mut out = std::io::stdout().lock();
    for start in (0..size).step_by(usize::try_from(PIECE)?) {
        let piece = content.read(&tree, found, start..(start + PIECE).min(size)).await?;
        out.write_all(&piece)?;
    }
    content.shared().settled().await;
    let report = content.shared().counters().report();
    eprintln!(
        "{} spans fetched, {} bytes",
        report.spans_fetched, report.clip_range_get_bytes_total
    );
    Ok(())
}
