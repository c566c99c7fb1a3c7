//! `clipwright extract`: an archive, or a directory of it, as files.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};
use indicatif::HumanBytes;
use serde::Serialize;

use super::content::ContentArgs;
use super::place::ArchivePlace;
use super::progress::on_stderr;
use super::run_async;
use super::say;
use crate::content::{ExtractOptions, Extraction, extract};

/// Unpack an archive, or a directory of it, into a new directory. Content is verified; what fails
/// leaves nothing behind.
#[derive(Debug, Args)]
pub(super) struct Extract {
    /// The archive: a file, `s3://BUCKET/KEY`, or `docker://REFERENCE` of an archive or of an image that has one
    #[arg(value_parser = OsStringValueParser::new().try_map(ArchivePlace::parse))]
    archive: ArchivePlace,
    /// Directory to make; it may be there if it is empty
    directory: PathBuf,
    /// Directory in the image that becomes DIRECTORY
    #[arg(long, value_name = "PATH", default_value = "/")]
    path: String,
    /// Leave owners, and with them setuid and setgid bits; without root that is so anyway
    #[arg(long)]
    no_owner: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    content: ContentArgs,
}

#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    extracted: &'a Extraction,
    seconds: f64,
}

impl Extract {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let started = Instant::now();
        let local = self.content.fetch(&self.archive)?;
        let archive = super::open_archive(local.path())?;
        let settings = self.content.settings(&self.archive, &archive.storage)?;
        let mut options =
            ExtractOptions { path: self.path.into_bytes(), ..ExtractOptions::default() };
        if options.owners && self.no_owner {
            options.owners = false;
        } else if !options.owners && !self.no_owner {
            eprintln!("warning: all files will be yours: owners take root to restore");
        }
        let (archive_file, target) = (local.path(), &self.directory);
        let extracted = run_async(async |cancel| {
            let progress = on_stderr();
            Ok(extract(archive_file, &archive, target, &settings, &options, progress, &cancel)
                .await?)
        })?;
        for warning in &extracted.warnings {
            eprintln!("warning: {warning}");
        }
        let seconds = started.elapsed().as_secs_f64();
        if self.json {
            say!("{}", serde_json::to_string(&Report { extracted: &extracted, seconds })?);
            return Ok(());
        }
        say!(
            "extracted {} files ({}), {} directories, {} symlinks, {} special files, {} hard links",
            extracted.files,
            HumanBytes(extracted.bytes),
            extracted.directories,
            extracted.symlinks,
            extracted.special_files,
            extracted.hard_links
        );
        say!("seconds   {seconds:.2}");
        Ok(())
    }
}
