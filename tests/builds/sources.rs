//! Contexts that nobody sent, and how many are kept of those that somebody did.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use clipwright::digest::Digest;
use serde_json::{Value, json};

use super::harness::{Yard, build, clipwright, context};
use crate::support::git::GitServer;
use crate::support::s3::S3Server;
use crate::support::service::Settings;

const IMAGE: &str = "961eaef6668e480f";
const COPY: &str = "COPY word /word\nRUN cat /word\n";

/// A zip of one file, as beta9 packs them.
fn zipped(name: &str, content: &str) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
    zip.write_all(content.as_bytes()).unwrap();
    zip.finish().unwrap().into_inner()
}

fn put(s3: &S3Server, key: &str, bytes: &[u8]) {
    let path = s3.object_path(key);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

async fn reachable() -> Yard {
    Yard::with(Settings::default().argument("private-addresses", "true")).await
}

/// Gives the workspace a bucket by the command line; what it printed.
fn set_storage(yard: &Yard, s3: &S3Server, secret: &str) -> (bool, String, String) {
    let arguments = [
        "workspace",
        "storage",
        "set",
        "default",
        "--bucket",
        &s3.bucket,
        "--endpoint",
        &s3.endpoint,
        "--access-key",
        &s3.access_key,
        "--server",
        &yard.service.url,
    ];
    clipwright(&arguments, &[("CLIPWRIGHT_STORAGE_SECRET_KEY", secret)])
}

#[tokio::test]
async fn a_context_is_an_object_of_the_workspaces_bucket() {
    let (yard, s3) = (reachable().await, S3Server::start().await);
    let service = &yard.service;
    let zip = zipped("word", "from a zip\n");
    put(&s3, "objects/one", &zip);
    put(&s3, "deep/er/two", &context(&[("word", "from a tar\n")]));
    let with = |image: &str, key: &str| {
        let mut body = build(image, &yard.on_base(COPY));
        body["context"] = json!({"object": key});
        body
    };
    let code = |job: &Value| job["error"]["code"].as_str().unwrap_or_default().to_owned();

    let job = service.run(with("000000000000b001", "objects/one")).await;
    assert_eq!(code(&job), "no_storage", "{job:#}");
    let (done, told, said) = set_storage(&yard, &s3, &s3.secret_key);
    assert!(done, "{said}");
    assert!(told.contains(&s3.access_key) && !told.contains(&s3.secret_key), "{told}");
    let (_, shown) = service.get("/v1/workspaces/default/storage").await;
    assert_eq!((&shown["bucket"], &shown["endpoint"]), (&json!(s3.bucket), &json!(s3.endpoint)));
    assert!(!shown.to_string().contains(&s3.secret_key), "{shown}");

    let job = service.run(with("000000000000b001", "objects/one")).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let origin = &job["result"]["build"]["context"];
    assert_eq!(origin["digest"], json!(Digest::of(&zip)));
    assert_eq!(origin["object"], "objects/one");
    assert_eq!(service.cat("000000000000b001", "/word"), b"from a zip\n");
    let job = service.run(with("000000000000b002", "deep/er/two")).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert_eq!(service.cat("000000000000b002", "/word"), b"from a tar\n");

    // As beta9 asks for it.
    let request = json!({
        "container_id": "build-0b1e",
        "image_id": "000000000000b003",
        "build_options": {"dockerfile": yard.on_base(COPY), "build_context": "one"},
    });
    let (status, accepted) = service.post("/v1/beta9/builds", &request).await;
    assert_eq!(status, 202, "{accepted}");
    let job = service.finished(accepted["id"].as_str().unwrap()).await;
    assert_eq!(
        (&job["state"], &job["spec"]["context_object"]),
        (&json!("succeeded"), &json!("objects/one"))
    );
    assert_eq!(service.cat("000000000000b003", "/word"), b"from a zip\n");

    let job = service.run(with("000000000000b004", "objects/none")).await;
    assert_eq!(code(&job), "context_not_found", "{job:#}");
    assert!(set_storage(&yard, &s3, "another").0);
    let job = service.run(with("000000000000b004", "objects/one")).await;
    assert_eq!(code(&job), "context_denied", "{job:#}");
    assert!(!job.to_string().contains("Signature="), "{job:#}");
    let remove = ["workspace", "storage", "remove", "default", "--server", &service.url];
    assert!(clipwright(&remove, &[]).0);
    assert_eq!(service.get("/v1/workspaces/default/storage").await.0, 404);
    let job = service.run(with("000000000000b004", "objects/one")).await;
    assert_eq!(code(&job), "no_storage", "{job:#}");
    assert_eq!(yard.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_context_is_a_commit_of_a_git_repository() {
    let (yard, git) = (reachable().await, GitServer::start(Some("user:hunter2")).await);
    let service = &yard.service;
    let dockerfile = yard.on_base(COPY);
    let first = git.commit(&[("sub/Dockerfile", &dockerfile), ("sub/word", "first\n"), ("x", "")]);
    git.tag("v1");
    // Archives would leave the file out.
    let files = [
        ("Dockerfile", &*dockerfile),
        ("word", "second\n"),
        (".gitattributes", "word export-ignore\n"),
    ];
    let second = git.commit(&files);
    let with = |image: &str, name: &str, login: Option<&str>| {
        json!({
            "kind": "build", "image_id": image,
            "context": {"git": format!("{}{name}", git.url), "credentials": login},
        })
    };
    let login = Some("user:hunter2");
    let mut digests = Vec::new();
    for (image, name, commit, word) in [
        ("000000000000b011", "/app.git#v1:sub", &first, "first\n"),
        ("000000000000b012", "/app.git", &second, "second\n"),
        ("000000000000b013", "/app.git#main", &second, "second\n"),
        ("000000000000b014", &format!("/app.git#{first}:sub"), &first, "first\n"),
    ] {
        let job = service.run(with(image, name, login)).await;
        assert_eq!(job["state"], "succeeded", "{job:#}");
        let origin = &job["result"]["build"]["context"];
        assert_eq!(origin["commit"], json!(commit), "{origin}");
        assert_eq!(origin["git"], json!(format!("{}{name}", git.url)));
        assert!(!job.to_string().contains("hunter2"));
        assert_eq!(service.cat(image, "/word"), word.as_bytes());
        digests.push(origin["digest"].clone());
    }
    assert_eq!(digests[1], digests[2]);
    assert_eq!(digests[0], digests[3]);

    for (name, login, code, told) in [
        ("/app.git", None, "context_denied", ""),
        ("/app.git", Some("user:wrong"), "context_denied", ""),
        ("/app.git#none", login, "context_not_found", "none"),
        ("/app.git#main:none", login, "context_not_found", "no such directory"),
        ("/other.git", login, "context_not_found", "other.git"),
        ("/elsewhere/app.git", login, "context_denied", "redirects are not followed"),
    ] {
        let job = service.run(with("000000000000b015", name, login)).await;
        assert_eq!(job["error"]["code"], code, "{name}: {job:#}");
        let message = job["error"]["message"].as_str().unwrap();
        assert!(message.contains(told), "{message}");
        assert!(!job.to_string().contains("hunter2"));
    }
    assert_eq!(yard.left(), Vec::<String>::new());
}

/// What the egress policy does not let the service reach is not reached for a context either.
#[tokio::test]
async fn contexts_come_from_where_the_service_may_go() {
    let settings = Settings::default().argument("private-addresses", "false");
    let (yard, git) = (Yard::with(settings).await, GitServer::start(None).await);
    git.commit(&[("Dockerfile", "FROM scratch")]);
    let body = json!({
        "kind": "build", "image_id": IMAGE, "context": {"git": format!("{}/app.git", git.url)},
    });
    let job = yard.service.run(body).await;
    assert_eq!(job["error"]["code"], "address_refused", "{job:#}");
    let s3 = S3Server::start().await;
    let (done, _, said) = set_storage(&yard, &s3, &s3.secret_key);
    assert!(!done && said.contains("endpoint"), "{said}");
    let (status, answer) = yard
        .service
        .post(
            "/v1/jobs",
            &json!({
                "kind": "build", "image_id": IMAGE, "context": {"git": "http://git.example/app"},
            }),
        )
        .await;
    assert_eq!((status, &answer["errors"][0]["field"]), (422, &json!("context.git")), "{answer}");
}

#[tokio::test]
async fn contexts_of_a_workspace_are_bounded() {
    let yard = Yard::with(Settings::default().argument("contexts-mib", "1")).await;
    let service = &yard.service;
    // Bytes that can't be made smaller.
    let of = |seed: u8, bytes: usize| {
        let mut state = u64::from(seed) + 1;
        let noise = (0..bytes).map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'!' + (state >> 33) as u8 % 90)
        });
        context(&[("noise", &noise.collect::<String>())])
    };
    let send = async |bytes: &[u8]| {
        let (status, answer) = service.send_bytes("/v1/contexts", bytes.to_vec()).await;
        (status, answer["code"].as_str().unwrap_or_default().to_owned())
    };
    let is_kept = async |bytes: &[u8]| {
        service.head(&format!("/v1/contexts/{}", Digest::of(bytes))).await == 200
    };
    let [one, two, three] = [1, 2, 3].map(|seed| of(seed, 450_000));
    assert!(one.len() > 400_000 && one.len() < 524_288, "{}", one.len());
    for bytes in [&one, &two, &one] {
        assert_eq!(send(bytes).await.0, 201);
    }
    // Those that are in use stay.
    assert_eq!(send(&three).await, (429, "contexts_full".to_owned()));
    assert_eq!(send(&of(4, 1_600_000)).await, (413, "context_too_large".to_owned()));
    let name = format!("images/context/default.{}", Digest::of(&two).hex());
    let file = std::fs::File::open(service.data().join(name)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_hours(3)).unwrap();
    assert_eq!(send(&three).await.0, 201);
    assert_eq!(
        (is_kept(&one).await, is_kept(&two).await, is_kept(&three).await),
        (true, false, true)
    );
}
