//! What clients of the service do: submit, look, cancel, follow.

use clipwright::error::{Classify as _, Fault};
use clipwright::jobs::job::{JobKind, JobState, Priority};
use clipwright::jobs::pull::REGISTRY_SECRET;
use clipwright::jobs::queue::{JobFilter, NewJob, Queue, QueueError, Secrets, Vault};
use clipwright::jobs::reconcile::{BATCH, Expiry, LostKeys, Reconciler as _, Retention};
use clipwright::jobs::webhook::Webhook;
use clipwright::workspace::WorkspaceId;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::Row as _;
use uuid::Uuid;

use super::harness::{Fixture, claim, error, new_job, result_for, within};

#[tokio::test]
async fn a_job_is_submitted_claimed_and_completed() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let job = f.get(id).await;
    assert_eq!((job.state, job.attempt, job.max_attempts), (JobState::Queued, 0, 3));
    let image_id = job.spec.read().unwrap().image_id().clone();
    assert!(f.queue.image(&WorkspaceId::default(), &image_id).await.unwrap().is_none());

    let lease = f.claim("w1").await.unwrap();
    assert_eq!((lease.job.id, lease.job.attempt), (id, 1));
    assert_eq!(f.get(id).await.state, JobState::Running);
    assert!(f.claim("w2").await.is_none());

    let result = result_for(&lease.job);
    f.queue.succeed(&lease, &result).await.unwrap();
    let job = f.get(id).await;
    let shown = job.result.unwrap().read().unwrap();
    assert_eq!((job.state, &shown), (JobState::Succeeded, &result));
    assert!(job.finished_at.unwrap() >= job.started_at.unwrap());
    let image = f.queue.image(&WorkspaceId::default(), &result.image_id).await.unwrap().unwrap();
    assert_eq!((image.job_id, image.result.read().unwrap()), (id, result));
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
    assert!(matches!(refused, QueueError::IdempotencyMismatch));
    assert_eq!((refused.code(), refused.fault()), ("idempotency_mismatch", Fault::User));
    assert_eq!(f.story(id).await, ["queued"]);
    assert_ne!(f.submit(1).await, id);
}

/// All that a request says belongs to it.
#[tokio::test]
async fn a_key_that_comes_with_another_request_is_refused() {
    let f = Fixture::new().await;
    let hook = |host: &str| Some(Webhook::new(&format!("https://{host}/"), None).unwrap());
    let first = || NewJob {
        idempotency_key: Some("k".to_owned()),
        webhook: hook("one.example"),
        ..new_job(1)
    };
    let id = f.queue.submit(first()).await.unwrap().job.id;
    assert_eq!(f.queue.submit(first()).await.unwrap().job.id, id);
    for other in [
        NewJob { webhook: None, ..first() },
        NewJob { webhook: hook("other.example"), ..first() },
        NewJob { expires_in: Some(std::time::Duration::from_mins(1)), ..first() },
        NewJob { max_attempts: Some(1), ..first() },
    ] {
        let refused = f.queue.submit(other).await.unwrap_err();
        assert!(matches!(refused, QueueError::IdempotencyMismatch), "{refused}");
    }
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
        f.queue.list(filter).await.unwrap().jobs.into_iter().map(|job| job.id).collect()
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
    let id = f.queue.submit(NewJob { secrets: secrets_of(secret), ..new_job(1) }).await.unwrap();
    let id = id.job.id;
    assert!(dump(&f).await.contains(&id.to_string()));
    assert!(!found(&dump(&f).await, "correct-horse"));
    assert_eq!(secrets(&f).await, 1);

    let lease = f.claim("w").await.unwrap();
    assert_eq!(lease.secrets[REGISTRY_SECRET].expose_secret(), secret);
    assert!(!format!("{lease:?}").contains("correct-horse"));
    // A later attempt needs them as well.
    f.queue.release(&lease).await.unwrap();
    let lease = f.claim("w").await.unwrap();
    assert!(lease.secrets.contains_key(REGISTRY_SECRET));
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    assert_eq!(secrets(&f).await, 0);

    let cancelled = NewJob { secrets: secrets_of(secret), ..new_job(2) };
    let id = f.queue.submit(cancelled).await.unwrap().job.id;
    f.queue.cancel(id).await.unwrap();
    assert_eq!(secrets(&f).await, 0);
}

