//! What the rows say of images and what is in the store can part: a process dies between the two, or
//! somebody else deletes or replaces an archive. The store is right. An image without an archive is
//! forgotten; one whose archive is another gets a job that describes it anew, if the archive is its
//! workspace's, and is forgotten too if it is another workspace's. An image id whose owner has neither an
//! image nor a job under it is free again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use super::{BATCH, ReconcileError, Reconciler};
use crate::digest::Digest;
use crate::jobs::job::{ArchiveObject, ImageId, JobResult, JobSpec, MigrateSpec};
use crate::jobs::queue::{Connection, NewJob, Queue, patiently};
use crate::jobs::recorded::Recorded;
use crate::publish::archives::ArchiveStore;
use crate::store::{Key, ObjectVersion};
use crate::workspace::WorkspaceId;

const LOOK: &str = "look through images";
const FORGET: &str = "forget an image whose archive is gone";
const FREE: &str = "free image ids";
/// If so many images are looked at and the archive of none is there, then a volume isn't mounted or a
/// replica has another store than the others, and nothing is forgotten.
const WRONG_STORE: usize = 10;
/// Image ids whose owner is looked at, each time: that asks the database alone.
const OWNERS: i64 = 5000;
/// Archives whose digests are remembered.
const DIGESTS: usize = 10_000;

/// Images whose archive is gone or another, and image ids that nobody has.
#[derive(Debug)]
pub struct Images {
    queue: Queue,
    archives: Arc<dyn ArchiveStore>,
    /// The last image that was looked at. A process begins anywhere, lest those that come first be the only
    /// ones where none lives for long.
    after: Mutex<Option<(String, String)>>,
    /// The last image id whose owner was looked at.
    after_owner: Mutex<String>,
    /// Of archives that several workspaces have: each is read once for all of them.
    digests: Mutex<HashMap<Key, (ObjectVersion, Digest)>>,
}

/// A row of `image`, and what it says of the archive.
struct ImageRow {
    workspace_id: String,
    image_id: String,
    job_id: Uuid,
    /// It has been so for a while, and no job is under way.
    is_settled: bool,
    /// The archive is its workspace's.
    is_owned: bool,
    result: serde_json::Value,
}

/// Images that were looked for together.
struct Page {
    rows: Vec<ImageRow>,
    /// There may be more.
    is_full: bool,
}

/// What came of comparing an image with the store.
enum LookedAt {
    AsItShouldBe,
    /// The archive is another.
    Another {
        row: ImageRow,
        image_id: ImageId,
        key: Key,
    },
    /// The archive is another, and another workspace's.
    Foreign {
        row: ImageRow,
    },
    Gone {
        row: ImageRow,
    },
}

impl Images {
    /// Compares the rows of `queue` with `archives`.
    pub fn new(queue: Queue, archives: Arc<dyn ArchiveStore>) -> Self {
        Self {
            queue,
            archives,
            after: Mutex::default(),
            after_owner: Mutex::default(),
            digests: Mutex::default(),
        }
    }

    /// The next images, as far as they are settled; from the first again after the last.
    async fn next(&self) -> Result<Page, ReconcileError> {
        let (workspace, image) = match lock(&self.after).clone() {
            Some((workspace, image)) => (Some(workspace), image),
            None => (None, format!("{:016x}", rand::random::<u64>())),
        };
        let rows = patiently(LOOK, async || {
            let mut db = Connection::acquire(&self.queue.pool, LOOK).await?;
            let rows = sqlx::query_as!(
                ImageRow,
                r#"WITH page AS MATERIALIZED (
                       SELECT * FROM image
                       WHERE (workspace_id, image_id) > (
                           coalesce($1, (SELECT id FROM workspace ORDER BY random() LIMIT 1)), $2)
                       ORDER BY workspace_id, image_id LIMIT $3)
                   SELECT page.workspace_id AS "workspace_id!", page.image_id AS "image_id!",
                          page.job_id AS "job_id!",
                          page.created_at < now() - interval '10 minutes'
                              AND NOT EXISTS (SELECT FROM live_job
                                              WHERE live_job.image_id = page.image_id)
                              AS "is_settled!",
                          EXISTS (SELECT FROM archive_owner
                                  WHERE archive_owner.image_id = page.image_id
                                    AND archive_owner.workspace_id = page.workspace_id)
                              AS "is_owned!",
                          (SELECT result FROM job WHERE id = page.job_id) AS "result!"
                   FROM page ORDER BY page.workspace_id, page.image_id"#,
                workspace,
                image,
                BATCH.cast_signed(),
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(LOOK, rows)
        });
        let mut rows = rows.await?;
        let is_full = rows.len() as u64 >= BATCH;
        let last = rows.last().filter(|_| is_full);
        let last = last.map(|row| (row.workspace_id.clone(), row.image_id.clone()));
        *lock(&self.after) = Some(last.unwrap_or_default());
        rows.retain(|row| row.is_settled);
        Ok(Page { rows, is_full })
    }

