//! What clients of the service do: submit, look, cancel, follow.

use clipwright::error::{Classify as _, Fault};
use clipwright::jobs::job::JobState;
use clipwright::jobs::queue::{JobFilter, NewJob, Queue, QueueError, Vault};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::Row as _;
use uuid::Uuid;

use super::harness::{Fixture, new_job, result_for, within};

#[tokio::test]
async fn a_job_is_submitted_claimed_and_completed() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let job = f.get(id).await;
    assert_eq!((job.state, job.attempt, job.max_attempts), (JobState::Queued, 0, 3));
    assert!(f.queue.image(job.spec.image_id()).await.unwrap().is_none());

    let lease = f.claim("w1").await.unwrap();
    assert_eq!((lease.job.id, lease.job.attempt), (id, 1));
    assert_eq!(f.get(id).await.state, JobState::Running);
    assert!(f.claim("w2").await.is_none());

    let result = result_for(&lease.job);
    f.queue.succeed(&lease, &result).await.unwrap();
    let job = f.get(id).await;
    assert_eq!((job.state, job.result.as_ref()), (JobState::Succeeded, Some(&result)));
    assert!(job.finished_at.unwrap() >= job.started_at.unwrap());
    let image = f.queue.image(&result.image_id).await.unwrap().unwrap();
    assert_eq!((image.job_id, image.result), (id, result));
    assert_eq!(f.story(id).await, ["queued", "started", "succeeded"]);
    assert!(f.queue.get(Uuid::now_v7()).await.unwrap().is_none());
    f.queue.ping().await.unwrap();
}

#[tokio::test]
async fn one_idempotency_key_makes_one_job() {
    let f = Fixture::new().await;
    let keyed = |n| NewJob { idempotency_key: Some("k".to_owned()), ..new_job(n) };
    let submitting = (0..8).map(|_| f.queue.submit(keyed(1)));
    let submitted = futures_util::future::try_join_all(submitting).await.unwrap();
    let id = submitted[0].job.id;
    assert!(submitted.iter().all(|submitted| submitted.job.id == id));
    assert_eq!(submitted.iter().filter(|submitted| !submitted.existing).count(), 1);

    let refused = f.queue.submit(keyed(2)).await.unwrap_err();
    assert!(matches!(refused, QueueError::IdempotencyMismatch { job } if job == id));
    assert_eq!((refused.code(), refused.fault()), ("idempotency_mismatch", Fault::User));
    assert_eq!(f.story(id).await, ["queued"]);
    assert_ne!(f.submit(1).await, id);
}

#[tokio::test]
async fn jobs_are_listed_newest_first_page_by_page() {
    let f = Fixture::new().await;
    let mut ids = Vec::new();
    for n in [1, 2, 1, 3] {
        ids.insert(0, f.submit(n).await);
    }
    f.queue.cancel(ids[0]).await.unwrap();
    let list = async |filter| -> Vec<Uuid> {
        f.queue.list(filter).await.unwrap().into_iter().map(|job| job.id).collect()
    };
    let all = || JobFilter { limit: 10, ..JobFilter::default() };
    assert_eq!(list(all()).await, ids);
    assert_eq!(list(JobFilter { limit: 2, ..all() }).await, ids[..2]);
    assert_eq!(list(JobFilter { before: Some(ids[1]), ..all() }).await, ids[2..]);
    assert_eq!(list(JobFilter { state: Some(JobState::Queued), ..all() }).await, ids[1..]);
    let image = format!("{:016x}", 1).parse().unwrap();
    assert_eq!(list(JobFilter { image_id: Some(image), ..all() }).await, [ids[1], ids[3]]);
}

