//! What clients of the service look up. Nothing is changed here, and nothing has to be understood: what
//! a later version wrote is given as it is.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::stream::{Stream, TryStreamExt as _};
use uuid::Uuid;

use super::connection::Connection;
use super::row::{JobRow, job_rows};
use super::{JobFilter, JobList, Queue, QueueError, once, patiently};
use crate::jobs::job::{Image, ImageId, Job, JobEvent, JobState};
use crate::jobs::recorded::Recorded;
use crate::workspace::WorkspaceId;

/// Bytes of JSON in a list. A job's result may have a MiB, and what is read of it takes several times that.
const MAX_LIST: usize = 8 << 20;
const PING_LIMIT: Duration = Duration::from_secs(2);
/// Probes ask often: so many keys are looked at, and so many jobs of each counted.
const MAX_KEYS: i32 = 20;
const MAX_COUNTED: i64 = 1000;

impl Queue {
    /// The job.
    pub async fn get(&self, id: Uuid) -> Result<Option<Job>, QueueError> {
        const ACTION: &str = "look a job up";
        let row = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let row = job_rows!("WHERE id = $1", id).fetch_optional(&mut *db).await;
            db.answered(ACTION, row)
        });
        row.await?.map(JobRow::into_job).transpose()
    }

    /// Jobs, newest first: so many as were asked for, and fewer if they are large.
    pub async fn list(&self, filter: JobFilter) -> Result<JobList, QueueError> {
        const ACTION: &str = "list jobs";
        let JobFilter { workspace, state, image_id, before, limit } = &filter;
        let workspace = workspace.as_str();
        let before = before.unwrap_or(Uuid::max());
        let state = state.as_ref().map(JobState::as_str);
        let image = image_id.as_ref().map(ImageId::as_str);
        // One more than asked for tells whether there are more.
        let enough = limit.saturating_add(1);
        let page = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            // One statement each, and each in the words of its index: no other one has the order, and what is
            // the same of all rows is part of the order too, whatever statistics say of how many there are.
            let page = match (image, state) {
                (None, None) => {
                    let rows = job_rows!(
                        "WHERE workspace_id >= $1 AND (workspace_id, id) < ($1, $2)
                         ORDER BY workspace_id DESC, id DESC LIMIT $3",
                        workspace,
                        before,
                        enough,
                    );
                    Page::read(rows.fetch(&mut *db), *limit, JobRow::bytes).await
                }
                (None, Some(state)) => {
                    let rows = job_rows!(
                        "WHERE (workspace_id, state) >= ($1, $4)
                           AND (workspace_id, state, id) < ($1, $4, $2)
                         ORDER BY workspace_id DESC, state DESC, id DESC LIMIT $3",
                        workspace,
                        before,
                        enough,
                        state,
                    );
                    Page::read(rows.fetch(&mut *db), *limit, JobRow::bytes).await
                }
                (Some(image), state) => {
                    let rows = job_rows!(
                        "WHERE (workspace_id, image_id) >= ($1, $4)
                           AND (workspace_id, image_id, id) < ($1, $4, $2)
                           AND ($5::text IS NULL OR state = $5)
                         ORDER BY workspace_id DESC, image_id DESC, id DESC LIMIT $3",
                        workspace,
                        before,
                        enough,
                        image,
                        state,
                    );
                    Page::read(rows.fetch(&mut *db), *limit, JobRow::bytes).await
                }
            };
            match page {
                // The rest is still on its way: the connection goes.
                Ok(page) if page.is_cut => Ok(page),
                page => db.answered(ACTION, page),
            }
        });
        let Page { rows, more, .. } = page.await?;
        let jobs = rows.into_iter().map(JobRow::into_job).collect::<Result<_, _>>()?;
        Ok(JobList { jobs, more })
    }

    /// The events of a job after the one of seq `after_seq`, in order, at most `limit`.
    pub async fn events(
        &self,
        id: Uuid,
        after_seq: i64,
        limit: i64,
    ) -> Result<Vec<JobEvent>, QueueError> {
        const ACTION: &str = "read events";
        let rows = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            // The result of a success is in the job alone.
            let rows = sqlx::query!(
                r#"SELECT seq, at, attempt,
                          CASE WHEN kind = 'succeeded' THEN
                              body || jsonb_build_object('data', jsonb_build_object('result',
                                  (SELECT result FROM job WHERE id = job_id)))
                          ELSE body END AS "body!"
                   FROM job_event WHERE job_id = $1 AND seq > $2
                   ORDER BY seq LIMIT $3"#,
                id,
                after_seq,
                limit
            )
            .fetch_all(&mut *db)
            .await;
            db.answered(ACTION, rows)
        });
        let rows = rows.await?.into_iter();
        Ok(rows
            .map(|row| JobEvent {
                seq: row.seq,
                at: row.at,
                attempt: row.attempt,
                kind: Recorded::from_json(row.body),
            })
            .collect())
    }

    /// The image of a workspace, if its archive is in the store.
    pub async fn image(
        &self,
        workspace: &WorkspaceId,
        image_id: &ImageId,
    ) -> Result<Option<Image>, QueueError> {
        const ACTION: &str = "look an image up";
        let row = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let row = sqlx::query!(
                r#"SELECT job.result AS "result!", image.job_id, image.created_at
                   FROM image JOIN job ON job.id = image.job_id
                   WHERE image.workspace_id = $1 AND image.image_id = $2"#,
                workspace.as_str(),
                image_id.as_str()
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, row)
        });
        Ok(row.await?.map(|row| Image {
            result: Recorded::from_json(row.result),
            job_id: row.job_id,
            created_at: row.created_at,
        }))
    }

    /// Images of the workspace whose ids sort behind `after`, in their order, at most `limit`; and the
    /// last of them if there are more.
    pub async fn images(
        &self,
        workspace: &WorkspaceId,
        after: Option<&ImageId>,
        limit: i64,
    ) -> Result<(Vec<Image>, Option<ImageId>), QueueError> {
        const ACTION: &str = "list images";
        let page = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let rows = sqlx::query_as!(
                ImageRow,
                r#"SELECT image_id, job_id, created_at,
                          (SELECT result FROM job WHERE id = job_id) AS "result!"
                   FROM image WHERE workspace_id = $1 AND image_id > $2
                   ORDER BY image_id LIMIT $3"#,
                workspace.as_str(),
                after.map_or("", ImageId::as_str),
                limit.saturating_add(1),
            );
            let bytes = |row: &ImageRow| row.result.to_string().len();
            match Page::read(rows.fetch(&mut *db), limit, bytes).await {
                // The rest is still on its way: the connection goes.
                Ok(page) if page.is_cut => Ok(page),
                page => db.answered(ACTION, page),
            }
        });
        let Page { rows, more, .. } = page.await?;
        let last = rows.last().filter(|_| more).and_then(|row| row.image_id.parse().ok());
        let images = rows.into_iter().map(|row| Image {
            result: Recorded::from_json(row.result),
            job_id: row.job_id,
            created_at: row.created_at,
        });
        Ok((images.collect(), last))
    }

    /// Whether a job about the image waits or runs, whosever it is.
    pub async fn is_worked_on(&self, image_id: &ImageId) -> Result<bool, QueueError> {
        const ACTION: &str = "look for jobs of an image";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let found = sqlx::query_scalar!(
                r#"SELECT EXISTS (SELECT FROM live_job WHERE image_id = $1) AS "found!""#,
                image_id.as_str()
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(ACTION, found)
        })
        .await
    }

    /// The keys that secrets of waiting jobs and webhooks that are not settled are sealed with and that are
    /// not here, with how many jobs there are of each (1000 are counted at most): this process neither
    /// claims these nor tells of them.
    pub async fn unknown_keys(&self) -> Result<Vec<(String, i64)>, QueueError> {
        const ACTION: &str = "look for unknown keys";
        let keys = self.vault.key_ids();
        once(ACTION, PING_LIMIT, async {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let unknown = sqlx::query!(
                // From one key to the next, however many jobs wait for each.
                r#"WITH RECURSIVE sealed AS (
                       SELECT least((SELECT key_id FROM live_job
                                     WHERE key_id <> '' AND worker_id IS NULL
                                     ORDER BY key_id LIMIT 1),
                                    (SELECT key_id FROM webhook ORDER BY key_id LIMIT 1))
                                  AS key_id, 1 AS n
                       UNION ALL
                       SELECT least((SELECT key_id FROM live_job
                                     WHERE key_id <> '' AND worker_id IS NULL
                                       AND key_id > sealed.key_id ORDER BY key_id LIMIT 1),
                                    (SELECT key_id FROM webhook WHERE key_id > sealed.key_id
                                     ORDER BY key_id LIMIT 1)), n + 1
                       FROM sealed WHERE sealed.key_id IS NOT NULL AND n < $2)
                   SELECT sealed.key_id AS "key_id!", waiting.jobs AS "jobs!"
                   FROM sealed CROSS JOIN LATERAL (
                       SELECT count(*) AS jobs FROM (
                           (SELECT job_id FROM live_job
                            WHERE key_id = sealed.key_id AND key_id <> '' AND worker_id IS NULL
                            LIMIT $3)
                           UNION
                           (SELECT job_id FROM webhook
                            WHERE key_id = sealed.key_id AND state IN ('due', 'waiting')
                            LIMIT $3)
                           LIMIT $3) AS counted) AS waiting
                   WHERE sealed.key_id <> ALL($1) AND waiting.jobs > 0
                   ORDER BY sealed.key_id"#,
                &keys,
                MAX_KEYS,
                MAX_COUNTED,
            )
            .fetch_all(&mut *db)
            .await;
            let unknown = db.answered(ACTION, unknown)?;
            Ok(unknown.into_iter().map(|row| (row.key_id, row.jobs)).collect())
        })
        .await
    }

    /// Whether the database answers: one try, two seconds.
    pub async fn ping(&self) -> Result<(), QueueError> {
        const ACTION: &str = "answer";
        once(ACTION, PING_LIMIT, async {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let one = sqlx::query_scalar!("SELECT 1 AS one FROM live_job LIMIT 1")
                .fetch_optional(&mut *db)
                .await;
            db.answered(ACTION, one).map(drop)
        })
        .await
    }
}

