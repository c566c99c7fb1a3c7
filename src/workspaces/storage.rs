//! The buckets of workspaces, and how to log in there. The secret key is sealed where it lies, and leaves it
//! for whoever fetches a context alone.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Change, WorkspaceError, Workspaces};
use crate::build::source::BucketAccess;
use crate::jobs::build::Buckets;
use crate::jobs::queue::{Connection, QueueError, Sealed, patiently};
use crate::jobs::reconcile::{ReconcileError, Reconciler};
use crate::workspace::WorkspaceId;

/// What a secret key is called where it is sealed, before its workspace's name: nobody can put it
/// under another's.
const NAME: &str = "storage of";
/// Rows that are read at a time.
const PAGE: i64 = 100;

/// A workspace's bucket, without what opens it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(example = json!({
    "bucket": "team-a", "region": "eu-central-1", "endpoint": "https://s3.example",
    "access_key": "AKIAIOSFODNN7EXAMPLE",
    "created_at": "2026-11-28T02:00:00Z", "updated_at": "2026-11-28T02:00:00Z"
}))]
pub struct Storage {
    /// The bucket's name.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// Base address of a server that is not AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Names the key; the secret one is never shown.
    pub access_key: String,
    /// When the workspace got one first.
    pub created_at: DateTime<Utc>,
    /// When it was changed last.
    pub updated_at: DateTime<Utc>,
}

/// A bucket that a workspace gets.
#[derive(Debug, Clone)]
pub struct NewStorage {
    /// The bucket's name.
    pub bucket: String,
    /// Its region.
    pub region: String,
    /// Base address of a server that is not AWS.
    pub endpoint: Option<String>,
    /// Names the key.
    pub access_key: String,
    /// The secret key.
    pub secret_key: SecretString,
}

fn sealed_as(workspace: &str) -> String {
    format!("{NAME} {workspace}")
}

