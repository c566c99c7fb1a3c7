//! Values of secrets are where they are needed, and nowhere else.

use serde_json::{Value, json};
use sqlx::Row as _;

use super::harness::{Yard, build, until};
use crate::support::service::Settings;

const VALUE: &str = "correct-horse-battery-staple";

/// All rows of these tables as text.
async fn rows(url: &str) -> String {
    let pool = sqlx::PgPool::connect(url).await.unwrap();
    let mut text = String::new();
    for table in ["job", "job_event", "live_job", "image", "idempotency_key", "audit_event"] {
        let sql = format!("SELECT row_to_json(t)::text AS row FROM {table} t");
        for row in sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(&pool).await.unwrap() {
            text.push_str(row.get::<&str, _>("row"));
        }
    }
    let log = sqlx::query("SELECT convert_from(bytes, 'UTF8') AS text FROM job_log")
        .fetch_all(&pool)
        .await
        .unwrap();
    for row in log {
        text.push_str(row.get::<&str, _>("text"));
    }
    text
}

#[tokio::test]
async fn a_secret_is_in_no_process_list_image_row_or_log() {
    let yard = Yard::with(Settings::default()).await;
    let rest = "ARG TOKEN\nRUN --mount=type=secret,id=TOKEN cat /run/secrets/TOKEN | sha256sum > /sum; \
                echo \"it is $TOKEN\"; cat /run/secrets/TOKEN >&2; echo under way; sleep 2\n";
    let mut body = build("000000000000d001", &yard.on_base(rest));
    body["secrets"] = json!({"TOKEN": VALUE});
    body["secrets_as_build_args"] = json!(true);
    let job = yard.service.submit(body.clone()).await;
    until("the build is under way", async || {
        yard.log(&job).await.iter().any(|line| line["text"] == "under way")
    })
    .await;
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        assert!(!line.contains(VALUE), "{line}");
    }
    let job = yard.service.finished(&job).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let log = yard.log(job["id"].as_str().unwrap()).await;
    assert!(log.iter().any(|line| line["text"] == "it is ***"), "{log:#?}");
    let events = yard.service.events(job["id"].as_str().unwrap()).await;
    assert!(
        events.iter().any(|event| event["event"] == "warning"
            && event["data"]["message"].as_str().unwrap().contains("build arguments")),
        "{events:#?}"
    );
    assert!(!json!([job, log, events]).to_string().contains(VALUE));
    let rows = rows(yard.service.database_url()).await;
    assert!(
        rows.contains("000000000000d001") && rows.contains("it is ***") && !rows.contains(VALUE)
    );

    // Manifest, config with its history, and each layer, as they are in the registry.
    let sum = String::from_utf8(yard.service.cat("000000000000d001", "/sum")).unwrap();
    assert!(
        sum.starts_with(&clipwright::digest::Digest::of(VALUE.as_bytes()).hex()),
        "it was there: {sum}"
    );
    let mut searched = 0;
    let mut todo = vec![yard.registry.storage().to_owned(), yard.service.data().join("images")];
    while let Some(path) = todo.pop() {
        for entry in std::fs::read_dir(path).unwrap().flatten() {
            if entry.path().is_dir() {
                todo.push(entry.path());
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap();
            let mut plain = Vec::new();
            let _ = std::io::Read::read_to_end(
                &mut flate2::read::MultiGzDecoder::new(&bytes[..]),
                &mut plain,
            );
            for bytes in [&bytes, &plain] {
                assert!(
                    !bytes.windows(VALUE.len()).any(|part| part == VALUE.as_bytes()),
                    "{}",
                    entry.path().display()
                );
            }
            searched += 1;
        }
    }
    assert!(searched > 5, "{searched}");
    assert_eq!(yard.left(), Vec::<String>::new());
}

/// The same Dockerfile with other secrets in another workspace is built there anew.
#[tokio::test]
async fn workspaces_never_see_each_others_layers() {
    let yard = Yard::start().await;
    let rest = "RUN --mount=type=secret,id=t cat /run/secrets/t > /mine\n";
    let mut made = Vec::new();
    for (workspace, image, value) in
        [("one", "000000000000d002", "first"), ("two", "000000000000d003", "second")]
    {
        let (status, answer) = yard.service.post("/v1/workspaces", &json!({"id": workspace})).await;
        assert!(matches!(status, 200 | 201), "{answer}");
        let mut body = build(image, &yard.on_base(rest));
        body["secrets"] = json!({"t": value});
        let job: Value = yard.service.run_in(workspace, body).await;
        assert_eq!(job["state"], "succeeded", "{job:#}");
        assert_eq!(job["result"]["build"]["cached_steps"], 0);
        assert_eq!(job["result"]["build"]["bases"][0]["cached"], false);
        assert_eq!(yard.service.cat(image, "/mine"), value.as_bytes());
        made.push(job);
    }
    let mut names: Vec<_> = std::fs::read_dir(yard.storages())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["one", "two"]);
    let (_, context) = yard
        .service
        .send_bytes_in("one", "/v1/contexts", super::harness::context(&[("a", "a")]))
        .await;
    let path = format!("/v1/contexts/{}", context["digest"].as_str().unwrap());
    assert_eq!(yard.service.head_in("two", &path).await, 404, "another's");
    assert_eq!(yard.service.head_in("one", &path).await, 200);
}
