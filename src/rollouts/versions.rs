//! Which version a pull is to make: what it asks for itself, else what its workspace sets, else what the
//! oldest rollout says that has something to say, else the service's settings.

use async_trait::async_trait;
use uuid::Uuid;

use super::Rollouts;
use super::rule::{Pulled, RolloutState};
use crate::archive::ClipVersion;
use crate::jobs::job::{DecidedBy, Job, JobKind, PullSpec};
use crate::jobs::pull::choose::{ChosenVersion, VersionChooser};
use crate::jobs::queue::{Connection, QueueError, patiently};
use crate::telemetry::metrics::version_decided;
use crate::workspaces::Workspaces;

/// Chooses, and writes down what it chose.
#[derive(Debug, Clone)]
pub struct Versions {
    /// What workspaces set.
    pub workspaces: Workspaces,
    /// Rules.
    pub rollouts: Rollouts,
    /// What the settings say, if they say anything.
    pub configured: Option<ClipVersion>,
}

#[async_trait]
impl VersionChooser for Versions {
    async fn choose(&self, job: &Job, spec: &PullSpec) -> Result<ChosenVersion, QueueError> {
        let own = self.workspaces.get(&job.workspace).await?.map(|own| own.settings);
        let own = own.unwrap_or_default();
        let chosen = |version, decided_by, rollout| ChosenVersion {
            version,
            decided_by,
            rollout,
            fallback: own.fallback,
            allowed_registries: own.allowed_registries.clone(),
        };
        let of = |number: Option<u8>| number.and_then(|number| ClipVersion::try_from(number).ok());
        let mut trial = None;
        let chosen = if let Some(version) = of(spec.clip_version) {
            chosen(version, DecidedBy::Request, None)
        } else if let Some(version) = of(own.clip_version) {
            chosen(version, DecidedBy::Workspace, None)
        } else if let Some(decision) = self.by_rollout(job, spec).await? {
            trial = decision.trial;
            chosen(decision.version, DecidedBy::Rollout, Some(decision.name))
        } else {
            match self.configured {
                Some(version) => chosen(version, DecidedBy::Settings, None),
                None => chosen(ClipVersion::V1, DecidedBy::Default, None),
            }
        };
        self.note(job, &chosen, trial).await?;
        version_decided(chosen.decided_by.as_str(), chosen.version as u8);
        Ok(chosen)
    }
}

/// What a rollout says of a pull.
struct Decision {
    version: ClipVersion,
    /// The rollout's name.
    name: String,
    /// The rollout, if it chose between the versions rather than sent everything to one.
    trial: Option<Uuid>,
}

impl Versions {
    async fn by_rollout(&self, job: &Job, spec: &PullSpec) -> Result<Option<Decision>, QueueError> {
        let pulled = Pulled {
            kind: JobKind::Pull.as_str(),
            workspace: &job.workspace,
            image: &spec.image_id,
            source: &spec.source,
        };
        let rollouts = self.rollouts.list().await?;
        Ok(rollouts.iter().find_map(|rollout| {
            let rule = rollout.rule()?;
            let version = rule.decide(pulled)?;
            let trial = (rule.state == RolloutState::Active).then_some(rollout.id);
            Some(Decision { version, name: rule.name, trial })
        }))
    }

    /// What an attempt was to make is written anew each time; what the job counts for in a rollout is what
    /// was chosen first, whatever becomes of it.
    async fn note(
        &self,
        job: &Job,
        chosen: &ChosenVersion,
        trial: Option<Uuid>,
    ) -> Result<(), QueueError> {
        const ACTION: &str = "note which version was chosen";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.rollouts.pool, ACTION).await?;
            let noted = sqlx::query!(
                "WITH noted AS (
                     INSERT INTO version_assignment (job_id, clip_version, decided_by, rollout)
                     VALUES ($1, $2, $3, $4)
                     ON CONFLICT (job_id) DO UPDATE
                     SET clip_version = excluded.clip_version, decided_by = excluded.decided_by,
                         rollout = excluded.rollout, at = now())
                 INSERT INTO rollout_trial (job_id, rollout_id, arm)
                 SELECT $1, $5, $2
                 WHERE $5::uuid IS NOT NULL
                   AND NOT EXISTS (SELECT FROM version_assignment WHERE job_id = $1)
                 ON CONFLICT DO NOTHING",
                job.id,
                chosen.version as i16,
                chosen.decided_by.as_str(),
                chosen.rollout,
                trial,
            )
            .execute(&mut *db)
            .await;
            db.answered(ACTION, noted).map(drop)
        })
        .await
    }
}
