//! An image of the builder's storage as an OCI layout on this machine, for those that are not to be pushed:
//! its layers are plain tars, since whoever packs them into a v1 archive reads them but once.

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use super::epoch::{Dated, dated_config};
use super::run::{CONFIG, Cancellable, MANIFEST, descriptor};
use super::{ExportError, StoredImage, StoredLayer};
use crate::digest::Digest;
use crate::layer::LayerError;
use crate::local::io_error;

/// The name of the image in its layout.
pub const LAYOUT_TAG: &str = "image";
const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
/// Bytes copied at a time.
const PIECE: usize = 1 << 20;

impl StoredImage {
    /// Writes the image into a new directory, where it is called [`LAYOUT_TAG`]. Nothing in its layers or its
    /// config is younger than `epoch`, in seconds since 1970. Blocks.
    pub fn write_layout(
        &self,
        directory: &Path,
        epoch: Option<u64>,
        cancel: &CancellationToken,
    ) -> Result<(), ExportError> {
        let blobs = directory.join("blobs/sha256");
        let failed = || io_error(format!("can't write {}", directory.display()));
        std::fs::create_dir_all(&blobs).map_err(failed())?;
        let write = |path: &Path, bytes: &[u8]| std::fs::write(path, bytes).map_err(failed());
        let mut layers: Vec<(Digest, u64)> = Vec::new();
        for layer in &self.layers {
            let written = layer.write(&blobs, epoch, cancel);
            layers.push(written.map_err(|error| {
                if cancel.is_cancelled() { ExportError::Cancelled } else { error }
            })?);
        }
        let diff_ids: Vec<Digest> = layers.iter().map(|(digest, _)| *digest).collect();
        let config = match epoch {
            None => self.config.clone(),
            Some(epoch) => dated_config(&self.config, &diff_ids, epoch)?,
        };
        let config_digest = Digest::of(&config);
        write(&blobs.join(config_digest.hex()), &config)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, config_digest, config.len() as u64),
            "layers": layers.iter().map(|(digest, size)| descriptor(PLAIN, *digest, *size)).collect::<Vec<_>>(),
        })
        .to_string();
        let digest = Digest::of(manifest.as_bytes());
        write(&blobs.join(digest.hex()), manifest.as_bytes())?;
        let mut entry: Value = descriptor(MANIFEST, digest, manifest.len() as u64);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": LAYOUT_TAG });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] }).to_string();
        write(&directory.join("index.json"), index.as_bytes())?;
        Ok(write(&directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?)
    }
}

impl StoredLayer {
    /// Writes its tar under its digest; that and its size.
    fn write(
        &self,
        blobs: &Path,
        epoch: Option<u64>,
        cancel: &CancellationToken,
    ) -> Result<(Digest, u64), ExportError> {
        let part = blobs.join("part");
        let mut tar = Cancellable { tar: self.tar()?, cancel: cancel.clone() };
        let (original, written) = match epoch {
            None => {
                let written = copy(&mut tar, &part)?;
                (written.0, written)
            }
            Some(epoch) => {
                let mut dated = Dated::new(tar, epoch);
                let written = copy(&mut dated, &part)?;
                (dated.original(), written)
            }
        };
        if original != self.diff_id {
            let (layer, expected) = (self.diff_id, self.diff_id);
            return Err(LayerError::DiffId { layer, expected, found: original }.into());
        }
        let file = blobs.join(written.0.hex());
        std::fs::rename(&part, &file)
            .map_err(io_error(format!("can't write {}", file.display())))?;
        Ok(written)
    }
}

/// Copies everything into a file: its digest and size.
fn copy(from: &mut impl Read, path: &Path) -> Result<(Digest, u64), ExportError> {
    let mut hasher = Sha256::new();
    let mut size = 0;
    let mut copy = || -> io::Result<()> {
        let mut file = File::create(path)?;
        let mut piece = vec![0; PIECE];
        loop {
            let read = from.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            hasher.update(&piece[..read]);
            file.write_all(&piece[..read])?;
            size += read as u64;
        }
    };
    copy().map_err(io_error("can't copy a layer out of the builder's storage"))?;
    Ok((Digest::from_hasher(hasher), size))
}
