//! What the registry's failures mean to who uses a store.

use crate::error::Classify as _;
use crate::oci::OciError;
use crate::store::{Key, StoreError};

/// The store's error for what was to do `action`.
pub(super) fn of(error: OciError, store: String, action: String) -> StoreError {
    let reason = error.to_string();
    match error {
        OciError::Unauthorized { .. } => StoreError::Denied { store, action, reason },
        error if error.is_transient() => StoreError::Unavailable { store, action, reason },
        OciError::Cancelled => StoreError::Unavailable { store, action, reason },
        _ => StoreError::Rejected { store, action, reason },
    }
}

/// The same, where the caller may have given up.
pub(super) fn of_write(error: OciError, store: String, key: &Key) -> StoreError {
    match error {
        OciError::Cancelled => StoreError::Cancelled { key: key.clone() },
        error => of(error, store, format!("write {key}")),
    }
}
