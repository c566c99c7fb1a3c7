//! Which handler does which kind of job.

use std::sync::Arc;

use async_trait::async_trait;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use super::job::{Job, JobError, JobResult, JobSpec};
use super::migrate::Migrator;
use super::pull::Puller;
use super::worker::{EventSink, Handler};

/// Every kind of job this process can do.
#[derive(Debug, Clone)]
pub struct Handlers {
    /// Pulls.
    pub puller: Arc<Puller>,
    /// Migrations.
    pub migrator: Arc<Migrator>,
}

impl Handlers {
    /// What can be said of a job before it is accepted; names the field that is wrong.
    pub fn check(
        &self,
        spec: &JobSpec,
        credentials: Option<&SecretString>,
    ) -> Result<(), (&'static str, String)> {
        match spec {
            JobSpec::Pull(spec) => self.puller.check(spec, credentials),
            // What it needs is in the store.
            JobSpec::Migrate(_) => Ok(()),
        }
    }
}

#[async_trait]
impl Handler for Handlers {
    async fn run(
        &self,
        job: &Job,
        credentials: Option<SecretString>,
        events: &EventSink,
        cancel: CancellationToken,
    ) -> Result<JobResult, JobError> {
        match &job.spec {
            JobSpec::Pull(spec) => {
                let pulled = self.puller.pull(spec, credentials, events, &cancel).await;
                pulled.map_err(|error| JobError::of(&error))
            }
            JobSpec::Migrate(spec) => {
                let migrated = self.migrator.migrate(spec, credentials, events, &cancel).await;
                migrated.map_err(|error| JobError::of(&error))
            }
        }
    }
}
