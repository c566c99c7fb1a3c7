//! What is counted is what happened, once; and what is reported is what was counted.

#![allow(
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "numbers of a test are small"
)]

use chrono::{TimeDelta, Utc};
use clipwright::rollouts::{NewStart, RolloutState, StartOutcome, Temperature, Window};

use super::harness::{Ended, Fixture, change, image, json_of, start};

/// A value that has no pattern and is always the same.
fn spread(n: u64) -> f64 {
    let hash = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    hash as f64 / f64::from(1 << 24)
}

/// Whatever happens to the job, the version that was chosen first is what it counts for.
#[tokio::test]
async fn jobs_count_once_and_for_what_was_chosen() {
    let f = Fixture::new().await;
    f.rollout("pilot", 0.0).await;
    let fell_back = Ended::Succeeded { produced: 1, seconds: 9.0, size: 5_000_000 };
    let of_v2 = Ended::Failed { fault: "user", code: "layer_unsupported" };
    let user = Ended::Failed { fault: "user", code: "image_not_found" };
    for (arm, ended, count) in [
        (1, &Ended::well(1), 7),
        (1, &Ended::badly(), 2),
        (1, &user, 3),
        (2, &Ended::well(2), 5),
        (2, &fell_back, 2),
        (2, &of_v2, 4),
        (2, &user, 6),
        (2, &Ended::Cancelled, 1),
    ] {
        for n in 0..count {
            f.job("pilot", 100 + n, arm, ended).await;
        }
    }
    // One that runs counts when it ends.
    let running = f.job("pilot", 1, 2, &Ended::Cancelled).await;
    let set = async |sql: &'static str| {
        sqlx::query(sql).bind(running).execute(f.pool()).await.unwrap();
    };
    set("UPDATE job SET state = 'running', finished_at = NULL WHERE id = $1").await;
    // Many look at the same time.
    tokio::join!(f.tally(), f.tally(), f.tally());
    f.tally().await;
    let report = json_of(&f.report("pilot").await);
    let counts = |report: &serde_json::Value, version: &str| {
        ["count", "succeeded", "failed", "refused", "cancelled", "fell_back"]
            .map(|field| report["jobs"][version][field].as_u64().unwrap())
    };
    assert_eq!(counts(&report, "v1"), [12, 7, 2, 3, 0, 0], "{report:#}");
    assert_eq!(counts(&report, "v2"), [18, 7, 4, 6, 1, 2], "{report:#}");
    let rate = report["jobs"]["v2"]["failure_rate"]["value"].as_f64().unwrap();
    assert!((rate - 4.0 / 11.0).abs() < 1e-12);
    assert_eq!(report["enough"], false);
    assert!(report["verdict"][0].as_str().unwrap().starts_with("too few pulls"), "{report:#}");

    set("UPDATE job SET state = 'cancelled', finished_at = now() WHERE id = $1").await;
    f.tally().await;
    assert_eq!(counts(&json_of(&f.report("pilot").await), "v2"), [19, 7, 4, 6, 2, 2]);
    // They outlive the jobs.
    sqlx::raw_sql("DELETE FROM image; DELETE FROM job").execute(f.pool()).await.unwrap();
    f.tally().await;
    assert_eq!(counts(&json_of(&f.report("pilot").await), "v2"), [19, 7, 4, 6, 2, 2]);
    assert_eq!(f.number("SELECT count(*) FROM rollout_trial").await, 0);
}

