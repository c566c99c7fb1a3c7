//! What archives are to those who look for them in a registry: artifacts of a type of their own. One that
//! points to an image's layers refers to that image's manifest, so that it is found from there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::clip::header::{self, Header};
use crate::clip::storage_info::StorageInfo;
use crate::content::{ARCHIVE_BLOB, ARCHIVE_TYPE};
use crate::oci::{Reference, normalise_registry};
use crate::store::{Describe, Description, Key};

/// The most of an archive's storage info that is read.
const MAX_STORAGE: u64 = 16 << 20;

/// Tells archives from other objects.
#[derive(Debug)]
pub(super) struct ArchiveDescriber;

impl Describe for ArchiveDescriber {
    fn types(&self) -> &'static [&'static str] {
        &[ARCHIVE_TYPE]
    }

    fn describe(&self, key: &Key, content: &File) -> Option<Description> {
        if Path::new(key.as_str()).extension().is_none_or(|extension| extension != "clip") {
            return None;
        }
        // What is not public yet, or is no more, is for nobody to find.
        let public = key.of_image().is_some();
        let subject = storage(content).filter(|_| public).and_then(|storage| match storage {
            StorageInfo::Oci(image) => {
                let reference = Reference::from_stored(
                    &image.registry_url,
                    &image.repository,
                    &image.reference,
                );
                let reference = reference.ok()?;
                let registry = normalise_registry(reference.registry());
                Some((registry, reference.repository().to_owned(), reference.digest()?))
            }
            StorageInfo::Local | StorageInfo::S3(_) => None,
        });
        let (artifact_type, media_type) = (ARCHIVE_TYPE, ARCHIVE_BLOB);
        Some(Description { artifact_type, media_type, subject })
    }
}

/// An archive's storage info, if it can be read.
fn storage(content: &File) -> Option<StorageInfo> {
    let size = content.metadata().ok()?.len();
    let read = |start: u64, end: u64| {
        let length = end.checked_sub(start).filter(|length| *length <= MAX_STORAGE)?;
        let mut bytes = vec![0; usize::try_from(length).ok()?];
        content.read_exact_at(&mut bytes, start).ok()?;
        Some(bytes)
    };
    let header = Header::decode(&read(0, header::LENGTH as u64)?, size).ok()?;
    let place = header.storage?;
    StorageInfo::decode(&read(place.start, place.end)?).ok()
}
