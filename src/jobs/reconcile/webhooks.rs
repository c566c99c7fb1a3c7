//! Webhooks of a key that is gone are given up, and those that were settled long ago are deleted: the job
//! that they are of may be kept for ever.

use std::time::Duration;

use async_trait::async_trait;

use super::{BATCH, ReconcileError, Reconciler};
use crate::jobs::queue::Queue;

/// Webhooks whose time is over.
#[derive(Debug)]
pub struct Webhooks {
    /// The queue.
    pub queue: Queue,
    /// For how long webhooks are kept after they were delivered or given up.
    pub keep: Duration,
}

#[async_trait]
impl Reconciler for Webhooks {
    fn name(&self) -> &'static str {
        "webhooks"
    }

    fn every(&self) -> Duration {
        Duration::from_mins(1)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        let given_up = self.queue.give_up_unreadable(BATCH).await?;
        Ok(given_up + self.queue.forget_deliveries(self.keep, BATCH).await?)
    }
}
