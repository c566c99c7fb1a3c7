//! Which content is published under a key now.

use sha2::{Digest as _, Sha256};

use super::failure::{Failure, chain};
use super::{ObjectStore, S3Store};
use crate::digest::Digest;
use crate::store::{Key, StoreError};

/// User metadata that holds the content's SHA-256 in hex: `x-amz-meta-clipwright-sha256`.
pub(super) const DIGEST_METADATA: &str = "clipwright-sha256";

/// Digest of the object that is there now: from its metadata or, when somebody else wrote it,
/// from its content.
pub(super) async fn published(store: &S3Store, key: &Key) -> Result<Option<Digest>, StoreError> {
    let failed = |failure: Failure| match failure {
        failure if failure.is_missing_object() => Ok(None),
        failure => Err(failure.into_error(store, format!("read {key}"))),
    };
    let head = store.client.head_object().bucket(&store.bucket).key(key.as_str());
    let head = match head.send().await.map_err(Failure::from) {
        Ok(head) => head,
        Err(failure) => return failed(failure),
    };
    let recorded = head.metadata().and_then(|metadata| metadata.get(DIGEST_METADATA));
    if let Some(digest) = recorded.and_then(|hex| Digest::from_hex(hex).ok()) {
        return Ok(Some(digest));
    }
    let object = store.client.get_object().bucket(&store.bucket).key(key.as_str());
    let mut body = match object.send().await.map_err(Failure::from) {
        Ok(object) => object.body,
        Err(failure) => return failed(failure),
    };
    let mut hasher = Sha256::new();
    while let Some(chunk) = body.next().await {
        hasher.update(&chunk.map_err(|e| StoreError::Unavailable {
            store: store.describe(),
            action: format!("read {key}"),
            reason: chain(&e),
        })?);
    }
    Ok(Some(Digest::from_hasher(hasher)))
}
