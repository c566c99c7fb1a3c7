//! What workers may write, when, and what happens when they die.

use std::collections::HashSet;
use std::time::Duration;

use clipwright::digest::Digest;
use clipwright::error::Fault;
use clipwright::jobs::job::{EventKind, JobError, JobKind, JobState};
use clipwright::jobs::queue::{Heartbeat, JobFilter, Lease, MAX_CHUNK, NewJob, QueueError};
use futures_util::future::{join_all, try_join_all};

use super::harness::{Fixture, claim, error, new_job, recorded, result_for, warning};

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_claimers_never_get_one_job_twice() {
    let f = Fixture::new().await;
    for n in 0..30 {
        f.submit(n).await;
    }
    let claimers = (0..10).map(|n| {
        let queue = f.queue.clone();
        tokio::spawn(async move {
            let mut claimed = Vec::new();
            let worker = format!("w{n}");
            while let Some(lease) = claim(&queue, &worker, false).await.unwrap() {
                claimed.push(lease.job.id);
            }
            claimed
        })
    });
    let claimed: Vec<_> = try_join_all(claimers).await.unwrap().into_iter().flatten().collect();
    assert_eq!(claimed.len(), 30);
    assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_job_of_an_image_runs_at_a_time() {
    let f = Fixture::new().await;
    let ids = [f.submit(7).await, f.submit(7).await, f.submit(7).await];
    for id in ids {
        let claims = join_all((0..6).map(async |_| f.claim("w").await)).await;
        let [lease] = &claims.into_iter().flatten().collect::<Vec<_>>()[..] else {
            panic!("two at a time, or none");
        };
        assert_eq!(lease.job.id, id, "the oldest first");
        f.queue.succeed(lease, &result_for(&lease.job)).await.unwrap();
    }
    assert!(f.claim("w").await.is_none());
}

#[tokio::test]
async fn a_lost_lease_writes_nothing() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let first = f.claim("w").await.unwrap();
    f.let_time_pass().await;
    assert_eq!(f.reap().await, 1);
    refuse_all(&f, &first).await;

    // The same worker's new claim doesn't revive the old one.
    assert!(f.claim("w").await.is_none(), "it runs alone from now on");
    let second = claim(&f.queue, "w", true).await.unwrap().unwrap();
    assert_eq!((second.job.id, second.job.attempt, second.job.losses), (id, 2, 1));
    refuse_all(&f, &first).await;
    assert_eq!(f.queue.heartbeat(&[&second]).await.unwrap(), [Heartbeat::Held]);
    f.queue.succeed(&second, &result_for(&second.job)).await.unwrap();
    refuse_all(&f, &first).await;
    refuse_all(&f, &second).await;
    assert_eq!(f.story(id).await, ["queued", "started", "retrying", "started", "succeeded"]);
}

async fn refuse_all(f: &Fixture, lease: &Lease) {
    let before = f.events(lease.job.id).await;
    let refusals = [
        f.queue.append(lease, 9, &warning("late")).await.map(|()| JobState::Running),
        f.queue.succeed(lease, &result_for(&lease.job)).await,
        f.queue.fail(lease, &error("late", true)).await,
        f.queue.cancelled(lease).await,
        f.queue.release(lease).await,
    ];
    for refusal in refusals {
        assert!(matches!(refusal, Err(QueueError::LeaseLost { .. })), "{refusal:?}");
    }
    assert_eq!(f.queue.heartbeat(&[lease]).await.unwrap(), [Heartbeat::Lost]);
    assert_eq!(f.events(lease.job.id).await, before);
}

#[tokio::test]
async fn a_released_attempt_is_not_counted_and_its_lease_is_over() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let first = f.claim("w").await.unwrap();
    f.queue.release(&first).await.unwrap();
    let second = f.claim("w").await.unwrap();
    assert_eq!((second.job.attempt, first.job.attempt), (1, 1));
    refuse_all(&f, &first).await;
    f.queue.cancel(id).await.unwrap();
    f.queue.release(&second).await.unwrap();
    assert_eq!(f.get(id).await.state, JobState::Cancelled);
}

