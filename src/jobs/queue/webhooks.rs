//! The outbox of webhooks. Rows come with jobs and are due when those end (the triggers of the
//! migration); whoever delivers takes some for a minute at a time.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::connection::Connection;
use super::vault::Sealed;
use super::{Queue, QueueError, patiently};
use crate::jobs::webhook::{Delivery, DeliveryState, Webhook};
use crate::retry::RetrySettings;
use crate::workspace::WorkspaceId;

const TAKE: &str = "take webhooks to deliver";
const SETTLE: &str = "record what became of a webhook";
const LIST: &str = "list webhooks";
const AGAIN: &str = "have a webhook delivered again";
const GIVE_UP: &str = "give webhooks of a lost key up";
const FORGET: &str = "delete old webhooks";

/// The name under which it is encrypted.
pub(super) const NAME: &str = "webhook";
/// Deliveries of a process that are under way: in all, and of one workspace, whose receiver may be slow.
const PLACES: (usize, i64) = (64, 8);
/// Nobody else takes a delivery for so long.
const LASTS: Duration = Duration::from_mins(1);
/// For how long a receiver that doesn't take it is tried, and a process that has its key waited for.
const GIVE_UP_AFTER: Duration = Duration::from_hours(24);
const AGAIN_IN: RetrySettings =
    RetrySettings::endless(Duration::from_secs(10), Duration::from_hours(1));

/// A webhook that is to be delivered now.
#[derive(Debug)]
pub(in crate::jobs) struct DueDelivery {
    pub(in crate::jobs) id: Uuid,
    pub(in crate::jobs) job: Uuid,
    pub(in crate::jobs) workspace: String,
    /// Which attempt this is.
    pub(in crate::jobs) attempt: i32,
    /// `None` if what was kept can't be read.
    pub(in crate::jobs) webhook: Option<Webhook>,
}

/// What an attempt came to.
#[derive(Debug)]
pub(in crate::jobs) enum Receipt {
    Taken { status: u16 },
    Refused { status: Option<u16>, why: String },
}

struct DeliveryRow {
    id: Uuid,
    job_id: Uuid,
    shown_url: String,
    state: String,
    attempts: i32,
    due_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    delivered_at: Option<DateTime<Utc>>,
    last_status: Option<i32>,
    last_error: Option<String>,
}

impl From<DeliveryRow> for Delivery {
    fn from(row: DeliveryRow) -> Self {
        let is_due = row.state == DeliveryState::Due.as_str();
        Self {
            id: row.id,
            job_id: row.job_id,
            url: row.shown_url,
            state: row.state,
            attempts: row.attempts,
            due_at: row.due_at.filter(|_| is_due),
            created_at: row.created_at,
            delivered_at: row.delivered_at,
            last_status: row.last_status,
            last_error: row.last_error,
        }
    }
}

