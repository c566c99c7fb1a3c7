//! `clipwright cat`: a file's content, read through the archive's storage info.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::registry::RegistryArgs;
use super::run_async;
use crate::archive::{ReadSettings, image_source, open_file};
use crate::clip::reader::Archive;
use crate::clip::storage_info::StorageInfo;
use crate::oci::ImageSource;

/// Write a file's content to standard output, read through the archive.
#[derive(Debug, Args)]
pub(super) struct Cat {
    /// The archive
    archive: PathBuf,
    /// Path in the image; symbolic links are followed
    path: String,
    /// Read layers from this image reference or oci:DIR[:TAG] instead of where the archive points
    #[arg(long, value_name = "SOURCE")]
    source: Option<ImageSource>,
    #[command(flatten)]
    registry: RegistryArgs,
}

impl Cat {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let archive = Archive::open(&self.archive)?;
        let node = archive.tree.resolve(self.path.as_bytes())?;
        let source = match (&self.source, &archive.storage) {
            (Some(source), _) => Some(source.clone()),
            (None, StorageInfo::Oci(image)) => Some(image_source(image)?),
            (None, _) => None,
        };
        let credentials = match &source {
            Some(source) => self.registry.credentials(source)?,
            None => None,
        };
        let oci = self.registry.settings();
        let settings = ReadSettings { oci, credentials, source, s3_keys: None };
        let mut content = run_async(async |cancel| {
            Ok(open_file(&self.archive, &archive, node, settings, &cancel).await?)
        })?;
        let mut out = std::io::stdout().lock();
        std::io::copy(&mut content, &mut out)?;
        out.flush()?;
        Ok(())
    }
}
