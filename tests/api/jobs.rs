//! Submitting, listing, showing and cancelling jobs; showing images.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::harness::{App, pull, pull_number, request};

#[tokio::test]
async fn a_job_is_queued_shown_and_listed() {
    let app = App::start().await;
    let mut body = pull();
    body["platform"] = json!("linux/arm64/v8");
    body["clip_version"] = json!(2);
    let answer = app.post("/v1/jobs", &body).await;
    assert_eq!(answer.status.as_u16(), 202, "{answer:?}");
    let job = answer.json();
    assert_eq!(job["state"], "queued");
    assert_eq!(job["spec"]["kind"], "pull");
    // What names the same is written in one way.
    assert_eq!(job["spec"]["source"], "registry.example/app:1");
    assert_eq!(job["spec"]["platform"], "linux/arm64");
    assert_eq!((&job["workspace"], &job["priority"]), (&json!("default"), &json!(0)));
    assert!(job["request_id"].is_string());
    assert_eq!(job["spec"]["force"], false);
    let location = answer.header("location");
    assert_eq!(location, format!("/v1/jobs/{}", job["id"].as_str().unwrap()));

    assert_eq!(app.get(location).await.json(), job);
    assert_eq!(app.get("/v1/jobs").await.json(), json!({"jobs": [job]}));
}

#[tokio::test]
async fn credentials_are_never_shown() {
    let app = App::start().await;
    for credentials in [json!("user:hunter2"), json!({"USERNAME": "u", "PASSWORD": "hunter2"})] {
        let mut body = pull();
        body["credentials"] = credentials;
        let answer = app.post("/v1/jobs", &body).await;
        assert_eq!(answer.status.as_u16(), 202, "{answer:?}");
        let shown = app.get(answer.header("location")).await;
        for text in [answer.text(), shown.text()] {
            assert!(!text.contains("hunter2") && !text.contains("credentials"), "{text}");
        }
    }
    let mut body = pull();
    body["credentials"] = json!(["hunter2"]);
    let answer = app.post("/v1/jobs", &body).await;
    answer.problem(422, "invalid_job");
    assert_eq!(answer.wrong_fields(), ["credentials"]);
    assert!(!answer.text().contains("hunter2"), "{answer:?}");
}

