//! The guard over a real Postgres: it rolls back what is worse, says why, and nothing else.

use clipwright::rollouts::{NewStart, RolloutState, StartOutcome};

use super::harness::{Ended, Fixture, json_of, start};

impl Fixture {
    async fn state(&self, name: &str) -> (String, Option<String>) {
        let rollout = self.rollouts.get(name).await.unwrap().unwrap();
        (rollout.state, rollout.reason)
    }

    /// Images of both versions whose jobs ended: all of v1 well, those of v2 so.
    async fn jobs(&self, from: u64, of_v2: &Ended) {
        for n in from..from + 24 {
            let arm = 1 + (n % 2) as i16;
            let ended = if arm == 2 { of_v2 } else { &Ended::well(1) };
            self.job("pilot", n, arm, ended).await;
        }
        self.tally().await;
    }
}

#[tokio::test]
async fn what_fails_with_v2_is_rolled_back() {
    let f = Fixture::new().await;
    f.rollout("pilot", 0.01).await;
    f.jobs(0, &Ended::well(2)).await;
    assert_eq!(f.guard().await, 0);
    // What users get wrong is not held against it, however often.
    f.jobs(1000, &Ended::Failed { fault: "user", code: "image_not_found" }).await;
    assert_eq!(f.guard().await, 0);
    // Nor is one image that fails again and again more than one.
    for _ in 0..50 {
        f.job("pilot", 5001, 2, &Ended::badly()).await;
    }
    f.tally().await;
    assert_eq!((f.guard().await, f.state("pilot").await.0.as_str()), (0, "active"));

    f.jobs(2000, &Ended::badly()).await;
    // Many look at the same time, and one acts.
    let (one, other) = tokio::join!(f.guard(), f.guard());
    assert_eq!(one + other, 1);
    let (state, reason) = f.state("pilot").await;
    assert_eq!(state, "rolled_back");
    let reason = reason.unwrap();
    assert!(
        reason.contains("pulls of 13 of 25 images failed with v2, of 0 of 36 with v1"),
        "{reason}"
    );
    let (actor, detail): (String, serde_json::Value) =
        sqlx::query_as("SELECT actor, detail FROM audit_event WHERE action = 'rollout.change'")
            .fetch_one(f.pool())
            .await
            .unwrap();
    assert_eq!(
        (actor.as_str(), &detail["state"], &detail["v2"]["failed"]),
        ("guard", &"rolled_back".into(), &13.into())
    );
    let seen = &json_of(&f.report("pilot").await)["guard"][0];
    assert!(seen["evidence"].as_f64() >= seen["threshold"].as_f64(), "{seen}");
    assert_eq!(f.guard().await, 0, "once");

    // Who lets it go on knows that; what comes then is judged by itself.
    f.becomes("pilot", RolloutState::Active).await;
    f.jobs(3000, &Ended::well(2)).await;
    assert_eq!((f.guard().await, f.state("pilot").await.0.as_str()), (0, "active"));
    f.jobs(4000, &Ended::badly()).await;
    assert_eq!((f.guard().await, f.state("pilot").await.0.as_str()), (1, "rolled_back"));
}

#[tokio::test]
async fn what_does_not_start_with_v2_is_rolled_back() {
    let f = Fixture::new().await;
    f.rollout("pilot", 0.01).await;
    f.jobs(0, &Ended::well(2)).await;
    // What a tenant says of itself is counted, and moves nobody else.
    for is_vouched in [false, true] {
        for n in 0..24 {
            let arm = 1 + (n % 2) as i16;
            let outcome = if arm == 2 { StartOutcome::Failed } else { StartOutcome::Succeeded };
            f.starts_by(n, &[NewStart { outcome, ..start(arm) }], is_vouched).await;
        }
        f.tally().await;
        assert_eq!(f.guard().await, u64::from(is_vouched));
    }
    let (state, reason) = f.state("pilot").await;
    assert_eq!(state, "rolled_back");
    assert!(
        reason.unwrap().contains("starts of 12 of 12 images failed with v2, of 0 of 12 with v1")
    );
}

#[tokio::test]
async fn what_nobody_guards_goes_on() {
    let f = Fixture::new().await;
    f.rollout("pilot", 0.0).await;
    f.jobs(0, &Ended::badly()).await;
    assert_eq!((f.guard().await, f.state("pilot").await.0.as_str()), (0, "active"));
    f.becomes("pilot", RolloutState::Paused).await;
    f.jobs(1000, &Ended::badly()).await;
    assert_eq!((f.guard().await, f.state("pilot").await.0.as_str()), (0, "paused"));
}
