//! Whether an archive is what it should be: its structure, its tree, its storage info, its seek
//! table, and what it points to. The shallow way reads the archive and asks the registry for the
//! manifest; the deep way reads every layer, or all data, once.
//!
//! Whatever is wrong with the archive is a finding; an error is only what kept us from looking.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::archive::ArchiveError;
use crate::clip::ClipError;
use crate::clip::check::{self, Check};
use crate::clip::reader::Parts;
use crate::clip::storage_info::StorageInfo;
use crate::content::read::ReadSettings;
use crate::fetch::Budget;
use crate::layer::Limits;
use crate::local::blocking;
use crate::local::io_error;
use crate::progress::Progress;

/// The data of a v1 archive.
mod data;
/// Layers, read whole.
mod deep;
/// How two nodes differ.
mod differences;
/// The image that a v2 archive points to.
mod image;
/// Where reading can begin.
mod restarts;
/// The seek table.
mod table;

/// How to verify.
#[derive(Debug, Clone, Default)]
pub struct VerifyOptions {
    /// Read every layer, or all data.
    pub deep: bool,
    /// Look at the archive alone.
    pub offline: bool,
    /// What a layer may cost.
    pub limits: Limits,
    /// How many layers are read at a time, by all who share it.
    pub budget: Arc<Budget>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// 1 or 2; `None` if the archive can't be read.
    pub clip_version: Option<u8>,
    /// One after the other.
    pub checks: Vec<Check>,
}

impl Verification {
    /// How many errors were found.
    pub fn errors(&self) -> u64 {
        self.checks.iter().map(|check| check.errors).sum()
    }

    /// How many warnings were found.
    pub fn warnings(&self) -> u64 {
        self.checks.iter().map(|check| check.warnings).sum()
    }
}

/// Verifies the archive in `file`.
pub async fn verify(
    file: &Path,
    settings: &ReadSettings,
    options: &VerifyOptions,
    progress: Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<Verification, ArchiveError> {
    let mut structure = Check::new("structure", "parts");
    let owned = file.to_owned();
    let parts = match blocking(move || read(&owned)).await?? {
        Ok(parts) => Arc::new(parts),
        Err(broken) => {
            structure.error(broken.to_string());
            return Ok(Verification { clip_version: None, checks: vec![structure] });
        }
    };
    overlaps(&parts, &mut structure);
    let mut checks = vec![structure, check::tree(&parts), check::storage(&parts)];
    let clip_version = match &parts.storage {
        StorageInfo::Oci(image) => {
            let (found, plain_sizes) = {
                let (file, parts) = (file.to_owned(), parts.clone());
                blocking(move || table::check(&file, &parts)).await??
            };
            checks.push(found);
            checks.push(image::ranges(&parts, &plain_sizes));
            if !options.offline {
                checks.push(image::published(image, settings, cancel).await);
            }
            if options.deep {
                let run = deep::Run { file, parts: &parts, settings, options, progress, cancel };
                checks.extend(run.check(image).await?);
            }
            2
        }
        storage => {
            let reach = options.deep || !options.offline;
            let size = data::size(file, storage, settings, reach).await;
            checks.push(data::blocks(&parts, size.as_ref().ok().copied().flatten()));
            if let Err(error) = &size {
                if let Some(check) = checks.last_mut() {
                    check.error(error.to_string());
                }
            } else if options.deep {
                checks.push(data::content(file, &parts, settings, cancel).await?);
            }
            1
        }
    };
    Ok(Verification { clip_version: Some(clip_version), checks })
}

/// The archive's parts, or what is broken about them.
fn read(file: &Path) -> Result<Result<Parts, ClipError>, ArchiveError> {
    let what = || format!("can't read {}", file.display());
    let mut archive = File::open(file).map_err(io_error(what()))?;
    match Parts::read(&mut archive) {
        Err(ClipError::Io { source, .. }) => Err(io_error(what())(source).into()),
        read => Ok(read),
    }
}

fn overlaps(parts: &Parts, check: &mut Check) {
    check.checked = 2;
    let index = &parts.header.index;
    if let Some(storage) = &parts.header.storage {
        check.checked += 1;
        if storage.start < index.end && index.start < storage.end {
            check.error(format!("storage info at {storage:?} overlaps the index at {index:?}"));
        }
    }
}