#[tokio::test]
async fn an_idempotency_key_makes_one_job() {
    let app = App::start().await;
    let key = [("idempotency-key", "build-42")];
    let first = app.post_with("/v1/jobs", &key, &pull()).await;
    let again = app.post_with("/v1/jobs", &key, &pull()).await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (202, 200));
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(first.header("location"), again.header("location"));

    let mut other = pull();
    other["source"] = json!("registry.example/app:2");
    let mismatch = app.post_with("/v1/jobs", &key, &other).await;
    assert_eq!(mismatch.status.as_u16(), 422, "{mismatch:?}");

    let long = "k".repeat(201);
    for bad in ["", "two words", long.as_str()] {
        let answer = app.post_with("/v1/jobs", &[("idempotency-key", bad)], &pull()).await;
        answer.problem(400, "invalid_parameter");
        assert_eq!(answer.wrong_fields(), ["idempotency-key"]);
    }
    assert_eq!(app.get("/v1/jobs").await.json()["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_wrong_body_is_refused_and_every_wrong_field_is_named() {
    let app = App::start().await;
    let with = |field: &str, value: Value| {
        let mut body = pull();
        body[field] = value;
        body
    };
    let cases = [
        (json!({}), vec!["kind"]),
        (json!({"kind": "pull"}), vec!["image_id", "source"]),
        (json!({"kind": "migrate"}), vec!["image_id", "to"]),
        (with("to", json!(2)), vec!["to"]),
        (with("discard_kept", json!(true)), vec!["discard_kept"]),
        (with("image_id", json!("961EAEF6668E480F")), vec!["image_id"]),
        (with("image_id", Value::Null), vec!["image_id"]),
        (with("image_id", json!(7)), vec!["image_id"]),
        (with("source", json!("")), vec!["source"]),
        (with("source", json!("a b")), vec!["source"]),
        (with("source", json!("a".repeat(1025))), vec!["source"]),
        (with("platform", json!("linux")), vec!["platform"]),
        (with("platform", json!("linux/amd64/v1/x")), vec!["platform"]),
        (with("credentials", json!("no-colon")), vec!["credentials"]),
        (with("source", json!("user:hunter2@host/app")), vec!["source"]),
        (with("expires_in", json!(0)), vec!["expires_in"]),
        (with("priority", json!("urgent")), vec!["priority"]),
        (with("clip_version", json!(3)), vec!["clip_version"]),
        (with("clip_version", json!(300)), vec!["clip_version"]),
        (with("kind", json!("bake")), vec!["kind"]),
        (with("force", json!("yes")), vec!["force"]),
        (with("colour", json!("red")), vec!["colour"]),
        (with("max_attempts", json!(9)), vec!["max_attempts"]),
        (json!({"kind": "pull", "image_id": "x", "source": ""}), vec!["image_id", "source"]),
    ];
    for (body, fields) in cases {
        let answer = app.post("/v1/jobs", &body).await;
        answer.problem(422, "invalid_job");
        assert_eq!(answer.wrong_fields(), fields, "{body}");
    }
    let list = app.post("/v1/jobs", &json!([])).await;
    list.problem(422, "invalid_body");
    assert_eq!(list.wrong_fields(), ["body"]);
    assert_eq!(app.get("/v1/jobs").await.json()["jobs"], json!([]));
}

#[tokio::test]
async fn malformed_json_is_refused_with_line_and_column() {
    let app = App::start().await;
    let cases = [
        ("{\n \"kind\": pull}", "line 2 column 10"),
        ("", "line 1 column 0"),
        ("{} {}", "line 1 column"),
    ];
    for (body, place) in cases {
        let headers = [("content-type", "application/json")];
        let request = request(Method::POST, "/v1/jobs", &headers, Body::from(body));
        let problem = app.send(request).await.problem(400, "malformed_json");
        assert!(problem["detail"].as_str().unwrap().contains(place), "{problem}");
    }
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let app = App::start().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        let mut body = pull();
        body["image_id"] = json!(format!("{n:016x}"));
        ids.push(app.post("/v1/jobs", &body).await.json()["id"].as_str().unwrap().to_owned());
    }
    app.post(&format!("/v1/jobs/{}/cancel", ids[3]), &json!({})).await;
    ids.reverse();

    let listed = async |query: &str| {
        let page = app.get(&format!("/v1/jobs{query}")).await.json();
        let jobs = page["jobs"].as_array().unwrap().iter();
        let ids: Vec<_> = jobs.map(|job| job["id"].as_str().unwrap().to_owned()).collect();
        (ids, page["next"].as_str().map(str::to_owned))
    };
    let (first, next) = listed("?limit=2").await;
    assert_eq!(first, ids[..2]);
    let (second, next) = listed(&format!("?limit=2&before={}", next.unwrap())).await;
    assert_eq!(second, ids[2..4]);
    let (third, next) = listed(&format!("?limit=2&before={}", next.unwrap())).await;
    assert_eq!((third, next), (vec![ids[4].clone()], None));
    assert_eq!(listed("?state=cancelled").await.0, [ids[1].clone()]);
    assert_eq!(listed("?image_id=0000000000000004").await.0, [ids[0].clone()]);

    let bad = ["limit=0", "limit=201", "limit=x", "state=odd", "image_id=1", "before=1", "odd=1"];
    for query in bad {
        app.get(&format!("/v1/jobs?{query}")).await.problem(400, "invalid_parameter");
    }
}

