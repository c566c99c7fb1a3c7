//! What a v2 archive says of the layers that its content is in.

use crate::clip::storage_info::OciStorageInfo;
use crate::content::ContentError;
use crate::digest::Digest;

/// A layer as the archive's storage info has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoredLayer {
    /// Digest of the compressed bytes.
    pub(crate) digest: Digest,
    /// How many of them there are.
    pub(crate) size: u64,
    /// Digest of the uncompressed stream.
    pub(crate) diff_id: Digest,
}

impl StoredLayer {
    /// The layer called `digest`, of which the archive has to say everything.
    pub(crate) fn of(image: &OciStorageInfo, digest: Digest) -> Result<Self, ContentError> {
        let missing = |detail: &str| ContentError::NotAFile {
            path: digest.to_string(),
            detail: format!("the archive's storage info has no {detail} for this layer"),
        };
        let diff_id = *image.plain_digests.get(&digest).ok_or_else(|| missing("diff id"))?;
        let text = digest.to_string();
        let metadata = image.image_metadata.iter().flat_map(|metadata| &metadata.layers_data);
        let size = metadata
            .filter(|descriptor| descriptor.digest == text)
            .find_map(|descriptor| u64::try_from(descriptor.size).ok())
            .ok_or_else(|| missing("size"))?;
        Ok(Self { digest, size, diff_id })
    }
}
