//! Who says which version a pull is to make, before its image is looked at. This floor doesn't know
//! workspaces and rollouts: it asks, at each attempt.

use async_trait::async_trait;

use crate::archive::{ClipVersion, Fallback};
use crate::jobs::job::{DecidedBy, Job, PullSpec};
use crate::jobs::queue::QueueError;

/// The version that a pull is to make, and what else its workspace has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenVersion {
    /// The version.
    pub version: ClipVersion,
    /// What decided that.
    pub decided_by: DecidedBy,
    /// The rollout, if one did.
    pub rollout: Option<String>,
    /// What becomes of images that can't be served as v2, if the pull itself doesn't say.
    pub fallback: Option<Fallback>,
    /// Registries that may be pulled from; any when absent.
    pub allowed_registries: Option<Vec<String>>,
}

/// Says which version a pull is to make.
#[async_trait]
pub trait VersionChooser: Send + Sync + std::fmt::Debug {
    /// Asked at the beginning of each attempt: what has changed since the last one counts.
    async fn choose(&self, job: &Job, spec: &PullSpec) -> Result<ChosenVersion, QueueError>;
}
