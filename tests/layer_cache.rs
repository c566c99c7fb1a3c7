//! Layers are read once, ever: by one process for the next, by one of many for the others.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::layout::{Blob, Layout, noise, tar};
use crate::support::postgres::TestDatabase;
use crate::support::proxy::Proxy;
use crate::support::registry::Registry;
use crate::support::service::{Service, Settings};

fn layer(name: &str, seed: u64) -> Blob {
    // Less than what is fetched by several ranges, so that fetches can be counted.
    Blob::gzip(&tar(&[(name, &noise(seed, 3 << 19))]))
}

/// A registry with one image of these layers, and the command line with a cache of its own.
struct Bench {
    dir: tempfile::TempDir,
    registry: Registry,
    layers: Vec<Blob>,
}

impl Bench {
    fn of(layers: &[Blob]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registry = Registry::start(dir.path());
        registry.push(Layout::of(layers).path(), "image");
        Self { dir, registry, layers: layers.to_vec() }
    }

    /// Takes the layers, and nothing else, out of the registry.
    fn forget_layers(&self) {
        for layer in &self.layers {
            std::fs::remove_file(self.registry.blob(layer.digest)).unwrap();
        }
    }

    /// `clipwright index` of the image; its report and the archive, or what it said.
    fn index(&self, options: &[&str]) -> Result<(Value, Vec<u8>), String> {
        let archive = self.dir.path().join("archive.clip");
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_clipwright"))
            .env("XDG_CACHE_HOME", self.dir.path().join("cache"))
            .env_remove("CLIPWRIGHT_CACHE_MIB")
            .args(["index", "--json", &format!("{}/image:latest", self.registry.address), "-o"])
            .arg(&archive)
            .args(options)
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8(output.stderr).unwrap());
        }
        let report = serde_json::from_slice(&output.stdout).unwrap();
        Ok((report, std::fs::read(archive).unwrap()))
    }

    fn kept(&self) -> Vec<PathBuf> {
        files(&self.dir.path().join("cache/clipwright/layer-index"))
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn cached(report: &Value) -> Vec<bool> {
    let layers = report["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["cached"].as_bool().unwrap()).collect()
}

#[test]
fn an_image_whose_layers_are_known_is_archived_without_them() {
    let bench = Bench::of(&[layer("a", 1), layer("b", 2)]);
    let (report, first) = bench.index(&[]).unwrap();
    assert_eq!(cached(&report), [false, false]);
    assert_eq!(bench.kept().len(), 2);
    bench.forget_layers();
    let (report, second) = bench.index(&[]).unwrap();
    assert_eq!(cached(&report), [true, true]);
    assert!(first == second, "the same image gives the same bytes");
    assert!(bench.index(&["--no-cache"]).unwrap_err().contains("not found"));
}

#[test]
fn a_cache_that_is_not_wanted_or_too_small_is_not_made() {
    let bench = Bench::of(&[layer("a", 1)]);
    for options in [&["--no-cache"][..], &["--cache-mib", "0"]] {
        let (report, _) = bench.index(options).unwrap();
        assert_eq!(cached(&report), [false]);
        assert!(bench.kept().is_empty());
    }
}

#[test]
fn what_is_damaged_is_made_anew() {
    let bench = Bench::of(&[layer("a", 1), layer("b", 2)]);
    let (_, first) = bench.index(&[]).unwrap();
    let kept = bench.kept();
    let good: Vec<_> = kept.iter().map(|file| std::fs::read(file).unwrap()).collect();
    for damage in [
        |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1,
        |bytes: &mut Vec<u8>| bytes.truncate(60),
        |bytes: &mut Vec<u8>| bytes.clear(),
    ] {
        let mut bytes = good[0].clone();
        damage(&mut bytes);
        std::fs::write(&kept[0], bytes).unwrap();
        let (report, archive) = bench.index(&[]).unwrap();
        assert_eq!(cached(&report).iter().filter(|cached| **cached).count(), 1);
        assert!(archive == first);
        assert!(std::fs::read(&kept[0]).unwrap() == good[0], "replaced");
    }
    // The index of one layer in place of the other's is whole, and refused all the same.
    std::fs::copy(&kept[1], &kept[0]).unwrap();
    let (_, archive) = bench.index(&[]).unwrap();
    assert!(archive == first && std::fs::read(&kept[0]).unwrap() == good[0]);
}

/// Services that share a database and a store.
struct Replicas {
    database: TestDatabase,
    store: tempfile::TempDir,
}

impl Replicas {
    async fn new() -> Self {
        Self { database: TestDatabase::create().await, store: tempfile::tempdir().unwrap() }
    }

    async fn start(&self) -> Service {
        let settings = Settings::default()
            .argument("store-dir", self.store.path().to_str().unwrap())
            .argument("workers", "2")
            .argument("lease-seconds", "1")
            .env("DATABASE_URL", self.database.url());
        Service::start(settings).await
    }
}

/// Two ways to one registry, so that it can be told who fetches what.
async fn two_ways(registry: &Registry) -> (Proxy, Proxy) {
    (Proxy::start(&registry.address).await, Proxy::start(&registry.address).await)
}

async fn pull(service: &Service, image_id: &str, proxy: &Proxy) -> String {
    service.pull(image_id, &format!("{}/image:latest", proxy.address)).await
}

#[tokio::test]
async fn of_many_replicas_one_reads_a_layer() {
    let bench = Bench::of(&[layer("a", 1)]);
    let digest = bench.layers[0].digest;
    let (slow, idle) = two_ways(&bench.registry).await;
    let replicas = Replicas::new().await;
    let first = replicas.start().await;
    slow.stall_after(1 << 20);
    let reading = pull(&first, "0000000000000001", &slow).await;
    slow.broke_something().await;

    // The others wait, whichever replica they are at, and may be cancelled while they do.
    let second = replicas.start().await;
    let unwanted = pull(&second, "0000000000000002", &idle).await;
    second.wait_for_event(&unwanted, "resolved").await;
    second.post(&format!("/v1/jobs/{unwanted}/cancel"), &json!({})).await;
    assert_eq!(second.finished(&unwanted).await["state"], "cancelled");
    let waiting = [
        pull(&second, "0000000000000003", &idle).await,
        pull(&second, "0000000000000004", &idle).await,
    ];
    for job in &waiting {
        second.wait_for_event(job, "resolved").await;
    }
    slow.cut_open_connections(); // the download is resumed
    let job = first.finished(&reading).await;
    assert_eq!((&job["state"], cached(&job["result"])), (&json!("succeeded"), vec![false]));
    for job in &waiting {
        let job = second.finished(job).await;
        assert_eq!((&job["state"], cached(&job["result"])), (&json!("succeeded"), vec![true]));
        assert_eq!(job["attempt"], 1);
    }
    assert_eq!((slow.fetches(digest), idle.fetches(digest)), (2, 0));
}

#[tokio::test]
async fn when_the_reader_dies_another_reads() {
    let bench = Bench::of(&[layer("a", 1)]);
    let digest = bench.layers[0].digest;
    let (slow, quick) = two_ways(&bench.registry).await;
    let replicas = Replicas::new().await;
    let mut first = replicas.start().await;
    slow.stall_after(1 << 20);
    let dying = pull(&first, "0000000000000001", &slow).await;
    slow.broke_something().await;
    let second = replicas.start().await;
    let waiting = pull(&second, "0000000000000002", &quick).await;
    second.wait_for_event(&waiting, "resolved").await;
    first.crash();
    for job in [&waiting, &dying] {
        let job = second.finished(job).await;
        assert_eq!(job["state"], "succeeded", "{job:#}");
    }
    let fetches = slow.fetches(digest) + quick.fetches(digest);
    assert_eq!(fetches, 2, "once by the one that died, once by the other");
}

#[tokio::test]
async fn a_failed_reading_lets_the_next_try() {
    let bench = Bench::of(&[layer("a", 1)]);
    let (slow, quick) = two_ways(&bench.registry).await;
    let service = Service::start(
        Settings::default()
            .argument("workers", "2")
            .argument("max-attempts", "1")
            .argument("retry-minutes", "0")
            // What is agreed on inside the process needs nobody else.
            .argument("layer-cache-in-store", "false"),
    )
    .await;
    slow.stall_after(1 << 20);
    let failing = pull(&service, "0000000000000001", &slow).await;
    slow.broke_something().await;
    let waiting = pull(&service, "0000000000000002", &quick).await;
    service.wait_for_event(&waiting, "resolved").await;
    slow.go_down();
    assert_eq!(service.finished(&failing).await["state"], "failed");
    let job = service.finished(&waiting).await;
    assert_eq!((&job["state"], cached(&job["result"])), (&json!("succeeded"), vec![false]));
    let again = pull(&service, "0000000000000003", &quick).await;
    let job = service.finished(&again).await;
    assert_eq!((&job["state"], cached(&job["result"])), (&json!("succeeded"), vec![true]));
    assert_eq!(quick.fetches(bench.layers[0].digest), 1);
}

#[tokio::test]
async fn a_silent_registry_keeps_nobody_elses_layers_waiting() {
    let bench = Bench::of(&[layer("a", 1)]);
    bench.registry.push(Layout::of(&[layer("b", 2)]).path(), "other");
    let (slow, quick) = two_ways(&bench.registry).await;
    let service = Service::start(
        Settings::default().argument("workers", "2").argument("layer-concurrency", "1"),
    )
    .await;
    slow.stall_after(1 << 20);
    let stalled = pull(&service, "0000000000000001", &slow).await;
    slow.broke_something().await;
    let other = format!("{}/other:latest", quick.address);
    let job = service.pull("0000000000000002", &other).await;
    assert_eq!(service.finished(&job).await["state"], "succeeded");
    slow.cut_open_connections();
    assert_eq!(service.finished(&stalled).await["state"], "succeeded");
}
