//! A real run, scraped by a real Prometheus: everything that can be measured has values, and every query of
//! the dashboards brings something.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clipwright::telemetry::catalogue::{CATALOGUE, Kind, Place};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::mount::{Mounted, scratch};
use crate::support::bench::Bench;
use crate::support::layout::{Blob, noise};
use crate::support::service::Settings;
use crate::support::upstream::{run, skip};

/// What comes only when something goes wrong.
const RARE: [&str; 2] = ["clipwright_leases_lost_total", "clipwright_put_right_total"];
/// What `promtool` would call otherwise: the names of the plan are as they are.
const NAMES_OF_THE_PLAN: [&str; 2] = ["clip_first_exec_ms ", "clip_range_get_count "];

fn docker(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docker").join(name)
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Some of everything that the service does; `n` tells the rounds apart.
async fn round(bench: &Bench, n: u64) -> String {
    let image = |kind: u64| format!("{:016x}", n << 8 | kind);
    let large = Blob::file("large", &noise(n, 5 << 20));
    let source = bench.push(&[large, Blob::file("small", b"content")]);
    let service = &bench.service;
    let pull = |kind: u64, more: Value| {
        let mut body = json!({"kind": "pull", "image_id": image(kind), "source": source});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        service.run(body)
    };
    assert_eq!(pull(0, json!({})).await["state"], "succeeded");
    // Its layers are known by now.
    assert_eq!(pull(1, json!({})).await["state"], "succeeded");
    assert_eq!(pull(2, json!({"clip_version": 1})).await["state"], "succeeded");
    let zstd = bench.push(&[Blob::zstd(&[0; 1024])]);
    let fell_back = pull(3, json!({"source": zstd})).await;
    assert_eq!(fell_back["result"]["version"]["produced"], 1, "{fell_back:#}");
    let missing = format!("{}/no/such:image", bench.registry.address);
    assert_eq!(pull(4, json!({"source": missing})).await["state"], "failed");
    for (kind, version) in [(0, 2), (2, 1)] {
        let start = |outcome: &str| {
            json!({
                "id": Uuid::now_v7(), "clip_version": version, "temperature": "cold",
                "outcome": outcome, "start_seconds": 0.25, "first_exec_ms": 300,
                "wire_bytes": 1 << 20,
            })
        };
        let starts = json!({"starts": [start("succeeded"), start("failed")]});
        let (status, _) =
            service.post(&format!("/v1/images/{}/starts", image(kind)), &starts).await;
        assert_eq!(status, 200);
    }
    image(0)
}

/// Prometheus, with the configuration of `docker/` but for whom it asks and how often.
struct Prometheus {
    process: Child,
    url: String,
    http: reqwest::Client,
}

impl Prometheus {
    fn start(directory: &Path, service: &str, mount: Option<&str>) -> Self {
        let config = std::fs::read_to_string(docker("prometheus/prometheus.yml")).unwrap();
        let mut config: Value = serde_yaml_ng::from_str(&config).unwrap();
        config["global"]["scrape_interval"] = json!("1s");
        config["global"]["evaluation_interval"] = json!("1s");
        config["rule_files"] = json!([docker("prometheus/alerts.yml")]);
        for job in config["scrape_configs"].as_array_mut().unwrap() {
            let targets: Vec<&str> = match job["job_name"].as_str().unwrap() {
                "clipwright" => vec![service.trim_start_matches("http://")],
                "clipwright-mounts" => mount.into_iter().collect(),
                other => panic!("{other} is scraped, and there is none here"),
            };
            let job = job.as_object_mut().unwrap();
            job.retain(|key, _| !key.ends_with("_sd_configs"));
            job.insert("static_configs".to_owned(), json!([{"targets": targets}]));
        }
        let file = directory.join("prometheus.yml");
        std::fs::write(&file, serde_yaml_ng::to_string(&config).unwrap()).unwrap();
        let address = free_address();
        let process = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed (scripts/setup.sh test)");
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { process, url: format!("http://{address}/api/v1"), http }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let url = reqwest::Url::parse_with_params(&format!("{}/{path}", self.url), query).unwrap();
        let answer = self.http.get(url).send().await.ok()?;
        serde_json::from_slice(&answer.bytes().await.ok()?).ok()
    }

    /// The numbers that a query brings now.
    async fn numbers(&self, query: &str) -> Vec<f64> {
        let Some(answer) = self.get("query", &[("query", query)]).await else { return Vec::new() };
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let results = answer["data"]["result"].as_array().unwrap();
        let number = |result: &Value| result["value"][1].as_str()?.parse::<f64>().ok();
        results.iter().filter_map(number).filter(|number| number.is_finite()).collect()
    }

    /// Waits until a query brings a number; whether it did.
    async fn brings(&self, query: &str) -> bool {
        let started = Instant::now();
        while self.numbers(query).await.is_empty() {
            if started.elapsed() > Duration::from_secs(20) {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        true
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Each query of a dashboard, with the title of its panel.
fn queries(dashboard: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(dashboard).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let panels = panels.filter(|panel| panel["type"] != "row");
    let of = |panel: &Value| -> Vec<(String, String)> {
        let targets = panel["targets"].as_array().unwrap().iter();
        let title = panel["title"].as_str().unwrap();
        assert_eq!(panel["datasource"]["uid"], "prometheus", "{title}");
        let query =
            |target: &Value| target["expr"].as_str().unwrap().replace("$__rate_interval", "1m");
        targets.map(|target| (title.to_owned(), query(target))).collect()
    };
    panels.flat_map(of).collect()
}

fn has_samples(exposition: &str, name: &str, kind: Kind) -> bool {
    let sample =
        if matches!(kind, Kind::Histogram(_)) { format!("{name}_count") } else { name.to_owned() };
    let is =
        |line: &str| line.strip_prefix(&*sample).is_some_and(|rest| rest.starts_with([' ', '{']));
    exposition.lines().any(is)
}

fn check_exposition(exposition: &str, place: Place) {
    for metric in CATALOGUE {
        let expected = [place, Place::Both].contains(&metric.place) && !RARE.contains(&metric.name);
        let found = has_samples(exposition, metric.name, metric.kind);
        // Mounts and services are told apart by what they have.
        assert!(found || !expected, "{} has no samples in\n{exposition}", metric.name);
        assert!(!found || metric.place == Place::Both || metric.place == place, "{}", metric.name);
    }
    assert!(has_samples(exposition, "process_resident_memory_bytes", Kind::Gauge));
    // No label tells of an image, a registry or a workspace.
    assert!(!exposition.contains("127.0.0.1") && !exposition.contains("images/source"));
    assert!(!exposition.contains(r#"workspace="default""#));
    let mut lint = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed (scripts/setup.sh test)");
    std::io::Write::write_all(&mut lint.stdin.take().unwrap(), exposition.as_bytes()).unwrap();
    let said = String::from_utf8(lint.wait_with_output().unwrap().stderr).unwrap();
    let odd: Vec<_> = said
        .lines()
        .filter(|line| !NAMES_OF_THE_PLAN.iter().any(|name| line.starts_with(name)))
        .collect();
    assert!(odd.is_empty(), "{odd:#?}");
}

#[tokio::test]
async fn every_metric_has_values_and_every_query_brings_some() {
    let bench = Bench::new(Settings::default()).await;
    let image = round(&bench, 1).await;
    let directory = scratch();
    let address = free_address();
    let mounted = directory.as_ref().map(|directory| {
        let archive = bench.service.archive(&image);
        Mounted::new(&archive, directory.path(), &["--metrics", &address, "--no-prefetch"])
    });
    let read = |part: usize| {
        if let Some(mounted) = &mounted {
            let file = std::fs::File::open(mounted.path("large")).unwrap();
            let mut buffer = vec![0; 1 << 20];
            let offset = (part as u64) << 21;
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut buffer, offset).unwrap();
        }
    };
    read(0);
    let prometheus = Prometheus::start(
        bench.dir.path(),
        &bench.service.url,
        mounted.as_ref().map(|_| &*address),
    );
    let seen = |job: &str| format!("up{{job=\"{job}\"}} == 1");
    assert!(prometheus.brings(&seen("clipwright")).await);
    assert!(mounted.is_none() || prometheus.brings(&seen("clipwright-mounts")).await);

    round(&bench, 2).await;
    read(1);
    check_exposition(&bench.service.get_text("/metrics").await, Place::Service);
    if mounted.is_some() {
        let url = format!("http://{address}/metrics");
        let shown = run(Command::new("curl").args(["-sf", &url]));
        check_exposition(&String::from_utf8(shown).unwrap(), Place::Mount);
    }

    let mut barren = Vec::new();
    let mut asked = 0;
    for dashboard in std::fs::read_dir(docker("grafana/dashboards")).unwrap() {
        for (title, query) in queries(&dashboard.unwrap().path()) {
            let of_mounts =
                ["mounts", "clip_cache", "clip_reads"].iter().any(|word| query.contains(word));
            if of_mounts && mounted.is_none() {
                skip("what mounts do is not seen without one");
                continue;
            }
            asked += 1;
            if !prometheus.brings(&query).await {
                barren.push(format!("{title}: {query}"));
            }
        }
    }
    assert!(barren.is_empty(), "these bring nothing:\n{}", barren.join("\n"));
    assert!(asked > 50, "{asked}");

    let rules = prometheus.get("rules", &[]).await.unwrap();
    let rules = rules["data"]["groups"][0]["rules"].as_array().unwrap().clone();
    assert!(rules.len() > 10);
    for rule in rules {
        assert_eq!((&rule["health"], rule["lastError"].as_str()), (&json!("ok"), None), "{rule:#}");
    }
}

/// Rules are sound, each fires when it should, and says where help is.
#[test]
fn alerts_fire_when_they_should() {
    let here = docker("prometheus");
    for arguments in [
        &["check", "config", "--syntax-only", "prometheus.yml"][..],
        &["check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"],
        &["test", "rules", "alerts.test.yml"],
    ] {
        run(Command::new("promtool").args(arguments).current_dir(&here));
    }
    let yaml = |name: &str| -> Value {
        serde_yaml_ng::from_str(&std::fs::read_to_string(here.join(name)).unwrap()).unwrap()
    };
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let page = std::fs::read_to_string(page).unwrap();
    let (alerts, tests) = (yaml("alerts.yml"), yaml("alerts.test.yml"));
    let tested: Vec<_> =
        tests["tests"].as_array().unwrap().iter().map(|test| test["name"].clone()).collect();
    for rule in alerts["groups"][0]["rules"].as_array().unwrap() {
        let name = rule["alert"].as_str().unwrap();
        assert!(tested.contains(&json!(name)), "{name} has no test");
        let anchor = format!("operations.html#{}", name.to_lowercase());
        assert!(rule["annotations"]["runbook_url"].as_str().unwrap().ends_with(&anchor), "{rule}");
        assert!(page.lines().any(|line| line == format!("#### {name}")), "no word on {name}");
    }
}