impl Queue {
    /// Takes what is due and can be decrypted here, as far as there are places for it. `busy` has a
    /// workspace as often as deliveries of it are under way.
    pub(in crate::jobs) async fn take_deliveries(
        &self,
        busy: &[String],
    ) -> Result<Vec<DueDelivery>, QueueError> {
        let (all, each) = PLACES;
        let free = i64::try_from(all.saturating_sub(busy.len())).unwrap_or_default();
        if free == 0 {
            return Ok(Vec::new());
        }
        let keys = self.vault.key_ids();
        let taken = patiently(TAKE, async || {
            let mut db = Connection::acquire(&self.pool, TAKE).await?;
            let taken = sqlx::query!(
                r#"WITH RECURSIVE waiting (workspace_id) AS (
                       (SELECT workspace_id FROM webhook WHERE state = 'due'
                        ORDER BY workspace_id LIMIT 1)
                       UNION ALL
                       SELECT (SELECT following.workspace_id FROM webhook AS following
                               WHERE state = 'due'
                                 AND following.workspace_id > waiting.workspace_id
                               ORDER BY following.workspace_id LIMIT 1)
                       FROM waiting WHERE waiting.workspace_id IS NOT NULL),
                   line AS MATERIALIZED (
                       SELECT workspace_id,
                              $2 - (SELECT count(*) FROM unnest($5::text[]) AS busy (workspace_id)
                                    WHERE busy.workspace_id = waiting.workspace_id) AS places
                       FROM waiting WHERE workspace_id IS NOT NULL
                       ORDER BY random()),
                   chosen AS MATERIALIZED (
                       SELECT first.id FROM line CROSS JOIN LATERAL (
                           SELECT id FROM webhook
                           WHERE state = 'due' AND workspace_id = line.workspace_id
                             AND due_at <= now() AND key_id = ANY($4)
                           ORDER BY due_at LIMIT line.places FOR UPDATE SKIP LOCKED) AS first
                       LIMIT $1)
                   UPDATE webhook
                   SET attempts = attempts + 1, due_at = now() + make_interval(secs => $3)
                   WHERE id = ANY(ARRAY(SELECT id FROM chosen)) AND state = 'due'
                   RETURNING id, job_id, workspace_id, attempts, key_id, nonce, ciphertext"#,
                free,
                each,
                LASTS.as_secs_f64(),
                &keys,
                busy,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(TAKE, taken)
        });
        let taken = taken.await?.into_iter().map(|row| {
            let sealed =
                Sealed { key_id: row.key_id, nonce: row.nonce, ciphertext: row.ciphertext };
            let opened = self.vault.open(row.id, NAME, &sealed);
            if let Err(error) = &opened {
                tracing::error!(webhook = %row.id, %error, "a webhook can't be read");
            }
            let webhook = opened.ok().and_then(|text| Webhook::from_secret(&text));
            DueDelivery {
                id: row.id,
                job: row.job_id,
                workspace: row.workspace_id,
                attempt: row.attempts,
                webhook,
            }
        });
        Ok(taken.collect())
    }

    /// Records what an attempt came to; one that somebody else has taken over meanwhile changes nothing.
    pub(in crate::jobs) async fn settle_delivery(
        &self,
        delivery: &DueDelivery,
        receipt: &Receipt,
    ) -> Result<(), QueueError> {
        let (status, error) = match receipt {
            Receipt::Taken { status } => (Some(*status), None),
            Receipt::Refused { status, why } => (*status, Some(why.as_str())),
        };
        let delay = AGAIN_IN.delay(delivery.attempt.try_into().unwrap_or(1));
        patiently(SETTLE, async || {
            let mut db = Connection::acquire(&self.pool, SETTLE).await?;
            let settled = sqlx::query!(
                "UPDATE webhook
                 SET state = CASE WHEN $4::text IS NULL THEN 'delivered'
                                  WHEN due_since < now() - make_interval(secs => $6) THEN 'given_up'
                                  ELSE 'due' END,
                     delivered_at = CASE WHEN $4::text IS NULL THEN now() END,
                     due_at = now() + make_interval(secs => $5), last_status = $3, last_error = $4
                 WHERE id = $1 AND attempts = $2 AND state = 'due'",
                delivery.id,
                delivery.attempt,
                status.map(i32::from),
                error,
                delay.as_secs_f64(),
                GIVE_UP_AFTER.as_secs_f64(),
            )
            .execute(&mut *db)
            .await;
            db.answered(SETTLE, settled).map(drop)
        })
        .await
    }

    /// Gives up what nobody has tried for a day, since its key is not here. How many there were.
    pub(in crate::jobs) async fn give_up_unreadable(&self, most: u64) -> Result<u64, QueueError> {
        let keys = self.vault.key_ids();
        let given_up = patiently(GIVE_UP, async || {
            let mut db = Connection::acquire(&self.pool, GIVE_UP).await?;
            let given_up = sqlx::query!(
                "UPDATE webhook
                 SET state = 'given_up', due_at = now(), last_status = NULL,
                     last_error = 'no process has the key that it was encrypted with'
                 WHERE id = ANY(ARRAY(
                     SELECT id FROM webhook
                     WHERE state = 'due' AND due_at <= now() - make_interval(secs => $1)
                       AND key_id <> ALL($2)
                     ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED))",
                GIVE_UP_AFTER.as_secs_f64(),
                &keys,
                most.cast_signed(),
            )
            .execute(&mut *db)
            .await;
            db.answered(GIVE_UP, given_up)
        });
        Ok(given_up.await?.rows_affected())
    }

