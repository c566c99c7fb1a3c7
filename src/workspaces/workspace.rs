//! Workspaces and what they set for their jobs.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Change, WorkspaceError, Workspaces};
use crate::archive::Fallback;
use crate::jobs::queue::{Connection, QueueError, patiently};
use crate::workspace::WorkspaceId;

/// What a workspace sets. What is absent is as the service's settings say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct WorkspaceSettings {
    /// The archive version of pulls that ask for none: comes before rollouts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 2)]
    pub clip_version: Option<u8>,
    /// What becomes of images that can't be served as v2, of pulls that don't say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Registries that jobs may pull from, by host and port; any when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_registries: Option<Vec<String>>,
    /// How many jobs may wait at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub max_queued: Option<u32>,
    /// How many jobs may run at a time; with 0 none is begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0)]
    pub max_running: Option<u32>,
}

/// A tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Workspace {
    /// Its name.
    pub id: WorkspaceId,
    /// What it sets.
    #[serde(flatten)]
    pub settings: WorkspaceSettings,
    /// When it came into being.
    pub created_at: DateTime<Utc>,
    /// When its settings were changed last.
    pub updated_at: DateTime<Utc>,
}

struct WorkspaceRow {
    id: String,
    clip_version: Option<i16>,
    fallback: Option<String>,
    allowed_registries: Option<Vec<String>>,
    max_queued: Option<i32>,
    max_running: Option<i32>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl WorkspaceRow {
    /// What a later version wrote and this one doesn't know counts as not set.
    fn into_workspace(self) -> Result<Workspace, QueueError> {
        let id = self.id.parse().map_err(|error| QueueError::Corrupt {
            what: "the name",
            of: "a workspace".to_owned(),
            reason: format!("{error}"),
        })?;
        let fallback = self.fallback.map(serde_json::Value::String);
        Ok(Workspace {
            id,
            settings: WorkspaceSettings {
                clip_version: self.clip_version.and_then(|version| version.try_into().ok()),
                fallback: fallback.and_then(|name| serde_json::from_value(name).ok()),
                allowed_registries: self.allowed_registries,
                max_queued: self.max_queued.and_then(|most| most.try_into().ok()),
                max_running: self.max_running.and_then(|most| most.try_into().ok()),
            },
            created_at: self.created_at,
            updated_at: self.updated_at,
        })
    }
}

impl Workspaces {
    /// Makes a workspace.
    pub async fn create(
        &self,
        id: &WorkspaceId,
        settings: &WorkspaceSettings,
        change: &Change,
    ) -> Result<Workspace, WorkspaceError> {
        self.write(id, settings, change, true)
            .await?
            .ok_or_else(|| WorkspaceError::Exists(id.clone()))
    }

    /// Changes all settings of a workspace.
    pub async fn set(
        &self,
        id: &WorkspaceId,
        settings: &WorkspaceSettings,
        change: &Change,
    ) -> Result<Workspace, WorkspaceError> {
        let written = self.write(id, settings, change, false).await?;
        written.ok_or_else(|| WorkspaceError::NoWorkspace(id.clone()))
    }

    /// Makes a workspace or changes one, and writes down who did; `None` if it is there, or not.
    async fn write(
        &self,
        id: &WorkspaceId,
        settings: &WorkspaceSettings,
        change: &Change,
        new: bool,
    ) -> Result<Option<Workspace>, QueueError> {
        const ACTION: &str = "write a workspace";
        let name = |fallback| match serde_json::to_value(fallback) {
            Ok(serde_json::Value::String(name)) => Some(name),
            _ => None,
        };
        let fallback = settings.fallback.and_then(name);
        let detail = serde_json::to_value(settings).unwrap_or_default();
        let number = |most: Option<u32>| most.map(|most| i32::try_from(most).unwrap_or(i32::MAX));
        let row = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            // Who sends it twice finds what the first try wrote down.
            let row = sqlx::query_as!(
                WorkspaceRow,
                r#"WITH made AS (
                       INSERT INTO workspace (id, clip_version, fallback, allowed_registries,
                                              max_queued, max_running)
                       SELECT $1, $2, $3, $4, $5, $11 WHERE $6 ON CONFLICT DO NOTHING RETURNING *),
                   changed AS (
                       UPDATE workspace
                       SET clip_version = $2, fallback = $3, allowed_registries = $4,
                           max_queued = $5, max_running = $11, updated_at = now()
                       WHERE id = $1
                         AND (NOT $6 OR EXISTS (SELECT FROM audit_event WHERE id = $7))
                       RETURNING *),
                   written AS (SELECT * FROM made UNION ALL SELECT * FROM changed),
                   noted AS (
                       INSERT INTO audit_event (id, actor, action, workspace_id, subject, detail,
                                                request_id)
                       SELECT $7, $8, CASE WHEN $6 THEN 'workspace.create' ELSE 'workspace.set' END,
                              id, id, $9, $10
                       FROM written ON CONFLICT DO NOTHING)
                   SELECT id AS "id!", clip_version, fallback, allowed_registries, max_queued,
                          max_running, created_at AS "created_at!",
                          updated_at AS "updated_at!"
                   FROM written"#,
                id.as_str(),
                settings.clip_version.map(i16::from),
                fallback,
                settings.allowed_registries.as_deref(),
                number(settings.max_queued),
                new,
                change.id,
                change.actor,
                detail,
                change.request_id,
                number(settings.max_running),
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, row)
        });
        row.await?.map(WorkspaceRow::into_workspace).transpose()
    }

    /// Makes a workspace that sets nothing, unless it is there.
    pub async fn ensure(&self, id: &WorkspaceId, change: &Change) -> Result<(), QueueError> {
        self.write(id, &WorkspaceSettings::default(), change, true).await.map(drop)
    }

    /// The workspace of that name.
    pub async fn get(&self, id: &WorkspaceId) -> Result<Option<Workspace>, QueueError> {
        const ACTION: &str = "look up a workspace";
        let row = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let row = sqlx::query_as!(
                WorkspaceRow,
                "SELECT id, clip_version, fallback, allowed_registries, max_queued, max_running,
                        created_at, updated_at
                 FROM workspace WHERE id = $1",
                id.as_str()
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, row)
        });
        row.await?.map(WorkspaceRow::into_workspace).transpose()
    }

    /// Workspaces by name, behind `after`, at most `limit`.
    pub async fn list(
        &self,
        after: Option<&WorkspaceId>,
        limit: i64,
    ) -> Result<Vec<Workspace>, QueueError> {
        const ACTION: &str = "list workspaces";
        let rows = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let rows = sqlx::query_as!(
                WorkspaceRow,
                "SELECT id, clip_version, fallback, allowed_registries, max_queued, max_running,
                        created_at, updated_at
                 FROM workspace WHERE id > $1 ORDER BY id LIMIT $2",
                after.map_or("", WorkspaceId::as_str),
                limit
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(ACTION, rows)
        });
        rows.await?.into_iter().map(WorkspaceRow::into_workspace).collect()
    }
}
