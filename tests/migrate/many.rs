//! Many images, through the command line.

use serde_json::{Value, json};

use super::runs::{files_in, settings};
use crate::support::bench::Bench;

const IDS: [&str; 4] =
    ["00000000000000a1", "00000000000000a2", "00000000000000a3", "00000000000000b4"];

async fn bench() -> Bench {
    let bench = Bench::new(settings()).await;
    for (n, id) in IDS.iter().enumerate() {
        bench.service.put_v1(id, &[("etc/name", id.as_bytes()), ("etc/n", &[n as u8])]);
    }
    bench
}

/// The exit code, and the JSON of the report.
async fn command(bench: &Bench, arguments: &[&str]) -> (bool, Value, String) {
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_clipwright"))
        .args(["migrate", "--json", "--server", &bench.service.url])
        .args(arguments)
        .output()
        .await
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.success(), report, error)
}

/// `image outcome` of each image, sorted.
fn outcomes(report: &Value) -> Vec<String> {
    let images = report["images"].as_array().unwrap_or_else(|| panic!("{report:#}"));
    let mut told: Vec<_> = images
        .iter()
        .map(|line| {
            format!("{} {}", line["image_id"].as_str().unwrap(), line["outcome"].as_str().unwrap())
        })
        .collect();
    told.sort();
    told
}

fn all(outcome: &str, ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| format!("{id} {outcome}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_migrated_and_the_rest_passed_over() {
    let bench = bench().await;
    let store = bench.service.archive(IDS[0]).parent().unwrap().to_owned();
    let before = files_in(&store);

    let (good, report, error) = command(&bench, &["--all", "--to", "2", "--dry-run"]).await;
    assert!(good, "{error}");
    assert_eq!(outcomes(&report), all("planned", &IDS));
    assert_eq!(report["images"][0]["from"], 1);
    assert_eq!(files_in(&store), before, "a dry run changes nothing");
    let (_, jobs) = bench.service.get("/v1/jobs").await;
    assert_eq!(jobs["jobs"], json!([]));

    let (good, report, error) =
        command(&bench, &["--prefix", "00000000000000a", "--to", "2", "--per-minute", "6000"])
            .await;
    assert!(good, "{error}");
    assert_eq!(outcomes(&report), all("migrated", &IDS[..3]));
    assert_eq!(report["images"][0]["compared"]["files"], 2, "{report:#}");

    // Again, with everything: only what is left.
    let (good, report, _) = command(&bench, &["--all", "--to", "2"]).await;
    assert!(good);
    let expected = [all("passed_over", &IDS[..3]), all("migrated", &IDS[3..])].concat();
    assert_eq!(outcomes(&report), expected);

    let (_, listed) = bench.service.get("/v1/archives?prefix=00000000000000a&limit=2").await;
    let told = |at: usize, field: &str| listed["archives"][at][field].clone();
    assert_eq!((told(0, "image_id"), told(0, "clip_version")), (json!(IDS[0]), json!(2)));
    assert_eq!((told(1, "kept"), &listed["next"]), (json!([1]), &json!(IDS[1])));
    let (_, next) = bench.service.get(&format!("/v1/archives?after={}", IDS[1])).await;
    assert_eq!(next["archives"].as_array().unwrap().len(), 2, "{next:#}");

    // Back, by name, and what was kept goes.
    let (good, report, _) = command(&bench, &[IDS[0], "--to", "1", "--discard-kept"]).await;
    assert!(good);
    assert_eq!(outcomes(&report), all("migrated", &IDS[..1]));
    let (_, listed) = bench.service.get(&format!("/v1/archives?prefix={}", IDS[0])).await;
    assert_eq!(listed["archives"][0]["kept"], json!([]), "{listed:#}");
    assert_eq!(listed["archives"][0]["clip_version"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told_one_by_one() {
    let bench = bench().await;
    std::fs::write(bench.service.archive(IDS[1]), b"no archive at all").unwrap();
    let (good, report, error) =
        command(&bench, &["--prefix", "00000000000000a", "--to", "2"]).await;
    assert!(!good && error.contains("1 of 3 images were not migrated"), "{error}");
    let expected =
        ["00000000000000a1 migrated", "00000000000000a2 failed", "00000000000000a3 migrated"];
    assert_eq!(outcomes(&report), expected);
    let (good, report, _) = command(&bench, &["ffffffffffffffff", "--to", "2"]).await;
    assert!(!good);
    assert_eq!(outcomes(&report), ["ffffffffffffffff failed"]);
    let (good, _, error) = command(&bench, &["--to", "2"]).await;
    assert!(!good && error.contains("<IMAGE_ID>"), "{error}");
}

/// The command is killed; its jobs go on, and the next run finds them or what came of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_killed_is_taken_up() {
    let bench = bench().await;
    let mut first = std::process::Command::new(env!("CARGO_BIN_EXE_clipwright"))
        .args(["migrate", "--all", "--to", "2", "--concurrency", "1", "--server"])
        .arg(&bench.service.url)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    // Its first line: one image is done.
    let mut line = String::new();
    let mut told = std::io::BufReader::new(first.stderr.take().unwrap());
    std::io::BufRead::read_line(&mut told, &mut line).unwrap();
    assert!(line.contains("is version 2 now"), "{line}");
    first.kill().unwrap();
    first.wait().unwrap();

    let (good, report, error) = command(&bench, &["--all", "--to", "2"]).await;
    assert!(good, "{error}");
    assert_eq!(outcomes(&report).len(), 4);
    let (_, listed) = bench.service.get("/v1/archives").await;
    for archive in listed["archives"].as_array().unwrap() {
        assert_eq!(archive["clip_version"], 2, "{listed:#}");
    }
    let (_, jobs) = bench.service.get("/v1/jobs").await;
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 4, "no image was migrated twice");
}