    async fn look(&self, row: ImageRow) -> Result<LookedAt, ReconcileError> {
        let result = Recorded::<JobResult>::from_json(row.result.clone());
        // What a later version wrote is for a later version to compare.
        let Some(result) = result.known() else { return Ok(LookedAt::AsItShouldBe) };
        let Ok(key) = result.archive.key.parse::<Key>() else { return Ok(LookedAt::AsItShouldBe) };
        let Some(found) = self.archives.stat(&key).await? else {
            return Ok(LookedAt::Gone { row });
        };
        let ArchiveObject { size, digest, .. } = result.archive;
        Ok(match (found.size == size, row.is_owned) {
            (true, true) => LookedAt::AsItShouldBe,
            (false, true) => LookedAt::Another { row, image_id: result.image_id, key },
            // Its owner may have put there whatever he likes.
            (true, false) if self.digest(&key, &found.version).await? == Some(digest) => {
                LookedAt::AsItShouldBe
            }
            (_, false) => LookedAt::Foreign { row },
        })
    }

    /// The digest of what is there.
    async fn digest(
        &self,
        key: &Key,
        version: &ObjectVersion,
    ) -> Result<Option<Digest>, ReconcileError> {
        let known = lock(&self.digests).get(key).cloned();
        if let Some((seen, digest)) = known
            && seen == *version
        {
            return Ok(Some(digest));
        }
        let Some(stored) = self.archives.open(key).await? else { return Ok(None) };
        let mut digests = lock(&self.digests);
        if digests.len() >= DIGESTS {
            digests.clear();
        }
        digests.insert(key.clone(), (stored.seen, stored.digest));
        Ok(Some(stored.digest))
    }

    /// How many images were put right, and of how many that could not be said.
    async fn compare(&self, rows: Vec<ImageRow>) -> (u64, u64) {
        let (mut looked, mut done, mut failed) = (Vec::new(), 0, 0);
        for row in rows {
            let image_id = row.image_id.clone();
            match self.look(row).await {
                Ok(image) => looked.push(image),
                // The others have nothing to do with it.
                Err(error) => {
                    tracing::warn!(image_id, %error, "an image was not compared with the store");
                    failed += 1;
                }
            }
        }
        let is_gone = |looked: &LookedAt| matches!(looked, LookedAt::Gone { .. });
        if looked.len() >= WRONG_STORE && looked.iter().all(is_gone) {
            let (images, store) = (looked.len(), self.archives.describe());
            tracing::warn!(
                images,
                store,
                "no archive of any image is there: is it the right store?"
            );
            return (0, failed);
        }
        for image in looked {
            let mended = match &image {
                LookedAt::AsItShouldBe => continue,
                LookedAt::Another { row, image_id, key } => {
                    self.describe_anew(row, image_id, key).await
                }
                LookedAt::Foreign { row } | LookedAt::Gone { row } => self.forget(row).await,
            };
            match mended {
                Ok(mended) => done += u64::from(mended),
                Err(error) => {
                    tracing::warn!(%error, "an image was not put right");
                    failed += 1;
                }
            }
        }
        (done, failed)
    }

