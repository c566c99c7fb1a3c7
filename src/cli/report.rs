//! What a command that made an archive says in the end.

use std::path::Path;
use std::time::Instant;

use indicatif::HumanBytes;
use serde::Serialize;

use super::say;
use crate::archive::Summary;
use crate::archive::index::ArchiveFile;
use crate::digest::Digest;

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    summary: &'a Summary,
    archive: File<'a>,
    seconds: f64,
}

#[derive(Serialize)]
struct File<'a> {
    path: &'a Path,
    size: u64,
    digest: Digest,
}

/// Prints it, as one JSON object or for people.
pub(super) fn report(
    json: bool,
    summary: &Summary,
    path: &Path,
    written: ArchiveFile,
    started: Instant,
) -> anyhow::Result<()> {
    let ArchiveFile { size, digest } = written;
    let seconds = started.elapsed().as_secs_f64();
    if json {
        let archive = File { path, size, digest };
        say!("{}", serde_json::to_string(&Report { summary, archive, seconds })?);
        return Ok(());
    }
    say!("image     {}", summary.reference);
    say!("platform  {}", summary.platform);
    let (packed, plain) = (HumanBytes(summary.compressed_bytes), HumanBytes(summary.plain_bytes));
    let cached = summary.layers.iter().filter(|layer| layer.cached).count();
    say!(
        "layers    {} ({cached} from the cache): {packed} compressed, {plain} plain",
        summary.layers.len()
    );
    say!("files     {} of {} nodes", summary.files, summary.nodes);
    say!("archive   {}: {}", path.display(), HumanBytes(size));
    say!("seconds   {seconds:.2}");
    Ok(())
}
