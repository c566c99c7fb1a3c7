//! `clipwright cat`: a file's content, read through the archive's storage info.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::content::ContentArgs;
use super::run_async;
use crate::content::open_file;

/// Write a file's content to standard output, read through the archive.
#[derive(Debug, Args)]
pub(super) struct Cat {
    /// The archive
    archive: PathBuf,
    /// Path in the image; symbolic links are followed
    path: String,
    #[command(flatten)]
    content: ContentArgs,
}

impl Cat {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let archive = super::open_archive(&self.archive)?;
        let node = archive.tree.resolve(self.path.as_bytes())?;
        let settings = self.content.settings(&archive.storage)?;
        let mut content = run_async(async |cancel| {
            Ok(open_file(&self.archive, &archive, node, settings, &cancel).await?)
        })?;
        let mut out = std::io::stdout().lock();
        std::io::copy(&mut content, &mut out)?;
        out.flush()?;
        Ok(())
    }
}