#[tokio::test]
async fn heartbeats_keep_the_reaper_away() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    assert_eq!(f.reap().await, 0);
    f.let_time_pass().await;
    // Expired, but nobody took it: it may be extended.
    assert_eq!(f.queue.heartbeat(&[&lease]).await.unwrap(), [Heartbeat::Held]);
    assert_eq!(f.reap().await, 0);
    f.queue.cancel(id).await.unwrap();
    assert_eq!(f.queue.heartbeat(&[&lease]).await.unwrap(), [Heartbeat::CancelRequested]);
}

#[tokio::test]
async fn a_job_whose_workers_fall_silent_runs_alone_and_is_given_up_in_the_end() {
    let f = Fixture::new().await;
    // Losses cost no attempts.
    let once = |n| NewJob { max_attempts: Some(1), ..new_job(n) };
    let poison = f.queue.submit(once(1)).await.unwrap().job.id;
    let cancelled = f.submit(2).await;
    for _ in 0..2 {
        f.claim("w").await.unwrap();
    }
    f.queue.cancel(cancelled).await.unwrap();
    f.let_time_pass().await;
    let reaped = join_all((0..4).map(|_| f.reap())).await;
    assert_eq!(reaped.into_iter().sum::<u64>(), 2);
    assert_eq!(f.story(cancelled).await, ["queued", "started", "cancel_requested", "cancelled"]);
    assert_eq!((f.get(poison).await.state, f.get(poison).await.losses), (JobState::Queued, 1));

    let innocent = f.submit(3).await;
    assert!(f.queue.suspect_waits(&JobKind::ALL).await.unwrap());
    assert_eq!(f.claim("w").await.unwrap().job.id, innocent, "it holds nobody up");
    for losses in [2, 3] {
        assert_eq!(claim(&f.queue, "w", true).await.unwrap().unwrap().job.id, poison);
        assert!(claim(&f.queue, "w", true).await.unwrap().is_none());
        f.sql("UPDATE live_job SET lease_expires_at = now() WHERE suspect").await;
        assert_eq!(f.reap().await, 1);
        assert_eq!(f.get(poison).await.losses, losses.min(2));
        assert!(claim(&f.queue, "w", true).await.unwrap().is_none(), "not at once");
        f.sql("UPDATE live_job SET due_at = now() WHERE suspect").await;
    }
    assert_eq!(f.error(poison).await.unwrap().code, "worker_lost");
    assert_eq!(f.get(innocent).await.state, JobState::Running);
    assert!(!f.queue.suspect_waits(&JobKind::ALL).await.unwrap());
    let expected = ["queued", "started", "retrying", "started", "retrying", "started", "failed"];
    assert_eq!(f.story(poison).await, expected);
}

#[tokio::test]
async fn transient_failures_are_tried_again_until_attempts_are_used_up() {
    let f = Fixture::new().await;
    let f = Fixture { queue: f.queue.clone().with_retry_for(Duration::ZERO), ..f };
    let id = f.submit(1).await;
    let full = |code: &str| JobError { fault: Fault::Ours, ..error(code, true) };
    for attempt in 1..=3 {
        let lease = f.claim("w").await.unwrap();
        assert_eq!(lease.job.attempt, attempt);
        let state = f.queue.fail(&lease, &full("disk_full")).await.unwrap();
        assert_eq!(state, if attempt < 3 { JobState::Queued } else { JobState::Failed });
        assert!(f.claim("w").await.is_none(), "not before its time");
        f.let_time_pass().await;
    }
    assert_eq!(f.get(id).await.state, JobState::Failed);
    assert_eq!(f.error(id).await, Some(full("disk_full")));
    let expected = ["queued", "started", "retrying", "started", "retrying", "started", "failed"];
    assert_eq!(f.story(id).await, expected);
    let events = f.events(id).await;
    let attempts: Vec<_> = events.iter().map(|event| event.attempt).collect();
    assert_eq!(attempts, [0, 1, 1, 2, 2, 3, 3]);
    let EventKind::Retrying { not_before, .. } = events[2].kind.read().unwrap() else {
        panic!("{events:?}")
    };
    assert!(not_before > events[2].at);
}

