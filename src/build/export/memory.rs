//! Layers that were exported before: which compressed bytes a tar became. Compressing is deterministic, so
//! that who finds those bytes in the registry need not make them again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::clip::atomic;
use crate::digest::Digest;

/// What changes when the same tar and level give other bytes than before.
const VERSION: u32 = 1;

/// A directory with one small file a layer. Lost, nothing but time is lost.
#[derive(Debug, Clone)]
pub struct ExportedLayers {
    directory: PathBuf,
}

/// A layer as it was exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exported {
    /// Digest of the compressed bytes.
    pub(super) digest: Digest,
    /// Their number.
    pub(super) size: u64,
    /// Digest of the tar in them.
    pub(super) diff_id: Digest,
}

/// What the compressed bytes follow from, beside the tar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    /// Plain bytes in a member.
    pub(super) member: usize,
    /// gzip's level.
    pub(super) level: u32,
    /// What nothing is younger than.
    pub(super) epoch: Option<u64>,
}

impl ExportedLayers {
    /// Keeps its files in `directory`, which is made when it is missing.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn file(&self, diff_id: Digest, form: Form) -> PathBuf {
        let Form { member, level, epoch } = form;
        let epoch = epoch.map_or_else(String::new, |epoch| format!("-{epoch}"));
        self.directory.join(format!("{}-{VERSION}-{level}-{member}{epoch}", diff_id.hex()))
    }

    pub(super) fn get(&self, diff_id: Digest, form: Form) -> Option<Exported> {
        let bytes = std::fs::read(self.file(diff_id, form)).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Forgets the layers for whose tars `wanted` is false. What can't be removed stays.
    pub(in crate::build) fn retain(&self, wanted: impl Fn(Digest) -> bool) {
        let entries = std::fs::read_dir(&self.directory).into_iter().flatten().flatten();
        for entry in entries {
            let name = entry.file_name();
            let hex = name.to_str().and_then(|name| name.split('-').next()).unwrap_or_default();
            if !format!("sha256:{hex}").parse().is_ok_and(&wanted) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    pub(super) fn put(&self, diff_id: Digest, form: Form, exported: Exported) {
        let file = self.file(diff_id, form);
        let written = std::fs::create_dir_all(&self.directory).and_then(|()| {
            atomic::write(&file, &serde_json::to_vec(&exported).unwrap_or_default())
        });
        if let Err(error) = written {
            tracing::debug!(%error, "what a layer became is not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_layer_became_is_known_until_the_layer_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let known = ExportedLayers::new(directory.path().join("exported"));
        let [one, two] = [b"1", b"2"].map(|bytes| Digest::of(bytes));
        let form = Form { member: 1, level: 4, epoch: None };
        let exported = |diff_id| Exported { digest: Digest::of(b"x"), size: 1, diff_id };
        assert_eq!(known.get(one, form), None);
        for diff_id in [one, two] {
            known.put(diff_id, form, exported(diff_id));
        }
        assert_eq!(known.get(one, form), Some(exported(one)));
        for other in
            [Form { member: 2, ..form }, Form { level: 5, ..form }, Form { epoch: Some(0), ..form }]
        {
            assert_eq!(known.get(one, other), None);
        }
        known.retain(|diff_id| diff_id == one);
        assert_eq!((known.get(one, form), known.get(two, form)), (Some(exported(one)), None));
    }
}
