//! What starts touched, over HTTP: merged, bounded, and nobody else's.

use serde_json::{Value, json};

use super::harness::App;

const TRACES: &str = "/v1/images/961eaef6668e480f/traces";

/// A start that touched these bytes of a layer.
fn trace(starts: &[u64]) -> Value {
    let touches: Vec<_> = starts
        .iter()
        .map(|start| json!({"start": start, "length": 10, "ms": start, "starts": 1}))
        .collect();
    let layer = format!("sha256:{}", "a".repeat(64));
    json!({"version": 1, "starts": 1, "sources": [{"layer": layer, "touches": touches}]})
}

#[tokio::test]
async fn traces_of_starts_become_one() {
    let app = App::start().await;
    app.get(TRACES).await.problem(404, "image_not_found");
    app.post(TRACES, &trace(&[0])).await.problem(404, "image_not_found");
    app.has_image().await;
    let empty = json!({"version": 1, "starts": 0, "sources": []});
    assert_eq!(app.get(TRACES).await.json(), empty);
    let told = app.post(TRACES, &trace(&[0, 40])).await;
    assert_eq!((told.status.as_u16(), told.json()), (200, json!({"starts": 1})));
    assert_eq!(app.post(TRACES, &trace(&[40])).await.json(), json!({"starts": 2}));
    assert_eq!(app.post(TRACES, &empty).await.json(), json!({"starts": 2}), "it tells nothing");
    let merged = app.get(TRACES).await.json();
    let seen: Vec<_> = merged["sources"][0]["touches"].as_array().unwrap().iter().collect();
    assert_eq!(merged["starts"], 2);
    assert_eq!((&seen[0]["start"], &seen[0]["starts"]), (&json!(0), &json!(1)));
    assert_eq!((&seen[1]["start"], &seen[1]["starts"]), (&json!(40), &json!(2)));

    // Nothing grows without an end, and of an image that is known well not each start is written down.
    for _ in 0..20 {
        app.post(TRACES, &trace(&[40])).await;
    }
    assert_eq!(app.get(TRACES).await.json()["starts"], 16);
    // What another version wrote is no trace, and does not stay for ever.
    sqlx::query("UPDATE image_trace SET trace = '{\"version\": 9}', starts = 1")
        .execute(app.database.pool())
        .await
        .unwrap();
    assert_eq!(app.get(TRACES).await.json(), empty);
    assert_eq!(app.post(TRACES, &trace(&[7])).await.json(), json!({"starts": 1}));
    // It goes with the image.
    sqlx::query("DELETE FROM image").execute(app.database.pool()).await.unwrap();
    app.get(TRACES).await.problem(404, "image_not_found");
}

#[tokio::test]
async fn what_is_no_trace_is_refused() {
    let app = App::start().await;
    app.has_image().await;
    let touch = |field: &str, value: Value| {
        let mut trace = trace(&[0]);
        trace["sources"][0]["touches"][0][field] = value;
        trace
    };
    let mut other = trace(&[0]);
    other["version"] = json!(2);
    let mut more = trace(&[0]);
    more["more"] = json!(1);
    for body in [
        json!({}),
        other,
        more,
        touch("start", json!(-1)),
        touch("start", json!(1_u64 << 54)),
        touch("starts", json!(0)),
        touch("starts", json!(65)),
        trace(&(0..8193).collect::<Vec<_>>()),
    ] {
        assert_eq!(app.post(TRACES, &body).await.status.as_u16(), 422, "{:.200}", body.to_string());
    }
    let largest = trace(&(0..8192).collect::<Vec<_>>());
    assert_eq!(app.post(TRACES, &largest).await.json(), json!({"starts": 1}));
    let larger = json!({"more": "x".repeat(1 << 20)});
    app.post(TRACES, &larger).await.problem(413, "too_large");
}

/// Two starts at the same time are both taken in.
#[tokio::test]
async fn starts_at_the_same_time_lose_nothing() {
    let app = App::start().await;
    app.has_image().await;
    let (first, second) = (trace(&[1]), trace(&[2]));
    tokio::join!(app.post(TRACES, &first), app.post(TRACES, &second));
    assert_eq!(app.get(TRACES).await.json()["starts"], 2);
}