    async fn describe_anew(
        &self,
        row: &ImageRow,
        image_id: &ImageId,
        key: &Key,
    ) -> Result<bool, ReconcileError> {
        let archive = match self.archives.open(key).await {
            Ok(Some(archive)) => archive,
            Ok(None) => return Ok(false),
            Err(error) => {
                tracing::warn!(%key, %error, "an archive is not what its image says, nor readable");
                return Ok(false);
            }
        };
        let Ok(workspace) = row.workspace_id.parse::<WorkspaceId>() else { return Ok(false) };
        let spec =
            MigrateSpec { image_id: image_id.clone(), to: archive.version(), discard_kept: false };
        let submitted = self.queue.submit(NewJob {
            workspace,
            idempotency_key: Some(format!("describe {key} {}", archive.digest)),
            ..NewJob::new(JobSpec::Migrate(spec))
        });
        Ok(!submitted.await?.existing)
    }

    async fn forget(&self, row: &ImageRow) -> Result<bool, ReconcileError> {
        let forgotten = patiently(FORGET, async || {
            let mut db = Connection::acquire(&self.queue.pool, FORGET).await?;
            let forgotten = sqlx::query!(
                "WITH gone AS (
                     DELETE FROM image
                     WHERE workspace_id = $1 AND image_id = $2 AND job_id = $3
                       AND NOT EXISTS (SELECT FROM live_job WHERE live_job.image_id = $2)
                     RETURNING job_id)
                 UPDATE job SET is_kept = false FROM gone WHERE job.id = gone.job_id",
                row.workspace_id,
                row.image_id,
                row.job_id,
            )
            .execute(&mut *db)
            .await;
            db.answered(FORGET, forgotten)
        });
        Ok(forgotten.await?.rows_affected() > 0)
    }

    /// The next image ids; from the first again after the last.
    async fn free(&self) -> Result<u64, ReconcileError> {
        let after = lock(&self.after_owner).clone();
        let page = patiently(FREE, async || {
            let mut db = Connection::acquire(&self.queue.pool, FREE).await?;
            let page = sqlx::query!(
                r#"WITH page AS MATERIALIZED (
                       SELECT image_id, workspace_id, since FROM archive_owner
                       WHERE image_id > $1 ORDER BY image_id LIMIT $2),
                   idle AS MATERIALIZED (
                       SELECT image_id FROM page
                       WHERE since < now() - interval '1 hour'
                         AND NOT EXISTS (SELECT FROM image
                                         WHERE image.workspace_id = page.workspace_id
                                           AND image.image_id = page.image_id)
                         AND NOT EXISTS (SELECT FROM live_job
                                         WHERE live_job.image_id = page.image_id)),
                   -- Whoever is about to publish says so anew, and is seen if that was just now.
                   freed AS (
                       DELETE FROM archive_owner
                       WHERE image_id = ANY (ARRAY(SELECT image_id FROM idle))
                         AND since < now() - interval '1 hour'
                       RETURNING 1)
                   SELECT (SELECT max(image_id) FROM page HAVING count(*) = $2) AS last,
                          (SELECT count(*) FROM freed) AS "freed!""#,
                after,
                OWNERS,
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(FREE, page)
        });
        let page = page.await?;
        *lock(&self.after_owner) = page.last.unwrap_or_default();
        Ok(page.freed.unsigned_abs())
    }
}

fn lock<T>(place: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is whole at any time.
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Reconciler for Images {
    fn name(&self) -> &'static str {
        "images"
    }

    fn every(&self) -> Duration {
        Duration::from_mins(30)
    }

    async fn run(&self) -> Result<u64, ReconcileError> {
        // That asks the database alone, and has its turn however long the store takes.
        let freed = self.free().await?;
        let page = self.next().await?;
        let (mended, failed) = self.compare(page.rows).await;
        let done = freed + mended;
        // A store that is away is not asked for the next ones at once.
        Ok(if page.is_full && failed == 0 { done.max(BATCH) } else { done })
    }
}
