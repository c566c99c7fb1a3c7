//! A v2 archive becomes a v1 archive again, packed from its image's layers. It is made where nobody
//! sees it, read back and compared; who called decides about the rest.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::compare::Comparison;
use super::{MigrateError, V1, V2, compare_archives};
use crate::archive::{IndexOptions, PackOptions, Summary};
use crate::image_id::ImageId;
use crate::progress::Progress;
use crate::publish::archives::{ArchiveName, ArchiveStore};
use crate::publish::stored::StoredArchive;
use crate::publish::{Publication, PublishError};
use crate::store::Overwrite;

/// A v1 archive that holds what the v2 archive shows, under [`ArchiveName::Staged`].
#[derive(Debug)]
pub struct StagedV1 {
    /// What it was made from and holds.
    pub summary: Summary,
    /// The archive.
    pub stored: StoredArchive,
    /// What was found to be the same.
    pub compared: Comparison,
}

/// Packs the v1 archive of `id` and compares it with what it was made from. Data beside it take
/// their final place; `before` is waited for right before, when they are whole, and its failure
/// leaves what is there.
pub async fn to_v1(
    v2: &V2,
    archives: &dyn ArchiveStore,
    id: &ImageId,
    (pack, index): (&PackOptions, &IndexOptions),
    before: impl Future<Output = Result<(), MigrateError>>,
    progress: &Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<StagedV1, MigrateError> {
    let name = ArchiveName::Staged(id.clone());
    let publication = Publication {
        source: &v2.source,
        image: &v2.image,
        options: pack,
        archives,
        name: &name,
        overwrite: Overwrite::Replace,
    };
    let (draft, packed) = publication.pack(progress.clone(), cancel).await?;
    if let Err(error) = before.await {
        return Err(draft.abort().await.map_or(error, Into::into));
    }
    draft.finish(&packed).await?;
    let key = archives.key(&name);
    let compared = async {
        let stored = archives.open(&key).await?;
        let stored = stored.ok_or_else(|| {
            let detail = "it is gone already".to_owned();
            PublishError::Unexpected { key: key.clone(), detail }
        })?;
        let v1 = V1::of(archives, &stored)?;
        let compared = compare_archives(&v1, v2, index, progress, cancel).await?;
        Ok::<_, MigrateError>((stored, compared))
    };
    match compared.await {
        Ok((stored, compared)) => {
            let summary = Summary::of_packed(&v2.image, &packed);
            Ok(StagedV1 { summary, stored, compared })
        }
        Err(error) => {
            // What can't be removed now is found by the next one.
            if let Err(left) = remove(archives, id, cancel).await {
                tracing::warn!(image = %id, error = %left, "what was staged could not be removed");
            }
            Err(error)
        }
    }
}

/// Removes what was made, unless somebody who took over may have put it to use.
async fn remove(
    archives: &dyn ArchiveStore,
    id: &ImageId,
    cancel: &CancellationToken,
) -> Result<(), PublishError> {
    let current = archives.open(&archives.key(&ArchiveName::Image(id.clone()))).await?;
    if !cancel.is_cancelled() && current.is_some_and(|current| current.version() == 2) {
        archives.remove(&archives.key(&ArchiveName::Staged(id.clone()))).await?;
        archives.remove_data(id).await?;
    }
    Ok(())
}
