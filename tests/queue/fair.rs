//! Workspaces share the workers, and none runs or queues more than it may.

use clipwright::jobs::job::{JobState, Priority};
use clipwright::jobs::queue::{NewJob, QueueError};
use clipwright::workspace::WorkspaceId;
use uuid::Uuid;

use super::harness::{Fixture, error, new_job, result_for};

fn of(workspace: &str, n: u64) -> NewJob {
    NewJob { workspace: workspace.parse().unwrap(), ..new_job(n) }
}

async fn fixture() -> Fixture {
    let f = Fixture::new().await;
    f.sql("INSERT INTO workspace (id) VALUES ('a'), ('b'), ('c')").await;
    f
}

/// Adds waiting jobs of a workspace, faster than it could.
async fn flood(f: &Fixture, workspace: &str, count: i64) {
    let sql = format!(
        "WITH added AS (
             INSERT INTO job (id, workspace_id, kind, spec_version, spec, spec_digest, image_id,
                              priority, max_attempts)
             SELECT gen_random_uuid(), '{workspace}', 'pull', 1, '{{}}',
                    decode(repeat('00', 32), 'hex'), 'f' || lpad(to_hex(n), 15, '0'), 1, 3
             FROM generate_series(1, {count}) AS n RETURNING id, image_id)
         INSERT INTO live_job (job_id, kind, spec_version, image_id, priority, head)
         SELECT id, 'pull', 1, image_id, 1, true FROM added"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(f.database.pool()).await.unwrap();
}

#[tokio::test]
async fn ten_thousand_jobs_hold_up_nobody_elses() {
    let f = fixture().await;
    // Whoever adds rows as replicas of the version before do is still known by its workspace.
    flood(&f, "a", 10_000).await;
    let single = f.queue.submit(NewJob { priority: Priority::Low, ..of("b", 1) }).await.unwrap();
    assert_eq!(f.claim("w").await.unwrap().job.id, single.job.id);
}

#[tokio::test]
async fn workspaces_take_turns() {
    let f = fixture().await;
    for (workspace, first) in [("a", 10), ("b", 20), ("c", 30)] {
        for n in first..first + 4 {
            f.queue.submit(of(workspace, n)).await.unwrap();
        }
    }
    let mut served = String::new();
    // Each is done before the next one is claimed.
    for _ in 0..6 {
        let lease = f.claim("w").await.unwrap();
        served += lease.job.workspace.as_str();
        f.queue.fail(&lease, &error("x", false)).await.unwrap();
    }
    assert_eq!(served, "abcabc");
    // And while they run, who has the fewest is first.
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(f.claim("w").await.unwrap());
    }
    let served: String = held.iter().map(|lease| lease.job.workspace.as_str()).collect();
    assert_eq!(served, "abcab");
    let of_c = held.remove(2);
    f.queue.fail(&of_c, &error("x", false)).await.unwrap();
    assert_eq!(f.claim("w").await.unwrap().job.workspace.as_str(), "c");
}

#[tokio::test]
async fn priorities_order_the_jobs_of_one_workspace() {
    let f = fixture().await;
    let submit = async |workspace, n, priority| {
        f.queue.submit(NewJob { priority, ..of(workspace, n) }).await.unwrap().job.id
    };
    let low = submit("a", 1, Priority::Low).await;
    let high = submit("a", 2, Priority::High).await;
    let higher = submit("a", 3, Priority::High).await;
    let others = submit("b", 4, Priority::Low).await;
    let mut order = Vec::new();
    for _ in 0..4 {
        let lease = f.claim("w").await.unwrap();
        order.push(lease.job.id);
        f.queue.fail(&lease, &error("x", false)).await.unwrap();
    }
    assert_eq!(order, [high, others, higher, low]);
}

