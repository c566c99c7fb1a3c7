//! A v2 archive becomes a v1 archive again, packed from its image's layers. It is made where nobody
//! sees it, read back and compared; who called decides about the rest.

use std::io::Write as _;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::compare::Comparison;
use super::{MigrateError, V1, V2, compare_archives};
use crate::archive::{IndexOptions, PackOptions, Summary, pack_image};
use crate::image_id::ImageId;
use crate::local::{blocking, io_error};
use crate::progress::Progress;
use crate::publish::PublishError;
use crate::publish::stored::StoredArchive;
use crate::publish::v1::index_of;
use crate::store::{ArchiveStore, Commit, Key, NewObject, Overwrite};

/// A v1 archive that holds what the v2 archive shows, under [`Key::staged`].
#[derive(Debug)]
pub struct StagedV1 {
    /// What it was made from and holds.
    pub summary: Summary,
    /// The archive.
    pub stored: StoredArchive,
    /// What was found to be the same.
    pub compared: Comparison,
}

/// Packs the v1 archive of `id` and compares it with what it was made from. In S3 its data take
/// their final place; `make_way` is waited for right before, when they are whole, and its failure
/// leaves what is there.
pub async fn to_v1(
    v2: &V2,
    store: &Arc<dyn ArchiveStore>,
    id: &ImageId,
    (pack, index): (&PackOptions, &IndexOptions),
    make_way: impl Future<Output = Result<(), MigrateError>>,
    progress: &Arc<dyn Progress>,
    cancel: &CancellationToken,
) -> Result<StagedV1, MigrateError> {
    let key = Key::staged(id, store.extension());
    let bucket = store.bucket();
    let data = if bucket.is_some() { Key::archive(id, "clip") } else { key.clone() };
    let NewObject { sink, commit } = store.create(&data, cancel).await?;
    let packed = pack_image(&v2.source, &v2.image, pack, sink, progress.clone(), cancel).await;
    let packed = match packed {
        Ok(packed) => make_way.await.map(|()| (packed.head.clone(), packed)),
        Err(error) => Err(error.into()),
    };
    let packed = settle(commit, packed).await?;
    if let Some(bucket) = &bucket {
        let bytes = index_of(&packed, bucket, &data)?;
        let NewObject { mut sink, commit } = store.create(&key, cancel).await?;
        let sent = blocking(move || sink.write_all(&bytes).and_then(|()| sink.flush())).await?;
        let sent = sent.map_err(io_error(format!("can't write {key}")));
        settle(commit, sent.map(|()| (Vec::new(), ())).map_err(Into::into)).await?;
    }
    let compared = async {
        let stored = StoredArchive::open(store, &key).await?;
        let stored = stored.ok_or_else(|| {
            let detail = "it is gone already".to_owned();
            PublishError::Unexpected { key: key.clone(), detail }
        })?;
        let v1 = V1::of(store, &stored)?;
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
            if let Err(left) = remove(store, id, [&key, &data], cancel).await {
                tracing::warn!(image = %id, error = %left, "what was staged could not be removed");
            }
            Err(error)
        }
    }
}

/// Removes what was made, unless somebody who took over may have put it to use.
async fn remove(
    store: &Arc<dyn ArchiveStore>,
    id: &ImageId,
    made: [&Key; 2],
    cancel: &CancellationToken,
) -> Result<(), PublishError> {
    let current = StoredArchive::open(store, &Key::archive(id, store.extension())).await?;
    if !cancel.is_cancelled() && current.is_some_and(|current| current.version() == 2) {
        for key in made {
            store.delete(key).await?;
        }
    }
    Ok(())
}

/// Ends an object that was written, or not; what is under its key already is replaced.
async fn settle<T>(
    commit: Box<dyn Commit>,
    written: Result<(Vec<u8>, T), MigrateError>,
) -> Result<T, MigrateError> {
    match written {
        Ok((head, made)) => {
            commit.finish(&head, Overwrite::Replace).await?;
            Ok(made)
        }
        Err(error) => Err(commit.abort().await.map_or(error, Into::into)),
    }
}
