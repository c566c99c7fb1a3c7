//! Registries that do not answer: their jobs wait without a worker.

use std::time::Duration;

use clipwright::jobs::job::{JobSpec, JobState};
use clipwright::jobs::queue::NewJob;
use clipwright::jobs::reconcile::{Hosts, Reconciler as _};
use uuid::Uuid;

use super::harness::{Fixture, error, new_job, result_for};

const DEAD: &str = "dead.example";

/// A pull from `host`.
fn from(host: &str, n: u64) -> NewJob {
    let mut new = new_job(n);
    if let JobSpec::Pull(pull) = &mut new.spec {
        pull.source = format!("{host}/app:1").parse().unwrap();
    }
    new
}

async fn submit(f: &Fixture, host: &str, n: u64) -> Uuid {
    f.queue.submit(from(host, n)).await.unwrap().job.id
}

/// Claims a job and finds its registry away: which it was, and whether the registry rests.
async fn fail(f: &Fixture) -> Option<(Uuid, bool)> {
    let lease = f.claim("w").await?;
    let rests = f.queue.host_away(DEAD, lease.job.id).await.unwrap();
    f.queue.fail(&lease, &error("registry_unavailable", true)).await.unwrap();
    Some((lease.job.id, rests))
}

async fn reconcile(f: &Fixture) -> u64 {
    Hosts { queue: f.queue.clone() }.run().await.unwrap()
}

async fn reason(f: &Fixture, id: Uuid) -> Option<String> {
    f.get(id).await.reason
}

#[tokio::test]
async fn a_registry_that_is_away_holds_up_its_own_jobs_alone() {
    let f = Fixture::new().await;
    let mut dead = Vec::new();
    for n in 0..600 {
        dead.push(submit(&f, DEAD, n).await);
    }
    let alive = submit(&f, "alive.example", 1000).await;
    for (n, first) in dead[..3].iter().enumerate() {
        assert_eq!(fail(&f).await, Some((*first, n == 2)));
    }
    let lease = f.claim("w").await.unwrap();
    assert_eq!(lease.job.id, alive);
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    f.let_time_pass().await;
    assert!(f.claim("w").await.is_none());
    assert_eq!(reason(&f, dead[10]).await.as_deref(), Some("registry_away"));
    // Nor do new ones and those that have tried run.
    let new = submit(&f, DEAD, 2000).await;
    assert_eq!(reason(&f, new).await.as_deref(), Some("registry_away"));
    assert!(f.claim("w").await.is_none());

    // After a rest one tries, each time another.
    assert_eq!(reconcile(&f).await, 0, "it rests yet");
    let mut tried = std::collections::HashSet::new();
    for _ in 0..3 {
        f.sql("UPDATE resting_host SET rests_until = now()").await;
        assert_eq!(reconcile(&f).await, 1);
        assert_eq!(reconcile(&f).await, 0, "one at a time");
        let (job, rests) = fail(&f).await.unwrap();
        assert!(rests && tried.insert(job));
        f.let_time_pass().await;
        assert_eq!(fail(&f).await, None, "it waits with the others");
    }
    // It is back.
    f.sql("UPDATE resting_host SET rests_until = now()").await;
    reconcile(&f).await;
    let lease = f.claim("w").await.unwrap();
    f.queue.host_answered(DEAD).await.unwrap();
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    let waiting = "SELECT count(*) FROM live_job WHERE parked_at IS NOT NULL";
    let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(f.database.pool()).await.unwrap();
    assert_eq!(waiting, 0);
    assert!(f.claim("w").await.is_some());
}

#[tokio::test]
async fn one_job_that_fails_again_and_again_says_nothing_of_its_registry() {
    let f = Fixture::new().await;
    let bad = submit(&f, DEAD, 1).await;
    for _ in 0..3 {
        assert_eq!(fail(&f).await, Some((bad, false)));
        f.let_time_pass().await;
    }
    // Nor do failures that others have success between.
    submit(&f, DEAD, 2).await;
    f.queue.host_answered(DEAD).await.unwrap();
    assert!(fail(&f).await.is_some_and(|(_, rests)| !rests));
    // Or that are far apart.
    for n in 3..9 {
        f.sql("UPDATE resting_host SET failed_at = now() - interval '11 minutes'").await;
        submit(&f, DEAD, n).await;
        assert!(fail(&f).await.is_some_and(|(_, rests)| !rests));
    }
}

#[tokio::test]
async fn who_has_waited_for_too_long_fails() {
    let f = Fixture::new().await;
    for n in 0..5 {
        submit(&f, DEAD, n).await;
    }
    for _ in 0..3 {
        fail(&f).await.unwrap();
    }
    let last = submit(&f, DEAD, 9).await;
    assert_eq!(reconcile(&f).await, 0);
    let f = Fixture { queue: f.queue.clone().with_retry_for(Duration::ZERO), ..f };
    assert_eq!(reconcile(&f).await, 6);
    let job = f.get(last).await;
    assert_eq!(
        (&job.state, job.reason.as_deref()),
        (&JobState::Failed, Some("registry_unavailable"))
    );
    assert_eq!(f.error(last).await.unwrap().code, "registry_unavailable");
    assert_eq!(f.story(last).await, ["queued", "failed"]);
    // Nobody remembers for ever.
    f.sql("UPDATE resting_host SET failed_at = now() - interval '11 minutes'").await;
    reconcile(&f).await;
    let known: i64 = sqlx::query_scalar("SELECT count(*) FROM resting_host")
        .fetch_one(f.database.pool())
        .await
        .unwrap();
    assert_eq!(known, 0);
}

/// Who tries whether a registry is back is somebody who may run.
#[tokio::test]
async fn a_job_that_nobody_can_claim_keeps_nobody_from_trying() {
    let f = Fixture::new().await;
    f.sql("INSERT INTO workspace (id, max_running) VALUES ('full', 0)").await;
    let full = NewJob { workspace: "full".parse().unwrap(), ..from(DEAD, 1) };
    f.queue.submit(full).await.unwrap();
    for n in 2..=4 {
        submit(&f, DEAD, n).await;
        assert!(fail(&f).await.is_some());
    }
    let late = submit(&f, DEAD, 5).await;
    f.sql(
        "UPDATE live_job SET parked_at = now() - interval '30 minutes' WHERE workspace_id = 'full'",
    )
    .await;
    f.let_time_pass().await;
    for _ in 0..4 {
        f.sql("UPDATE resting_host SET rests_until = now()").await;
        assert_eq!(reconcile(&f).await, 1);
        let lease = f.claim("w").await.unwrap();
        if lease.job.id == late {
            return;
        }
        f.queue.host_away(DEAD, lease.job.id).await.unwrap();
        f.queue.fail(&lease, &error("registry_unavailable", true)).await.unwrap();
    }
    panic!("it never tried");
}

/// What nobody has tried is not said to be away.
#[tokio::test]
async fn jobs_of_a_registry_that_nobody_tried_lately_go_on_waiting() {
    let f = Fixture::new().await;
    for n in 1..=4 {
        submit(&f, DEAD, n).await;
    }
    for _ in 0..3 {
        fail(&f).await;
    }
    f.sql("UPDATE live_job SET parked_at = now() - interval '1 day' WHERE parked_at IS NOT NULL")
        .await;
    f.sql("UPDATE resting_host SET failed_at = now() - interval '1 hour', rests_until = now() + interval '1 minute'").await;
    assert_eq!(reconcile(&f).await, 0);
    f.sql("UPDATE resting_host SET failed_at = now()").await;
    assert!(reconcile(&f).await > 0);
}