/// 2 x 60 images with 20 starts each: medians and p95 are those of the starts, within the error that is
/// told, and the verdict is what was made true.
#[tokio::test]
async fn starts_are_reported_as_they_were() {
    let f = Fixture::new().await;
    f.rollout("pilot", 0.0).await;
    let mut seconds = [Vec::new(), Vec::new()];
    for n in 0..120 {
        let arm = 1 + (n % 2) as i16;
        f.job("pilot", n, arm, &Ended::well(arm)).await;
        let starts: Vec<NewStart> = (0..20)
            .map(|k| {
                let own = if arm == 1 { 7.0 } else { 2.0 };
                let took = own * (0.5 + spread(n * 1000 + k));
                seconds[n as usize % 2].push(took);
                NewStart {
                    start_seconds: Some(took),
                    first_exec_ms: Some(took * 1000.0),
                    wire_bytes: Some(if arm == 1 { 50_000_000 } else { 0 }),
                    ..start(arm)
                }
            })
            .collect();
        assert_eq!(f.starts(n, &starts).await, 20);
        // Sent again, as after an answer that was lost.
        assert_eq!(f.starts(n, &starts).await, 0);
    }
    // What did not start says nothing of how fast it does.
    let failed = NewStart {
        outcome: StartOutcome::Failed,
        temperature: Temperature::Warm,
        start_seconds: Some(80_000.0),
        ..start(2)
    };
    f.starts(1, &[failed]).await;
    tokio::join!(f.tally(), f.tally());
    f.tally().await;
    let report = json_of(&f.report("pilot").await);
    let error = report["relative_error"].as_f64().unwrap();
    assert!(error < 0.01);
    let cold = report["measures"].as_array().unwrap().iter();
    let cold = cold.clone().find(|m| m["measure"] == "cold_start_seconds").unwrap();
    for (version, taken) in ["v1", "v2"].into_iter().zip(&mut seconds) {
        taken.sort_by(f64::total_cmp);
        assert_eq!(cold[version]["count"], taken.len());
        for (figure, q) in [("median", 0.5), ("p95", 0.95)] {
            let exact = taken[(taken.len() as f64 * q).ceil() as usize - 1];
            let found = &cold[version][figure];
            let value = found["value"].as_f64().unwrap();
            assert!((value - exact).abs() <= exact * error * 1.0001, "{found} {exact}");
            assert!(
                found["low"].as_f64().unwrap() <= exact && exact <= found["high"].as_f64().unwrap()
            );
        }
    }
    let ratio = &cold["ratio"]["median"];
    assert!(
        ratio["low"].as_f64().unwrap() > 3.0 && ratio["high"].as_f64().unwrap() < 4.1,
        "{ratio}"
    );
    assert_eq!(report["starts"]["v2"]["failed"], 1);
    assert_eq!(report["enough"], true, "{report:#}");
    let verdict: Vec<_> =
        report["verdict"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect();
    assert!(verdict[0].starts_with("no more pulls of v2 fail than of v1, within "), "{verdict:?}");
    assert!(
        verdict.iter().any(|v| v.starts_with("v2 starts 3.") && v.contains("times as fast")),
        "{verdict:?}"
    );
    assert_eq!(json_of(&f.report("pilot").await), report, "the same counts, the same answer");

    // The table has the same.
    let table = f.report("pilot").await.to_csv();
    let value = cold["v2"]["median"]["value"].to_string();
    let line = format!("cold_start_seconds,v2,median,{value},");
    assert!(table.lines().any(|found| found.starts_with(&line)), "{line} is not in\n{table}");
    let columns = |line: &str| line.split(',').count();
    assert!(
        table.lines().filter(|line| !line.starts_with("verdict")).all(|line| columns(line) == 6)
    );
}

/// Only the days that are asked for, only jobs that the rollout decided, and only those of the rollout that
/// has the name now.
#[tokio::test]
async fn what_belongs_to_others_is_left_out() {
    let f = Fixture::new().await;
    f.rollout("pilot", 0.0).await;
    f.rollout("other", 0.0).await;
    f.job("pilot", 1, 1, &Ended::well(1)).await;
    f.job("other", 2, 2, &Ended::well(2)).await;
    let (today, day) = (Utc::now(), TimeDelta::days(1));
    let starts: Vec<_> =
        (0..5).map(|ago| NewStart { at: Some(today - day * ago), ..start(1) }).collect();
    f.starts(1, &starts).await;
    f.tally().await;
    let count = async |since: i32, until: i32| {
        let day = |ago: i32| Some((today - day * ago).date_naive());
        let window = Window { since: day(since), until: day(until) };
        f.rollouts.report("pilot", window).await.unwrap().unwrap().starts.v1.count
    };
    assert_eq!(f.report("pilot").await.starts.v1.count, 5);
    assert_eq!((count(2, 1).await, count(4, 4).await, count(9, 5).await), (2, 1, 0));
    assert_eq!(f.report("other").await.jobs.v1.count, 0);
    assert_eq!(f.report("other").await.jobs.v2.count, 1);

    // Removed and made anew: nothing of the old one is told of the new one, and by and by it is gone.
    assert!(f.rollouts.delete("pilot", &change()).await.unwrap());
    f.rollout("pilot", 0.0).await;
    f.starts(1, &[start(1)]).await;
    f.tally().await;
    let report = f.report("pilot").await;
    assert_eq!((report.jobs.v1.count, report.starts.v1.count), (0, 0));
    f.tidy().await;
    assert_eq!(f.number("SELECT count(*) FROM rollout_gone").await, 0);
    let left = "SELECT count(DISTINCT rollout_id) FROM (SELECT rollout_id FROM rollout_sketch
                UNION ALL SELECT rollout_id FROM rollout_unit) AS kept";
    assert_eq!(f.number(left).await, 1, "those of the other one");
    // Old starts go, and what was counted of them stays.
    sqlx::raw_sql("UPDATE image_start SET received_at = now() - interval '15 days'")
        .execute(f.pool())
        .await
        .unwrap();
    f.tidy().await;
    assert_eq!(f.number("SELECT count(*) FROM image_start").await, 0);
    assert_eq!(f.report("other").await.jobs.v2.count, 1);
    f.becomes("other", RolloutState::Paused).await;
    assert_eq!(json_of(&f.report("other").await)["state"], "paused");
    assert_eq!(image(1).len(), 16);
}

