//! `clipwright verify`: whether an archive is what it should be.

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser as _};

use super::content::ContentArgs;
use super::place::ArchivePlace;
use super::progress::on_stderr;
use super::{printable, run_async, say};
use crate::archive::{Verification, VerifyOptions, verify};
use crate::clip::check::{Check, Grade};
use crate::clip::reader::Archive;
use crate::clip::storage_info::StorageInfo;

/// Check an archive: its structure, its tree, its seek table, and the image or data that it points
/// to. Prints a line for each check and for each finding; fails if one of them is an error.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The archive: a file, `s3://BUCKET/KEY`, or `docker://REFERENCE` of an archive or of an image that has one
    #[arg(value_parser = OsStringValueParser::new().try_map(ArchivePlace::parse))]
    archive: ArchivePlace,
    /// Read every layer, or all data, and check every byte
    #[arg(long)]
    deep: bool,
    /// Look at the archive alone, and ask no registry or bucket
    #[arg(long, conflicts_with = "deep")]
    offline: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    content: ContentArgs,
}

impl Verify {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let local = self.content.fetch(&self.archive)?;
        // An archive that can't be opened is a finding too.
        let storage = Archive::open(local.path()).map(|archive| archive.storage);
        let settings = self
            .content
            .settings(&self.archive, storage.as_ref().unwrap_or(&StorageInfo::Local))?;
        let options =
            VerifyOptions { deep: self.deep, offline: self.offline, ..VerifyOptions::default() };
        let verified = run_async(async |cancel| {
            Ok(verify(local.path(), &settings, &options, on_stderr(), &cancel).await?)
        })?;
        if self.json {
            say!("{}", serde_json::to_string(&verified)?);
        } else {
            verified.checks.iter().for_each(print);
        }
        match verified.errors() {
            0 => Ok(()),
            errors => anyhow::bail!("{}: {}", self.archive, count(&verified, errors)),
        }
    }
}

fn print(check: &Check) {
    let Check { name, checked, unit, errors, warnings, findings } = check;
    say!("{name:<12} {checked} {unit}, {errors} errors, {warnings} warnings");
    for finding in findings {
        let grade = match finding.grade {
            Grade::Error => "error",
            Grade::Warning => "warning",
        };
        say!("  {grade}: {}", printable(finding.text.as_bytes()));
    }
    let left = (errors + warnings).saturating_sub(findings.len() as u64);
    if left > 0 {
        say!("  and {left} more");
    }
}

fn count(verified: &Verification, errors: u64) -> String {
    format!("{errors} errors and {} warnings found", verified.warnings())
}
