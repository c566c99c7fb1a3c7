//! What writers that died left in the store: temporary files, uploads that were never completed.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{ReconcileError, Reconciler};
use crate::store::{self, ObjectStore};

/// What writers that died left in the store.
#[derive(Debug)]
pub struct Leftovers {
    /// The store.
    pub store: Arc<dyn ObjectStore>,
}

#[async_trait]
impl Reconciler for Leftovers {
    fn name(&self) -> &'static str {
        "leftovers"
    }

    fn every(&self) -> Duration {
        Duration::from_hours(1)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        Ok(store::sweep(&*self.store).await?)
    }
}
