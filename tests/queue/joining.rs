//! Jobs that ask for the same are one.

use clipwright::jobs::job::{JobSpec, JobState};
use clipwright::jobs::queue::{NewJob, QueueError, Sharing};
use futures_util::future::try_join_all;
use secrecy::SecretString;

use super::harness::{Fixture, error, new_job, result_for};

fn shared(n: u64, sharing: Sharing) -> NewJob {
    NewJob { sharing, ..new_job(n) }
}

fn with_secret(secret: &str) -> NewJob {
    let secrets = [("registry".to_owned(), SecretString::from(secret))].into();
    NewJob { secrets, ..shared(1, Sharing::WithActive) }
}

#[tokio::test]
async fn a_job_is_joined_until_it_ends() {
    let f = Fixture::new().await;
    let first = f.queue.submit(shared(1, Sharing::WithActive)).await.unwrap();
    assert!(!first.existing);
    let joins = async |new: NewJob| {
        let submitted = f.queue.submit(new).await.unwrap();
        assert_eq!(submitted.existing, submitted.job.id == first.job.id);
        submitted.existing
    };
    assert!(joins(shared(1, Sharing::WithActive)).await);
    assert!(!joins(shared(1, Sharing::Apart)).await);
    assert!(!joins(shared(2, Sharing::WithActive)).await);
    let mut other = shared(1, Sharing::WithActive);
    if let JobSpec::Pull(pull) = &mut other.spec {
        pull.force = true;
    }
    assert!(!joins(other).await);
    f.sql("INSERT INTO workspace (id) VALUES ('other')").await;
    let workspace = "other".parse().unwrap();
    assert!(!joins(NewJob { workspace, ..shared(1, Sharing::WithActive) }).await);

    let lease = f.claim("w").await.unwrap();
    assert_eq!(lease.job.id, first.job.id);
    assert!(joins(shared(1, Sharing::WithActive)).await, "it runs");
    f.queue.fail(&lease, &error("x", true)).await.unwrap();
    assert!(joins(shared(1, Sharing::WithActive)).await, "it will run again");
    f.queue.cancel(first.job.id).await.unwrap();
    assert!(!joins(shared(1, Sharing::WithActive)).await, "it ended");
}

#[tokio::test]
async fn one_that_is_to_be_cancelled_is_not_joined() {
    let f = Fixture::new().await;
    let first = f.queue.submit(shared(1, Sharing::WithActive)).await.unwrap();
    let _lease = f.claim("w").await.unwrap();
    f.queue.cancel(first.job.id).await.unwrap();
    assert!(!f.queue.submit(shared(1, Sharing::WithActive)).await.unwrap().existing);
}

#[tokio::test]
async fn who_brings_other_credentials_has_a_job_of_its_own() {
    let f = Fixture::new().await;
    let wrong = f.queue.submit(with_secret("u:wrong")).await.unwrap();
    let right = f.queue.submit(with_secret("u:right")).await.unwrap();
    assert_ne!(wrong.job.id, right.job.id);
    let again = f.queue.submit(with_secret("u:right")).await.unwrap();
    assert_eq!((again.job.id, again.existing), (right.job.id, true));
}

#[tokio::test]
async fn an_archive_that_is_there_is_the_answer() {
    let f = Fixture::new().await;
    let first = f.queue.submit(shared(1, Sharing::WithArchived)).await.unwrap();
    let lease = f.claim("w").await.unwrap();
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    let again = f.queue.submit(shared(1, Sharing::WithArchived)).await.unwrap();
    assert_eq!((again.job.id, again.existing), (first.job.id, true));
    assert_eq!(again.job.state, JobState::Succeeded);
    // Who wants it done does it, and then its result is the image's.
    let second = f.queue.submit(shared(1, Sharing::WithActive)).await.unwrap();
    assert!(!second.existing);
    let lease = f.claim("w").await.unwrap();
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    let again = f.queue.submit(shared(1, Sharing::WithArchived)).await.unwrap();
    assert_eq!(again.job.id, second.job.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_the_same_moment_one_is_made() {
    let f = Fixture::new().await;
    for n in 0..10 {
        let same = (0..8).map(|_| f.queue.submit(shared(n, Sharing::WithActive)));
        let submitted = try_join_all(same).await.unwrap();
        let made = submitted.iter().filter(|submitted| !submitted.existing).count();
        assert_eq!(made, 1);
        assert!(submitted.iter().all(|other| other.job.id == submitted[0].job.id));
    }
}

#[tokio::test]
async fn a_key_stands_for_the_job_that_was_joined() {
    let f = Fixture::new().await;
    let first = f.queue.submit(shared(1, Sharing::WithActive)).await.unwrap();
    let keyed =
        |n| NewJob { idempotency_key: Some("k".to_owned()), ..shared(n, Sharing::WithActive) };
    for _ in 0..2 {
        let joined = f.queue.submit(keyed(1)).await.unwrap();
        assert_eq!((joined.job.id, joined.existing), (first.job.id, true));
    }
    let other = f.queue.submit(keyed(2)).await;
    assert!(matches!(other, Err(QueueError::IdempotencyMismatch)), "{other:?}");
    f.queue.cancel(first.job.id).await.unwrap();
    assert_eq!(f.queue.submit(keyed(1)).await.unwrap().job.state, JobState::Cancelled);
}
