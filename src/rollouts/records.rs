//! Rules in the database, and who changed them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::kind::KindName;
use super::rule::{RolloutState, Rule, SourcePattern, Sticky};
use super::{RolloutError, Rollouts};
use crate::jobs::queue::{Connection, QueueError, patiently};
use crate::workspace::WorkspaceId;
use crate::workspaces::Change;

/// A rollout to be made.
#[derive(Debug, Clone)]
pub struct NewRollout {
    /// Names it.
    pub name: String,
    /// The share that gets v2, 0 to 100.
    pub percent: f64,
    /// Another salt chooses others.
    pub salt: String,
    /// What always gets the same version.
    pub sticky: Sticky,
    /// Only these workspaces; all when absent.
    pub workspaces: Option<Vec<WorkspaceId>>,
    /// Only jobs of these kinds; all when absent.
    pub kinds: Option<Vec<KindName>>,
    /// Only pulls from these; all when absent.
    pub sources: Option<Vec<SourcePattern>>,
    /// The chance of a false alarm that its guard may take, at most 0.5; with 0 nobody guards it.
    pub guard: f64,
}

/// What becomes of a rollout; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct RolloutChanges {
    /// The share that gets v2.
    pub percent: Option<f64>,
    /// Whether it decides.
    pub state: Option<RolloutState>,
    /// Why.
    pub reason: Option<String>,
    /// The chance of a false alarm that its guard may take.
    pub guard: Option<f64>,
}

/// A rollout as it is.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Rollout {
    /// What is kept about it refers to this.
    #[serde(skip)]
    pub(super) id: Uuid,
    /// Names it.
    pub name: String,
    /// Whether it decides.
    #[schema(value_type = RolloutState)]
    pub state: String,
    /// Why it is in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The share that gets v2, 0 to 100.
    pub percent: f64,
    /// Another salt chooses others.
    pub salt: String,
    /// What always gets the same version.
    #[schema(value_type = Sticky)]
    pub sticky: String,
    /// Only these workspaces; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspaces: Option<Vec<String>>,
    /// Only pulls from these; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sources: Option<Vec<String>>,
    /// Only jobs of these kinds; all when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kinds: Option<Vec<String>>,
    /// The chance of a false alarm that its guard may take; with 0 nobody guards it.
    pub guard: f64,
    /// When it was made: of several that match the oldest decides.
    pub created_at: DateTime<Utc>,
    /// When it was changed last.
    pub updated_at: DateTime<Utc>,
}

impl Rollout {
    /// What it says; `None` if a later version wrote what this one doesn't understand.
    pub(super) fn rule(&self) -> Option<Rule> {
        fn all<T: std::str::FromStr>(texts: &[String]) -> Option<Vec<T>> {
            texts.iter().map(|text| text.parse().ok()).collect()
        }
        let workspaces = match &self.workspaces {
            Some(ids) => Some(all(ids)?),
            None => None,
        };
        let kinds = match &self.kinds {
            Some(names) => Some(all(names)?),
            None => None,
        };
        let sources = match &self.sources {
            Some(patterns) => Some(all(patterns)?),
            None => None,
        };
        Some(Rule {
            name: self.name.clone(),
            state: RolloutState::of(&self.state)?,
            percent: self.percent,
            salt: self.salt.clone(),
            sticky: Sticky::of(&self.sticky)?,
            workspaces,
            kinds,
            sources,
        })
    }
}

fn texts<T: ToString>(values: Option<&Vec<T>>) -> Option<Vec<String>> {
    values.map(|values| values.iter().map(ToString::to_string).collect())
}

