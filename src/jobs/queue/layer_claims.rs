//! Which process reads which layer: leases in Postgres, one for each layer index that somebody is
//! making. They save work; nothing is wrong if two hold one, and nothing waits for a database that
//! is away.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use sqlx::PgPool;
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::connection::Connection;
use super::wake::{Hub, Topic};
use super::{Queue, QueueError, once};
use crate::archive::{Claim, LayerClaims};
use crate::store::Key;

/// How long one call may take: to read the layer twice is better than to wait for long.
const LIMIT: Duration = Duration::from_secs(5);

/// The claims in one database.
#[derive(Debug, Clone)]
pub struct DatabaseClaims {
    pool: PgPool,
    hub: std::sync::Arc<Hub>,
    /// How long the claim of a process that died keeps others waiting.
    lasts: Duration,
}

impl Queue {
    /// Agreement on who reads which layer, among all processes that share the queue's database.
    pub fn layer_claims(&self, lasts: Duration) -> DatabaseClaims {
        DatabaseClaims { pool: self.pool.clone(), hub: self.hub.clone(), lasts }
    }
}

#[async_trait]
impl LayerClaims for DatabaseClaims {
    async fn try_claim(&self, key: &Key) -> Option<Claim> {
        let holder = Uuid::now_v7();
        match self.take(key, holder).await {
            Ok(false) => None,
            Ok(true) => Some(Box::new(ClaimGuard::keep(self.clone(), key.clone(), holder))),
            Err(error) => {
                tracing::warn!(%key, %error, "nobody can be asked who else reads this layer");
                Some(Box::new(()))
            }
        }
    }

    fn freed(&self, key: &Key) -> BoxFuture<'static, ()> {
        let mut wakes = self.hub.subscribe(Topic::Layer(key.as_str().into()));
        Box::pin(async move { wakes.next().await })
    }
}

impl DatabaseClaims {
    async fn take(&self, key: &Key, holder: Uuid) -> Result<bool, QueueError> {
        const ACTION: &str = "claim a layer";
        once(ACTION, LIMIT, async {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let taken = sqlx::query!(
                "INSERT INTO layer_claim (key, holder, expires_at)
                 VALUES ($1, $2, now() + make_interval(secs => $3))
                 ON CONFLICT (key) DO UPDATE
                 SET holder = EXCLUDED.holder, expires_at = EXCLUDED.expires_at
                 WHERE layer_claim.expires_at <= now()",
                key.as_str(),
                holder,
                self.lasts.as_secs_f64(),
            )
            .execute(&mut *db)
            .await;
            Ok(db.answered(ACTION, taken)?.rows_affected() == 1)
        })
        .await
    }

    async fn extend(&self, key: &Key, holder: Uuid) -> Result<(), QueueError> {
        const ACTION: &str = "extend the claim of a layer";
        once(ACTION, LIMIT, async {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let extended = sqlx::query!(
                "UPDATE layer_claim SET expires_at = now() + make_interval(secs => $3)
                 WHERE key = $1 AND holder = $2",
                key.as_str(),
                holder,
                self.lasts.as_secs_f64(),
            )
            .execute(&mut *db)
            .await;
            db.answered(ACTION, extended).map(drop)
        })
        .await
    }

    /// Frees the claim.
    async fn free(&self, key: &Key, holder: Uuid) -> Result<(), QueueError> {
        const ACTION: &str = "free the claim of a layer";
        once(ACTION, LIMIT, async {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let freed = sqlx::query!(
                "DELETE FROM layer_claim WHERE key = $1 AND holder = $2",
                key.as_str(),
                holder,
            )
            .execute(&mut *db)
            .await;
            db.answered(ACTION, freed).map(drop)
        })
        .await?;
        self.hub.tell(Topic::Layer(key.as_str().into()));
        Ok(())
    }
}

/// A claim that is kept alive until it is dropped, and freed then.
struct ClaimGuard {
    claims: DatabaseClaims,
    key: Key,
    holder: Uuid,
    _alive: AbortOnDropHandle<()>,
}

impl ClaimGuard {
    fn keep(claims: DatabaseClaims, key: Key, holder: Uuid) -> Self {
        let alive = {
            let (claims, key) = (claims.clone(), key.clone());
            async move {
                let mut beats = interval((claims.lasts / 3).max(Duration::from_millis(1)));
                beats.tick().await; // the first comes at once
                loop {
                    beats.tick().await;
                    if let Err(error) = claims.extend(&key, holder).await {
                        tracing::debug!(%key, %error, "the claim of a layer was not extended");
                    }
                }
            }
        };
        Self { claims, key, holder, _alive: AbortOnDropHandle::new(tokio::spawn(alive)) }
    }
}

impl Drop for ClaimGuard {
    fn drop(&mut self) {
        let (claims, key, holder) = (self.claims.clone(), self.key.clone(), self.holder);
        // Outside of a runtime, at the very end of the process, it is left to expire.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = claims.free(&key, holder).await {
                    tracing::debug!(%key, %error, "the claim of a layer is left to expire");
                }
            });
        }
    }
}
