//! Multipart uploads that were begun and never ended, nor aborted.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::primitives::DateTime;

use super::S3Store;
use super::failure::Failure;
use crate::store::{Key, Leftover, StoreError};

/// Uploads of what may be ours that began more than `age` ago.
pub(super) async fn left_behind(
    store: &S3Store,
    age: Duration,
) -> Result<Vec<Leftover>, StoreError> {
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
            let ours = |key: &Key| {
                let kept = [Key::KEPT, Key::STAGED].iter().any(|prefix| name.starts_with(prefix));
                key.of_image().is_some() || key.is_layer_index() || kept
            };
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

pub(super) fn time(at: &DateTime) -> Option<SystemTime> {
    SystemTime::try_from(*at).ok()
}