#[tokio::test]
async fn a_queued_job_is_cancelled_at_once() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    assert_eq!(f.queue.cancel(id).await.unwrap().unwrap().state, JobState::Cancelled);
    assert_eq!(f.queue.cancel(id).await.unwrap().unwrap().state, JobState::Cancelled);
    assert_eq!(f.story(id).await, ["queued", "cancelled"]);
    assert!(f.claim("w").await.is_none());
    assert!(f.queue.cancel(Uuid::now_v7()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_running_job_hears_of_it_once_and_a_final_one_stays() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    for _ in 0..2 {
        assert_eq!(f.queue.cancel(id).await.unwrap().unwrap().state, JobState::Running);
    }
    f.queue.cancelled(&lease).await.unwrap();
    assert_eq!(f.queue.cancel(id).await.unwrap().unwrap().state, JobState::Cancelled);
    assert_eq!(f.story(id).await, ["queued", "started", "cancel_requested", "cancelled"]);

    let done = f.submit(2).await;
    let lease = f.claim("w").await.unwrap();
    f.queue.cancel(done).await.unwrap();
    // Its archive is in the store: that can't be taken back.
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    assert_eq!(f.queue.cancel(done).await.unwrap().unwrap().state, JobState::Succeeded);
}

#[tokio::test]
async fn a_reader_resumes_and_is_woken() {
    let f = Fixture::new().await;
    let (id, other) = (f.submit(1).await, f.submit(2).await);
    let mut wakes = f.queue.wakes(id);
    assert_eq!(f.queue.events(id, 0, 10).await.unwrap().len(), 1);
    assert!(f.queue.events(id, 1, 10).await.unwrap().is_empty());
    f.queue.cancel(other).await.unwrap();
    f.queue.cancel(id).await.unwrap();
    let news = within(async {
        loop {
            let events = f.queue.events(id, 1, 10).await.unwrap();
            if !events.is_empty() {
                return events;
            }
            wakes.next().await;
        }
    });
    let news = news.await;
    assert_eq!((news.len(), news[0].seq), (1, 2));
    assert_eq!(f.queue.events(id, 0, 1).await.unwrap()[0].seq, 1);
}

#[tokio::test]
async fn credentials_reach_the_worker_and_lie_nowhere_in_clear() {
    let f = Fixture::new().await;
    let secret = "robot:correct-horse-battery";
    let credentials = || Some(SecretString::from(secret));
    let id = f.queue.submit(NewJob { credentials: credentials(), ..new_job(1) }).await.unwrap();
    let id = id.job.id;
    assert!(dump(&f).await.contains(&id.to_string()));
    assert!(!found(&dump(&f).await, "correct-horse"));
    assert_eq!(secrets(&f).await, 1);

    let lease = f.claim("w").await.unwrap();
    assert_eq!(lease.credentials.as_ref().unwrap().expose_secret(), secret);
    assert!(!format!("{lease:?}").contains("correct-horse"));
    // A later attempt needs them as well.
    f.queue.release(&lease).await.unwrap();
    let lease = f.claim("w").await.unwrap();
    assert!(lease.credentials.is_some());
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    assert_eq!(secrets(&f).await, 0);

    let cancelled = NewJob { credentials: credentials(), ..new_job(2) };
    let id = f.queue.submit(cancelled).await.unwrap().job.id;
    f.queue.cancel(id).await.unwrap();
    assert_eq!(secrets(&f).await, 0);
}

#[tokio::test]
async fn credentials_without_a_key_or_in_the_source_are_refused() {
    let f = Fixture::new().await;
    let keyless = Queue::new(f.database.pool().clone(), Vault::new(None));
    let with = |source: &str| {
        let mut new = NewJob { credentials: Some("u:p".into()), ..new_job(1) };
        let clipwright::jobs::job::JobSpec::Pull(pull) = &mut new.spec else { panic!() };
        source.clone_into(&mut pull.source);
        new
    };
    let refused = keyless.submit(with("registry.example/app")).await.unwrap_err();
    assert!(matches!(refused, QueueError::NoSecretKey), "{refused}");
    let refused = f.queue.submit(with("u:p@registry.example/app")).await.unwrap_err();
    assert_eq!((refused.code(), refused.fault()), ("credentials_in_source", Fault::User));
    assert!(!refused.to_string().contains("u:p"));
    assert!(f.queue.list(JobFilter { limit: 9, ..JobFilter::default() }).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_job_that_cannot_be_read_fails_and_does_not_block_the_queue() {
    let f = Fixture::new().await;
    let keyed = NewJob { credentials: Some("u:p".into()), ..new_job(1) };
    let undecipherable = f.queue.submit(keyed).await.unwrap().job.id;
    let corrupt = f.submit(2).await;
    let good = f.submit(3).await;
    f.sql("UPDATE job SET spec = '{\"kind\": \"pull\"}' WHERE image_id LIKE '%2'").await;
    let keyless = Queue::new(f.database.pool().clone(), Vault::new(None));
    let lease = keyless.claim("w", super::harness::LEASE).await.unwrap().unwrap();
    assert_eq!(lease.job.id, good);
    let failed = f.get(undecipherable).await;
    assert_eq!(failed.error.unwrap().code, "credentials_undecipherable");
    assert_eq!(f.story(undecipherable).await, ["queued", "started", "failed"]);
    let error = f.queue.get(corrupt).await.unwrap_err();
    assert!(matches!(error, QueueError::Corrupt { .. }), "{error}");
    assert_eq!(f.events(corrupt).await.len(), 3);
}

#[tokio::test]
async fn a_job_of_a_kind_that_only_newer_workers_know_waits_for_one() {
    let f = Fixture::new().await;
    let (newer, known) = (f.submit(1).await, f.submit(2).await);
    f.sql("UPDATE job SET spec = spec || '{\"kind\": \"odd\"}' WHERE image_id LIKE '%1'").await;
    assert_eq!(f.claim("w").await.unwrap().job.id, known);
    assert!(f.claim("w").await.is_none());
    f.sql("UPDATE job SET spec = spec || '{\"kind\": \"pull\"}' WHERE image_id LIKE '%1'").await;
    assert_eq!(f.claim("w").await.unwrap().job.id, newer);
}

#[tokio::test]
async fn a_closed_pool_is_told_at_once() {
    let f = Fixture::new().await;
    let mut wakes = f.queue.wakes(Uuid::now_v7());
    wakes.next().await;
    within(f.database.pool().close()).await;
    let error = f.queue.ping().await.unwrap_err();
    assert_eq!((error.code(), error.fault()), ("database_unavailable", Fault::Upstream));
    let error = f.queue.submit(new_job(1)).await.unwrap_err();
    assert!(matches!(error, QueueError::Closed), "{error}");
}

async fn secrets(f: &Fixture) -> i64 {
    let row = sqlx::query("SELECT count(*) FROM job_secret").fetch_one(f.database.pool()).await;
    row.unwrap().get(0)
}

/// All rows of all tables as text.
async fn dump(f: &Fixture) -> String {
    let tables = sqlx::query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'");
    let tables = tables.fetch_all(f.database.pool()).await.unwrap();
    assert!(tables.len() >= 4);
    let mut text = String::new();
    for table in tables {
        let name: String = table.get(0);
        let sql = format!("SELECT \"{name}\"::text FROM \"{name}\"");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(f.database.pool()).await;
        for row in rows.unwrap() {
            text.push_str(row.get(0));
            text.push('\n');
        }
    }
    text
}

/// Whether it is there as text or as the hex digits that bytes are printed in.
fn found(dump: &str, secret: &str) -> bool {
    dump.contains(secret) || dump.contains(&hex::encode(secret))
}