#[tokio::test]
async fn a_registry_that_is_away_costs_time_and_not_attempts() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let away = JobError { retry_after: Some(90), ..error("registry_away", true) };
    for attempt in 1..=5 {
        let lease = f.claim("w").await.unwrap();
        assert_eq!(lease.job.attempt, attempt);
        f.queue.fail(&lease, &away).await.unwrap();
        let waits = "SELECT due_at >= now() + interval '80 seconds' FROM live_job";
        let waits: bool = sqlx::query_scalar(waits).fetch_one(f.database.pool()).await.unwrap();
        assert!(waits, "as long as it was asked to");
        f.let_time_pass().await;
    }
    // However long it waited before anybody tried.
    f.sql("UPDATE job SET created_at = now() - interval '3 hours'").await;
    let lease = f.claim("w").await.unwrap();
    f.queue.fail(&lease, &away).await.unwrap();
    f.let_time_pass().await;
    f.sql("UPDATE job_event SET at = at - interval '61 minutes'").await;
    let lease = f.claim("w").await.unwrap();
    f.queue.fail(&lease, &away).await.unwrap();
    assert_eq!((f.get(id).await.state, f.error(id).await), (JobState::Failed, Some(away)));
}

/// An operator ends what is in his way, or a lock is not to be had in time: done is done all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_success_survives_that_its_statement_is_ended() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    let mut holding = f.database.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM live_job FOR UPDATE").execute(&mut *holding).await.unwrap();
    let queue = f.queue.clone();
    let succeeding =
        tokio::spawn(async move { queue.succeed(&lease, &result_for(&lease.job)).await });
    f.until_somebody_waits().await;
    f.sql(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity
         WHERE wait_event_type = 'Lock' AND datname = current_database()",
    )
    .await;
    f.until_somebody_waits().await;
    holding.rollback().await.unwrap();
    succeeding.await.unwrap().unwrap();
    assert_eq!(f.story(id).await, ["queued", "started", "succeeded"]);
}

#[tokio::test]
async fn other_failures_are_final_and_a_wanted_end_is_no_failure() {
    let f = Fixture::new().await;
    let (id, unwanted) = (f.submit(1).await, f.submit(2).await);
    let lease = f.claim("w").await.unwrap();
    f.queue.fail(&lease, &error("image_not_found", false)).await.unwrap();
    assert_eq!(f.story(id).await, ["queued", "started", "failed"]);

    let lease = f.claim("w").await.unwrap();
    f.queue.cancel(unwanted).await.unwrap();
    f.queue.fail(&lease, &error("registry_away", true)).await.unwrap();
    assert_eq!(f.get(unwanted).await.state, JobState::Cancelled);
    f.story(unwanted).await;
}

#[tokio::test]
async fn success_leaves_no_error_behind() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    f.queue.fail(&lease, &error("registry_away", true)).await.unwrap();
    assert!(f.get(id).await.error.is_some());
    f.let_time_pass().await;
    let lease = f.claim("w").await.unwrap();
    f.queue.succeed(&lease, &result_for(&lease.job)).await.unwrap();
    assert_eq!(f.get(id).await.error, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn seqs_have_no_gaps_when_all_write_at_once() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    let texts: Vec<_> = (0..40).map(|n| warning(&n.to_string())).collect();
    let append = async {
        for (number, event) in (1..).zip(&texts) {
            f.queue.append(&lease, number, event).await.unwrap();
        }
    };
    let beat = async {
        for _ in 0..20 {
            f.queue.heartbeat(&[&lease]).await.unwrap();
        }
    };
    let ((), (), cancelled) = tokio::join!(append, beat, f.queue.cancel(id));
    cancelled.unwrap();
    assert_eq!(f.story(id).await.len(), 43);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_all_who_end_a_job_one_does() {
    let f = Fixture::new().await;
    for n in 0..8 {
        let id = f.submit(n).await;
        let lease = f.claim("w").await.unwrap();
        let (result, failure) = (result_for(&lease.job), error("x", false));
        let ends = tokio::join!(
            f.queue.succeed(&lease, &result),
            f.queue.fail(&lease, &failure),
            f.queue.cancelled(&lease),
            f.queue.release(&lease),
        );
        let ends = [ends.0, ends.1, ends.2, ends.3];
        assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1, "{ends:?}");
        f.queue.cancel(id).await.unwrap();
        f.story(id).await;
    }
}

