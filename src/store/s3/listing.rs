//! What is in the bucket: objects, and multipart uploads that were begun and never ended.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::primitives::DateTime;
use futures_util::stream::{self, BoxStream, StreamExt as _, TryStreamExt as _};

use super::S3Store;
use super::failure::Failure;
use crate::store::{Key, Leftover, Object, StoreError};

/// The objects whose keys begin with `prefix`, page by page.
pub(super) fn objects<'a>(
    store: &'a S3Store,
    prefix: &'a str,
) -> BoxStream<'a, Result<Object, StoreError>> {
    let request = store.client.list_objects_v2().bucket(&store.bucket).prefix(prefix);
    let pages = stream::unfold(request.into_paginator().send(), async |mut pages| {
        let page = pages.next().await?;
        Some((page, pages))
    });
    let failed = |e| Failure::from(e).into_error(store, "list the bucket".to_owned());
    pages
        .map_err(failed)
        .map_ok(|page| {
            let objects = page.contents.unwrap_or_default().into_iter().filter_map(|object| {
                Some(Ok(Object {
                    key: object.key()?.parse().ok()?,
                    size: u64::try_from(object.size()?).ok()?,
                    modified: time(object.last_modified()?)?,
                }))
            });
            stream::iter(objects.collect::<Vec<_>>())
        })
        .try_flatten()
        .boxed()
}

/// Uploads of what may be ours that began more than `age` ago.
pub(super) async fn uploads(store: &S3Store, age: Duration) -> Result<Vec<Leftover>, StoreError> {
    let failed = |e| Failure::from(e).into_error(store, "list the uploads".to_owned());
    let request = store.client.list_multipart_uploads().bucket(&store.bucket);
    let (mut found, mut next) = (Vec::new(), None);
    loop {
        let (key, upload) = next.unzip();
        let page = request.clone().set_key_marker(key).set_upload_id_marker(upload);
        let page = page.send().await.map_err(failed)?;
        for upload in page.uploads() {
            let facts = upload.key().zip(upload.upload_id()).zip(upload.initiated().and_then(time));
            let Some(((name, id), since)) = facts else { continue };
            let ours = |key: &Key| key.of_image().is_some() || key.is_layer_index();
            let old = SystemTime::now().duration_since(since).is_ok_and(|found| found > age);
            if old && name.parse().is_ok_and(|key| ours(&key)) {
                found.push(Leftover { name: name.to_owned(), id: id.to_owned(), since });
            }
        }
        next = page
            .next_key_marker()
            .map(str::to_owned)
            .zip(page.next_upload_id_marker().map(str::to_owned));
        if page.is_truncated() != Some(true) || next.is_none() {
            return Ok(found);
        }
    }
}

fn time(at: &DateTime) -> Option<SystemTime> {
    SystemTime::try_from(*at).ok()
}
