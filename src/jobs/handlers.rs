//! Which handler does which kind of job.

use std::sync::Arc;

use async_trait::async_trait;

use super::build::Builder;
use super::job::{JobError, JobKind, JobResult, JobSpec};
use super::migrate::Migrator;
use super::pull::Puller;
use super::worker::{Attempt, Handler};
use crate::archive::ArchiveError;
use crate::build::BuildError;
use crate::layer::Limit;
use crate::memory::{MemoryAccount, MemoryBudget};
use crate::progress::others;

/// Every kind of job this process can do.
#[derive(Debug, Clone)]
pub struct Handlers {
    /// Pulls.
    pub puller: Arc<Puller>,
    /// Migrations.
    pub migrator: Arc<Migrator>,
    /// Builds, where they can be done.
    pub builder: Option<Arc<Builder>>,
    /// What the layers and trees of all of them may take.
    pub memory: MemoryBudget,
}

/// The code of the error of work for which no memory was left.
fn is_short_of_memory(error: &JobError) -> bool {
    error.code == Limit::MemoryBytes.code()
}

/// Waits for `turn`, which counts as getting on, until the attempt is to stop.
async fn in_turn(
    attempt: &Attempt,
    turn: impl Future<Output = MemoryAccount>,
) -> Result<MemoryAccount, JobError> {
    let others = others(turn, || attempt.events.waits());
    let turn = attempt.cancel.run_until_cancelled(others).await;
    turn.ok_or_else(|| JobError::of(&ArchiveError::Cancelled))
}

impl Handlers {
    async fn run_with(
        &self,
        attempt: &Attempt,
        account: &MemoryAccount,
    ) -> Result<JobResult, JobError> {
        match attempt.spec() {
            JobSpec::Pull(spec) => {
                let pulled = self.puller.pull(spec, attempt, account).await;
                pulled.map_err(|error| JobError::of(&error))
            }
            JobSpec::Migrate(spec) => {
                let migrated = self.migrator.migrate(spec, attempt, account).await;
                migrated.map_err(|error| JobError::of(&error))
            }
            JobSpec::Build(spec) => match &self.builder {
                Some(builder) => {
                    let built = builder.build(spec, attempt, account).await;
                    built.map_err(|error| JobError::of(&error))
                }
                // Such a process claims none.
                None => Err(JobError::of(&BuildError::Impossible {
                    reason: "this process has no builder".to_owned(),
                })),
            },
        }
    }
}

#[async_trait]
impl Handler for Handlers {
    fn kinds(&self) -> Vec<JobKind> {
        let can_do = |kind: &JobKind| *kind != JobKind::Build || self.builder.is_some();
        JobKind::ALL.into_iter().filter(can_do).collect()
    }

    async fn run(&self, attempt: &Attempt) -> Result<JobResult, JobError> {
        let account = in_turn(attempt, self.memory.together()).await?;
        match self.run_with(attempt, &account).await {
            Err(error) if is_short_of_memory(&error) => {
                tracing::info!(job = %attempt.job().id, %error.message, "running again alone");
            }
            done => return done,
        }
        drop(account);
        let account = in_turn(attempt, self.memory.alone()).await?;
        self.run_with(attempt, &account).await
    }
}
