//! Secrets that were encrypted with a former key are encrypted with the present one, so that the former can
//! be taken from the settings. Those of jobs that run now are left: they end soon, or come back.

use uuid::Uuid;

use super::connection::Connection;
use super::vault::Sealed;
use super::webhooks::NAME;
use super::{Queue, QueueError, patiently};

const JOBS: &str = "look for secrets of a former key";
const JOB: &str = "encrypt a job's secrets anew";
const WEBHOOKS: &str = "look for webhooks of a former key";
const WEBHOOK: &str = "encrypt a webhook anew";
const BATCH: i64 = 100;

impl Queue {
    /// Encrypts some secrets anew. How many there were.
    pub(in crate::jobs) async fn reseal(&self) -> Result<u64, QueueError> {
        let keys = self.vault.key_ids();
        let Some((present, former)) = keys.split_first().filter(|(_, former)| !former.is_empty())
        else {
            return Ok(0);
        };
        Ok(self.reseal_jobs(present, former).await? + self.reseal_webhooks(former).await?)
    }

    async fn reseal_jobs(&self, present: &str, former: &[String]) -> Result<u64, QueueError> {
        let jobs = patiently(JOBS, async || {
            let mut db = Connection::acquire(&self.pool, JOBS).await?;
            let jobs = sqlx::query_scalar!(
                "SELECT job_id FROM live_job
                 WHERE worker_id IS NULL AND key_id <> '' AND key_id = ANY($1) LIMIT $2",
                former,
                BATCH,
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

    async fn reseal_webhooks(&self, former: &[String]) -> Result<u64, QueueError> {
        let rows = patiently(WEBHOOKS, async || {
            let mut db = Connection::acquire(&self.pool, WEBHOOKS).await?;
            let rows = sqlx::query!(
                "SELECT id, key_id, nonce, ciphertext FROM webhook WHERE key_id = ANY($1) LIMIT $2",
                former,
                BATCH,
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(WEBHOOKS, rows)
        });
        let mut done = 0;
        for row in rows.await? {
            let former = row.key_id.clone();
            let sealed =
                Sealed { key_id: row.key_id, nonce: row.nonce, ciphertext: row.ciphertext };
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
        Ok(done)
    }
}