#[tokio::test]
async fn cancelling_twice_does_no_harm() {
    let app = App::start().await;
    let id = app.submit_cancelled().await;
    let again = app.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await;
    assert_eq!((again.status.as_u16(), &again.json()["state"]), (200, &json!("cancelled")));
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let app = App::start().await;
    let id = Uuid::now_v7();
    app.get(&format!("/v1/jobs/{id}")).await.problem(404, "job_not_found");
    app.get(&format!("/v1/jobs/{id}/events")).await.problem(404, "job_not_found");
    let cancel = app.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await;
    cancel.problem(404, "job_not_found");
    app.get("/v1/images/961eaef6668e480f").await.problem(404, "image_not_found");
    app.get("/v1/jobs/12").await.problem(400, "invalid_parameter");
    app.get("/v1/images/nope").await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn a_job_that_ended_is_done_once_more() {
    let app = App::start().await;
    let running = app.submit().await;
    let retry =
        async |id: &str, body: Value| app.post(&format!("/v1/jobs/{id}/retry"), &body).await;
    retry(&running, json!({})).await.problem(409, "job_not_final");
    app.post(&format!("/v1/jobs/{running}/cancel"), &json!({})).await;
    let again = retry(&running, json!({ "credentials": "user:hunter2" })).await;
    assert_eq!(again.status.as_u16(), 202);
    let job = again.json();
    assert_eq!(again.header("location"), format!("/v1/jobs/{}", job["id"].as_str().unwrap()));
    assert_ne!(job["id"], running);
    let first = app.get(&format!("/v1/jobs/{running}")).await.json();
    assert_eq!((&job["spec"], &job["priority"]), (&first["spec"], &first["priority"]));
    assert!(!again.text().contains("hunter2"));
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM job_secret")
        .fetch_one(app.database.pool())
        .await
        .unwrap();
    assert_eq!(kept, 1);
    retry("0199d2a4-7c1e-7f0a-9a55-0d4b1a1c7e21", json!({})).await.problem(404, "job_not_found");
    retry(&running, json!({ "more": 1 })).await.problem(422, "invalid_body");
}

#[tokio::test]
async fn who_waits_is_answered_when_the_job_ends() {
    let app = App::start().await;
    let id = app.submit().await;
    let path = format!("/v1/jobs/{id}?wait=25");
    let cancel = async {
        // Not before somebody waits; whoever comes later is answered at once.
        tokio::task::yield_now().await;
        app.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await
    };
    let started = std::time::Instant::now();
    let (waited, _) = tokio::join!(app.get(&path), cancel);
    assert_eq!(waited.json()["state"], "cancelled");
    assert!(started.elapsed() < std::time::Duration::from_secs(20));
    let id = app.submit().await;
    let waited = app.get(&format!("/v1/jobs/{id}?wait=1")).await;
    assert_eq!((waited.status.as_u16(), &waited.json()["state"]), (200, &json!("queued")));
    app.get(&format!("/v1/jobs/{id}?wait=26")).await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn a_workspace_has_no_more_waiting_jobs_than_it_may() {
    let app = App::start().await;
    let body = Body::from(json!({ "max_queued": 2 }).to_string());
    let headers = [("content-type", "application/json")];
    let set = request(Method::PATCH, "/v1/workspaces/default", &headers, body);
    assert_eq!(app.send(set).await.status.as_u16(), 200);
    let first = app.submit().await;
    let key = [("idempotency-key", "once")];
    let second = app.post_with("/v1/jobs", &key, &pull_number(2)).await;
    assert_eq!(second.status.as_u16(), 202);
    let again = app.post_with("/v1/jobs", &key, &pull_number(2)).await;
    assert_eq!((again.status.as_u16(), &again.json()["id"]), (200, &second.json()["id"]));
    app.post_with("/v1/jobs", &[("idempotency-key", "other")], &pull_number(3))
        .await
        .problem(429, "queue_full");
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM idempotency_key")
        .fetch_one(app.database.pool())
        .await
        .unwrap();
    assert_eq!(kept, 1, "a key that made no job is free");
    let refused = app.post("/v1/jobs", &pull_number(3)).await;
    refused.problem(429, "queue_full");
    assert_eq!(refused.header("retry-after"), "10");
    // Who joins one that waits needs no room.
    let joined = app.post_with("/v1/jobs", &[("idempotency-key", "other")], &pull()).await;
    assert_eq!((joined.status.as_u16(), &joined.json()["id"]), (200, &json!(first)));
    app.post(&format!("/v1/jobs/{first}/cancel"), &json!({})).await;
    assert_eq!(app.post("/v1/jobs", &pull_number(3)).await.status.as_u16(), 202);
}

#[tokio::test]
async fn who_asks_for_the_same_gets_the_same_job() {
    let app = App::start().await;
    let first = app.post("/v1/jobs", &pull()).await;
    let again = app.post("/v1/jobs", &pull()).await;
    assert_eq!((first.status.as_u16(), again.status.as_u16()), (202, 200));
    assert_eq!(first.json(), again.json());
    assert_eq!(first.header("location"), again.header("location"));
    let mut forced = pull();
    forced["force"] = json!(true);
    assert_eq!(app.post("/v1/jobs", &forced).await.status.as_u16(), 202);
    assert_eq!(app.post("/v1/jobs", &forced).await.status.as_u16(), 200);
}

#[tokio::test]
async fn many_jobs_come_in_one_request() {
    let app = App::start().await;
    let mut wrong = pull();
    wrong["clip_version"] = json!(7);
    let body = json!({"jobs": [pull_number(1), wrong, pull_number(2), pull_number(1), 5]});
    let key = [("idempotency-key", "all")];
    let answer = app.post_with("/v1/bulk/jobs", &key, &body).await;
    assert_eq!(answer.status.as_u16(), 200, "{answer:?}");
    let jobs = answer.json()["jobs"].as_array().unwrap().clone();
    let statuses: Vec<_> = jobs.iter().map(|job| job["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [202, 422, 202, 200, 422]);
    assert_eq!(jobs[0]["job"]["id"], jobs[3]["job"]["id"]);
    let problem = &jobs[1]["problem"];
    assert_eq!(problem["code"], "invalid_job");
    assert_eq!(problem["instance"], "/v1/bulk/jobs#1");
    assert_eq!(problem["errors"][0]["field"], "clip_version");
    // The same request again makes no more.
    let again = app.post_with("/v1/bulk/jobs", &key, &body).await.json();
    let ids = |jobs: &Value| -> Vec<Value> {
        jobs.as_array().unwrap().iter().map(|job| job["job"]["id"].clone()).collect()
    };
    assert_eq!(ids(&again["jobs"]), ids(&Value::from(jobs)));
    assert_eq!(app.get("/v1/jobs").await.json()["jobs"].as_array().unwrap().len(), 2);

    for (body, field) in [
        (json!({"jobs": []}), "jobs"),
        (json!({"jobs": vec![json!({}); 501]}), "jobs"),
        (json!({"jobs": {}}), "jobs"),
        (json!({"jobs": [pull()], "more": 1}), "more"),
    ] {
        let answer = app.post("/v1/bulk/jobs", &body).await;
        assert_eq!((answer.status.as_u16(), answer.wrong_fields()), (422, vec![field.to_owned()]));
    }
    // It may be larger than others, but not of any size.
    let many: Vec<_> = (0..500).map(pull_number).collect();
    let large = json!({"jobs": many, "more": "x".repeat(64 << 10)});
    assert_eq!(app.post("/v1/bulk/jobs", &large).await.wrong_fields(), ["more"]);
    let larger = json!({"jobs": ["x".repeat(1 << 20)]});
    app.post("/v1/bulk/jobs", &larger).await.problem(413, "too_large");
}

/// Hundreds of results would be too much at once.
#[tokio::test]
async fn many_jobs_are_told_without_their_results() {
    let app = App::start().await;
    let id = app.submit().await;
    sqlx::query(
        "WITH gone AS (DELETE FROM live_job),
              ended AS (UPDATE job SET state = 'succeeded', finished_at = now(), is_kept = true,
                                       result = '{\"nodes\": 7}'
                        RETURNING id, image_id)
         INSERT INTO image (workspace_id, image_id, job_id) SELECT 'default', image_id, id FROM ended",
    )
    .execute(app.database.pool())
    .await
    .unwrap();
    let answer = app.post("/v1/bulk/jobs", &json!({"jobs": [pull_number(1)]})).await.json();
    let [item] = answer["jobs"].as_array().unwrap().as_slice() else { panic!("{answer}") };
    assert_eq!((&item["status"], &item["job"]["id"]), (&json!(200), &json!(id)));
    assert_eq!(item["job"]["state"], "succeeded");
    assert_eq!(item["job"]["result"], Value::Null);
    assert_eq!(app.get(&format!("/v1/jobs/{id}")).await.json()["result"]["nodes"], 7);
}

#[tokio::test]
async fn webhooks_are_listed_and_sent_again() {
    let app = App::start().await;
    let mut body = pull();
    let url = "https://gateway.example/hook?token=hunter2";
    body["webhook"] = json!({"url": url, "secret": "hunter3"});
    let job = app.post("/v1/jobs", &body).await;
    assert_eq!(job.status.as_u16(), 202, "{job:?}");
    let listed = app.get("/v1/webhooks").await;
    let hook = listed.json()["webhooks"][0].clone();
    assert_eq!((&hook["job_id"], &hook["state"]), (&job.json()["id"], &json!("waiting")));
    assert_eq!(hook["url"], "https://gateway.example/...");
    for text in [job.text(), listed.text(), app.get(job.header("location")).await.text()] {
        assert!(!text.contains("hunter"), "{text}");
    }
    let again = format!("/v1/webhooks/{}/redeliver", hook["id"].as_str().unwrap());
    assert_eq!(app.post(&again, &json!({})).await.json()["state"], "waiting");
    app.post(&format!("{}/cancel", job.header("location")), &json!({})).await;
    assert_eq!(app.get("/v1/webhooks?state=due").await.json()["webhooks"][0]["id"], hook["id"]);
    assert_eq!(app.get("/v1/webhooks?state=waiting").await.json()["webhooks"], json!([]));
    let nobody = Uuid::now_v7();
    app.post(&format!("/v1/webhooks/{nobody}/redeliver"), &json!({}))
        .await
        .problem(404, "webhook_not_found");
    for (webhook, field) in [
        (json!({"url": "ftp://x"}), "webhook"),
        (json!({"url": "https://u:hunter2@x"}), "webhook"),
        (json!({"url": "https://x", "secret": ""}), "webhook"),
        (json!({"url": "https://x", "secret": 4711}), "webhook.secret"),
        (json!({"secret": "hunter2"}), "webhook"),
    ] {
        let mut body = pull();
        body["webhook"] = webhook;
        let answer = app.post("/v1/jobs", &body).await;
        answer.problem(422, "invalid_job");
        assert_eq!(answer.wrong_fields(), [field]);
        assert!(!answer.text().contains("hunter2") && !answer.text().contains("4711"));
    }
}

#[tokio::test]
async fn one_webhook_too_many_is_refused() {
    let app = App::start().await;
    let mut body = pull();
    body["webhook"] = json!({"url": "https://gateway.example/hook"});
    for _ in 0..20 {
        assert!(app.post("/v1/jobs", &body).await.status.is_success());
    }
    let refused = app.post("/v1/jobs", &body).await;
    refused.problem(422, "webhooks_full");
    assert_eq!(refused.wrong_fields(), ["webhook"]);
}
