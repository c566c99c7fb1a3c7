//! Rows of images and the store part, and are brought together again.

use std::path::Path;

use clipwright::digest::Digest;
use clipwright::jobs::job::{ImageId, JobSpec, JobState, MigrateSpec};
use clipwright::jobs::queue::{JobFilter, NewJob};
use clipwright::jobs::reconcile::{BATCH, Images, Reconciler as _};
use clipwright::publish::archives::Stores;
use clipwright::store::StoreSettings;
use clipwright::workspace::WorkspaceId;
use uuid::Uuid;

use super::harness::{Fixture, new_job, result_for, within};

/// A fixture, a store, and the image of job number 1, whose archive is one byte long.
async fn published(directory: &Path) -> (Fixture, Images, ImageId, Uuid) {
    published_as(directory, b"x").await
}

async fn published_as(directory: &Path, archive: &[u8]) -> (Fixture, Images, ImageId, Uuid) {
    let f = Fixture::new().await;
    let settings = StoreSettings::Directory(directory.to_owned());
    let archives = Stores::open(&settings, |objects| objects).await.unwrap().archives;
    let images = Images::new(f.queue.clone(), archives);
    // The first run begins anywhere, the next one at the first image.
    assert_eq!(images.run().await.unwrap(), 0);
    put(directory, archive);
    let (own, image_id, id) = publish(&f, "default", archive).await;
    assert!(own);
    (f, images, image_id, id)
}

/// Under another file number than what was there.
fn put(directory: &Path, archive: &[u8]) {
    std::fs::write(directory.join("new"), archive).unwrap();
    std::fs::rename(directory.join("new"), directory.join("x.rclip")).unwrap();
}

/// Image number 1 of a workspace, whether the id is its own, and the job.
async fn publish(f: &Fixture, workspace: &str, archive: &[u8]) -> (bool, ImageId, Uuid) {
    let new = NewJob { workspace: workspace.parse().unwrap(), ..new_job(1) };
    let id = f.queue.submit(new).await.unwrap().job.id;
    let lease = f.claim("w").await.unwrap();
    let own = f.queue.own_archive(&lease).await.unwrap();
    let mut result = result_for(&lease.job);
    result.archive.size = archive.len() as u64;
    result.archive.digest = Digest::of(archive);
    f.queue.succeed(&lease, &result).await.unwrap();
    (own, result.image_id, id)
}

/// Only what has been so for a while is looked at.
const AGED: &str = "UPDATE image SET created_at = now() - interval '11 minutes';
                    UPDATE archive_owner SET since = now() - interval '61 minutes'";

#[tokio::test]
async fn an_image_whose_archive_is_gone_is_forgotten_and_its_id_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let (f, images, image_id, job) = published(directory.path()).await;
    f.sql(AGED).await;
    assert_eq!(images.run().await.unwrap(), 0, "all is well");
    std::fs::remove_file(directory.path().join("x.rclip")).unwrap();
    // Somebody is at it already.
    let busy = f.submit(1).await;
    assert_eq!(images.run().await.unwrap(), 0);
    f.queue.cancel(busy).await.unwrap();
    assert_eq!(images.run().await.unwrap(), 1, "the image");
    assert_eq!(images.run().await.unwrap(), 1, "the owner of its id");
    assert!(f.queue.image(&WorkspaceId::default(), &image_id).await.unwrap().is_none());
    assert_eq!(f.get(job).await.state, JobState::Succeeded, "what was, was");
    let kept: bool = sqlx::query_scalar("SELECT bool_or(is_kept) FROM job")
        .fetch_one(f.database.pool())
        .await
        .unwrap();
    assert!(!kept, "nothing refers to its result any more");
    assert_eq!(images.run().await.unwrap(), 0);
}

/// A volume is not mounted, or one replica has another store than the others.
#[tokio::test]
async fn images_are_not_forgotten_because_the_store_is_the_wrong_one() {
    let directory = tempfile::tempdir().unwrap();
    let (f, images, ..) = published(directory.path()).await;
    for n in 2..=10 {
        f.submit(n).await;
        let lease = f.claim("w").await.unwrap();
        let mut result = result_for(&lease.job);
        result.archive.key = format!("{n}.rclip");
        f.queue.succeed(&lease, &result).await.unwrap();
    }
    f.sql(AGED).await;
    std::fs::rename(directory.path().join("x.rclip"), directory.path().join("away")).unwrap();
    assert_eq!(images.run().await.unwrap(), 0);
    std::fs::rename(directory.path().join("away"), directory.path().join("x.rclip")).unwrap();
    assert_eq!(images.run().await.unwrap(), 9, "from the first again after the last");
}

