//! The image, the compose file and the manifests, by the parsers of those who would run them.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::queue::{Fixture, error};
use crate::support::upstream::{run, skip};

fn docker(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(name)
}

/// The Go program that parses as Compose and Kustomize do; `None` (and said so) without Go.
fn parser() -> Option<PathBuf> {
    if Command::new("go").arg("version").output().is_err() {
        skip("no Go here, in which the parsers of Compose and Kustomize are written");
        return None;
    }
    let binary = Path::new(env!("CARGO_TARGET_TMPDIR")).join("manifests");
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests");
    let mut build = Command::new("go");
    build.current_dir(module).args(["build", "-buildvcs=false", "-o"]).arg(&binary).arg(".");
    run(&mut build);
    Some(binary)
}

/// Names that stand for settings here are settings.
fn assert_known<'a>(names: impl Iterator<Item = &'a str>) {
    let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/setting.rs");
    let settings = std::fs::read_to_string(settings).unwrap();
    for name in names.filter(|name| name.starts_with("CLIPWRIGHT_") || name.starts_with("OTEL_")) {
        assert!(settings.contains(&format!("\"{name}\"")), "{name} is no setting");
    }
}

#[test]
fn compose_takes_its_file() {
    let Some(parser) = parser() else { return };
    let mut compose = Command::new(parser);
    compose.arg("compose").arg(docker("compose.yaml"));
    let example = std::fs::read_to_string(docker("example.env")).unwrap();
    for line in example.lines().filter(|line| !line.starts_with('#')) {
        compose.env(line.split_once('=').unwrap().0, "told");
    }
    let project: Value = serde_json::from_slice(&run(&mut compose)).unwrap();
    let services = project["services"].as_object().unwrap();
    for name in ["api", "worker", "postgres", "registry", "s3", "prometheus", "grafana"] {
        assert!(services.contains_key(name), "{name} is missing");
    }
    assert_eq!(services["worker"]["deploy"]["replicas"], 2);
    for name in ["api", "worker"] {
        let environment = services[name]["environment"].as_object().unwrap();
        assert_known(environment.keys().map(String::as_str));
        assert_eq!(environment["CLIPWRIGHT_ROLE"], name);
        let first = &services[name]["depends_on"]["schema"]["condition"];
        assert_eq!(first, "service_completed_successfully");
    }
    // What is mounted into containers is there.
    let volumes = services.values().filter_map(|service| service["volumes"].as_array()).flatten();
    for volume in volumes.filter(|volume| volume["type"] == "bind") {
        let source = volume["source"].as_str().unwrap();
        assert!(Path::new(source).exists(), "{source}");
    }
}

#[test]
fn kubernetes_takes_the_manifests() {
    let Some(parser) = parser() else { return };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/kubernetes_validate.sh");
    let dir = tempfile::tempdir().unwrap();
    let mut kinds = Vec::new();
    for overlay in ["base", "example"] {
        let yaml =
            run(Command::new(&parser).arg("kustomize").arg(docker("kubernetes").join(overlay)));
        let file = dir.path().join(format!("{overlay}.yaml"));
        std::fs::write(&file, &yaml).unwrap();
        let Ok(checked) = Command::new(&script).arg(&file).output() else {
            return skip("kubernetes-validate can't be had");
        };
        let said = String::from_utf8(checked.stdout).unwrap()
            + &String::from_utf8(checked.stderr).unwrap();
        assert!(checked.status.success(), "{said}");
        // Custom resources have no schema there; everything else has.
        let unknown = said.lines().filter(|line| line.starts_with("WARN"));
        assert!(unknown.clone().all(|line| line.contains("keda.sh/")), "{said}");
        assert_eq!(unknown.count(), if overlay == "example" { 2 } else { 0 }, "{said}");
        for resource in resources(&yaml) {
            kinds.push(resource["kind"].as_str().unwrap().to_owned());
            check_containers(&resource);
        }
    }
    for kind in
        ["Deployment", "DaemonSet", "Job", "NetworkPolicy", "PodDisruptionBudget", "ScaledObject"]
    {
        assert!(kinds.iter().any(|found| found == kind), "no {kind}");
    }
    // What the secrets have in them, and what is merged in, are settings.
    let secrets = std::fs::read_to_string(docker("kubernetes/example-secret.yaml")).unwrap();
    for secret in resources(secrets.as_bytes()) {
        let data = secret["stringData"].as_object().unwrap();
        let read_by_mounts = ["CLIPWRIGHT_CREDENTIALS"];
        assert_known(data.keys().map(String::as_str).filter(|name| !read_by_mounts.contains(name)));
    }
}

fn resources(yaml: &[u8]) -> Vec<Value> {
    use serde::Deserialize as _;
    let documents = serde_yaml_ng::Deserializer::from_slice(yaml);
    documents.map(|document| Value::deserialize(document).unwrap()).collect()
}

/// Every container of ours says what it may take and is looked after; only mounts and builders are root's.
fn check_containers(resource: &Value) {
    let name = &resource["metadata"]["name"];
    if resource["kind"] == "ConfigMap" {
        let data = resource["data"].as_object().unwrap();
        return assert_known(data.keys().map(String::as_str));
    }
    let pod = &resource["spec"]["template"]["spec"];
    for container in pod["containers"].as_array().into_iter().flatten() {
        assert!(container["resources"]["limits"]["memory"].is_string(), "{name}");
        assert!(container["image"].as_str().unwrap().contains(":0.1.0"), "{name}: {container}");
        let environment = container["env"].as_array().into_iter().flatten();
        let read_by_mounts = ["CLIPWRIGHT_SPAN_CACHE_DIR"];
        let names = environment.map(|variable| variable["name"].as_str().unwrap());
        assert_known(names.filter(|name| !read_by_mounts.contains(name)));
        if resource["kind"] != "Job" {
            assert!(container["livenessProbe"].is_object(), "{name}");
            assert!(container["startupProbe"].is_object(), "{name}");
        }
        let is_root = resource["kind"] == "DaemonSet" || name == "clipwright-builder";
        if !is_root {
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(container["securityContext"]["capabilities"]["drop"][0], "ALL", "{name}");
        }
    }
}

/// What KEDA asks the database is answered, and follows the queue.
#[tokio::test]
async fn the_scalers_query_counts_what_waits_and_what_runs() {
    let scaler = std::fs::read_to_string(docker("kubernetes/components/keda/scaler.yaml")).unwrap();
    let scaler = resources(scaler.as_bytes()).pop().unwrap();
    let query = scaler["spec"]["triggers"][0]["metadata"]["query"].as_str().unwrap().to_owned();
    let f = Fixture::new().await;
    let counted = async || -> i64 {
        let query = sqlx::AssertSqlSafe(query.clone());
        sqlx::query_scalar(query).fetch_one(f.database.pool()).await.unwrap()
    };
    assert_eq!(counted().await, 0);
    for n in 1..=3 {
        f.submit(n).await;
    }
    // A second one of the same image waits for the first, whatever workers there are.
    f.submit(1).await;
    assert_eq!(counted().await, 3);
    let lease = f.claim("w").await.unwrap();
    assert_eq!(counted().await, 3, "whoever works is not taken away");
    f.queue.fail(&lease, &error("x", false)).await.unwrap();
    let depth = f.queue.depth().await.unwrap();
    let ready: u64 = depth.kinds.iter().map(|kind| kind.ready).sum();
    assert_eq!(counted().await, i64::try_from(ready).unwrap());
}
