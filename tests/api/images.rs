//! Images are listed page by page, and their archives are given as bytes.

use axum::body::Body;
use axum::http::Method;
use serde_json::{Value, json};

use super::harness::{App, request};

impl App {
    /// An image of the default workspace, with this archive.
    async fn image(&self, id: &str, archive: &[u8]) {
        std::fs::write(self.directory.path().join(format!("{id}.clip")), archive).unwrap();
        let result = json!({ "image_id": id, "archive": { "key": format!("{id}.clip") } });
        sqlx::query(
            "WITH ended AS (
                 INSERT INTO job (id, workspace_id, kind, spec_version, spec, spec_digest, image_id,
                                  priority, state, max_attempts, finished_at, result)
                 VALUES (gen_random_uuid(), 'default', 'pull', 1, '{}', sha256(''), $1, 0,
                         'succeeded', 3, now(), $2)
                 RETURNING id)
             INSERT INTO image (workspace_id, image_id, job_id) SELECT 'default', $1, id FROM ended",
        )
        .bind(id)
        .bind(result)
        .execute(self.database.pool())
        .await
        .unwrap();
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