#[tokio::test]
async fn none_runs_more_than_it_may() {
    let f = fixture().await;
    f.sql("UPDATE workspace SET max_running = 2 WHERE id = 'a'").await;
    f.sql("UPDATE workspace SET max_running = 0 WHERE id = 'c'").await;
    for n in 1..=4 {
        f.queue.submit(of("a", n)).await.unwrap();
    }
    f.queue.submit(of("c", 5)).await.unwrap();
    let first = f.claim("w").await.unwrap();
    let second = f.claim("w").await.unwrap();
    assert!(f.claim("w").await.is_none(), "two of two run, and none of c may");
    f.queue.succeed(&first, &result_for(&first.job)).await.unwrap();
    let third = f.claim("w").await.unwrap();
    assert!(f.claim("w").await.is_none());
    // One that failed makes room, too.
    f.queue.fail(&second, &error("x", true)).await.unwrap();
    let fourth = f.claim("w").await.unwrap();
    assert!(f.claim("w").await.is_none());
    // All workspaces together.
    let two = f.queue.clone().with_limits(Some(2), None);
    f.queue.submit(of("b", 6)).await.unwrap();
    assert!(super::harness::claim(&two, "w", false).await.unwrap().is_none());
    f.queue.succeed(&third, &result_for(&third.job)).await.unwrap();
    let claimed = super::harness::claim(&two, "w", false).await.unwrap().unwrap();
    assert_eq!(claimed.job.workspace.as_str(), "b");
    assert_eq!(fourth.job.workspace, "a".parse::<WorkspaceId>().unwrap());
}

#[tokio::test]
async fn no_more_wait_than_may() {
    let f = fixture().await;
    let limited = || f.queue.clone().with_limits(None, Some(2));
    let keyed = |n| NewJob { idempotency_key: Some(format!("key-{n}")), ..of("a", n) };
    let first = limited().submit(keyed(1)).await.unwrap();
    limited().submit(of("b", 2)).await.unwrap();
    for n in [3, 4] {
        let refused = limited().submit(keyed(n)).await;
        assert!(matches!(refused, Err(QueueError::ServiceFull)), "{refused:?}");
    }
    let again = limited().submit(keyed(1)).await.unwrap();
    assert_eq!((again.job.id, again.existing), (first.job.id, true));
    let other = limited().submit(NewJob { spec: new_job(9).spec, ..keyed(1) }).await;
    assert!(matches!(other, Err(QueueError::IdempotencyMismatch)), "{other:?}");
    // One that runs waits no longer.
    let lease = f.claim("w").await.unwrap();
    let third: Uuid = limited().submit(of("a", 3)).await.unwrap().job.id;
    assert_eq!(f.get(third).await.state, JobState::Queued);
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
}

#[tokio::test]
async fn what_nobody_can_claim_holds_up_no_other_workspace() {
    let f = fixture().await;
    f.sql("UPDATE workspace SET max_running = 0 WHERE id = 'a'").await;
    let blocked = NewJob { priority: Priority::High, ..of("a", 7) };
    let blocked = f.queue.submit(blocked).await.unwrap().job.id;
    let own = f.queue.submit(of("b", 7)).await.unwrap().job.id;
    let lease = f.claim("w").await.unwrap();
    assert_eq!(lease.job.id, own);
    // One of an image runs at a time, whosever it is.
    f.sql("UPDATE workspace SET max_running = NULL WHERE id = 'a'").await;
    assert!(f.claim("w").await.is_none());
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    assert_eq!(f.claim("w").await.unwrap().job.id, blocked);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workspaces_claims_of_one_image_at_the_same_moment_are_one() {
    let f = fixture().await;
    for n in 0..30 {
        for workspace in ["a", "b", "c"] {
            f.queue.submit(of(workspace, n)).await.unwrap();
        }
        let claims = ["u", "v", "w"].map(|worker| f.claim(worker));
        let claimed: Vec<_> = futures_util::future::join_all(claims).await;
        let claimed: Vec<_> = claimed.into_iter().flatten().collect();
        assert_eq!(claimed.len(), 1, "{n}");
        // None is forgotten.
        let mut next = claimed.into_iter().next();
        for left in [2, 1, 0] {
            let lease = next.take().unwrap();
            f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
            next = f.claim("w").await;
            assert_eq!(next.is_some(), left > 0, "{n}: {left}");
        }
    }
}
