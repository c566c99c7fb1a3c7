//! Which handler does which kind of job.

use std::sync::Arc;

use async_trait::async_trait;

use super::job::{JobError, JobKind, JobResult, JobSpec};
use super::migrate::Migrator;
use super::pull::Puller;
use super::worker::{Attempt, Handler};

/// Every kind of job this process can do.
#[derive(Debug, Clone)]
pub struct Handlers {
    /// Pulls.
    pub puller: Arc<Puller>,
    /// Migrations.
    pub migrator: Arc<Migrator>,
}

#[async_trait]
impl Handler for Handlers {
    fn kinds(&self) -> Vec<JobKind> {
        JobKind::ALL.to_vec()
    }

    async fn run(&self, attempt: &Attempt) -> Result<JobResult, JobError> {
        match attempt.spec() {
            JobSpec::Pull(spec) => {
                self.puller.pull(spec, attempt).await.map_err(|error| JobError::of(&error))
            }
            JobSpec::Migrate(spec) => {
                self.migrator.migrate(spec, attempt).await.map_err(|error| JobError::of(&error))
            }
        }
    }
}
