//! A new job: the row, its first event and its encrypted credentials, in one transaction.

use uuid::Uuid;

use super::row::job_rows;
use super::transition::{push, to_json};
use super::{NewJob, Queue, QueueError, Submitted, patiently};
use crate::digest::Digest;
use crate::jobs::job::{EventKind, JobSpec, JobState};

const ACTION: &str = "submit a job";

impl Queue {
    /// Accepts a job. The same idempotency key and spec again give the job that is there.
    pub async fn submit(&self, new: NewJob) -> Result<Submitted, QueueError> {
        if let JobSpec::Pull(pull) = &new.spec
            && holds_credentials(&pull.source)
        {
            return Err(QueueError::CredentialsInSource);
        }
        // Chosen once: a retry whose first try did arrive finds its own job.
        let id = Uuid::now_v7();
        patiently(ACTION, || self.try_submit(id, &new)).await
    }

    async fn try_submit(&self, id: Uuid, new: &NewJob) -> Result<Submitted, QueueError> {
        let failed = |error: sqlx::Error| QueueError::from_sqlx(ACTION, &error);
        let spec = to_json(ACTION, &new.spec)?;
        let sealed = new.credentials.as_ref().map(|secret| self.vault.seal(id, secret));
        let sealed = sealed.transpose()?;
        let mut tx = self.pool.begin().await.map_err(failed)?;
        let inserted = sqlx::query!(
            "INSERT INTO job (id, image_id, spec, max_attempts, idempotency_key)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            id,
            new.spec.image_id().as_str(),
            spec,
            new.max_attempts.unwrap_or(self.max_attempts).max(1),
            new.idempotency_key,
        )
        .execute(&mut *tx)
        .await
        .map_err(failed)?
        .rows_affected();
        if inserted > 0 {
            push(&mut tx, id, &EventKind::Queued).await?;
            if let Some(sealed) = sealed {
                sqlx::query!(
                    "INSERT INTO job_secret (job_id, key_id, nonce, ciphertext)
                     VALUES ($1, $2, $3, $4)",
                    id,
                    sealed.key_id,
                    sealed.nonce,
                    sealed.ciphertext,
                )
                .execute(&mut *tx)
                .await
                .map_err(failed)?;
            }
        }
        let job =
            job_rows!("WHERE id = $1 OR idempotency_key = $2 LIMIT 1", id, new.idempotency_key)
                .fetch_one(&mut *tx)
                .await
                .map_err(failed)?
                .into_job()?;
        if job.spec != new.spec {
            return Err(QueueError::IdempotencyMismatch { job: job.id });
        }
        tx.commit().await.map_err(failed)?;
        Ok(Submitted { existing: job.id != id, job })
    }
}

/// Whether `user:password@` stands in front of the reference: whatever follows an `@` must be a
/// digest.
fn holds_credentials(source: &str) -> bool {
    source.split('@').skip(1).any(|digest| digest.parse::<Digest>().is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_must_not_hold_credentials() {
        let digest = Digest::of(b"x");
        for good in ["alpine", "host:5000/app:1", &format!("app:1@{digest}"), "oci:/images/x"] {
            assert!(!holds_credentials(good), "{good}");
        }
        for bad in [
            "user:pass@host/app",
            "https://user:pass@host:5000/app",
            "user:pass@host:5000",
            "token@host/app",
            &format!("user:pass@host/app@{digest}"),
        ] {
            assert!(holds_credentials(bad), "{bad}");
        }
    }
}