#[tokio::test]
async fn the_schema_refuses_a_second_final_event() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    let refused = f.queue.append(&lease, 1, &EventKind::Cancelled).await;
    assert!(matches!(refused, Err(QueueError::Refused { .. })), "{refused:?}");
    f.queue.cancelled(&lease).await.unwrap();
    let second = sqlx::query(
        "INSERT INTO job_event (job_id, seq, attempt, body) VALUES ($1, 9, 1, '{\"event\": \"failed\"}')",
    );
    let refused = second.bind(id).execute(f.database.pool()).await.unwrap_err();
    assert!(refused.as_database_error().unwrap().is_unique_violation());
}

#[tokio::test]
async fn names_in_a_hostile_image_are_recorded_all_the_same() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    f.queue.append(&lease, 1, &warning("a\0b 'quoted' \u{7f} \\u0000")).await.unwrap();
    let events = f.events(id).await;
    assert_eq!(events[2].kind, recorded(&warning("a\u{fffd}b 'quoted' \u{7f} \\u0000")));
    assert!(f.queue.list(JobFilter { limit: 9, ..JobFilter::default() }).await.is_ok());
}

#[tokio::test]
async fn an_event_that_is_sent_twice_is_there_once() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    for number in [1, 1, 2, 1, 2] {
        f.queue.append(&lease, number, &warning(&number.to_string())).await.unwrap();
    }
    assert_eq!(f.story(id).await, ["queued", "started", "warning", "warning"]);
    // Another attempt counts from the start.
    f.queue.release(&lease).await.unwrap();
    let lease = f.claim("w").await.unwrap();
    f.queue.append(&lease, 1, &warning("1")).await.unwrap();
    let expected = ["queued", "started", "warning", "warning", "started", "warning"];
    assert_eq!(f.story(id).await, expected);
}

#[tokio::test]
async fn what_a_lost_claim_took_is_given_back() {
    let f = Fixture::new().await;
    for n in 0..3 {
        f.submit(n).await;
    }
    let known = f.claim("w").await.unwrap();
    let lost = f.claim("w").await.unwrap();
    let others = f.claim("v").await.unwrap();
    f.queue.release_all_but("w", &[(known.job.id, known.fence)]).await.unwrap();
    let leases = [&known, &lost, &others];
    let expected = [Heartbeat::Held, Heartbeat::Lost, Heartbeat::Held];
    assert_eq!(f.queue.heartbeat(&leases).await.unwrap(), expected);
    assert_eq!(f.claim("w").await.unwrap().job.id, lost.job.id);
}

#[tokio::test]
async fn a_job_is_in_the_phase_that_its_attempt_told_of_last() {
    let f = Fixture::new().await;
    f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    let phase = async || f.get(lease.job.id).await.phase;
    assert_eq!(phase().await, None);
    let events = ["resolve", "index"].map(|name| EventKind::Phase { name: name.to_owned() });
    for (number, event) in (1..).zip(events.into_iter().chain([warning("in between")])) {
        f.queue.append(&lease, number, &event).await.unwrap();
    }
    assert_eq!(phase().await.as_deref(), Some("index"));
    f.queue.release(&lease).await.unwrap();
    assert_eq!(phase().await, None);
}

