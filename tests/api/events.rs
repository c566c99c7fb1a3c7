//! Following a job.

use axum::body::{Body, BodyDataStream};
use axum::http::Method;
use axum::response::Response;
use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::harness::{Answer, App, request};

const NDJSON: (&str, &str) = ("accept", "application/x-ndjson");

async fn events(app: &App, id: &str, query: &str, headers: &[(&str, &str)]) -> Answer {
    let path = format!("/v1/jobs/{id}/events{query}");
    app.send(request(Method::GET, &path, headers, Body::empty())).await
}

async fn open(app: &App, id: &str, headers: &[(&str, &str)]) -> Response {
    let path = format!("/v1/jobs/{id}/events");
    let response = app.open(request(Method::GET, &path, headers, Body::empty())).await;
    assert_eq!(response.status().as_u16(), 200);
    response
}

/// `(id, event, data)` of each server-sent event; comments are left out.
fn parse_sse(text: &str) -> Vec<(i64, String, Value)> {
    let field = |frame: &str, name: &str| {
        let line = frame.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
        line.unwrap_or_else(|| panic!("{frame:?} has no {name}"))
    };
    let frames = text.split("\n\n").filter(|frame| !frame.is_empty() && !frame.starts_with(':'));
    frames
        .map(|frame| {
            let data = serde_json::from_str(&field(frame, "data: ")).unwrap();
            (field(frame, "id: ").parse().unwrap(), field(frame, "event: "), data)
        })
        .collect()
}

fn parse_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Reads until the first whole event has come.
async fn first_event(body: &mut BodyDataStream) -> String {
    let mut text = String::new();
    while !text.contains('\n') {
        text.push_str(std::str::from_utf8(&body.next().await.unwrap().unwrap()).unwrap());
    }
    text
}

#[tokio::test]
async fn a_finished_job_is_told_to_its_end() {
    let app = App::start().await;
    let id = app.submit_cancelled().await;
    let answer = events(&app, &id, "", &[]).await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("cache-control"), "no-cache");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    let told = parse_sse(answer.text());
    assert_eq!(told.first().unwrap().1, "queued");
    assert_eq!(told.last().unwrap().1, "cancelled");
    for (n, (id, name, data)) in (1..).zip(&told) {
        assert_eq!((*id, &data["seq"]), (n, &json!(n)));
        assert_eq!(data["event"], **name);
    }
}

#[tokio::test]
async fn a_reader_resumes_after_the_last_event_it_saw() {
    let app = App::start().await;
    let id = app.submit_cancelled().await;
    let all = parse_sse(events(&app, &id, "", &[]).await.text());
    let by_header = events(&app, &id, "?after=0", &[("last-event-id", "1")]).await;
    assert_eq!(parse_sse(by_header.text()), all[1..]);
    let by_query = events(&app, &id, "?after=1", &[]).await;
    assert_eq!(parse_sse(by_query.text()), all[1..]);

    let last = all.last().unwrap().0;
    for seen in [last, last + 7] {
        let done = events(&app, &id, "", &[("last-event-id", &seen.to_string())]).await;
        assert_eq!((done.status.as_u16(), done.text()), (204, ""));
    }
    for bad in ["-1", "x", "", "99999999999999999999"] {
        let answer = events(&app, &id, "", &[("last-event-id", bad)]).await;
        answer.problem(400, "invalid_parameter");
    }
    for bad in ["?after=-1", "?after=x", "?follow=2", "?odd=1"] {
        events(&app, &id, bad, &[]).await.problem(400, "invalid_parameter");
    }
}

#[tokio::test]
async fn lines_of_json_on_request() {
    let app = App::start().await;
    let id = app.submit_cancelled().await;
    let told: Vec<_> = parse_sse(events(&app, &id, "", &[]).await.text())
        .into_iter()
        .map(|(_, _, data)| data)
        .collect();
    let answer = events(&app, &id, "", &[NDJSON]).await;
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    assert_eq!(parse_lines(answer.text()), told);
    assert!(answer.text().ends_with('\n'));
}

#[tokio::test]
async fn without_following_a_running_story_ends_where_it_is() {
    let app = App::start().await;
    let id = app.submit().await;
    let answer = events(&app, &id, "?follow=false", &[NDJSON]).await;
    let told = parse_lines(answer.text());
    assert_eq!((told.len(), &told[0]["event"]), (1, &json!("queued")));
    let nothing_new = events(&app, &id, "?follow=false&after=1", &[NDJSON]).await;
    assert_eq!((nothing_new.status.as_u16(), nothing_new.text()), (200, ""));
}

#[tokio::test]
async fn a_follower_sees_what_happens_while_it_waits_and_is_let_go_at_the_end() {
    let app = App::start().await;
    let id = app.submit().await;
    let mut lines = open(&app, &id, &[NDJSON]).await.into_body().into_data_stream();
    let ahead = open(&app, &id, &[NDJSON, ("last-event-id", "900")]).await;
    let first = first_event(&mut lines).await;
    assert_eq!(parse_lines(&first)[0]["event"], "queued");

    app.post(&format!("/v1/jobs/{id}/cancel"), &json!({})).await;
    let mut rest = String::new();
    while let Some(chunk) = lines.next().await {
        rest.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
    }
    assert_eq!(parse_lines(&rest).last().unwrap()["event"], "cancelled");
    // Whoever claims to have seen events that never came is let go as well.
    let nothing = axum::body::to_bytes(ahead.into_body(), 1 << 20).await.unwrap();
    assert_eq!(nothing, "");
}

#[tokio::test]
async fn open_streams_are_counted_and_given_back() {
    let app = App::start().await;
    let id = app.submit().await;
    let mut open_streams = Vec::new();
    for _ in 0..512 {
        open_streams.push(open(&app, &id, &[]).await);
    }
    let answer = events(&app, &id, "", &[]).await;
    answer.problem(503, "too_many_streams");
    assert_eq!(answer.header("retry-after"), "5");
    // Who waits has a connection too; who doesn't is answered.
    let job = format!("/v1/jobs/{id}");
    app.get(&format!("{job}?wait=1")).await.problem(503, "too_many_streams");
    assert_eq!(app.get(&job).await.status.as_u16(), 200);
    open_streams.pop();
    open(&app, &id, &[]).await;
    assert_eq!(app.get(&format!("{job}?wait=1")).await.status.as_u16(), 200);
}
