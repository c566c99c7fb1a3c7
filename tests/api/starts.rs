//! Reporting starts and reading reports, over HTTP.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::harness::{App, request};

pub(super) const IMAGE: &str = "961eaef6668e480f";
const STARTS: &str = "/v1/images/961eaef6668e480f/starts";

impl App {
    pub(super) async fn has_image(&self) {
        sqlx::query(
            "WITH job AS (
                 INSERT INTO job (id, workspace_id, kind, spec_version, spec, spec_digest, image_id,
                                  priority, state, max_attempts, finished_at, result)
                 VALUES (gen_random_uuid(), 'default', 'pull', 1, '{}', decode(repeat('00', 32), 'hex'),
                         $1, 0, 'succeeded', 3, now(), '{}') RETURNING id)
             INSERT INTO image (workspace_id, image_id, job_id) SELECT 'default', $1, id FROM job",
        )
        .bind(IMAGE)
        .execute(self.database.pool())
        .await
        .unwrap();
    }
}

fn start() -> Value {
    json!({ "id": Uuid::now_v7(), "clip_version": 2, "temperature": "cold", "outcome": "succeeded" })
}

fn with(field: &str, value: Value) -> Value {
    let mut start = start();
    start[field] = value;
    start
}

#[tokio::test]
async fn starts_are_written_down_once() {
    let app = App::start().await;
    app.post(STARTS, &json!({ "starts": [start()] })).await.problem(404, "image_not_found");
    app.has_image().await;
    let full = json!({
        "id": Uuid::now_v7(), "age_seconds": 3600.5, "clip_version": 1, "temperature": "warm",
        "outcome": "failed", "start_seconds": 0.25, "first_exec_ms": 300, "wire_bytes": 12,
        "range_gets": 0, "cache_hits": 7, "host": "worker-17",
    });
    let batch = json!({ "starts": [start(), full, start()] });
    let answer = async |batch: &Value| {
        let answer = app.post(STARTS, batch).await;
        assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
        answer.json()
    };
    assert_eq!(answer(&batch).await, json!({ "accepted": 3, "known": 0 }));
    assert_eq!(answer(&batch).await, json!({ "accepted": 0, "known": 3 }));
    let twice = start();
    let twice = json!({ "starts": [twice, twice] });
    assert_eq!(answer(&twice).await, json!({ "accepted": 1, "known": 1 }));
    assert_eq!(answer(&json!({})).await, json!({ "accepted": 0, "known": 0 }));
    let many = json!({ "starts": (0..200).map(|_| with("host", json!("h".repeat(40)))).collect::<Vec<_>>() });
    assert!(many.to_string().len() < 64 * 1024, "so many fit into a body");
    assert_eq!(answer(&many).await["accepted"], 200);
}

#[tokio::test]
async fn what_is_wrong_with_a_start_is_named() {
    let app = App::start().await;
    app.has_image().await;
    for (field, value) in [
        ("clip_version", json!(3)),
        ("clip_version", json!(0)),
        ("age_seconds", json!(604_801)),
        ("age_seconds", json!(-1)),
        ("start_seconds", json!(-0.1)),
        ("start_seconds", json!(86_401)),
        ("first_exec_ms", json!(1e9)),
        ("wire_bytes", json!(-1)),
        ("range_gets", json!(1_i64 << 51)),
        ("cache_hits", json!(-5)),
        ("host", json!("a\nb")),
        ("host", json!("h".repeat(129))),
    ] {
        let answer =
            app.post(STARTS, &json!({ "starts": [start(), with(field, value.clone())] })).await;
        answer.problem(422, "invalid_body");
        assert_eq!(answer.wrong_fields(), [format!("starts[1].{field}")], "{value}");
    }
    for (field, value) in [
        ("id", json!("one")),
        ("temperature", json!("tepid")),
        ("outcome", json!("maybe")),
        ("wire_bytes", json!(1.5)),
        ("colour", json!("red")),
    ] {
        let answer = app.post(STARTS, &json!({ "starts": [with(field, value)] })).await;
        assert_eq!(answer.status.as_u16(), 422, "{field}: {answer:?}");
    }
    let many = json!({ "starts": (0..201).map(|_| start()).collect::<Vec<_>>() });
    let answer = app.post(STARTS, &many).await;
    answer.problem(422, "invalid_body");
    assert_eq!(answer.wrong_fields(), ["starts"]);
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM image_start")
        .fetch_one(app.database.pool())
        .await
        .unwrap();
    assert_eq!(count, 0, "all or nothing");
}

