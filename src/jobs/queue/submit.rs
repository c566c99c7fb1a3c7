//! A new job: its rows, its first event and its encrypted secrets, in one statement.

use std::time::Duration;

use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::connection::Connection;
use super::json::to_json;
use super::row::{JobRow, job_rows};
use super::wake::Topic;
use super::webhooks::NAME;
use super::{NewJob, Queue, QueueError, Sharing, Submitted, patiently};
use crate::digest::Digest;
use crate::jobs::webhook::Webhook;

const ACTION: &str = "submit a job";

/// The index that refuses a second job of those that ask for the same.
const JOINABLE: &str = "live_job_joinable";

/// For how long a key stands for the job that it made.
const KEY_LASTS: Duration = Duration::from_hours(24);

/// Secrets as rows, column by column.
#[derive(Default)]
struct SecretRows {
    names: Vec<String>,
    nonces: Vec<Vec<u8>>,
    ciphertexts: Vec<Vec<u8>>,
}

impl Queue {
    /// Accepts a job, if the workspace and all together may have one more that waits: jobs that come at
    /// the same moment may pass together, so that there may be a few more. The same idempotency key and
    /// request again give the job that is there, and so does what another job does already, if
    /// [`NewJob::sharing`] says so.
    pub async fn submit(&self, new: NewJob) -> Result<Submitted, QueueError> {
        // Chosen once: a retry whose first try did arrive finds its own job.
        let (id, hook_id) = (Uuid::now_v7(), Uuid::now_v7());
        if let Some(room) = &self.room
            && let Err(full) = room.check(self).await
        {
            let digest = request_digest(&new, spec_digest(&to_json(ACTION, &new.spec)?));
            return match existing(&self.pool, id, &new, digest).await {
                Err(QueueError::Full { .. }) => Err(full),
                found => found,
            };
        }
        let submitted = patiently(ACTION, || self.try_submit(id, hook_id, &new)).await?;
        if !submitted.existing {
            self.hub.tell(Topic::Work);
        }
        Ok(submitted)
    }

