//! Many builds at once: each comes to its own end, and none sees another's.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use super::harness::{Yard, build};

/// Builds at once, on four workers.
const MANY: usize = 10;

/// Has layers of its own, and some that it shares with the others.
fn rest(number: usize) -> String {
    format!(
        "RUN echo shared > /shared\nRUN echo {number} > /own; sleep 0.2\nRUN cat /own /shared > /both\n"
    )
}

async fn submit_all(yard: &Yard, generation: usize) -> Vec<(String, String)> {
    let mut jobs = Vec::new();
    for number in 0..MANY {
        let image = format!("00000000{generation:04x}{number:04x}");
        jobs.push((yard.service.submit(build(&image, &yard.on_base(&rest(number)))).await, image));
    }
    jobs
}

async fn assert_right(yard: &Yard, jobs: &[(String, String)]) {
    for (number, (job, image)) in jobs.iter().enumerate() {
        let job = yard.service.finished(job).await;
        assert_eq!(job["state"], "succeeded", "{job:#}");
        let both = yard.service.cat(image, "/both");
        assert_eq!(both, format!("{number}\nshared\n").as_bytes());
    }
}

#[tokio::test]
async fn ten_builds_on_four_workers_finish_right_and_cancelled_ones_leave_nothing() {
    let mut yard = Yard::start().await;
    assert_right(&yard, &submit_all(&yard, 1).await).await;
    assert_eq!(yard.left(), Vec::<String>::new());

    // Nothing is taken from the cache: they are at work when they are cancelled.
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut jobs = Vec::new();
    for number in 0..MANY {
        let mut body = build(&format!("000000000002{number:04x}"), &yard.on_base(&rest(number)));
        body["no_cache"] = json!(true);
        let job = yard.service.submit(body).await;
        jobs.push((job, Duration::from_millis(random.random_range(0..6000))));
    }
    let cancels = jobs.iter().map(async |(job, after)| {
        tokio::time::sleep(*after).await;
        yard.service.post(&format!("/v1/jobs/{job}/cancel"), &json!({})).await
    });
    futures_util::future::join_all(cancels).await;
    for (job, after) in &jobs {
        let job = yard.service.finished(job).await;
        let state = job["state"].as_str().unwrap();
        assert!(
            matches!(state, "cancelled" | "succeeded"),
            "after {after:?} of seed {seed}: {job:#}"
        );
    }
    // A container that its builder was killed over before it had written that it is its own goes when nobody builds.
    let mut left = yard.left();
    left.retain(|left| !left.starts_with("container "));
    assert_eq!(left, Vec::<String>::new(), "seed {seed}");
    // What they have left in the cache is whole.
    assert_right(&yard, &submit_all(&yard, 3).await).await;
    yard.service.crash_and_restart().await;
    assert_eq!(yard.left(), Vec::<String>::new(), "seed {seed}");
}

/// At the same time, with the same Dockerfile: what is different is each one's own.
#[tokio::test]
async fn workspaces_that_build_the_same_at_once_never_see_each_others_layers() {
    let yard = Yard::start().await;
    let rest = "RUN --mount=type=secret,id=t cat /run/secrets/t > /mine; sleep 0.5\nRUN cat /mine > /copied\n";
    let cases =
        [("one", "000000000000d004", "the first"), ("two", "000000000000d005", "the second")];
    for (workspace, ..) in cases {
        let (status, answer) = yard.service.post("/v1/workspaces", &json!({"id": workspace})).await;
        assert!(matches!(status, 200 | 201), "{answer}");
    }
    let runs = cases.map(async |(workspace, image, value)| {
        let mut body = build(image, &yard.on_base(rest));
        body["secrets"] = json!({"t": value});
        yard.service.run_in(workspace, body).await
    });
    let jobs: Vec<Value> = futures_util::future::join_all(runs).await;
    for (job, (_, image, value)) in jobs.iter().zip(cases) {
        assert_eq!(job["state"], "succeeded", "{job:#}");
        assert_eq!(job["result"]["build"]["cached_steps"], 0, "{job:#}");
        for path in ["/mine", "/copied"] {
            assert_eq!(yard.service.cat(image, path), value.as_bytes(), "{path}");
        }
    }
    assert_eq!(yard.left(), Vec::<String>::new());
}