impl Rollouts {
    /// Makes a rollout, active from the next claim on.
    pub async fn create(&self, new: &NewRollout, change: &Change) -> Result<Rollout, RolloutError> {
        const ACTION: &str = "make a rollout";
        let (workspaces, sources) = (texts(new.workspaces.as_ref()), texts(new.sources.as_ref()));
        let kinds = texts(new.kinds.as_ref());
        let detail = json!({
            "percent": new.percent, "sticky": new.sticky, "workspaces": workspaces, "kinds": kinds,
            "sources": sources, "guard": new.guard,
        });
        let made = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            // Who sends it twice finds what the first try wrote down.
            let made = sqlx::query_as!(
                Rollout,
                r#"WITH made AS (
                       INSERT INTO rollout
                           (name, percent, salt, sticky, workspaces, sources, kinds, guard)
                       VALUES ($1, $2, $3, $4, $5, $6, $11, $12)
                       ON CONFLICT (name) DO UPDATE SET salt = rollout.salt
                       WHERE EXISTS (SELECT FROM audit_event WHERE id = $7)
                       RETURNING *),
                   noted AS (
                       INSERT INTO audit_event (id, actor, action, subject, detail, request_id)
                       SELECT $7, $8, 'rollout.create', name, $9, $10 FROM made
                       ON CONFLICT DO NOTHING)
                   SELECT id, name, state, reason, percent, salt, sticky, workspaces, sources,
                          kinds, guard, created_at, updated_at
                   FROM made"#,
                new.name,
                new.percent,
                new.salt,
                new.sticky.as_str(),
                workspaces.as_deref(),
                sources.as_deref(),
                change.id(),
                change.actor(),
                detail,
                change.request_id(),
                kinds.as_deref(),
                new.guard,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, made)
        });
        made.await?.ok_or_else(|| RolloutError::Exists(new.name.clone()))
    }

    /// Changes a rollout, from the next claim on; `None`: there is none of this name.
    pub async fn change(
        &self,
        name: &str,
        changes: &RolloutChanges,
        change: &Change,
    ) -> Result<Option<Rollout>, QueueError> {
        const ACTION: &str = "change a rollout";
        let state = changes.state.map(RolloutState::as_str);
        let detail = json!({
            "percent": changes.percent, "state": state, "reason": changes.reason, "guard": changes.guard,
        });
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let changed = sqlx::query_as!(
                Rollout,
                r#"WITH resumed AS (
                       SELECT id FROM rollout WHERE name = $1 AND $3 = 'active' AND state <> $3),
                   -- What made somebody stop it is known to whoever lets it go on.
                   forgotten AS (
                       DELETE FROM rollout_guard WHERE rollout_id IN (SELECT id FROM resumed)),
                   changed AS (
                       UPDATE rollout
                       SET percent = coalesce($2, percent), state = coalesce($3, state),
                           -- Who says the same once more takes no reason back.
                           reason = CASE WHEN $3::text IS NULL OR $3 = state AND $4::text IS NULL
                                         THEN reason ELSE $4 END,
                           guard = coalesce($9, guard), updated_at = now()
                       -- Paused, it would send to v2 again what the settings say so of.
                       WHERE name = $1
                         AND NOT (state = 'rolled_back' AND $3 IS NOT DISTINCT FROM 'paused')
                       RETURNING *),
                   noted AS (
                       INSERT INTO audit_event (id, actor, action, subject, detail, request_id)
                       SELECT $5, $6, 'rollout.change', name, $7, $8 FROM changed
                       ON CONFLICT DO NOTHING)
                   SELECT id, name, state, reason, percent, salt, sticky, workspaces, sources,
                          kinds, guard, created_at, updated_at
                   FROM changed"#,
                name,
                changes.percent,
                state,
                changes.reason,
                change.id(),
                change.actor(),
                detail,
                change.request_id(),
                changes.guard,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, changed)
        })
        .await
    }

    /// Removes a rollout, and what it decided is decided by others from the next claim on. `false`:
    /// there is none of this name.
    pub async fn delete(&self, name: &str, change: &Change) -> Result<bool, QueueError> {
        const ACTION: &str = "remove a rollout";
        let removed = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let removed = sqlx::query_scalar!(
                r#"WITH removed AS (DELETE FROM rollout WHERE name = $1 RETURNING id, name),
                   -- What was kept about it may be much: that is removed by and by.
                   gone AS (INSERT INTO rollout_gone SELECT id FROM removed),
                   noted AS (
                       INSERT INTO audit_event (id, actor, action, subject, request_id)
                       SELECT $2, $3, 'rollout.delete', name, $4 FROM removed)
                   SELECT EXISTS (SELECT FROM removed)
                       OR EXISTS (SELECT FROM audit_event WHERE id = $2) AS "removed!""#,
                name,
                change.id(),
                change.actor(),
                change.request_id(),
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(ACTION, removed)
        });
        removed.await
    }

    /// All rollouts, the oldest first: there are few.
    pub async fn list(&self) -> Result<Vec<Rollout>, QueueError> {
        const ACTION: &str = "list rollouts";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let rollouts = sqlx::query_as!(
                Rollout,
                "SELECT id, name, state, reason, percent, salt, sticky, workspaces, sources,
                          kinds, guard, created_at, updated_at
                 FROM rollout ORDER BY created_at, name LIMIT 1000"
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(ACTION, rollouts)
        })
        .await
    }

    /// The rollout of this name.
    pub async fn get(&self, name: &str) -> Result<Option<Rollout>, QueueError> {
        const ACTION: &str = "look up a rollout";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let rollout = sqlx::query_as!(
                Rollout,
                "SELECT id, name, state, reason, percent, salt, sticky, workspaces, sources,
                          kinds, guard, created_at, updated_at
                 FROM rollout WHERE name = $1",
                name
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, rollout)
        })
        .await
    }
}
