//! Whose the archive of an image is, and the end of an image: its archive, and then what says that it is
//! there.

use std::time::Duration;

use serde_json::json;
use sqlx::Connection as _;
use tokio::time::timeout;

use super::{Change, WorkspaceError, Workspaces};
use crate::image_id::ImageId;
use crate::jobs::queue::{Connection, QueueError, patiently};
use crate::publish::PublishError;
use crate::publish::archives::{ArchiveName, ArchiveStore};
use crate::workspace::WorkspaceId;

const ACTION: &str = "delete an image";
/// Shorter than the database bears a transaction in which nothing happens.
const LIMIT: Duration = Duration::from_secs(20);
/// Images that are deleted at a time: each has one of few connections while the store is asked.
pub(super) const DELETING: usize = 2;
/// How long to wait for one of these places.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of deleting an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageEnd {
    /// It is gone.
    Deleted,
    /// The workspace has none of that id.
    Missing,
    /// A job of the workspace about it waits or runs.
    Busy,
    /// Others are being deleted, which takes its time.
    Crowded,
}

impl Workspaces {
    /// Whether what is published under the image id is the workspace's. There is one name for all workspaces:
    /// others may have an image of that id too, as long as its archive is the very same.
    pub async fn owns_archive(
        &self,
        workspace: &WorkspaceId,
        image_id: &ImageId,
    ) -> Result<bool, QueueError> {
        const ACTION: &str = "look up whose an archive is";
        patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            let own = sqlx::query_scalar!(
                r#"SELECT EXISTS (
                       SELECT FROM archive_owner
                       WHERE image_id = $1 AND workspace_id = $2) AS "own!""#,
                image_id.as_str(),
                workspace.as_str()
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(ACTION, own)
        })
        .await
    }

    /// Deletes an image: its archive, archives of it that migrations kept, data beside them, and what the
    /// database says of it; the image id is free again. The job that made it stays for its time.
    ///
    /// Who is about to publish under the id says first whose it is: that row is locked meanwhile, so that
    /// no archive is removed but the one that is deleted. Jobs of other workspaces are none of its concern:
    /// they can't publish under it before that.
    pub async fn delete_image(
        &self,
        archives: &dyn ArchiveStore,
        workspace: &WorkspaceId,
        image_id: &ImageId,
        change: &Change,
    ) -> Result<ImageEnd, WorkspaceError> {
        let Ok(Ok(_place)) = timeout(PATIENCE, self.deleting.acquire()).await else {
            return Ok(ImageEnd::Crowded);
        };
        let mut db = Connection::acquire(&self.pool, ACTION).await?;
        let deleting = delete(&mut db, archives, workspace, image_id, change);
        let Ok(deleted) = timeout(LIMIT, deleting).await else {
            let reason = format!("no answer within {LIMIT:?}");
            return Err(QueueError::Unavailable { action: ACTION, reason }.into());
        };
        Ok(db.answered(ACTION, deleted)??)
    }
}

async fn delete(
    db: &mut Connection,
    archives: &dyn ArchiveStore,
    workspace: &WorkspaceId,
    image_id: &ImageId,
    change: &Change,
) -> Result<Result<ImageEnd, PublishError>, sqlx::Error> {
    let mut step = (**db).begin().await?;
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM image WHERE workspace_id = $1 AND image_id = $2) AS "found!""#,
        workspace.as_str(),
        image_id.as_str()
    )
    .fetch_one(&mut *step)
    .await?;
    if !found {
        return Ok(Ok(ImageEnd::Missing));
    }
    let owner = sqlx::query_scalar!(
        "INSERT INTO archive_owner (image_id, workspace_id) VALUES ($1, $2)
         ON CONFLICT (image_id) DO UPDATE SET since = archive_owner.since
         RETURNING workspace_id",
        image_id.as_str(),
        workspace.as_str()
    )
    .fetch_one(&mut *step)
    .await?;
    let busy = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM live_job JOIN job ON job.id = live_job.job_id
               WHERE live_job.image_id = $1 AND job.workspace_id = $2) AS "busy!""#,
        image_id.as_str(),
        workspace.as_str()
    )
    .fetch_one(&mut *step)
    .await?;
    if busy {
        return Ok(Ok(ImageEnd::Busy));
    }
    // What is under the id may have become somebody else's: then there is only a row too many.
    if owner == workspace.as_str()
        && let Err(error) = remove(archives, image_id).await
    {
        return Ok(Err(error));
    }
    sqlx::query!(
        "WITH gone AS (
             DELETE FROM image WHERE workspace_id = $1 AND image_id = $2 RETURNING job_id),
         freed AS (DELETE FROM archive_owner WHERE workspace_id = $1 AND image_id = $2),
         noted AS (
             INSERT INTO audit_event (id, actor, action, workspace_id, subject, detail, request_id)
             SELECT $3, $4, 'image.delete', $1, $2, $5, $6 FROM gone)
         UPDATE job SET is_kept = false FROM gone WHERE job.id = gone.job_id",
        workspace.as_str(),
        image_id.as_str(),
        change.id(),
        change.actor(),
        json!({}),
        change.request_id(),
    )
    .execute(&mut *step)
    .await?;
    step.commit().await?;
    Ok(Ok(ImageEnd::Deleted))
}

/// The archive goes first: an image without one is forgotten, should this end in the middle.
async fn remove(archives: &dyn ArchiveStore, image_id: &ImageId) -> Result<(), PublishError> {
    archives.remove(&archives.key(&ArchiveName::Image(image_id.clone()))).await?;
    for version in [1, 2] {
        for kept in archives.kept(image_id, version).await? {
            archives.remove(&kept).await?;
        }
    }
    archives.remove_data(image_id).await?;
    Ok(())
}
