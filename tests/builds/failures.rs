//! What is wrong is said in one sentence, and nothing is left.

use serde_json::{Value, json};

use super::harness::{Yard, build, context};

#[tokio::test]
async fn each_failure_names_its_cause_and_its_line() {
    let yard = Yard::start().await;
    let (_, kept) = yard.service.send_bytes("/v1/contexts", context(&[("a", "a")])).await;
    let missing = format!("{}/not/there:1", yard.registry.address);
    let nowhere = format!("sha256:{}", "0".repeat(64));
    let none = Value::Null;
    let cases = [
        (
            yard.on_base("RUN echo one; echo two >&2; exit 7\n"),
            none.clone(),
            "build_step_failed",
            vec!["Dockerfile line 2: RUN", "exited with code 7", "one", "two"],
        ),
        (
            yard.on_base("ENV A=b\n\nRUN nothing-like-this\n"),
            none.clone(),
            "build_step_failed",
            vec!["Dockerfile line 4", "code 127", "not found"],
        ),
        (
            yard.on_base("RUNN x\n"),
            none.clone(),
            "invalid_dockerfile",
            vec!["Dockerfile line 2", "\"RUNN\" is no instruction"],
        ),
        (
            yard.on_base("RUN cat <<EOF\nx\nEOF\n"),
            none.clone(),
            "invalid_dockerfile",
            vec!["line 2", "buildah 1.33"],
        ),
        (
            yard.on_base("COPY ../../etc/passwd /\n"),
            json!(kept["digest"]),
            "build_step_failed",
            vec!["Dockerfile line 2: COPY"],
        ),
        (
            yard.on_base("COPY missing /\n"),
            json!(kept["digest"]),
            "build_step_failed",
            vec!["line 2", "missing"],
        ),
        (yard.on_base("COPY a /\n"), json!(nowhere), "context_not_found", vec![nowhere.as_str()]),
        (
            format!("FROM scratch\nCOPY --from={missing} /a /b\n"),
            none.clone(),
            "image_not_found",
            vec!["Dockerfile line 2", "not/there"],
        ),
        (
            yard.on_base("USER nobody-here\nRUN id\n"),
            none.clone(),
            "build_step_failed",
            vec!["line 3"],
        ),
    ];
    let mut jobs = Vec::new();
    for (number, (dockerfile, context, ..)) in cases.iter().enumerate() {
        let mut body = build(&format!("00000000000000{number:02x}"), dockerfile);
        if !context.is_null() {
            body["context"] = context.clone();
        }
        jobs.push(yard.service.submit(body).await);
    }
    for (job, (dockerfile, _, code, sentences)) in jobs.iter().zip(&cases) {
        let job = yard.service.finished(job).await;
        let error = &job["error"];
        assert_eq!(
            (&job["state"], &error["code"]),
            (&json!("failed"), &json!(code)),
            "{dockerfile}: {job:#}"
        );
        let message = error["message"].as_str().unwrap();
        assert!(sentences.iter().all(|part| message.contains(part)), "{dockerfile}: {message}");
        assert_eq!(job["attempt"], 1, "what a user has to change is not tried again");
    }
    assert_eq!(yard.left(), Vec::<String>::new());
    assert_eq!(yard.service.stored(), Vec::<String>::new());
}

#[tokio::test]
async fn what_a_request_says_wrongly_is_named() {
    let yard = Yard::start().await;
    for (change, field) in [
        (json!({"dockerfile": ""}), "dockerfile"),
        (json!({"dockerfile": null}), "dockerfile"),
        (json!({"dockerfile_path": "x"}), "dockerfile_path"),
        (json!({"context": "sha256:1"}), "context"),
        (json!({"build_args": {"A-B": "x"}}), "build_args"),
        (json!({"labels": {"": "x"}}), "labels"),
        (json!({"secrets": {"a b": "hunter2"}}), "secrets"),
        (json!({"secrets": {"LD_PRELOAD": "hunter2"}, "secrets_as_build_args": true}), "secrets"),
        (json!({"target": "-x"}), "target"),
        (json!({"timeout": 0}), "timeout"),
        (json!({"source": "alpine"}), "source"),
        (json!({"credentials": {"registry.example": "hunter2"}}), "credentials"),
        (json!({"clip_version": 3}), "clip_version"),
        (json!({"platform": "x"}), "platform"),
    ] {
        let mut body = build("961eaef6668e480f", "FROM scratch\n");
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let (status, problem) = yard.service.post("/v1/jobs", &body).await;
        assert_eq!((status, &problem["errors"][0]["field"]), (422, &json!(field)), "{problem}");
        assert!(!problem.to_string().contains("hunter2"));
    }
}