/// There is one name for all workspaces: whose it isn't has the very same archive, or none.
#[tokio::test]
async fn an_image_whose_archive_is_another_workspaces_by_now_is_forgotten() {
    let directory = tempfile::tempdir().unwrap();
    let golden = include_bytes!("../fixtures/v2.clip");
    // Of one size.
    let [one, other] = [b"1", b"2"].map(|end| [&golden[..], end].concat());
    let (f, images, image_id, _) = published_as(directory.path(), &one).await;
    f.sql("INSERT INTO workspace (id) VALUES ('guest')").await;
    let (own, ..) = publish(&f, "guest", &one).await;
    assert!(!own);
    f.sql(AGED).await;
    assert_eq!(images.run().await.unwrap(), 0, "the very same");
    put(directory.path(), &other);
    assert_eq!(images.run().await.unwrap(), 1);
    let guest = "guest".parse().unwrap();
    assert!(f.queue.image(&guest, &image_id).await.unwrap().is_none());
    assert!(f.queue.image(&WorkspaceId::default(), &image_id).await.unwrap().is_some());
    let queued = JobFilter { state: Some(JobState::Queued), limit: 9, ..JobFilter::default() };
    let queued = JobFilter { workspace: guest, ..queued };
    assert!(f.queue.list(queued).await.unwrap().jobs.is_empty(), "nothing is described for it");
}

/// The others have nothing to do with it.
#[tokio::test]
async fn an_archive_that_cannot_be_looked_at_holds_no_other_up() {
    let directory = tempfile::tempdir().unwrap();
    let (f, images, ..) = published(directory.path()).await;
    f.submit(2).await;
    let lease = f.claim("w").await.unwrap();
    let mut result = result_for(&lease.job);
    result.archive.key = "gone.rclip".to_owned();
    f.queue.succeed(&lease, &result).await.unwrap();
    // It is nobody's, and no archive.
    f.sql("DELETE FROM archive_owner").await;
    f.sql(AGED).await;
    assert_eq!(images.run().await.unwrap(), 1);
}

/// Those of one page are not all there are.
#[tokio::test]
async fn a_full_page_is_followed_by_the_next_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let (f, images, ..) = published(directory.path()).await;
    f.sql(
        "INSERT INTO image (workspace_id, image_id, job_id)
         SELECT 'default', lpad(to_hex(n), 16, '0'), (SELECT job_id FROM image)
         FROM generate_series(2, 250) AS n",
    )
    .await;
    assert_eq!(images.run().await.unwrap(), BATCH);
    assert_eq!(images.run().await.unwrap(), 0);
}

/// Somebody is about to publish while the id, which looked free until now, is being freed.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_asked_for_at_the_same_moment_stays_its_owners() {
    let directory = tempfile::tempdir().unwrap();
    let (f, images, ..) = published(directory.path()).await;
    f.sql(AGED).await;
    f.sql("DELETE FROM image").await;
    let mut holding = f.database.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM archive_owner FOR UPDATE").execute(&mut *holding).await.unwrap();
    let freeing = tokio::spawn(async move { images.run().await.unwrap() });
    f.until_somebody_waits().await;
    f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    let queue = f.queue.clone();
    let asking = tokio::spawn(async move { queue.own_archive(&lease).await.unwrap() });
    // It may have its answer already, or wait too.
    tokio::task::yield_now().await;
    holding.rollback().await.unwrap();
    within(freeing).await.unwrap();
    assert!(within(asking).await.unwrap());
    let owners: i64 = sqlx::query_scalar("SELECT count(*) FROM archive_owner")
        .fetch_one(f.database.pool())
        .await
        .unwrap();
    assert_eq!(owners, 1);
}

#[tokio::test]
async fn an_image_whose_archive_is_another_is_described_anew() {
    let directory = tempfile::tempdir().unwrap();
    let (f, images, image_id, _) = published(directory.path()).await;
    f.sql(AGED).await;
    let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/v2.clip");
    std::fs::copy(golden, directory.path().join("x.rclip")).unwrap();
    assert_eq!(images.run().await.unwrap(), 1);
    let queued = JobFilter { state: Some(JobState::Queued), limit: 9, ..JobFilter::default() };
    let jobs = f.queue.list(queued).await.unwrap().jobs;
    let [job] = &jobs[..] else { panic!("{jobs:?}") };
    let spec = MigrateSpec { image_id, to: 2, discard_kept: false };
    assert_eq!(job.spec.read().unwrap(), JobSpec::Migrate(spec));
    // The job is there: nothing more is to be done for now.
    assert_eq!(images.run().await.unwrap(), 0);
}