#[tokio::test]
async fn credentials_without_a_key_are_refused() {
    let f = Fixture::new().await;
    let keyless = Queue::new(f.database.pool().clone(), Vault::new([]));
    let new = NewJob { secrets: secrets_of("u:p"), ..new_job(1) };
    let refused = keyless.submit(new).await.unwrap_err();
    assert!(matches!(refused, QueueError::NoSecretKey), "{refused}");
    assert!(
        f.queue.list(JobFilter { limit: 9, ..JobFilter::default() }).await.unwrap().jobs.is_empty()
    );
}

/// What can't be claimed is not waited for: nobody else would be let in meanwhile.
#[tokio::test]
async fn a_silent_workers_job_of_another_key_disturbs_nobody() {
    let f = Fixture::new().await;
    let keyed = NewJob { secrets: secrets_of("u:p"), ..new_job(1) };
    f.queue.submit(keyed).await.unwrap();
    f.claim("dead").await.unwrap();
    f.let_time_pass().await;
    assert_eq!(f.reap().await, 1);
    assert!(f.queue.suspect_waits(&JobKind::ALL).await.unwrap());
    for vault in [Vault::new([]), Vault::new(["cd".repeat(32).parse().unwrap()])] {
        let queue = Queue::new(f.database.pool().clone(), vault);
        assert!(!queue.suspect_waits(&JobKind::ALL).await.unwrap());
        assert!(claim(&queue, "w", true).await.unwrap().is_none());
    }
}

/// Who lacks the key leaves the job, and its secrets, to those who have it.
#[tokio::test]
async fn a_job_waits_for_a_worker_that_has_its_key() {
    let f = Fixture::new().await;
    let keyed = NewJob { secrets: secrets_of("u:p"), ..new_job(1) };
    let keyed = f.queue.submit(keyed).await.unwrap().job.id;
    let plain = f.submit(2).await;
    let other = "cd".repeat(32).parse().unwrap();
    for vault in [Vault::new([]), Vault::new([other])] {
        let queue = Queue::new(f.database.pool().clone(), vault);
        let lease = claim(&queue, "w", false).await.unwrap().unwrap();
        assert_eq!(lease.job.id, plain);
        assert!(claim(&queue, "w", false).await.unwrap().is_none());
        let unknown = queue.unknown_keys().await.unwrap();
        assert_eq!(unknown.iter().map(|(_, jobs)| *jobs).collect::<Vec<_>>(), [1]);
        queue.release(&lease).await.unwrap();
    }
    assert!(f.queue.unknown_keys().await.unwrap().is_empty());
    assert_eq!(f.claim("w").await.unwrap().job.id, keyed);
    assert_eq!(secrets(&f).await, 1);
}

#[tokio::test]
async fn a_job_that_cannot_be_read_fails_and_does_not_block_the_queue() {
    let f = Fixture::new().await;
    let altered = NewJob { secrets: secrets_of("u:p"), ..new_job(1) };
    let altered = f.queue.submit(altered).await.unwrap().job.id;
    let corrupt = f.submit(2).await;
    let good = f.submit(3).await;
    f.sql("UPDATE job SET spec = '{\"kind\": \"pull\"}' WHERE image_id LIKE '%2'").await;
    f.sql("UPDATE job_secret SET ciphertext = '\\x00'").await;
    assert_eq!(f.claim("w").await.unwrap().job.id, good);
    assert_eq!(f.error(altered).await.unwrap().code, "credentials_undecipherable");
    assert_eq!(f.error(corrupt).await.unwrap().code, "row_corrupt");
    assert_eq!(f.get(corrupt).await.spec.json()["kind"], "pull", "shown as it is");
    for id in [altered, corrupt] {
        assert_eq!(f.story(id).await, ["queued", "started", "failed"]);
    }
}

