//! What lies in a store and serves nobody. Deciding looks at names and times, and at the versions of
//! archives that have data beside them, so that it may go on beside running services: whatever one of them could still be about is too young to go.

use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::image_id::ImageId;
use crate::publish::PublishError;
use crate::publish::archives::{ArchiveStore, Stores, UnusedData};
use crate::store::{Key, Leftover, ListedObject, ObjectStore, SAFE_AGE, StoreError, list_all};

/// Why something is garbage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GarbageKind {
    /// The data of a v1 archive whose index never came.
    DataWithoutIndex,
    /// The data of a v1 archive that one of v2 replaced.
    ReplacedData,
    /// The index of a layer that no image has asked for in a long time.
    UnusedLayerIndex,
    /// What a writer that died left behind.
    Unfinished,
}

/// Something that can go.
#[derive(Debug, Clone)]
pub struct Garbage {
    /// Why.
    pub kind: GarbageKind,
    /// Bytes, as far as the store says.
    pub size: Option<u64>,
    /// When it was written or used last.
    pub since: SystemTime,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Object(Key),
    Leftover(Leftover),
}

impl Garbage {
    /// The object's key, or what it was to become.
    pub fn name(&self) -> &str {
        match &self.what {
            What::Object(key) => key.as_str(),
            What::Leftover(leftover) => &leftover.name,
        }
    }

    /// The image it was for.
    pub fn image(&self) -> Option<ImageId> {
        match &self.what {
            What::Object(key) => key.of_image().map(|(image, _)| image),
            What::Leftover(_) => None,
        }
    }

    fn of(kind: GarbageKind, object: ListedObject) -> Self {
        let ListedObject { key, size, modified } = object;
        Self { kind, size: Some(size), since: modified, what: What::Object(key) }
    }
}

/// Looks through the store. Layer indexes are garbage when nobody used them for `unused`.
pub async fn find(stores: &Stores, unused: Duration) -> Result<Vec<Garbage>, PublishError> {
    let store = &*stores.objects;
    let mut garbage = unused_indexes(store, Key::LAYER_INDEXES, unused).await?;
    garbage.extend(unused_data(&*stores.archives, "").await?);
    garbage.extend(left_staged(store, Key::STAGED).await?);
    for leftover in store.leftovers(SAFE_AGE).await? {
        let (kind, since) = (GarbageKind::Unfinished, leftover.since);
        garbage.push(Garbage { kind, size: None, since, what: What::Leftover(leftover) });
    }
    Ok(garbage)
}

/// Removes it, if it is still garbage; says whether it was.
pub async fn remove(
    stores: &Stores,
    garbage: &Garbage,
    unused: Duration,
) -> Result<bool, PublishError> {
    let store = &*stores.objects;
    let key = match &garbage.what {
        What::Leftover(leftover) => {
            store.remove_leftover(leftover).await?;
            return Ok(true);
        }
        What::Object(key) => key,
    };
    // Somebody may have come to use it since it was found.
    let still = match (garbage.kind, garbage.image()) {
        (GarbageKind::DataWithoutIndex | GarbageKind::ReplacedData, Some(image)) => {
            unused_data(&*stores.archives, &format!("{image}.")).await?
        }
        (GarbageKind::Unfinished, _) => left_staged(store, key.as_str()).await?,
        _ => unused_indexes(store, key.as_str(), unused).await?,
    };
    let still = still.iter().any(|found| found.name() == key.as_str());
    if still {
        store.delete(key).await?;
    }
    Ok(still)
}

async fn unused_data(
    archives: &dyn ArchiveStore,
    prefix: &str,
) -> Result<Vec<Garbage>, PublishError> {
    let unused = archives.unused(prefix).await?.into_iter();
    Ok(unused
        .map(|UnusedData { object, replaced }| {
            let kinds = [GarbageKind::DataWithoutIndex, GarbageKind::ReplacedData];
            Garbage::of(kinds[usize::from(replaced)], object)
        })
        .collect())
}

async fn unused_indexes(
    store: &dyn ObjectStore,
    prefix: &str,
    unused: Duration,
) -> Result<Vec<Garbage>, StoreError> {
    let old = list_all(store, prefix).await?.into_iter().filter(|object| object.is_older(unused));
    Ok(old.map(|object| Garbage::of(GarbageKind::UnusedLayerIndex, object)).collect())
}

/// Archives that a migration made and died before it used them.
async fn left_staged(store: &dyn ObjectStore, prefix: &str) -> Result<Vec<Garbage>, StoreError> {
    let old = list_all(store, prefix).await?.into_iter().filter(|object| object.is_older(SAFE_AGE));
    Ok(old.map(|object| Garbage::of(GarbageKind::Unfinished, object)).collect())
}
