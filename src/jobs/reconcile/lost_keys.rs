//! Jobs that nobody can run, since the key of their secrets is gone.

use std::time::Duration;

use async_trait::async_trait;

use super::{ReconcileError, Reconciler};
use crate::jobs::queue::Queue;

/// Jobs whose secrets nobody can open.
#[derive(Debug)]
pub struct LostKeys {
    /// The queue.
    pub queue: Queue,
}

#[async_trait]
impl Reconciler for LostKeys {
    fn name(&self) -> &'static str {
        "lost keys"
    }

    fn every(&self) -> Duration {
        Duration::from_mins(10)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        Ok(self.queue.end_unreadable().await?)
    }
}
