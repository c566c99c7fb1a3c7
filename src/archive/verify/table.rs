//! The seek table: every entry and every window is what its digest says.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use crate::archive::ArchiveError;
use crate::clip::ClipError;
use crate::clip::check::{Check, Grade};
use crate::clip::reader::Parts;
use crate::clip::seek_table::{LayerEntry, SeekTable};
use crate::clip::storage_info::{OciStorageInfo, StorageInfo};
use crate::content::stored_layers::StoredLayer;
use crate::digest::Digest;
use crate::local::{IoError, io_error};

/// The plain sizes of layers, as far as they are known.
pub(super) type PlainSizes = BTreeMap<Digest, u64>;

/// Checks the table of the archive in `file`.
pub(super) fn check(file: &Path, parts: &Parts) -> Result<(Check, PlainSizes), ArchiveError> {
    let mut check = Check::new("seek table", "spans");
    let mut sizes = PlainSizes::new();
    let StorageInfo::Oci(image) = &parts.storage else { return Ok((check, sizes)) };
    let mut archive =
        File::open(file).map_err(io_error(format!("can't read {}", file.display())))?;
    match SeekTable::open(&mut archive, &parts.header) {
        Ok(Some(table)) => {
            for layer in table.layers() {
                sizes.insert(layer.digest, layer.plain_size);
                described(layer, image, &mut check);
                spans(layer, &mut archive, &mut check)?;
            }
            for layer in image.layers.iter().filter(|layer| table.layer(layer).is_none()) {
                check.warning(format!("layer {layer}: is not in it: reads take the whole layer"));
            }
        }
        Ok(None) => check.warning("there is none: every read takes a whole layer"),
        Err(ClipError::Io { what, source }) => return Err(IoError { what, source }.into()),
        Err(broken) => check.error(broken.to_string()),
    }
    Ok((check, sizes))
}

fn described(layer: &LayerEntry, image: &OciStorageInfo, check: &mut Check) {
    let LayerEntry { digest, compressed_size, .. } = layer;
    if !image.layers.contains(digest) {
        check.find(Grade::Warning, format!("layer {digest}: is none of the image's"));
    } else if let Ok(stored) = StoredLayer::of(image, *digest)
        && stored.size != *compressed_size
    {
        let expected = stored.size;
        let text = format!("layer {digest}: expected {expected} bytes, found {compressed_size}");
        check.error(text);
    }
}

fn spans(layer: &LayerEntry, archive: &mut File, check: &mut Check) -> Result<(), ArchiveError> {
    let mut broken = |error| match error {
        ClipError::Io { what, source } => Err(IoError { what, source }.into()),
        error => {
            check.error(error.to_string());
            Ok(())
        }
    };
    let index = match layer.spans(archive) {
        Ok(index) => index,
        Err(error) => return broken(error),
    };
    let mut wrong = Vec::new();
    for span in 0..index.entries().len() {
        match index.checkpoint(span, archive) {
            Ok(checkpoint) => {
                if let Err(error) = checkpoint.window.decode() {
                    wrong.push(format!("layer {} span {span}: {error}", layer.digest));
                }
            }
            Err(error) => broken(error)?,
        }
    }
    check.checked += index.entries().len() as u64;
    for text in wrong {
        check.error(text);
    }
    Ok(())
}