/// What is counted already costs nothing: a statement reads what is new.
#[tokio::test]
async fn counting_reads_what_is_new_alone() {
    let f = Fixture::new().await;
    f.rollout("pilot", 0.01).await;
    f.job("pilot", 1, 2, &Ended::well(2)).await;
    sqlx::raw_sql(
        "ALTER TABLE image_start SET (autovacuum_enabled = false);
         ALTER TABLE rollout_unit SET (autovacuum_enabled = false);
         INSERT INTO image_start (workspace_id, id, image_id, rollout_id, arm, clip_version, is_warm,
                                  has_failed, at, counted_at)
         SELECT 'default', gen_random_uuid(), 'x', rollout.id, 2, 2, false, false, now(), now()
         FROM rollout, generate_series(1, 50000);
         INSERT INTO rollout_unit (rollout_id, stage, workspace_id, image_id, arm, has_failed, is_judged)
         SELECT rollout.id, 'job', 'default', n::text, 1 + n % 2, false, true
         FROM rollout, generate_series(1, 50000) AS n",
    )
    .execute(f.pool())
    .await
    .unwrap();
    f.starts(1, &[start(2)]).await;
    let read = async || {
        sqlx::raw_sql("SELECT pg_stat_force_next_flush(); SELECT 1")
            .execute(f.pool())
            .await
            .unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        f.number(
            "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint FROM pg_stat_user_tables
             WHERE relname IN ('image_start', 'rollout_unit', 'rollout_trial', 'rollout_sketch', 'job')",
        )
        .await
    };
    let before = read().await;
    f.tally().await;
    assert_eq!(f.guard().await, 0);
    f.tidy().await;
    f.report("pilot").await;
    let read = read().await - before;
    assert!(read <= 100, "{read} rows were read");
    let report = f.report("pilot").await;
    assert_eq!((report.starts.v2.count, report.jobs.v2.count), (1, 1));
}