/// A replica of the next version shares the database: what it writes is shown, and left to it.
#[tokio::test]
async fn rows_of_a_later_version_are_shown_and_not_run() {
    let f = Fixture::new().await;
    let (kind, version, state) = (f.submit(1).await, f.submit(2).await, f.submit(3).await);
    let known = f.submit(4).await;
    let newer = "UPDATE job SET kind = 'bake', spec = '{\"kind\": \"bake\", \"heat\": 9}'
                     WHERE image_id LIKE '%1';
                 UPDATE live_job SET kind = 'bake' WHERE image_id LIKE '%1';
                 UPDATE live_job SET spec_version = 99 WHERE image_id LIKE '%2';
                 UPDATE job SET state = 'paused', reason = 'lunch',
                                error = '{\"mood\": 1}' WHERE image_id LIKE '%3';
                 DELETE FROM live_job WHERE image_id LIKE '%3';
                 INSERT INTO job_event (job_id, seq, attempt, body)
                     SELECT id, 2, 0, '{\"event\": \"paused\", \"data\": {\"for\": 5}}' FROM job
                     WHERE image_id LIKE '%3'";
    f.sql(newer).await;
    assert_eq!(f.claim("w").await.unwrap().job.id, known);
    assert!(f.claim("w").await.is_none());
    let all = f.queue.list(JobFilter { limit: 9, ..JobFilter::default() }).await.unwrap().jobs;
    assert_eq!(all.len(), 4);
    assert_eq!(f.get(kind).await.spec.json()["heat"], 9);
    assert_eq!(f.get(version).await.state, JobState::Queued);
    let shown = f.get(state).await;
    assert_eq!((shown.state.as_str(), shown.reason.as_deref()), ("paused", Some("lunch")));
    assert_eq!(shown.error.unwrap().json()["mood"], 1);
    let events = f.events(state).await;
    assert_eq!((events[1].name(), &events[1].kind.json()["data"]["for"]), ("paused", &5.into()));
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

fn secrets_of(text: &str) -> Secrets {
    [(REGISTRY_SECRET.to_owned(), SecretString::from(text))].into()
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

#[tokio::test]
async fn the_highest_priority_goes_first_and_the_oldest_of_it() {
    let f = Fixture::new().await;
    let submit =
        async |n, priority| f.queue.submit(NewJob { priority, ..new_job(n) }).await.unwrap().job.id;
    let low = submit(1, Priority::Low).await;
    let (first, second) = (submit(2, Priority::Normal).await, submit(3, Priority::Normal).await);
    let high = submit(4, Priority::High).await;
    for id in [high, first, second, low] {
        assert_eq!(f.claim("w").await.unwrap().job.id, id);
    }
}

#[tokio::test]
async fn a_job_that_nobody_takes_in_time_expires() {
    let f = Fixture::new().await;
    let soon = Some(std::time::Duration::from_mins(1));
    let with_secret = NewJob { expires_in: soon, secrets: secrets_of("u:p"), ..new_job(1) };
    let (unrun, run) = (f.queue.submit(with_secret).await.unwrap().job.id, f.submit(2).await);
    let running = f.queue.submit(NewJob { expires_in: soon, ..new_job(3) }).await.unwrap().job.id;
    f.sql("UPDATE live_job SET due_at = now() + interval '1 hour' WHERE image_id LIKE '%1'").await;
    for id in [run, running] {
        assert_eq!(f.claim("w").await.unwrap().job.id, id);
    }
    let expiry = Expiry { queue: f.queue.clone() };
    assert_eq!(expiry.run().await.unwrap(), 0, "not yet");
    f.sql("UPDATE live_job SET expires_at = now()").await;
    assert_eq!(expiry.run().await.unwrap(), 1);
    assert_eq!(f.get(unrun).await.state, JobState::Expired);
    assert_eq!(f.story(unrun).await, ["queued", "expired"]);
    assert_eq!(f.get(running).await.state, JobState::Running);
    assert_eq!(secrets(&f).await, 0);
}

/// However large results are, a list is not.
#[tokio::test]
async fn a_list_of_large_jobs_is_short_and_says_that_there_are_more() {
    let f = Fixture::new().await;
    let mut ids = Vec::new();
    for n in 0..20 {
        ids.push(f.submit(n).await);
        let lease = f.claim("w").await.unwrap();
        let mut result = result_for(&lease.job);
        result.summary.warnings = vec!["w".repeat(1000); 1000];
        f.queue.succeed(&lease, &result).await.unwrap();
    }
    let mut seen = Vec::new();
    loop {
        let filter = JobFilter { before: seen.last().copied(), limit: 100, ..JobFilter::default() };
        let list = f.queue.list(filter).await.unwrap();
        assert!((1..=8).contains(&list.jobs.len()), "{}", list.jobs.len());
        seen.extend(list.jobs.iter().map(|job| job.id));
        if !list.more {
            break;
        }
    }
    ids.reverse();
    assert_eq!(seen, ids);

    let (mut found, mut after) = (0, None);
    loop {
        let (images, last) =
            f.queue.images(&WorkspaceId::default(), after.as_ref(), 100).await.unwrap();
        assert!((1..=8).contains(&images.len()), "{}", images.len());
        found += images.len();
        match last {
            Some(last) => after = Some(last),
            None => break,
        }
    }
    assert_eq!(found, ids.len());
}

#[tokio::test]
async fn a_job_that_was_taken_in_time_does_not_expire_between_its_attempts() {
    let f = Fixture::new().await;
    let soon = Some(std::time::Duration::from_millis(1));
    let mut ids = Vec::new();
    for n in 1..=2 {
        let new = NewJob { expires_in: soon, ..new_job(n) };
        ids.push(f.queue.submit(new).await.unwrap().job.id);
    }
    let (one, other) = (f.claim("w").await.unwrap(), f.claim("w").await.unwrap());
    f.queue.fail(&one, &error("registry_away", true)).await.unwrap();
    f.queue.release(&other).await.unwrap();
    assert_eq!(Expiry { queue: f.queue.clone() }.run().await.unwrap(), 0);
    for id in ids {
        assert_eq!(f.get(id).await.state, JobState::Queued);
    }
}

#[tokio::test]
async fn old_jobs_are_deleted_but_for_those_that_images_refer_to() {
    let f = Fixture::new().await;
    let mut done = Vec::new();
    for n in [1, 1, 2] {
        let id = f.submit(n).await;
        let lease = f.claim("w").await.unwrap();
        f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
        done.push(id);
    }
    let (cancelled, waiting) = (f.submit(3).await, f.submit(4).await);
    f.queue.cancel(cancelled).await.unwrap();
    let keep = std::time::Duration::from_hours(24);
    let retention = Retention { queue: f.queue.clone(), keep };
    assert_eq!(retention.run().await.unwrap(), 0, "too young");
    f.sql("UPDATE job SET finished_at = now() - interval '25 hours' WHERE finished_at IS NOT NULL")
        .await;
    assert_eq!(retention.run().await.unwrap(), 2);
    for (id, kept) in [(done[0], false), (done[1], true), (done[2], true), (cancelled, false)] {
        assert_eq!(f.queue.get(id).await.unwrap().is_some(), kept);
    }
    assert_eq!(f.get(waiting).await.state, JobState::Queued);
    assert_eq!(f.events(done[0]).await.len(), 0);
}

#[tokio::test]
async fn an_idempotency_key_is_forgotten_after_a_day_and_belongs_to_its_workspace() {
    let f = Fixture::new().await;
    f.sql("INSERT INTO workspace (id) VALUES ('other')").await;
    let keyed = |n| NewJob { idempotency_key: Some("k".to_owned()), ..new_job(n) };
    let first = f.queue.submit(keyed(1)).await.unwrap().job.id;
    let theirs = NewJob { workspace: "other".parse().unwrap(), ..keyed(2) };
    assert!(!f.queue.submit(theirs).await.unwrap().existing);
    assert_eq!(f.queue.submit(keyed(1)).await.unwrap().job.id, first);
    f.sql("UPDATE idempotency_key SET expires_at = now()").await;
    let second = f.queue.submit(keyed(3)).await.unwrap();
    assert!(!second.existing);
    assert_eq!(f.queue.submit(keyed(3)).await.unwrap().job.id, second.job.id);
}

#[tokio::test]
async fn where_more_keys_are_old_than_go_at_a_time_it_says_so() {
    let f = Fixture::new().await;
    f.submit(1).await;
    f.sql(
        "INSERT INTO idempotency_key (workspace_id, key, request_digest, job_id, expires_at)
         SELECT 'default', n::text, sha256(''), (SELECT id FROM job), now()
         FROM generate_series(1, 250) AS n",
    )
    .await;
    let expiry = Expiry { queue: f.queue.clone() };
    for gone in [BATCH, 50, 0] {
        assert_eq!(expiry.run().await.unwrap(), gone);
    }
}

/// What is sealed with a key that is gone does not wait for ever.
#[tokio::test]
async fn jobs_whose_key_is_gone_end_at_last() {
    let f = Fixture::new().await;
    let keyed = NewJob { secrets: secrets_of("u:p"), ..new_job(1) };
    let (lost, plain) = (f.queue.submit(keyed).await.unwrap().job.id, f.submit(2).await);
    let keyed = NewJob { secrets: secrets_of("u:p"), ..new_job(3) };
    let kept = f.queue.submit(keyed).await.unwrap().job.id;
    sqlx::query("UPDATE live_job SET key_id = 'gone' WHERE job_id = $1")
        .bind(lost)
        .execute(f.database.pool())
        .await
        .unwrap();
    let reconciler = LostKeys { queue: f.queue.clone() };
    assert_eq!(reconciler.run().await.unwrap(), 0, "it may come back");
    f.sql("UPDATE live_job SET due_at = now() - interval '8 days'").await;
    assert_eq!(reconciler.run().await.unwrap(), 1);
    assert_eq!(f.error(lost).await.unwrap().code, "credentials_undecipherable");
    assert_eq!(secrets(&f).await, 1);
    for id in [plain, kept] {
        assert_eq!(f.get(id).await.state, JobState::Queued);
    }
}
