//! `clipwright cat`: a file's content, read through the archive's storage info.

use std::io::Write as _;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};

use super::content::ContentArgs;
use super::place::ArchivePlace;
use super::run_async;
use crate::content::open_file;

/// Write a file's content to standard output, read through the archive.
#[derive(Debug, Args)]
pub(super) struct Cat {
    /// The archive: a file, `s3://BUCKET/KEY`, or `docker://REFERENCE` of an archive or of an image that has one
    #[arg(value_parser = OsStringValueParser::new().try_map(ArchivePlace::parse))]
    archive: ArchivePlace,
    /// Path in the image; symbolic links are followed
    path: String,
    #[command(flatten)]
    content: ContentArgs,
}

impl Cat {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let local = self.content.fetch(&self.archive)?;
        let archive = super::open_archive(local.path())?;
        let node = archive.tree.resolve(self.path.as_bytes())?;
        let settings = self.content.settings(&self.archive, &archive.storage)?;
        let mut content = run_async(async |cancel| {
            Ok(open_file(local.path(), &archive, node, settings, &cancel).await?)
        })?;
        let mut out = std::io::stdout().lock();
        std::io::copy(&mut content, &mut out)?;
        out.flush()?;
        Ok(())
    }
}
