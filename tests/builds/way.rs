//! The way of a build that comes to its end.

use serde_json::{Value, json};

use super::harness::{Yard, build, clipwright, context};
use crate::support::layout::{Blob, Layout};
use crate::support::service::{Service, Settings};

const IMAGE: &str = "961eaef6668e480f";

#[tokio::test]
async fn a_dockerfile_and_a_context_become_an_image_and_an_archive() {
    let yard = Yard::start().await;
    let service = &yard.service;
    let sent =
        context(&[("app/run", "echo hi\n"), ("secret.txt", "x"), (".dockerignore", "secret*\n")]);
    let (status, kept) = service.send_bytes("/v1/contexts", sent.clone()).await;
    assert_eq!((status, &kept["size"]), (201, &json!(sent.len())), "{kept}");
    let digest = kept["digest"].as_str().unwrap();
    assert_eq!(service.head(&format!("/v1/contexts/{digest}")).await, 200);
    let none = format!("/v1/contexts/sha256:{}", "0".repeat(64));
    assert_eq!(service.head(&none).await, 404);
    assert_eq!(service.send_bytes("/v1/contexts", b"no archive".to_vec()).await.0, 422);

    let rest = "ARG WORD=none\nWORKDIR /srv\nCOPY . .\nRUN echo \"$WORD\" > word; echo told; echo aside >&2\n\
                FROM scratch\nCOPY --from=0 /srv /\n";
    let mut body = build(IMAGE, &yard.on_base(rest));
    body["context"] = json!(digest);
    body["build_args"] = json!({"WORD": "given"});
    body["labels"] = json!({"who": "tests"});
    let job = service.run(body.clone()).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let result = &job["result"];
    assert_eq!(result["clip_version"], 2);
    let made = &result["build"];
    let manifest = result["manifest_digest"].as_str().unwrap();
    let reference = format!("{}/beta9-users:{IMAGE}@{manifest}", yard.registry.address);
    assert_eq!(made["reference"], reference);
    assert_eq!(result["reference"], format!("{}/beta9-users@{manifest}", yard.registry.address));
    assert_eq!(made["backend"]["name"], "buildah");
    assert_eq!(made["bases"][0]["name"], yard.base);
    assert!(made["bases"][0]["reference"].as_str().unwrap().contains("/base@sha256:"));
    let steps = made["steps"].as_array().unwrap();
    let lines: Vec<_> = steps.iter().map(|step| step["line"].as_u64().unwrap()).collect();
    assert!(lines.starts_with(&[1, 2, 3, 4, 5]), "{steps:#?}");
    assert_eq!(made["cached_steps"], 0, "{steps:#?}");
    for (path, content) in [("/word", "given\n"), ("/app/run", "echo hi\n")] {
        assert_eq!(service.cat(IMAGE, path), content.as_bytes(), "{path}");
    }
    let (_, listed) = service.get(&format!("/v1/images/{IMAGE}/files")).await;
    assert!(!listed.to_string().contains("secret.txt"), "it is ignored: {listed}");

    let log = yard.log(job["id"].as_str().unwrap()).await;
    let line = |text: &str| {
        log.iter().find(|line| line["text"] == text).unwrap_or_else(|| panic!("{text}: {log:#?}"))
    };
    assert_eq!(
        (&line("told")["stream"], &line("told")["step"]["line"]),
        (&json!("stdout"), &json!(5))
    );
    assert_eq!(
        (&line("aside")["stream"], &line("aside")["step"]["step"]),
        (&json!("stderr"), &json!(5))
    );
    let next = line("told")["next"].as_i64().unwrap();
    let path = format!("/v1/jobs/{}/log?offset={next}", job["id"].as_str().unwrap());
    let rest: Vec<_> = service.get_text(&path).await.lines().map(str::to_owned).collect();
    assert!(!rest.is_empty() && !rest.iter().any(|line| line.contains("\"told\"")));

    // What did not change comes from the cache, whatever it is called; what may not, doesn't.
    body["image_id"] = json!("961eaef6668e4810");
    let again = service.run(body.clone()).await;
    let steps = again["result"]["build"]["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["line"] == 5 && step["cached"] == true), "{steps:#?}");
    assert_eq!(again["result"]["build"]["bases"][0]["cached"], true);
    body["image_id"] = json!("961eaef6668e4811");
    body["no_cache"] = json!(true);
    let anew = service.run(body).await;
    assert_eq!(anew["result"]["build"]["cached_steps"], 0, "{anew:#}");
    assert_eq!(yard.left(), Vec::<String>::new());
}

/// A tag that moved is another base; one that asks for v1 is not pushed; no Dockerfile is a pull.
#[tokio::test]
async fn bases_are_looked_up_each_time_and_v1_needs_no_registry() {
    let yard = Yard::start().await;
    let rest = "COPY --from=TOOLS /tool /tool\nRUN cat /tool > /copied\n"
        .replace("TOOLS", &format!("{}/tools:latest", yard.registry.address));
    let layer = |content: &[u8]| Layout::of(&[Blob::file("tool", content)]);
    yard.registry.push(layer(b"one").path(), "tools");
    let first = yard.build(IMAGE, &rest).await;
    assert_eq!(first["state"], "succeeded", "{first:#}");
    yard.registry.push(layer(b"two").path(), "tools");
    let second = yard.build("961eaef6668e4812", &rest).await;
    assert_eq!(yard.service.cat("961eaef6668e4812", "/copied"), b"two", "{second:#}");
    assert_eq!(yard.service.cat(IMAGE, "/copied"), b"one");

    let mut body = build("961eaef6668e4813", &yard.on_base("RUN echo v1 > /it\n"));
    body["clip_version"] = json!(1);
    let packed = yard.service.run(body).await;
    assert_eq!(packed["result"]["clip_version"], 1, "{packed:#}");
    assert_eq!(packed["result"]["build"].get("reference"), None);
    assert_eq!(yard.service.cat("961eaef6668e4813", "/rootfs/it"), b"v1\n");

    let pulled = json!({"kind": "build", "image_id": "961eaef6668e4814", "source": yard.base});
    let pulled = yard.service.run(pulled).await;
    assert_eq!((&pulled["spec"]["kind"], &pulled["state"]), (&json!("pull"), &json!("succeeded")));
}

#[tokio::test]
async fn the_command_line_builds_with_and_without_a_service() {
    let yard = Yard::start().await;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("context");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(root.join("file"), "content\n").unwrap();
    let rest = "ARG A\nCOPY file /file\nRUN --mount=type=secret,id=token cat /run/secrets/token | sha256sum > /sum; echo \"A is $A\"\n";
    std::fs::write(root.join("Dockerfile"), yard.on_base(rest)).unwrap();
    let (root, archive, storage) =
        (root.to_str().unwrap(), dir.path().join("out.clip"), dir.path().join("storage"));
    let (archive, storage) = (archive.to_str().unwrap(), storage.to_str().unwrap());
    let tag = format!("{}/app:1", yard.registry.address);
    let secret = [("TOKEN", "hunter2-hunter2")];
    let options = [root, "--build-arg", "A=b", "--secret", "id=token,env=TOKEN"];
    let alone =
        [&["build", "-t", &tag, "-o", archive, "--storage", storage], &options[..]].concat();
    let (ok, out, err) = clipwright(&alone, &secret);
    assert!(ok, "{out}{err}");
    assert!(err.contains("A is b") && !err.contains("hunter2"), "{err}");
    let (ok, out, err) = clipwright(&["cat", archive, "/file"], &[]);
    assert!(ok && out == "content\n", "{out}{err}");
    let (ok, out, err) = clipwright(&["index", &tag, "-o", &format!("{archive}.again")], &[]);
    assert!(ok, "what was pushed can be pulled: {out}{err}");

    let server = ["--server", &yard.service.url];
    let submit = [&["submit"], &server[..], &["build", "--image-id", IMAGE], &options[..]].concat();
    let (ok, out, err) = clipwright(&submit, &secret);
    assert!(ok, "{out}{err}");
    assert!(err.contains("sending the context") && err.contains("A is b"), "{err}");
    assert_eq!(yard.service.cat(IMAGE, "/sum"), clip_cat(archive, "/sum"));
    let submit =
        [&["submit"], &server[..], &["build", "--image-id", "961eaef6668e4815"], &options[..]]
            .concat();
    let (ok, _, err) = clipwright(&submit, &secret);
    assert!(ok && err.contains("the context is known"), "{err}");
    let (_, jobs) = yard.service.get("/v1/jobs").await;
    let job = jobs["jobs"][1]["id"].as_str().unwrap();
    let (ok, out, err) = clipwright(&[&["jobs"], &server[..], &["logs", job, "-f"]].concat(), &[]);
    assert!(ok && out.contains("A is b\n") && out.contains("=> Image published"), "{out}{err}");
}

fn clip_cat(archive: &str, path: &str) -> Vec<u8> {
    clipwright(&["cat", archive, path], &[]).1.into_bytes()
}

#[tokio::test]
async fn contexts_are_taken_where_nothing_is_built() {
    let service = Service::start(Settings::default().argument("role", "api")).await;
    let sent = context(&[("a", "a")]);
    let (status, kept) = service.send_bytes("/v1/contexts", sent).await;
    assert_eq!(status, 201, "{kept}");
    let path = format!("/v1/contexts/{}", kept["digest"].as_str().unwrap());
    assert_eq!(service.head(&path).await, 200);
    let scratch = std::fs::read_dir(service.data().join("tmp")).unwrap();
    let unfinished: Vec<_> = scratch
        .flat_map(|own| std::fs::read_dir(own.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name != "lock")
        .collect();
    assert!(unfinished.is_empty(), "{unfinished:?}");
}

#[tokio::test]
async fn beta9_builds_and_reads_the_lines() {
    let yard = Yard::start().await;
    let request = json!({
        "container_id": "build-0a1b2c3d", "image_id": IMAGE,
        "build_options": {
            "dockerfile": yard.on_base("ARG TOKEN\nRUN echo from the build; echo \"token is $TOKEN\"\n"),
            "build_secrets": ["TOKEN=hunter2-hunter2"], "build_context": "",
        },
        "secrets_as_build_args": true,
    });
    let (status, answer) = yard.service.post("/v1/beta9/builds", &request).await;
    assert_eq!(status, 202, "{answer}");
    let text = yard.service.get_text("/v1/beta9/builds/build-0a1b2c3d/logs").await;
    let messages: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = |wanted: &str| {
        let found =
            messages.iter().position(|message| message["msg"].as_str().unwrap().contains(wanted));
        found.unwrap_or_else(|| panic!("{wanted}: {messages:#?}"))
    };
    let order = [
        "Loading image",
        "from the build\n",
        "token is ***\n",
        "Image built in",
        "Image published in",
        "is ready",
    ];
    let places: Vec<_> = order.iter().map(|wanted| at(wanted)).collect();
    assert!(places.is_sorted(), "{places:?}: {messages:#?}");
    assert!(messages.iter().any(|message| message["warning"] == true), "secrets as arguments");
    let last = messages.last().unwrap();
    assert_eq!(
        (&last["done"], &last["success"], &last["exit_code"]),
        (&json!(true), &json!(true), &json!(0))
    );
    assert!(!text.contains("hunter2"));
    let (status, problem) = yard
        .service
        .post(
            "/v1/beta9/builds",
            &json!({
                "build_options": {"dockerfile": "FROM scratch", "build_context": "../object-1"}
            }),
        )
        .await;
    assert_eq!(status, 422);
    assert_eq!(problem["errors"][0]["field"], "build_options.build_context", "{problem}");
}
