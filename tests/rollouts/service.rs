//! Rollouts through the real service: a v2 that fails is rolled back and the next claim obeys, a job that is
//! tried again obeys too, and a mount tells how it started.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::harness::image;
use crate::support::bench::Bench;
use crate::support::layout::{Blob, tar};
use crate::support::proxy::Proxy;
use crate::support::service::{Service, Settings};
use crate::support::upstream::skip;

/// Whatever should happen has happened by then, even on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);

fn hello() -> Vec<u8> {
    tar(&[("etc/hello", b"hello\n")])
}

/// What is at this path as soon as it is so.
async fn becomes(service: &Service, path: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let late = Instant::now() + PATIENCE;
    loop {
        let (status, found) = service.get(path).await;
        assert_eq!(status, 200, "{found:#}");
        if is_so(&found) {
            return found;
        }
        assert!(Instant::now() < late, "{path} is still {found:#}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn command(service: &Service, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clipwright"));
    command.args(arguments).args(["--server", &service.url]).env_remove("CLIPWRIGHT_TOKEN");
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_v2_that_fails_is_rolled_back_by_itself() {
    let mut bench = Bench::new(Settings::default().argument("clip-version", "0")).await;
    // v1 can carry this layer, v2 can't, and the workspace wants nothing instead.
    let source = bench.push(&[Blob::zstd(&hello())]);
    let service = &bench.service;
    let none = json!({ "fallback": "none" });
    assert_eq!(service.patch("/v1/workspaces/default", &none).await.0, 200);
    let elsewhere = json!({ "name": "builds", "percent": 100, "kinds": ["build"] });
    assert_eq!(service.post("/v1/rollouts", &elsewhere).await.0, 201);
    let pilot = json!({ "name": "pilot", "percent": 50, "kinds": ["pull", "build"] });
    let (_, made) = service.post("/v1/rollouts", &pilot).await;
    assert_eq!((&made["guard"], &made["kinds"]), (&json!(0.01), &pilot["kinds"]), "{made}");

    // What is not there is not v2's fault.
    let missing = format!("{source}-not-there");
    let pull = async |n: u64, source: &str| service.pull(&image(n), source).await;
    let mut jobs = Vec::new();
    for n in 0..30 {
        jobs.push(pull(n, &missing).await);
    }
    for job in &jobs {
        assert_eq!(service.finished(job).await["error"]["code"], "image_not_found");
    }
    let refused =
        |version: &str, report: &Value| report["jobs"][version]["refused"].as_u64().unwrap();
    let report = becomes(service, "/v1/rollouts/pilot/report", |report| {
        refused("v1", report) + refused("v2", report) == 30
    });
    let report = report.await;
    assert!(refused("v2", &report) >= 5, "{report:#}");
    assert_eq!((&report["state"], &report["jobs"]["v2"]["failed"]), (&json!("active"), &json!(0)));

    let mut jobs = Vec::new();
    for n in 100..140 {
        jobs.push(pull(n, &source).await);
    }
    let back = becomes(service, "/v1/rollouts/pilot", |rollout| rollout["state"] == "rolled_back");
    let back = back.await;
    assert!(back["reason"].as_str().unwrap().contains("images failed with v2, of 0 of"), "{back}");
    for job in &jobs {
        service.finished(job).await;
    }
    // The next claim of whatever would have been v2 obeys already.
    let mut checked = 0;
    for (n, job) in (100..140).zip(&jobs) {
        let (_, job) = service.get(&format!("/v1/jobs/{job}")).await;
        if job["state"] == "failed" && checked < 5 {
            assert_eq!(job["error"]["code"], "layer_unsupported", "{job:#}");
            let again = service.finished(&pull(n, &source).await).await;
            let version = &again["result"]["version"];
            let expected = (&json!(1), &json!("pilot"));
            assert_eq!((&version["produced"], &version["rollout"]), expected, "{again:#}");
            checked += 1;
        }
    }
    assert_eq!(checked, 5);

    let (_, audit) = service.get("/v1/audit").await;
    let by_guard: Vec<_> = audit["events"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|event| event["actor"] == "guard")
        .collect();
    assert_eq!(by_guard.len(), 1, "{audit:#}");
    assert_eq!(
        (&by_guard[0]["subject"], &by_guard[0]["detail"]["stage"]),
        (&json!("pilot"), &json!("job"))
    );
    let metrics = service.get_text("/metrics").await;
    assert!(metrics.contains("\nclipwright_rollouts_rolled_back_total 1\n"), "{metrics}");

    // The report, for people and for programs.
    let report = service.get("/v1/rollouts/pilot/report").await.1;
    assert!(report["jobs"]["v2"]["failed"].as_u64().unwrap() >= 8, "{report:#}");
    let table = command(service, &["rollout", "report", "pilot"]).output().unwrap();
    let table = String::from_utf8(table.stdout).unwrap();
    for words in [
        "pilot: rolled_back, pulls of",
        "refused (the user's fault)",
        "pull_seconds",
        "guard of jobs",
    ] {
        assert!(table.contains(words), "{words:?} is not in\n{table}");
    }
    let csv = command(service, &["rollout", "report", "pilot", "--csv"]).output().unwrap();
    assert_eq!(
        csv.stdout,
        service.get_text("/v1/rollouts/pilot/report?format=csv").await.as_bytes()
    );
    let json = command(service, &["rollout", "report", "pilot", "--json"]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&json.stdout).unwrap()["rollout"], "pilot");

    let (log, _) = bench.service.stop();
    assert!(log.contains("the guard rolled a rollout back"), "{log}");
}

