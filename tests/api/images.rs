//! Images are listed page by page, and their archives are given as bytes.

use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::http::Method;
use clipwright::digest::Digest;
use futures_util::future::select_all;
use serde_json::{Value, json};

use super::harness::{Answer, App, request};

impl App {
    /// An image of the default workspace, with this archive.
    async fn image(&self, id: &str, archive: &[u8]) {
        self.image_of("default", id, archive).await;
    }

    /// An image of a workspace. The id is its own, unless it is another's already.
    async fn image_of(&self, workspace: &str, id: &str, archive: &[u8]) {
        self.put(id, archive);
        let result = json!({
            "image_id": id,
            "archive": { "key": format!("{id}.clip"), "digest": Digest::of(archive).to_string() },
        });
        sqlx::query(
            "WITH ended AS (
                 INSERT INTO job (id, workspace_id, kind, spec_version, spec, spec_digest, image_id,
                                  priority, state, max_attempts, finished_at, result)
                 VALUES (gen_random_uuid(), $3, 'pull', 1, '{}', sha256(''), $1, 0,
                         'succeeded', 3, now(), $2)
                 RETURNING id),
             own AS (
                 INSERT INTO archive_owner (image_id, workspace_id) VALUES ($1, $3)
                 ON CONFLICT DO NOTHING)
             INSERT INTO image (workspace_id, image_id, job_id) SELECT $3, $1, id FROM ended",
        )
        .bind(id)
        .bind(result)
        .bind(workspace)
        .execute(self.database.pool())
        .await
        .unwrap();
    }

    /// Publishes an archive under the id; the file is another than what was there.
    fn put(&self, id: &str, archive: &[u8]) {
        let [new, place] = ["new".to_owned(), format!("{id}.clip")];
        let [new, place] = [new, place].map(|name| self.directory.path().join(name));
        std::fs::write(&new, archive).unwrap();
        std::fs::rename(new, place).unwrap();
    }

    async fn get_as(&self, workspace: &str, path: &str) -> Answer {
        let headers = [("clipwright-workspace", workspace)];
        self.send(request(Method::GET, path, &headers, Body::empty())).await
    }

    async fn sql(&self, sql: &'static str) {
        sqlx::raw_sql(sql).execute(self.database.pool()).await.unwrap();
    }
}

const IMAGE: &str = "961eaef6668e480f";

#[tokio::test]
async fn images_are_listed_page_by_page() {
    let app = App::start().await;
    let ids: Vec<_> = (1..=5).map(|n| format!("{n:016x}")).collect();
    for id in &ids {
        app.image(id, b"x").await;
    }
    let mut seen = Vec::new();
    let mut path = "/v1/images?limit=2".to_owned();
    loop {
        let page = app.get(&path).await.json();
        let images = page["images"].as_array().unwrap();
        seen.extend(images.iter().map(|image| image["image_id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => path = format!("/v1/images?limit=2&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ids);
    let all = app.get("/v1/images?limit=5").await.json();
    assert_eq!((all["images"].as_array().unwrap().len(), &all["next"]), (5, &Value::Null));
    assert_eq!(app.get("/v1/images?after=ffffffffffffffff").await.json()["images"], json!([]));
    app.get("/v1/images?limit=0").await.problem(400, "invalid_parameter");
    app.get("/v1/images?after=x").await.problem(400, "invalid_parameter");
}

#[tokio::test]
async fn an_archives_bytes_come_whole_in_parts_or_not_again() {
    let app = App::start().await;
    // More than is in memory at a time.
    let archive: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    app.image(IMAGE, &archive).await;
    let path = format!("/v1/images/{IMAGE}/archive");
    let whole = app.get(&path).await;
    assert_eq!((whole.status.as_u16(), whole.header("content-length")), (200, "3000000"));
    assert!(whole.body == archive);
    assert_eq!(whole.header("x-content-type-options"), "nosniff");
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    let etag = whole.header("etag").to_owned();

    let ask = async |name: &str, value: &str| {
        app.send(request(Method::GET, &path, &[(name, value)], Body::empty())).await
    };
    for (range, first, end) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1048570-1048590", 1_048_570, 1_048_591),
        ("bytes=-5", 2_999_995, 3_000_000),
    ] {
        let part = ask("range", range).await;
        assert_eq!(part.status.as_u16(), 206, "{range}");
        assert!(part.body == archive[first..end], "{range}");
        let expected = format!("bytes {first}-{}/3000000", end - 1);
        assert_eq!(part.header("content-range"), expected);
    }
    ask("range", "bytes=3000000-").await.problem(416, "no_such_range");
    assert_eq!(ask("if-none-match", &etag).await.status.as_u16(), 304);
    assert_eq!(ask("if-none-match", "\"other\"").await.status.as_u16(), 200);

    std::fs::remove_file(app.directory.path().join(format!("{IMAGE}.clip"))).unwrap();
    app.get(&path).await.problem(404, "image_not_found");
    app.get("/v1/images/0000000000000000/archive").await.problem(404, "image_not_found");
}

/// There is one name for all workspaces: what its owner publishes under it later is none of the others' business.
#[tokio::test]
async fn what_another_workspace_publishes_under_the_name_is_not_there() {
    let app = App::start().await;
    app.sql("INSERT INTO workspace (id) VALUES ('guest')").await;
    let (local, golden) =
        (include_bytes!("../fixtures/v1-local.clip"), include_bytes!("../fixtures/v2.clip"));
    let [public, changed] = [b"1", b"2"].map(|end| [&golden[..], end].concat());
    app.image(IMAGE, &public).await;
    app.image_of("guest", IMAGE, &public).await;
    let [archive, files] = ["archive", "files"].map(|end| format!("/v1/images/{IMAGE}/{end}"));
    for workspace in ["default", "guest"] {
        let whole = app.get_as(workspace, &archive).await;
        assert!(whole.status.as_u16() == 200 && whole.body[..] == public[..], "{workspace}");
        assert_eq!(app.get_as(workspace, &files).await.status.as_u16(), 200);
    }
    // Of another size, and of the same.
    for private in [&local[..], &changed[..]] {
        app.put(IMAGE, private);
        for path in [
            archive.clone(),
            format!("{archive}?redirect=false"),
            files.clone(),
            format!("{files}/content?path=/etc/motd"),
        ] {
            app.get_as("guest", &path).await.problem(404, "image_not_found");
        }
        assert!(app.get_as("default", &archive).await.body[..] == *private);
    }
    // Nor is what its owner has left behind.
    app.sql("DELETE FROM archive_owner").await;
    app.get_as("guest", &archive).await.problem(404, "image_not_found");
    app.put(IMAGE, &public);
    assert_eq!(app.get_as("guest", &archive).await.status.as_u16(), 200);
}

/// Each that is being deleted has a connection to the database while the store is asked.
#[tokio::test]
async fn a_slow_store_does_not_take_all_connections() {
    let app = App::start().await;
    let ids = ["0000000000000001", "0000000000000002", "0000000000000003"];
    for id in ids {
        app.image(id, b"x").await;
    }
    app.store.keeps.store(true, Ordering::SeqCst);
    let deleting = ids.map(|id| {
        let path = format!("/v1/images/{id}");
        Box::pin(app.send(request(Method::DELETE, &path, &[], Body::empty())))
    });
    let (refused, ..) = select_all(deleting).await;
    refused.problem(503, "too_many_deletions");
    assert_eq!(refused.header("retry-after"), "5");
    assert_eq!(app.get("/v1/images").await.json()["images"].as_array().unwrap().len(), 3);
}