impl Workspaces {
    /// Gives a workspace a bucket, in place of the one that it had.
    pub async fn set_storage(
        &self,
        workspace: &WorkspaceId,
        new: &NewStorage,
        change: &Change,
    ) -> Result<Storage, WorkspaceError> {
        const ACTION: &str = "write a workspace's storage";
        let id = Uuid::now_v7();
        let sealed = self.vault.seal(id, &sealed_as(workspace.as_str()), &new.secret_key)?;
        let detail = serde_json::json!({
            "bucket": new.bucket, "region": new.region, "endpoint": new.endpoint,
            "access_key": new.access_key,
        });
        let written = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let written = sqlx::query_as!(
                Storage,
                "WITH written AS (
                     INSERT INTO workspace_storage (workspace_id, id, bucket, region, endpoint,
                                                    access_key, key_id, nonce, ciphertext)
                     SELECT workspace.id, $2, $3, $4, $5, $6, $7, $8, $9
                     FROM workspace WHERE workspace.id = $1
                     ON CONFLICT (workspace_id) DO UPDATE
                     SET id = excluded.id, bucket = excluded.bucket, region = excluded.region,
                         endpoint = excluded.endpoint, access_key = excluded.access_key,
                         key_id = excluded.key_id, nonce = excluded.nonce,
                         ciphertext = excluded.ciphertext, updated_at = now()
                     RETURNING *),
                 noted AS (
                     INSERT INTO audit_event (id, actor, action, workspace_id, subject, detail,
                                              request_id)
                     SELECT $10, $11, 'workspace.storage.set', workspace_id, workspace_id, $12, $13
                     FROM written ON CONFLICT DO NOTHING)
                 SELECT bucket, region, endpoint, access_key, created_at, updated_at FROM written",
                workspace.as_str(),
                id,
                new.bucket,
                new.region,
                new.endpoint,
                new.access_key,
                sealed.key_id,
                sealed.nonce,
                sealed.ciphertext,
                change.id,
                change.actor,
                detail,
                change.request_id,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, written)
        });
        written.await?.ok_or_else(|| WorkspaceError::NoWorkspace(workspace.clone()))
    }

    /// The bucket of a workspace, if it has one.
    pub async fn storage(&self, workspace: &WorkspaceId) -> Result<Option<Storage>, QueueError> {
        const ACTION: &str = "look up a workspace's storage";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let found = sqlx::query_as!(
                Storage,
                "SELECT bucket, region, endpoint, access_key, created_at, updated_at
                 FROM workspace_storage WHERE workspace_id = $1",
                workspace.as_str()
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, found)
        })
        .await
    }

    /// Forgets the bucket of a workspace: whether it had one.
    pub async fn remove_storage(
        &self,
        workspace: &WorkspaceId,
        change: &Change,
    ) -> Result<bool, QueueError> {
        const ACTION: &str = "remove a workspace's storage";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            // Who sends it twice finds what the first try wrote down.
            let removed = sqlx::query_scalar!(
                r#"WITH removed AS (
                       DELETE FROM workspace_storage WHERE workspace_id = $1 RETURNING workspace_id),
                   noted AS (
                       INSERT INTO audit_event (id, actor, action, workspace_id, subject, request_id)
                       SELECT $2, $3, 'workspace.storage.remove', workspace_id, workspace_id, $4
                       FROM removed ON CONFLICT DO NOTHING)
                   SELECT EXISTS (SELECT FROM removed)
                       OR EXISTS (SELECT FROM audit_event WHERE id = $2) AS "removed!""#,
                workspace.as_str(),
                change.id,
                change.actor,
                change.request_id,
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(ACTION, removed)
        })
        .await
    }

    /// Encrypts secret keys of former keys anew, some at a time: how many.
    pub async fn reseal_storages(&self) -> Result<u64, QueueError> {
        const ACTION: &str = "encrypt a workspace's storage anew";
        let keys = self.vault.key_ids();
        let former = keys.split_first().map(|(_, former)| former).unwrap_or_default();
        if former.is_empty() {
            return Ok(0);
        }
        let rows = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let rows = sqlx::query!(
                "SELECT workspace_id, id, key_id, nonce, ciphertext FROM workspace_storage
                 WHERE key_id = ANY($1) ORDER BY key_id, workspace_id LIMIT $2",
                former,
                PAGE,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(ACTION, rows)
        });
        let mut done = 0;
        for row in rows.await? {
            let name = sealed_as(&row.workspace_id);
            let sealed =
                Sealed { key_id: row.key_id, nonce: row.nonce, ciphertext: row.ciphertext };
            let secret = match self.vault.open(row.id, &name, &sealed) {
                Ok(secret) => secret,
                // It is told again when it is needed; the others are not to wait for it.
                Err(error) => {
                    tracing::warn!(workspace = row.workspace_id, %error, "a storage keeps its former key");
                    continue;
                }
            };
            let anew = self.vault.seal(row.id, &name, &secret)?;
            // One that was written meanwhile has another id, and the present key.
            let resealed = patiently(ACTION, async || {
                let mut db = Connection::acquire(&self.pool, ACTION).await?;
                let resealed = sqlx::query!(
                    "UPDATE workspace_storage SET key_id = $3, nonce = $4, ciphertext = $5
                     WHERE workspace_id = $1 AND id = $2 AND key_id = $6",
                    row.workspace_id,
                    row.id,
                    anew.key_id,
                    anew.nonce,
                    anew.ciphertext,
                    sealed.key_id,
                )
                .execute(&mut *db)
                .await;
                db.answered(ACTION, resealed)
            });
            done += resealed.await?.rows_affected();
        }
        Ok(done)
    }

    /// The keys that are not here and that storages are sealed with, and how many of each.
    pub async fn unknown_storage_keys(&self) -> Result<Vec<(String, i64)>, QueueError> {
        const ACTION: &str = "look for unknown keys of storages";
        let keys = self.vault.key_ids();
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let unknown = sqlx::query!(
                r#"SELECT key_id, count(*) AS "storages!" FROM workspace_storage
                   WHERE key_id <> ALL($1) GROUP BY key_id ORDER BY key_id LIMIT 20"#,
                &keys,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(ACTION, unknown)
        })
        .await
        .map(|rows| rows.into_iter().map(|row| (row.key_id, row.storages)).collect())
    }
}

/// Secret keys of storages that were sealed with a former key.
#[derive(Debug)]
pub struct StorageSecrets {
    /// The workspaces.
    pub workspaces: Workspaces,
}

#[async_trait]
impl Reconciler for StorageSecrets {
    fn name(&self) -> &'static str {
        "storage secrets"
    }

    fn every(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        Ok(self.workspaces.reseal_storages().await?)
    }
}

#[async_trait]
impl Buckets for Workspaces {
    async fn bucket(&self, workspace: &WorkspaceId) -> Result<Option<BucketAccess>, QueueError> {
        const ACTION: &str = "read a workspace's storage";
        let row = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let row = sqlx::query!(
                "SELECT id, bucket, region, endpoint, access_key, key_id, nonce, ciphertext
                 FROM workspace_storage WHERE workspace_id = $1",
                workspace.as_str()
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, row)
        });
        let Some(row) = row.await? else { return Ok(None) };
        let sealed = Sealed { key_id: row.key_id, nonce: row.nonce, ciphertext: row.ciphertext };
        let secret_key = self.vault.open(row.id, &sealed_as(workspace.as_str()), &sealed);
        let secret_key = secret_key.map_err(|error| match error {
            QueueError::Undecipherable { reason, .. } => QueueError::Corrupt {
                what: "the secret key",
                of: format!("the storage of workspace {workspace}"),
                reason: reason.to_owned(),
            },
            error => error,
        })?;
        Ok(Some(BucketAccess {
            bucket: row.bucket,
            region: row.region,
            endpoint: row.endpoint,
            access_key: row.access_key,
            secret_key,
        }))
    }
}