/// A row of a list of images.
struct ImageRow {
    image_id: String,
    job_id: Uuid,
    created_at: DateTime<Utc>,
    result: serde_json::Value,
}

/// The rows of a list.
struct Page<T> {
    rows: Vec<T>,
    more: bool,
    /// Not all that was asked for was read.
    is_cut: bool,
}

impl<T> Page<T> {
    /// At least one, if there is any; at most `limit` of them, and no more than [`MAX_LIST`] bytes. These
    /// are counted here: in the database they are compressed, by as much as their owner likes.
    async fn read(
        mut stream: impl Stream<Item = Result<T, sqlx::Error>> + Unpin,
        limit: i64,
        size: impl Fn(&T) -> usize,
    ) -> Result<Self, sqlx::Error> {
        let limit = usize::try_from(limit).unwrap_or_default();
        let mut page = Self { rows: Vec::new(), more: false, is_cut: false };
        let mut bytes = 0;
        while let Some(row) = stream.try_next().await? {
            bytes += size(&row);
            page.is_cut = bytes > MAX_LIST && !page.rows.is_empty();
            page.more = page.is_cut || page.rows.len() >= limit;
            if page.is_cut {
                break;
            }
            if !page.more {
                page.rows.push(row);
            }
        }
        Ok(page)
    }
}
