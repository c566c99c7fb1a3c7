//! Traces of images in the database: one an image, into which those of all starts are merged. Traces are
//! hints: one that is lost does no harm, and so nobody waits for another.

use serde_json::Value;

use super::Rollouts;
use crate::image_id::ImageId;
use crate::jobs::queue::{Connection, QueueError, patiently};
use crate::trace::{Trace, TraceDocument};
use crate::workspace::WorkspaceId;

/// So many starts are all taken in; of those of an image that are known better, one a second.
const FEW: i32 = 16;
/// How often somebody else may be faster.
const TRIES: u32 = 3;

/// What is there of an image.
struct Known {
    trace: Trace,
    revision: Option<i64>,
    starts: i32,
    is_enough: bool,
}

impl Rollouts {
    /// Takes in what starts of an image touched. How many starts its trace tells of; `None`: the workspace
    /// has no such image.
    pub async fn add_trace(
        &self,
        workspace: &WorkspaceId,
        image: &ImageId,
        trace: &Trace,
    ) -> Result<Option<i32>, QueueError> {
        let mut starts = 0;
        for _ in 0..TRIES {
            let Some(mut known) = self.known_trace(workspace, image).await? else {
                return Ok(None);
            };
            starts = known.starts;
            if known.is_enough || trace.starts() == 0 {
                break;
            }
            known.trace.merge(trace);
            if let Some(starts) = self.keep_trace(workspace, image, &known).await? {
                return Ok(Some(starts));
            }
        }
        Ok(Some(starts))
    }

    /// What starts of an image touched; `None`: the workspace has no such image.
    pub async fn trace(
        &self,
        workspace: &WorkspaceId,
        image: &ImageId,
    ) -> Result<Option<Trace>, QueueError> {
        let known = self.known_trace(workspace, image).await?;
        Ok(known.map(|known| known.trace))
    }

    async fn known_trace(
        &self,
        workspace: &WorkspaceId,
        image: &ImageId,
    ) -> Result<Option<Known>, QueueError> {
        const ACTION: &str = "read the trace of an image";
        let read = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let read = sqlx::query!(
                r#"SELECT trace.trace AS "trace?", trace.revision AS "revision?",
                          coalesce(trace.starts, 0) AS "starts!",
                          coalesce(trace.starts >= $3
                                   AND trace.updated_at > now() - interval '1 second', false)
                              AS "is_enough!"
                   FROM image LEFT JOIN image_trace AS trace USING (workspace_id, image_id)
                   WHERE image.workspace_id = $1 AND image.image_id = $2"#,
                workspace.as_str(),
                image.as_str(),
                FEW,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, read)
        });
        Ok(read.await?.map(|row| Known {
            trace: row.trace.and_then(parse).unwrap_or_default(),
            revision: row.revision,
            starts: row.starts,
            is_enough: row.is_enough,
        }))
    }

    /// Keeps a trace in the place of the one that it was made from; `None`: there is another by now.
    async fn keep_trace(
        &self,
        workspace: &WorkspaceId,
        image: &ImageId,
        known: &Known,
    ) -> Result<Option<i32>, QueueError> {
        const ACTION: &str = "keep the trace of an image";
        let document = serde_json::to_value(TraceDocument::from(&known.trace)).unwrap_or_default();
        let starts = i32::try_from(known.trace.starts()).unwrap_or(i32::MAX);
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let kept = sqlx::query_scalar!(
                "INSERT INTO image_trace AS trace (workspace_id, image_id, trace, starts)
                 SELECT workspace_id, image_id, $3, $4 FROM image
                 WHERE workspace_id = $1 AND image_id = $2 FOR KEY SHARE
                 ON CONFLICT (workspace_id, image_id) DO UPDATE
                 SET trace = excluded.trace, starts = excluded.starts, updated_at = now(),
                     revision = trace.revision + 1
                 WHERE trace.revision = $5
                 RETURNING starts",
                workspace.as_str(),
                image.as_str(),
                document,
                starts,
                known.revision,
            )
            .fetch_optional(&mut *db)
            .await;
            db.answered(ACTION, kept)
        })
        .await
    }
}

/// What another version wrote and this one does not understand is no trace.
fn parse(document: Value) -> Option<Trace> {
    serde_json::from_value::<TraceDocument>(document).ok()?.try_into().ok()
}