    async fn try_submit(
        &self,
        id: Uuid,
        hook_id: Uuid,
        new: &NewJob,
    ) -> Result<Submitted, QueueError> {
        let spec = to_json(ACTION, &new.spec)?;
        let spec_digest = spec_digest(&spec);
        let request_digest = request_digest(new, spec_digest);
        let workspace = new.workspace.as_str();
        let join_digest = match new.sharing {
            Sharing::Apart => None,
            Sharing::WithActive | Sharing::WithArchived => Some(self.join_digest(new, spec_digest)),
        };
        let mut rows = SecretRows::default();
        let mut key_id = String::new();
        for (name, secret) in &new.secrets {
            let sealed = self.vault.seal(id, name, secret)?;
            rows.names.push(name.clone());
            rows.nonces.push(sealed.nonce);
            rows.ciphertexts.push(sealed.ciphertext);
            key_id = sealed.key_id;
        }
        let seal = |webhook: &Webhook| self.vault.seal(hook_id, NAME, &webhook.to_secret());
        let hook = new.webhook.as_ref().map(seal).transpose()?;
        let mut db = Connection::acquire(&self.pool, ACTION).await?;
        let accepted = sqlx::query_as!(
            JobRow,
            r#"WITH room AS (
                   SELECT CASE WHEN max_queued IS NULL THEN true ELSE max_queued > (
                       SELECT count(*) FROM (
                           SELECT FROM job WHERE workspace_id = $2 AND state = 'queued'
                           LIMIT workspace.max_queued) AS waiting) END AS is_left
                   FROM workspace WHERE id = $2),
               same AS MATERIALIZED (
                   (SELECT job_id FROM live_job
                    WHERE workspace_id = $2 AND image_id = $7 AND join_digest = $21
                      AND NOT cancel_requested)
                   UNION ALL
                   (SELECT image.job_id FROM image JOIN job ON job.id = image.job_id
                    WHERE $22 AND image.workspace_id = $2 AND image.image_id = $7
                      AND job.spec_digest = $5)
                   LIMIT 1),
               keyed AS (
                   INSERT INTO idempotency_key
                       (workspace_id, key, request_digest, job_id, expires_at)
                   SELECT $2, $9, $19, coalesce((SELECT job_id FROM same), $1),
                          now() + make_interval(secs => $10)
                   WHERE $9::text IS NOT NULL
                     AND ((SELECT is_left FROM room) OR EXISTS (SELECT FROM same))
                   ON CONFLICT (workspace_id, key) DO UPDATE
                   SET request_digest = excluded.request_digest, job_id = excluded.job_id,
                       expires_at = excluded.expires_at
                   WHERE idempotency_key.expires_at <= now()
                   RETURNING job_id),
               accepted AS (
                   INSERT INTO job (id, workspace_id, kind, spec, spec_digest, spec_version,
                                    image_id, priority, max_attempts, request_id, trace_context,
                                    last_seq)
                   SELECT $1, $2, $3, $4, $5, $6, $7, $8, $11, $12, $13, 1
                   WHERE ($9::text IS NULL OR EXISTS (SELECT FROM keyed))
                     AND (SELECT is_left FROM room) AND NOT EXISTS (SELECT FROM same)
                   ON CONFLICT (id) DO NOTHING
                   RETURNING *),
               live AS (
                   INSERT INTO live_job (job_id, workspace_id, kind, spec_version, image_id,
                                         priority, key_id, expires_at, join_digest, host,
                                         parked_at)
                   SELECT id, workspace_id, kind, spec_version, image_id, priority, $14,
                          now() + make_interval(secs => $15), $21, $20,
                          (SELECT now() FROM resting_host
                           WHERE host = $20 AND rests_until IS NOT NULL)
                   FROM accepted),
               hook AS (
                   INSERT INTO webhook (id, workspace_id, job_id, shown_url, key_id, nonce,
                                        ciphertext)
                   SELECT $23, $2, told.id, $24, $25, $26, $27
                   FROM (SELECT id FROM accepted
                         UNION ALL
                         SELECT job_id FROM same
                         WHERE $9::text IS NULL OR EXISTS (SELECT FROM keyed)) AS told
                   WHERE $23::uuid IS NOT NULL
                   ON CONFLICT (id) DO NOTHING),
               secret AS (
                   INSERT INTO job_secret (job_id, key_id, name, nonce, ciphertext)
                   SELECT accepted.id, $14, given.name, given.nonce, given.ciphertext
                   FROM accepted, unnest($16::text[], $17::bytea[], $18::bytea[])
                       AS given (name, nonce, ciphertext)),
               event AS (
                   INSERT INTO job_event (job_id, seq, attempt, body)
                   SELECT id, 1, 0, '{"event": "queued"}' FROM accepted)
               SELECT id AS "id!", workspace_id AS "workspace_id!", spec AS "spec!",
                      priority AS "priority!", state AS "state!", reason, phase,
                      attempt AS "attempt!", max_attempts AS "max_attempts!",
                      losses AS "losses!", resolved_digest, request_id,
                      created_at AS "created_at!", started_at, finished_at, result, error
               FROM (SELECT * FROM accepted
                     UNION ALL
                     SELECT * FROM job
                     WHERE id = (SELECT job_id FROM same)
                       AND ($9::text IS NULL OR EXISTS (SELECT FROM keyed))) AS job"#,
            id,
            workspace,
            new.spec.kind().as_str(),
            spec,
            spec_digest.as_bytes(),
            new.spec.version(),
            new.spec.image_id().as_str(),
            i16::from(new.priority),
            new.idempotency_key,
            KEY_LASTS.as_secs_f64(),
            new.max_attempts.unwrap_or(self.max_attempts).max(1),
            new.request_id,
            new.trace_context,
            key_id,
            new.expires_in.map(|time| time.as_secs_f64()),
            &rows.names,
            &rows.nonces,
            &rows.ciphertexts,
            request_digest.as_bytes(),
            new.spec.host(),
            join_digest.as_ref().map(|digest| digest.as_bytes().as_slice()),
            new.sharing == Sharing::WithArchived,
            hook.as_ref().map(|_| hook_id),
            new.webhook.as_ref().map(Webhook::shown_url),
            hook.as_ref().map(|sealed| &sealed.key_id),
            hook.as_ref().map(|sealed| &sealed.nonce),
            hook.as_ref().map(|sealed| &sealed.ciphertext),
        )
        .fetch_optional(&mut *db)
        .await;
        if let Err(error) = &accepted
            && error.as_database_error().and_then(|error| error.constraint()) == Some(JOINABLE)
        {
            db.answered(ACTION, Ok(()))?;
            // On the next try it is there to be joined.
            let reason = "somebody asked for the same at the same moment".to_owned();
            return Err(QueueError::Unavailable { action: ACTION, reason });
        }
        match db.answered(ACTION, accepted)? {
            Some(row) => {
                let job = row.into_job()?;
                Ok(Submitted { existing: job.id != id, job })
            }
            None => existing(&self.pool, id, new, request_digest).await,
        }
    }
}