#[tokio::test]
async fn what_a_tag_meant_at_first_it_means_at_every_attempt() {
    let f = Fixture::new().await;
    f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    let (first, moved) = (Digest::of(b"1"), Digest::of(b"2"));
    assert_eq!(f.queue.pin(&lease, first).await.unwrap(), first);
    assert_eq!(f.queue.pin(&lease, moved).await.unwrap(), first);
    f.queue.release(&lease).await.unwrap();
    let lost = f.queue.pin(&lease, moved).await;
    assert!(matches!(lost, Err(QueueError::LeaseLost { .. })), "{lost:?}");
    let lease = f.claim("w").await.unwrap();
    assert_eq!(lease.job.resolved_digest, Some(first.to_string()));
}

#[tokio::test]
async fn the_fence_holds_when_the_lease_is_over() {
    let f = Fixture::new().await;
    f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    f.queue.check_fence(&lease).await.unwrap();
    assert!(f.queue.own_archive(&lease).await.unwrap());
    f.let_time_pass().await;
    // Nobody has taken it, but somebody may at any moment.
    let over = f.queue.check_fence(&lease).await;
    assert!(matches!(over, Err(QueueError::LeaseLost { .. })), "{over:?}");
    let over = f.queue.own_archive(&lease).await;
    assert!(matches!(over, Err(QueueError::LeaseLost { .. })), "{over:?}");
}

/// One name for all: the first workspace that publishes under an image id has it.
#[tokio::test]
async fn an_image_id_belongs_to_the_workspace_that_came_first() {
    let f = Fixture::new().await;
    f.sql("INSERT INTO workspace (id) VALUES ('other')").await;
    let theirs = NewJob { workspace: "other".parse().unwrap(), ..new_job(1) };
    f.submit(1).await;
    f.queue.submit(theirs).await.unwrap();
    for owns in [true, false] {
        let lease = f.claim("w").await.unwrap();
        assert_eq!(f.queue.own_archive(&lease).await.unwrap(), owns, "{}", lease.job.workspace);
        assert_eq!(f.queue.own_archive(&lease).await.unwrap(), owns, "asked again");
        f.queue.fail(&lease, &error("x", false)).await.unwrap();
    }
}

#[tokio::test]
async fn a_log_is_kept_in_chunks_and_read_by_offset() {
    let f = Fixture::new().await;
    let id = f.submit(1).await;
    let lease = f.claim("w").await.unwrap();
    let mut end = 0;
    for chunk in [&b"one\n"[..], &vec![b'x'; MAX_CHUNK], b"three"] {
        let before = end;
        end = f.queue.append_log(&lease, before, chunk).await.unwrap();
        assert_eq!(f.queue.append_log(&lease, before, chunk).await.unwrap(), end, "sent twice");
    }
    let read = async |offset| -> Vec<(i64, usize)> {
        let chunks = f.queue.log(id, offset, 10).await.unwrap();
        chunks.iter().map(|chunk| (chunk.offset, chunk.bytes.len())).collect()
    };
    let all = [(0, 4), (4, MAX_CHUNK), (4 + i64::try_from(MAX_CHUNK).unwrap(), 5)];
    assert_eq!(read(0).await, all);
    assert_eq!(read(3).await, all);
    assert_eq!(read(4).await, all[1..]);
    assert_eq!(read(i64::MAX).await, all[2..], "the last, which a reader has to its end");
    let long = f.queue.append_log(&lease, end, &vec![0; MAX_CHUNK + 1]).await;
    assert!(matches!(long, Err(QueueError::Refused { .. })), "{long:?}");
    f.queue.release(&lease).await.unwrap();
    let late = f.queue.append_log(&lease, end, b"late").await;
    assert!(matches!(late, Err(QueueError::LeaseLost { .. })), "{late:?}");
    assert_eq!(f.story(id).await, ["queued", "started"], "events are apart");
}
