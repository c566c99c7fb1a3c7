//! Secrets that were encrypted with a former key are encrypted with the present one, so that the former can
//! be taken from the settings. Those of jobs that run now are left: they end soon, or come back.

use uuid::Uuid;

use super::connection::Connection;
use super::vault::Sealed;
use super::webhooks::NAME;
use super::{Queue, QueueError, patiently};
use crate::jobs::webhook::DeliveryState;

const JOBS: &str = "look for secrets of a former key";
const JOB: &str = "encrypt a job's secrets anew";
const WEBHOOKS: &str = "look for webhooks of a former key";
const WEBHOOK: &str = "encrypt a webhook anew";
/// Webhooks that are read at a time.
const PAGE: i64 = 100;
/// What is to be sent comes first; of the rest somebody may want it sent again.
const IN_TURN: [DeliveryState; 4] =
    [DeliveryState::Due, DeliveryState::Waiting, DeliveryState::GivenUp, DeliveryState::Delivered];

impl Queue {
    /// Encrypts secrets anew: of `most` jobs, and about as many webhooks. How many there were.
    pub(in crate::jobs) async fn reseal(&self, most: u64) -> Result<u64, QueueError> {
        let keys = self.vault.key_ids();
        let Some((present, former)) = keys.split_first().filter(|(_, former)| !former.is_empty())
        else {
            return Ok(0);
        };
        let jobs = self.reseal_jobs(present, former, most).await?;
        Ok(jobs + self.reseal_webhooks(former, most).await?)
    }

    async fn reseal_jobs(
        &self,
        present: &str,
        former: &[String],
        most: u64,
    ) -> Result<u64, QueueError> {
        let jobs = patiently(JOBS, async || {
            let mut db = Connection::acquire(&self.pool, JOBS).await?;
            let jobs = sqlx::query_scalar!(
                "SELECT job_id FROM live_job
                 WHERE worker_id IS NULL AND key_id <> '' AND key_id = ANY($1) LIMIT $2",
                former,
                most.cast_signed(),
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(JOBS, jobs)
        });
        let mut done = 0;
        for job in jobs.await? {
            match self.reseal_job(job, present).await {
                Ok(resealed) => done += u64::from(resealed),
                // It is told again when the job is claimed; the others are not to wait for it.
                Err(error @ QueueError::Undecipherable { .. }) => {
                    tracing::warn!(%job, %error, "a secret keeps its former key");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    async fn reseal_job(&self, job: Uuid, present: &str) -> Result<bool, QueueError> {
        let rows = patiently(JOB, async || {
            let mut db = Connection::acquire(&self.pool, JOB).await?;
            let rows = sqlx::query!(
                "SELECT name, key_id, nonce, ciphertext FROM job_secret WHERE job_id = $1",
                job,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(JOB, rows)
        });
        let (mut names, mut nonces, mut ciphertexts) = (Vec::new(), Vec::new(), Vec::new());
        let rows = rows.await?;
        let former = rows.first().map(|row| row.key_id.clone());
        for row in rows {
            let sealed =
                Sealed { key_id: row.key_id, nonce: row.nonce, ciphertext: row.ciphertext };
            let sealed =
                self.vault.seal(job, &row.name, &self.vault.open(job, &row.name, &sealed)?)?;
            names.push(row.name);
            nonces.push(sealed.nonce);
            ciphertexts.push(sealed.ciphertext);
        }
        // A job that was claimed meanwhile has its secrets already, and keeps those that it has.
        let resealed = patiently(JOB, async || {
            let mut db = Connection::acquire(&self.pool, JOB).await?;
            let resealed = sqlx::query_scalar!(
                r#"WITH live AS (
                       UPDATE live_job SET key_id = $2
                       WHERE job_id = $1 AND worker_id IS NULL AND key_id = $6
                       RETURNING job_id)
                   UPDATE job_secret
                   SET key_id = $2, nonce = anew.nonce, ciphertext = anew.ciphertext
                   FROM live, unnest($3::text[], $4::bytea[], $5::bytea[])
                       AS anew (name, nonce, ciphertext)
                   WHERE job_secret.job_id = live.job_id AND job_secret.name = anew.name
                   RETURNING job_secret.job_id"#,
                job,
                present,
                &names,
                &nonces,
                &ciphertexts,
                former,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(JOB, resealed)
        });
        Ok(!resealed.await?.is_empty())
    }

    async fn reseal_webhooks(&self, former: &[String], most: u64) -> Result<u64, QueueError> {
        let mut done = 0;
        for state in IN_TURN {
            for key in former {
                let mut after = Some(Uuid::nil());
                while let Some(last) = after.filter(|_| done < most) {
                    let (resealed, next) = self.reseal_page(key, state, last).await?;
                    done += resealed;
                    after = next;
                }
            }
        }
        Ok(done)
    }

    /// Encrypts some of the webhooks behind `after` anew: how many, and the last one if there may be more.
    async fn reseal_page(
        &self,
        former: &str,
        state: DeliveryState,
        after: Uuid,
    ) -> Result<(u64, Option<Uuid>), QueueError> {
        let rows = patiently(WEBHOOKS, async || {
            let mut db = Connection::acquire(&self.pool, WEBHOOKS).await?;
            let rows = sqlx::query!(
                "SELECT id, key_id, nonce, ciphertext FROM webhook
                 WHERE (key_id, state) <= ($1, $2) AND (key_id, state, id) > ($1, $2, $3)
                 ORDER BY key_id, state, id LIMIT $4",
                former,
                state.as_str(),
                after,
                PAGE,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(WEBHOOKS, rows)
        });
        let rows = rows.await?;
        let is_full = i64::try_from(rows.len()) == Ok(PAGE);
        let next = rows.last().filter(|_| is_full).map(|row| row.id);
        let mut done = 0;
        for row in rows {
            let sealed =
                Sealed { key_id: row.key_id, nonce: row.nonce, ciphertext: row.ciphertext };
            // What can't be read is left: it is given up when its time comes.
            let Ok(text) = self.vault.open(row.id, NAME, &sealed) else { continue };
            let anew = self.vault.seal(row.id, NAME, &text)?;
            let resealed = patiently(WEBHOOK, async || {
                let mut db = Connection::acquire(&self.pool, WEBHOOK).await?;
                let resealed = sqlx::query!(
                    "UPDATE webhook SET key_id = $2, nonce = $3, ciphertext = $4
                     WHERE id = $1 AND key_id = $5",
                    row.id,
                    anew.key_id,
                    anew.nonce,
                    anew.ciphertext,
                    former,
                )
                .execute(&mut *db)
                .await;
                db.answered(WEBHOOK, resealed)
            });
            done += resealed.await?.rows_affected();
        }
        Ok((done, next))
    }
}