#[tokio::test]
async fn a_report_is_json_or_a_table() {
    let app = App::start().await;
    app.get("/v1/rollouts/pilot/report").await.problem(404, "rollout_not_found");
    let rollout = json!({ "name": "pilot", "percent": 10, "guard": 0.05 });
    assert_eq!(app.post("/v1/rollouts", &rollout).await.status.as_u16(), 201);
    let report =
        app.get("/v1/rollouts/pilot/report?since=2026-11-01&until=2026-11-30").await.json();
    assert_eq!(
        (&report["rollout"], &report["since"], &report["until"]),
        (&json!("pilot"), &json!("2026-11-01"), &json!("2026-11-30"))
    );
    assert_eq!((&report["enough"], &report["jobs"]["v1"]["count"]), (&json!(false), &json!(0)));
    assert_eq!(report["guard"][0]["threshold"], 40.0, "half of the false alarms for each stage");
    let table = app.get("/v1/rollouts/pilot/report?format=csv").await;
    assert!(table.header("content-type").starts_with("text/csv"), "{table:?}");
    assert!(
        table.text().starts_with("what,version,figure,value,low,high\r\njobs,v1,count,0,,\r\n"),
        "{table:?}"
    );
    let accepting = async |accept: &str, path: &str| {
        let request = request(Method::GET, path, &[("accept", accept)], Body::empty());
        app.send(request).await.header("content-type").to_owned()
    };
    let path = "/v1/rollouts/pilot/report";
    assert!(accepting("text/html;q=0.3, Text/CSV;q=0.9", path).await.starts_with("text/csv"));
    assert_eq!(accepting("*/*", path).await, "application/json");
    assert_eq!(accepting("text/csv", &format!("{path}?format=json")).await, "application/json");
    for query in ["since=yesterday", "format=xml", "for=ever"] {
        app.get(&format!("{path}?{query}")).await.problem(400, "invalid_parameter");
    }
    for query in [
        "since=2026-11-02&until=2026-11-01",
        "since=-262142-01-01&until=%2B262142-12-31",
        "until=-262142-01-01",
    ] {
        let report = app.get(&format!("{path}?{query}")).await.json();
        assert_eq!(report["jobs"]["v1"]["count"], 0, "{query}");
    }
}

#[tokio::test]
async fn kinds_and_guards_are_checked() {
    let app = App::start().await;
    let body = |field: &str, value: Value| {
        let mut body = json!({ "name": "pilot", "percent": 10 });
        body[field] = value;
        body
    };
    for (field, value) in [("guard", json!(0.6)), ("guard", json!(-0.1)), ("kinds", json!([]))] {
        let answer = app.post("/v1/rollouts", &body(field, value)).await;
        answer.problem(422, "invalid_body");
        assert_eq!(answer.wrong_fields(), [field]);
    }
    assert_eq!(
        app.post("/v1/rollouts", &body("kinds", json!(["Pull"]))).await.status.as_u16(),
        422
    );
    // A kind that a later version may bring.
    let made = app.post("/v1/rollouts", &body("kinds", json!(["pull", "snapshot"]))).await.json();
    assert_eq!((&made["kinds"], &made["guard"]), (&json!(["pull", "snapshot"]), &json!(0.01)));
    let patch = async |body: Value| {
        let headers = [("content-type", "application/json")];
        let request =
            request(Method::PATCH, "/v1/rollouts/pilot", &headers, Body::from(body.to_string()));
        app.send(request).await
    };
    assert_eq!(patch(json!({ "guard": 0 })).await.json()["guard"], 0.0);
    patch(json!({ "guard": 2 })).await.problem(422, "invalid_body");
}
