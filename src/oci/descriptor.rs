//! Descriptors: what manifests and indexes say of that which they point to (OCI image-spec 1.1,
//! "Content Descriptors").
//!
//! Read with care for what is needed and none for the rest: media types and annotations are often
//! missing, null or odd.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::digest::Digest;

/// A blob that a manifest points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Blob {
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// A descriptor whose digest and size are not checked yet.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    media_type: Option<String>,
    digest: String,
    size: i64,
    annotations: Option<Map<String, Value>>,
}

impl Descriptor {
    /// Empty when it doesn't say.
    pub(super) fn media_type(&self) -> &str {
        self.media_type.as_deref().unwrap_or_default()
    }

    /// Those that are text.
    pub(super) fn annotations(&self) -> BTreeMap<String, String> {
        strings(self.annotations.as_ref())
    }

    /// What it points to. The error is a reason without a subject.
    pub(super) fn blob(&self) -> Result<Blob, String> {
        let digest = self.digest.parse().map_err(|error| format!("{error}"))?;
        let size = u64::try_from(self.size)
            .map_err(|_| format!("the size of {digest} is given as {}", self.size))?;
        Ok(Blob { digest, size })
    }
}

/// The entries of a JSON object that are text.
pub(super) fn strings(object: Option<&Map<String, Value>>) -> BTreeMap<String, String> {
    let entries = object.into_iter().flatten();
    entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// `media_type` without parameters, in lower case.
pub(super) fn bare(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a media type says nothing of what it names: there is none, or it belongs to no format.
pub(super) fn is_generic(bare: &str) -> bool {
    matches!(
        bare,
        "" | "application/json"
            | "text/json"
            | "text/plain"
            | "application/octet-stream"
            | "binary/octet-stream"
    )
}
