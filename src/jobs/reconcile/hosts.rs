//! Jobs that wait for a registry which did not answer: one tries, all go when it is back, and who has
//! waited for too long fails.

use std::time::Duration;

use async_trait::async_trait;

use super::{ReconcileError, Reconciler};
use crate::jobs::queue::Queue;

/// Jobs that wait for their registry.
#[derive(Debug)]
pub struct Hosts {
    /// The queue.
    pub queue: Queue,
}

#[async_trait]
impl Reconciler for Hosts {
    fn name(&self) -> &'static str {
        "hosts"
    }

    fn every(&self) -> Duration {
        Duration::from_secs(1)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        let done = self.queue.try_hosts().await? + self.queue.let_go().await?;
        Ok(done + self.queue.give_up_parked().await?)
    }
}
