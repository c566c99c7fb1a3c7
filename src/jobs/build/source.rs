//! Where a build's context comes from: the store, its workspace's bucket, or a git repository.

use std::path::Path;

use async_trait::async_trait;

use super::{BuildJobError, Builder, GIT_SECRET};
use crate::build::source::{BucketAccess, FetchedContext, SourceError};
use crate::build::{BuildError, ContextInput};
use crate::jobs::job::{BuildSpec, ContextOrigin};
use crate::jobs::queue::QueueError;
use crate::jobs::worker::Attempt;
use crate::workspace::WorkspaceId;

/// Says which bucket a workspace has. This floor doesn't know what workspaces set: it asks, at each attempt.
#[async_trait]
pub trait Buckets: Send + Sync + std::fmt::Debug {
    /// The bucket and what opens it; `None` if the workspace has none.
    async fn bucket(&self, workspace: &WorkspaceId) -> Result<Option<BucketAccess>, QueueError>;
}

impl Builder {
    /// Brings the context to this machine.
    pub(super) async fn context(
        &self,
        spec: &BuildSpec,
        attempt: &Attempt,
        scratch: &Path,
    ) -> Result<(ContextInput, Option<ContextOrigin>), BuildJobError> {
        let workspace = &attempt.job().workspace;
        let file = scratch.join("context.archive");
        let cancel = &attempt.cancel;
        let fetched = if let Some(digest) = spec.context {
            self.contexts.fetch(workspace, digest, &file, cancel).await?;
            FetchedContext { digest, commit: None }
        } else if let Some(key) = &spec.context_object {
            let none = || SourceError::NoStorage { workspace: workspace.to_string() };
            let bucket = self.buckets.bucket(workspace).await?;
            let bucket = bucket.ok_or_else(none).map_err(BuildError::from)?;
            let fetching = bucket.fetch(key, &file, self.git.egress, self.git.limits);
            let fetched = cancel.run_until_cancelled(fetching).await;
            fetched.unwrap_or(Err(BuildError::Cancelled))?
        } else if let Some(context) = &spec.context_git {
            let login = attempt.secrets().get(GIT_SECRET);
            self.git.fetch(context, login, &file, cancel).await?
        } else {
            return Ok((ContextInput::Empty, None));
        };
        let origin = ContextOrigin {
            digest: fetched.digest,
            object: spec.context_object.as_ref().map(ToString::to_string),
            git: spec.context_git.as_ref().map(ToString::to_string),
            commit: fetched.commit,
        };
        Ok((ContextInput::Archive(file), Some(origin)))
    }
}
