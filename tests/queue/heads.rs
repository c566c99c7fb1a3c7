//! Of the jobs of an image one may run at a time: which, and that none is forgotten when others come and
//! go at the same moment.

use std::collections::HashMap;

use clipwright::jobs::job::{JobState, Priority};
use clipwright::jobs::queue::NewJob;
use clipwright::jobs::reconcile::{Expiry, Reconciler as _};
use futures_util::future::try_join_all;
use uuid::Uuid;

use super::harness::{Fixture, error, new_job, result_for, within};

#[tokio::test(flavor = "multi_thread")]
async fn the_next_but_one_runs_when_the_next_one_is_cancelled_at_the_same_moment() {
    let f = Fixture::new().await;
    let (first, second, third) = (f.submit(7).await, f.submit(7).await, f.submit(7).await);
    let lease = f.claim("w").await.unwrap();
    assert_eq!(lease.job.id, first);
    // A cancellation whose commit takes its time.
    let mut cancelling = f.database.pool().begin().await.unwrap();
    let cancel = "DELETE FROM live_job WHERE job_id = $1";
    sqlx::query(cancel).bind(second).execute(&mut *cancelling).await.unwrap();
    let queue = f.queue.clone();
    let ending =
        tokio::spawn(async move { queue.succeed(&lease, &result_for(&lease.job)).await.unwrap() });
    f.until_somebody_waits().await;
    cancelling.commit().await.unwrap();
    within(ending).await.unwrap();
    assert_eq!(f.claim("w").await.map(|lease| lease.job.id), Some(third));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_job_does_not_wait_for_one_that_is_being_cancelled() {
    let f = Fixture::new().await;
    f.submit(7).await;
    f.sql("UPDATE live_job SET due_at = now() + interval '1 hour'").await;
    let mut cancelling = f.database.pool().begin().await.unwrap();
    let lock = "SELECT FROM live_job FOR UPDATE";
    sqlx::query(lock).execute(&mut *cancelling).await.unwrap();
    let new = within(f.submit(7)).await;
    sqlx::query("DELETE FROM live_job WHERE head").execute(&mut *cancelling).await.unwrap();
    cancelling.commit().await.unwrap();
    assert_eq!(f.claim("w").await.map(|lease| lease.job.id), Some(new));
}

#[tokio::test]
async fn the_highest_priority_of_an_image_goes_first_if_it_is_due() {
    let f = Fixture::new().await;
    let submit =
        async |priority| f.queue.submit(NewJob { priority, ..new_job(7) }).await.unwrap().job.id;
    let (low, high) = (submit(Priority::Low).await, submit(Priority::High).await);
    let lease = f.claim("w").await.unwrap();
    assert_eq!(lease.job.id, high);
    // Until its next attempt the other one has its turn.
    f.queue.fail(&lease, &error("x", true)).await.unwrap();
    let lease = f.claim("w").await.unwrap();
    assert_eq!(lease.job.id, low);
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    assert!(f.claim("w").await.is_none(), "not due yet");
    f.let_time_pass().await;
    assert_eq!(f.claim("w").await.unwrap().job.id, high);
}

/// Everything that adds, takes, gives back and ends jobs, all at once and for few images.
#[tokio::test(flavor = "multi_thread")]
async fn every_image_with_jobs_has_one_that_may_run() {
    let f = Fixture::new().await;
    let tasks = (0..8u64).map(|task| {
        let queue = f.queue.clone();
        tokio::spawn(async move {
            let mut mine: Vec<Uuid> = Vec::new();
            for step in 0..60u64 {
                let n = task * 31 + step * 17;
                let soon = (n % 5 == 0).then_some(std::time::Duration::from_millis(1));
                let new = NewJob { expires_in: soon, ..new_job(n % 3) };
                mine.push(queue.submit(new).await.unwrap().job.id);
                if n % 2 == 0 {
                    queue.cancel(mine.remove((n % mine.len() as u64) as usize)).await.unwrap();
                }
                if n % 7 == 0 {
                    Expiry { queue: queue.clone() }.run().await.unwrap();
                }
                let claim = super::harness::claim(&queue, "w", false).await.unwrap();
                if let Some(lease) = claim {
                    match n % 3 {
                        0 => queue.release(&lease).await.unwrap(),
                        1 => queue.fail(&lease, &error("x", true)).await.unwrap(),
                        _ => queue.succeed(&lease, &result_for(&lease.job)).await.unwrap(),
                    };
                }
            }
        })
    });
    within(try_join_all(tasks)).await.unwrap();
    let rows: Vec<(String, i64)> = sqlx::query_as(
        "SELECT image_id, count(*) FILTER (WHERE head) FROM live_job GROUP BY image_id",
    )
    .fetch_all(f.database.pool())
    .await
    .unwrap();
    for (image, heads) in rows.into_iter().collect::<HashMap<_, _>>() {
        assert_eq!(heads, 1, "image {image}");
    }
    // What is left can be worked off.
    f.let_time_pass().await;
    while let Some(lease) = f.claim("w").await {
        f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    }
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM live_job")
        .fetch_one(f.database.pool())
        .await
        .unwrap();
    assert_eq!(left, 0);
    let odd: i64 = sqlx::query_scalar("SELECT count(*) FROM job WHERE finished_at IS NULL")
        .fetch_one(f.database.pool())
        .await
        .unwrap();
    assert_eq!(odd, 0);
    assert_eq!(f.get(f.submit(1).await).await.state, JobState::Queued);
}
