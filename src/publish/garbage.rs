//! What lies in a store and serves nobody. Deciding looks at names and times, and at the versions of
//! archives that have data beside them, so that it may go on beside running services: whatever one of them could still be about is too young to go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::image_id::ImageId;
use crate::publish::PublishError;
use crate::publish::stored::stored_version;
use crate::store::{ArchiveStore, Key, Leftover, ListedObject, StoreError};

/// What is younger may belong to somebody who is still writing.
pub const SAFE_AGE: Duration = Duration::from_hours(24);

/// Objects asked for at a time.
const PAGE: usize = 1000;

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
pub async fn find(
    store: &Arc<dyn ArchiveStore>,
    unused: Duration,
) -> Result<Vec<Garbage>, PublishError> {
    let mut garbage = unused_indexes(&**store, Key::LAYER_INDEXES, unused).await?;
    garbage.extend(unused_data(store, "").await?);
    garbage.extend(left_staged(&**store, Key::STAGED).await?);
    for leftover in store.leftovers(SAFE_AGE).await? {
        let (kind, since) = (GarbageKind::Unfinished, leftover.since);
        garbage.push(Garbage { kind, size: None, since, what: What::Leftover(leftover) });
    }
    Ok(garbage)
}

/// Removes it, if it is still garbage; says whether it was.
pub async fn remove(
    store: &Arc<dyn ArchiveStore>,
    garbage: &Garbage,
    unused: Duration,
) -> Result<bool, PublishError> {
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
            unused_data(store, &format!("{image}.")).await?
        }
        (GarbageKind::Unfinished, _) => left_staged(&**store, key.as_str()).await?,
        _ => unused_indexes(&**store, key.as_str(), unused).await?,
    };
    let still = still.iter().any(|found| found.name() == key.as_str());
    if still {
        store.delete(key).await?;
    }
    Ok(still)
}

async fn unused_indexes(
    store: &dyn ArchiveStore,
    prefix: &str,
    unused: Duration,
) -> Result<Vec<Garbage>, StoreError> {
    let old = list(store, prefix).await?.into_iter().filter(|object| is_older(object, unused));
    Ok(old.map(|object| Garbage::of(GarbageKind::UnusedLayerIndex, object)).collect())
}

/// Archives that a migration made and died before it used them.
async fn left_staged(store: &dyn ArchiveStore, prefix: &str) -> Result<Vec<Garbage>, StoreError> {
    let old = list(store, prefix).await?.into_iter().filter(|object| is_older(object, SAFE_AGE));
    Ok(old.map(|object| Garbage::of(GarbageKind::Unfinished, object)).collect())
}

/// Where archives are `.rclip`, a `.clip` is the data of one of v1, and worth nothing without. It may
/// be one that a migration has kept.
async fn unused_data(
    store: &Arc<dyn ArchiveStore>,
    prefix: &str,
) -> Result<Vec<Garbage>, PublishError> {
    if store.extension() != "rclip" {
        return Ok(Vec::new());
    }
    let (mut data, mut indexes) = (BTreeMap::new(), BTreeMap::new());
    for object in list(&**store, prefix).await? {
        match object.key.of_image() {
            Some((image, "clip")) => drop(data.insert(image, object)),
            Some((image, _)) => drop(indexes.insert(image, object)),
            None => {}
        }
    }
    let mut unused = Vec::new();
    for (image, object) in data {
        if !is_older(&object, SAFE_AGE) {
            continue;
        }
        let kind = match indexes.get(&image) {
            None => GarbageKind::DataWithoutIndex,
            // Who mounted the archive that was there before reads the data yet.
            Some(index) if is_older(index, SAFE_AGE) && is_v2(store, index).await? => {
                GarbageKind::ReplacedData
            }
            Some(_) => continue,
        };
        let kept = store.list(&Key::kept_prefix(&image, 1), "", 1).await?;
        if kept.is_empty() {
            unused.push(Garbage::of(kind, object));
        }
    }
    Ok(unused)
}

/// Whether an archive surely needs no data beside it.
async fn is_v2(store: &Arc<dyn ArchiveStore>, index: &ListedObject) -> Result<bool, PublishError> {
    match stored_version(store, &index.key, index.size).await {
        Ok(version) => Ok(version == 2),
        Err(PublishError::Clip(_) | PublishError::Store(StoreError::NotFound { .. })) => Ok(false),
        Err(error) => Err(error),
    }
}

/// All objects whose keys begin with `prefix`.
async fn list(store: &dyn ArchiveStore, prefix: &str) -> Result<Vec<ListedObject>, StoreError> {
    let mut objects: Vec<ListedObject> = Vec::new();
    loop {
        let after = objects.last().map_or("", |last| last.key.as_str());
        let page = store.list(prefix, after, PAGE).await?;
        let is_last = page.len() < PAGE;
        objects.extend(page);
        if is_last {
            return Ok(objects);
        }
    }
}

fn is_older(object: &ListedObject, age: Duration) -> bool {
    SystemTime::now().duration_since(object.modified).is_ok_and(|found| found > age)
}