    /// Deletes what was delivered or given up so long ago, and no more than an hour longer. How many there
    /// were.
    pub(in crate::jobs) async fn forget_deliveries(
        &self,
        keep: Duration,
        most: u64,
    ) -> Result<u64, QueueError> {
        let deleted = patiently(FORGET, async || {
            let mut db = Connection::acquire(&self.pool, FORGET).await?;
            let deleted = sqlx::query!(
                // The last attempt said when it would have been tried next: that is when it was settled,
                // or up to an hour later.
                "DELETE FROM webhook WHERE id = ANY(ARRAY(
                     SELECT id FROM webhook
                     WHERE state IN ('delivered', 'given_up')
                       AND due_at <= now() - make_interval(secs => $1)
                     LIMIT $2 FOR UPDATE SKIP LOCKED))",
                keep.as_secs_f64(),
                most.cast_signed(),
            )
            .execute(&mut *db)
            .await;
            db.answered(FORGET, deleted)
        });
        Ok(deleted.await?.rows_affected())
    }

    /// Webhooks of a workspace, the newest first, older than `before`, at most `limit`.
    pub async fn deliveries(
        &self,
        workspace: &WorkspaceId,
        state: Option<DeliveryState>,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Delivery>, QueueError> {
        let before = before.unwrap_or(Uuid::max());
        let rows = patiently(LIST, async || {
            let mut db = Connection::acquire(&self.pool, LIST).await?;
            // One statement each, so that each has its index.
            let rows = match state {
                None => {
                    sqlx::query_as!(
                        DeliveryRow,
                        "SELECT id, job_id, shown_url, state, attempts, due_at, created_at,
                                delivered_at, last_status, last_error
                         FROM webhook WHERE workspace_id >= $1 AND (workspace_id, id) < ($1, $2)
                         ORDER BY workspace_id DESC, id DESC LIMIT $3",
                        workspace.as_str(),
                        before,
                        limit,
                    )
                    .fetch_all(&mut *db)
                    .await
                }
                Some(state) => {
                    sqlx::query_as!(
                        DeliveryRow,
                        "SELECT id, job_id, shown_url, state, attempts, due_at, created_at,
                                delivered_at, last_status, last_error
                         FROM webhook WHERE (workspace_id, state) >= ($1, $4)
                           AND (workspace_id, state, id) < ($1, $4, $2)
                         ORDER BY workspace_id DESC, state DESC, id DESC LIMIT $3",
                        workspace.as_str(),
                        before,
                        limit,
                        state.as_str(),
                    )
                    .fetch_all(&mut *db)
                    .await
                }
            };
            db.answered(LIST, rows)
        });
        Ok(rows.await?.into_iter().map(Delivery::from).collect())
    }

    /// Has a webhook delivered once more, now. `None`: the workspace has none of this id. While its job has
    /// not ended it stays as it is.
    pub async fn deliver_again(
        &self,
        workspace: &WorkspaceId,
        id: Uuid,
    ) -> Result<Option<Delivery>, QueueError> {
        let row = patiently(AGAIN, async || {
            let mut db = Connection::acquire(&self.pool, AGAIN).await?;
            let row = sqlx::query_as!(
                DeliveryRow,
                "UPDATE webhook
                 SET state = CASE WHEN state = 'waiting' THEN state ELSE 'due' END,
                     due_at = CASE WHEN state = 'waiting' THEN due_at ELSE now() END,
                     due_since = CASE WHEN state = 'waiting' THEN due_since ELSE now() END
                 WHERE id = $1 AND workspace_id = $2
                 RETURNING id, job_id, shown_url, state, attempts, due_at, created_at,
                           delivered_at, last_status, last_error",
                id,
                workspace.as_str(),
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(AGAIN, row)
        });
        Ok(row.await?.map(Delivery::from))
    }
}
