//! Which job an idempotency key stands for.

use uuid::Uuid;

use super::queue::{Connection, Queue, QueueError, patiently};
use crate::workspace::WorkspaceId;

impl Queue {
    /// The job that the workspace's key stands for, as long as it is kept.
    pub async fn job_of_key(
        &self,
        workspace: &WorkspaceId,
        key: &str,
    ) -> Result<Option<Uuid>, QueueError> {
        const ACTION: &str = "look a key up";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let job = sqlx::query_scalar!(
                "SELECT job_id FROM idempotency_key WHERE workspace_id = $1 AND key = $2",
                workspace.as_str(),
                key
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, job)
        })
        .await
    }
}
