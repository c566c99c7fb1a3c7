//! Secrets of a former key are encrypted with the present one.

use std::time::Duration;

use async_trait::async_trait;

use super::{BATCH, ReconcileError, Reconciler};
use crate::jobs::queue::Queue;

/// Secrets of a former key.
#[derive(Debug)]
pub struct Secrets {
    /// The queue.
    pub queue: Queue,
}

#[async_trait]
impl Reconciler for Secrets {
    fn name(&self) -> &'static str {
        "secrets"
    }

    fn every(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        Ok(self.queue.reseal(BATCH).await?)
    }
}
