//! What registries are asked for.

use std::time::Duration;

use super::metrics::{blob_bytes_received, range_requested, registry_answered};
use crate::oci::{RequestKind, RequestObserver, RequestOutcome};

/// Counts requests to registries.
#[derive(Debug, Clone, Copy)]
pub struct RegistryMetrics;

impl RequestObserver for RegistryMetrics {
    fn answered(&self, kind: RequestKind, outcome: RequestOutcome, took: Duration) {
        registry_answered(kind.name(), outcome.name(), took);
    }

    fn range_requested(&self) {
        range_requested();
    }

    fn received(&self, bytes: usize) {
        blob_bytes_received(bytes);
    }
}