impl Queue {
    /// What jobs have in common of which one does for all: what they ask for, and what they bring.
    fn join_digest(&self, new: &NewJob, spec: Digest) -> Digest {
        let secrets: Vec<_> = new
            .secrets
            .iter()
            .map(|(name, secret)| (name, self.vault.fingerprint(secret)))
            .collect();
        Digest::of(format!("{spec} {secrets:?}").as_bytes())
    }
}

/// Names what a job asks for.
fn spec_digest(spec: &Value) -> Digest {
    Digest::of(spec.to_string().as_bytes())
}

/// Names what a request asks for. Of secrets it takes the names, and of a webhook what may be shown: what
/// they hold could be told by a keyed hash alone, and a key that another replaces would refuse who only
/// asks again.
fn request_digest(new: &NewJob, spec: Digest) -> Digest {
    let names: Vec<_> = new.secrets.keys().collect();
    let NewJob { priority, webhook, expires_in, max_attempts, .. } = new;
    let mut asked = format!("{spec} {priority:?} {names:?}");
    // Without any of these it is what the version before says of it.
    let more = [
        webhook.as_ref().map(|webhook| format!(" webhook {}", webhook.shown_url())),
        expires_in.map(|time| format!(" expires_in {time:?}")),
        max_attempts.map(|most| format!(" max_attempts {most}")),
    ];
    asked.extend(more.into_iter().flatten());
    Digest::of(asked.as_bytes())
}

/// The job that the first try, or an earlier request with the same key, made.
async fn existing(
    pool: &PgPool,
    id: Uuid,
    new: &NewJob,
    digest: Digest,
) -> Result<Submitted, QueueError> {
    let mut db = Connection::acquire(pool, ACTION).await?;
    let made = sqlx::query!(
        "SELECT job_id, request_digest FROM idempotency_key WHERE workspace_id = $1 AND key = $2",
        new.workspace.as_str(),
        new.idempotency_key,
    )
    .fetch_optional(&mut *db)
    .await;
    let made = db.answered(ACTION, made)?;
    let job = made.as_ref().map_or(id, |made| made.job_id);
    if made.is_some_and(|made| made.request_digest != digest.as_bytes()) {
        return Err(QueueError::IdempotencyMismatch);
    }
    let mut db = Connection::acquire(pool, ACTION).await?;
    let row = job_rows!("WHERE id = $1", job).fetch_optional(&mut *db).await;
    // Neither this request nor one with its key has made any: there was no room.
    let full = || QueueError::Full { workspace: new.workspace.clone() };
    let job = db.answered(ACTION, row)?.ok_or_else(full)?.into_job()?;
    Ok(Submitted { existing: job.id != id, job })
}
