//! What the store is asked for, and how long it takes.

use std::time::Duration;

use crate::error::Classify as _;
use crate::store::{Interceptor, Operation, StoreError};
use crate::telemetry::metrics::store_answered;

/// Counts what goes through an [`InterceptedStore`](crate::store::InterceptedStore).
#[derive(Debug, Clone, Copy)]
pub struct StoreMetrics;

impl Interceptor for StoreMetrics {
    fn after(&self, operation: Operation, error: Option<&StoreError>, took: Duration) {
        let outcome = error.map_or("ok", |error| error.code());
        store_answered(operation.name(), outcome, took);
    }
}