/// A job that was to become v2 is tried again after the rollback: it obeys, and counts for v2 all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_after_a_rollback_obeys_it() {
    let bench = Bench::new(Settings::default().argument("clip-version", "0")).await;
    let service = &bench.service;
    let source = bench.push(&[Blob::gzip(&hello())]);
    let proxy = Proxy::start(&bench.registry.address).await;
    let source = source.replacen(&bench.registry.address, &proxy.address.to_string(), 1);
    let pilot = json!({ "name": "pilot", "percent": 100 });
    assert_eq!(service.post("/v1/rollouts", &pilot).await.0, 201);
    proxy.go_down();
    let job = service.pull(&image(1), &source).await;
    service.wait_for_event(&job, "retrying").await;
    let back = json!({ "state": "rolled_back", "reason": "by hand" });
    assert_eq!(service.patch("/v1/rollouts/pilot", &back).await.0, 200);
    proxy.come_up();
    let job = service.finished(&job).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let version = &job["result"]["version"];
    assert_eq!((&version["decided"], &version["produced"]), (&json!(1), &json!(1)), "{version}");
    let report = becomes(service, "/v1/rollouts/pilot/report", |report| {
        report["jobs"]["v2"]["succeeded"] == 1
    });
    let report = report.await;
    assert_eq!(
        (&report["jobs"]["v2"]["fell_back"], &report["jobs"]["v1"]["count"]),
        (&json!(1), &json!(0))
    );
    // What is decided now is no trial.
    let next = service.finished(&service.pull(&image(2), &source).await).await;
    assert_eq!(next["result"]["version"]["produced"], 1, "{next:#}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let (_, report) = service.get("/v1/rollouts/pilot/report").await;
    assert_eq!(
        (&report["jobs"]["v1"]["count"], &report["jobs"]["v2"]["count"]),
        (&json!(0), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mount_tells_how_it_started() {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        return skip("mounting takes root and /dev/fuse");
    }
    let settings =
        Settings::default().argument("clip-version", "0").env("CLIPWRIGHT_TOKEN", "s3cret");
    let bench = Bench::new(settings).await;
    let service = &bench.service;
    let source = bench.push(&[Blob::gzip(&hello())]);
    let run = |arguments: &[&str]| {
        let output =
            command(service, arguments).env("CLIPWRIGHT_TOKEN", "s3cret").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    run(&["rollout", "create", "pilot", "--percent", "100", "--kind", "pull", "--guard", "0"]);
    run(&["submit", "pull", &source, "--image-id", &image(7)]);
    let (archive, point) = (service.archive(&image(7)), bench.dir.path().join("mount"));
    std::fs::create_dir(&point).unwrap();
    let mount = |arguments: &[&str]| {
        let mut mount = Command::new(env!("CARGO_BIN_EXE_clipwright"));
        mount.args(["mount", "--service", &service.url, "--host-name", "worker-17"]);
        mount.args(arguments).env("CLIPWRIGHT_TOKEN", "s3cret").env("HOME", bench.dir.path());
        mount.env("CLIPWRIGHT_SPAN_CACHE_DIR", bench.dir.path().join("cache"));
        mount
    };
    for _ in 0..2 {
        let daemon =
            mount(&["--daemon"]).arg(&archive).arg(&point).stderr(Stdio::inherit()).status();
        assert!(daemon.unwrap().success());
        assert_eq!(std::fs::read(point.join("etc/hello")).unwrap(), b"hello\n");
        let unmount =
            Command::new(env!("CARGO_BIN_EXE_clipwright")).arg("unmount").arg(&point).status();
        assert!(unmount.unwrap().success());
    }
    // One that can't be mounted is told of as well.
    let broken = mount(&[]).arg(&archive).arg(bench.dir.path().join("nowhere")).output().unwrap();
    assert!(!broken.status.success());
    let unnamed = bench.dir.path().join("image.clip");
    std::fs::copy(&archive, &unnamed).unwrap();
    let unnamed = mount(&[]).arg(&unnamed).arg(&point).output().unwrap();
    assert!(String::from_utf8_lossy(&unnamed.stderr).contains("give --image-id"));

    let late = Instant::now() + PATIENCE;
    let report = loop {
        let report: Value =
            serde_json::from_slice(&run(&["rollout", "report", "pilot", "--json"])).unwrap();
        if report["starts"]["v2"]["count"] == 3 {
            break report;
        }
        assert!(Instant::now() < late, "{report:#}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(
        (&report["starts"]["v2"]["succeeded"], &report["starts"]["v2"]["failed"]),
        (&json!(2), &json!(1))
    );
    let of = |measure: &str| {
        let measures = report["measures"].as_array().unwrap();
        measures.iter().find(|found| found["measure"] == measure).unwrap()["v2"].clone()
    };
    // The second one found what the first had left.
    assert_eq!(
        (&of("cold_start_seconds")["count"], &of("warm_start_seconds")["count"]),
        (&json!(1), &json!(1))
    );
    assert!(of("first_exec_ms")["median"]["value"].as_f64().unwrap() > 0.0);
    assert_eq!(of("wire_bytes")["count"], 2);
}
