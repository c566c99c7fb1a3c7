//! The record of changes: each is written in the statement that makes it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Access, Workspaces};
use crate::jobs::queue::{Connection, QueueError, patiently};
use crate::workspace::WorkspaceId;

/// Who is about to change something.
#[derive(Debug, Clone)]
pub struct Change {
    /// Names the change: who sends it twice makes it once.
    pub(super) id: Uuid,
    pub(super) actor: String,
    pub(super) request_id: Option<String>,
}

impl Change {
    /// By `access`, in this request.
    pub fn by(access: &Access, request_id: Option<String>) -> Self {
        Self { id: Uuid::now_v7(), actor: access.actor.to_string(), request_id }
    }

    /// Names it.
    pub(crate) fn id(&self) -> Uuid {
        self.id
    }

    /// Who.
    pub(crate) fn actor(&self) -> &str {
        &self.actor
    }

    /// In which request.
    pub(crate) fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }
}

/// What was changed, and by whom.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct AuditEvent {
    /// Time-ordered UUID (version 7).
    pub id: Uuid,
    /// When.
    pub at: DateTime<Utc>,
    /// `admin` is the token of the settings, `local` a client of a service without one; else a
    /// token's id.
    #[schema(examples("admin"))]
    pub actor: String,
    /// What was done.
    #[schema(examples("token.revoke"))]
    pub action: String,
    /// The workspace that it was about, if it was about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<WorkspaceId>)]
    pub workspace: Option<String>,
    /// What was changed: a token's id, a workspace, a rollout.
    pub subject: String,
    /// What it became.
    #[schema(value_type = Object)]
    pub detail: Value,
    /// The request that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
}

impl Workspaces {
    /// Changes, the newest first, older than `before`, at most `limit`.
    pub async fn audit(
        &self,
        workspace: Option<&WorkspaceId>,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<AuditEvent>, QueueError> {
        const ACTION: &str = "list changes";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            // Two statements, that each have an index.
            let events = match workspace {
                None => {
                    sqlx::query_as!(
                        AuditEvent,
                        "SELECT id, at, actor, action, workspace_id AS workspace, subject, detail,
                                request_id
                         FROM audit_event WHERE id < $1 ORDER BY id DESC LIMIT $2",
                        before.unwrap_or(Uuid::max()),
                        limit
                    )
                    .fetch_all(&mut *db)
                    .await
                }
                Some(workspace) => {
                    sqlx::query_as!(
                        AuditEvent,
                        "SELECT id, at, actor, action, workspace_id AS workspace, subject, detail,
                                request_id
                         FROM audit_event WHERE workspace_id >= $3 AND (workspace_id, id) < ($3, $1)
                         ORDER BY workspace_id DESC, id DESC LIMIT $2",
                        before.unwrap_or(Uuid::max()),
                        limit,
                        workspace.as_str()
                    )
                    .fetch_all(&mut *db)
                    .await
                }
            };
            db.answered(ACTION, events)
        })
        .await
    }
}
