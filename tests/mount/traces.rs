//! What a start has read is fetched ahead of the next one.

use std::process::Command;
use std::time::{Duration, Instant};

use clipwright::trace::Trace;
use nix::sys::signal::Signal;

use super::{Mounted, clipwright, count, index, scratch};
use crate::support::layout::{Blob, Layout, noise, tar};
use crate::support::registry::Registry;
use crate::support::upstream::{make_image, run};

/// Files of a layer with several spans.
fn files() -> Vec<(String, Vec<u8>)> {
    (0..10).map(|at| (format!("f{at}"), noise(at, 5 << 20))).collect()
}

#[test]
fn a_trace_is_fetched_ahead() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let files = files();
    let tar = tar(&files.iter().map(|(name, bytes)| (&name[..], &bytes[..])).collect::<Vec<_>>());
    let layout = Layout::of(&[Blob::gzip(&tar)]);
    let archive = dir.path().join("image.clip");
    index(&registry.push(layout.path(), "image"), &archive);
    let trace = dir.path().join("trace.json");
    let out = ["--trace-out", trace.to_str().unwrap()];
    let read = |mounted: &Mounted| {
        for at in [7, 2] {
            let mut part = vec![0; 1000];
            let file = std::fs::File::open(mounted.path(&files[at].0)).unwrap();
            std::os::unix::fs::FileExt::read_exact_at(&file, &mut part, 2 << 20).unwrap();
            assert!(part == files[at].1[2 << 20..(2 << 20) + 1000]);
        }
    };
    let mounted = Mounted::new(&archive, dir.path(), &out);
    read(&mounted);
    let first = mounted.end();
    let known = Trace::parse(&std::fs::read(&trace).unwrap()).unwrap();
    assert_eq!(known.len() as u64, count(&first, "spans_fetched"), "{first}");
    // In the order in which they were touched.
    let order = known.order();
    assert!(order[0].1.start > order[order.len() - 1].1.start, "{order:?}");

    std::fs::remove_dir_all(dir.path().join("cache")).unwrap();
    let mounted = Mounted::new(&archive, dir.path(), &["--trace", trace.to_str().unwrap()]);
    // Nobody reads, and it comes all the same: the report at any time is a signal away.
    let late = Instant::now() + Duration::from_secs(20);
    loop {
        mounted.signal(Signal::SIGUSR1);
        std::thread::sleep(Duration::from_millis(20));
        let report = std::fs::read(&mounted.report).unwrap_or_default();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap_or_default();
        if report["spans_fetched"].as_u64() == Some(order.len() as u64) {
            break;
        }
        assert!(Instant::now() < late, "{report}");
    }
    read(&mounted);
    let second = mounted.end();
    assert_eq!(count(&second, "spans_fetched"), order.len() as u64, "{second}");
}

/// An archive of an image of several spans, and what `f2` and `f7` of it are read for.
struct Learner {
    dir: tempfile::TempDir,
    _registry: Registry,
    files: Vec<(String, Vec<u8>)>,
    archive: std::path::PathBuf,
}

impl Learner {
    fn new() -> Option<Self> {
        let dir = scratch()?;
        let registry = Registry::start(dir.path());
        let files = files();
        let parts: Vec<_> = files.iter().map(|(name, bytes)| (&name[..], &bytes[..])).collect();
        let layout = Layout::of(&[Blob::gzip(&tar(&parts))]);
        let archive = dir.path().join("image.clip");
        index(&registry.push(layout.path(), "image"), &archive);
        Some(Self { dir, _registry: registry, files, archive })
    }

    /// Mounts with nothing in the cache.
    fn mount(&self, arguments: &[&str]) -> Mounted {
        let _ = std::fs::remove_dir_all(self.dir.path().join("cache"));
        Mounted::new(&self.archive, self.dir.path(), arguments)
    }

    fn read(&self, mounted: &Mounted, at: usize) {
        let mut part = vec![0; 1000];
        let file = std::fs::File::open(mounted.path(&self.files[at].0)).unwrap();
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut part, 2 << 20).unwrap();
        assert!(part == self.files[at].1[2 << 20..(2 << 20) + 1000]);
    }

    /// The trace beside the archive.
    fn learnt(&self) -> Option<Trace> {
        let trace = std::fs::read(self.dir.path().join("image.clip.trace")).ok()?;
        Some(Trace::parse(&trace).unwrap())
    }
}

/// Waits for something that is on its way.
fn until(mut is_there: impl FnMut() -> bool) {
    let late = Instant::now() + Duration::from_secs(20);
    while !is_there() {
        assert!(Instant::now() < late, "it did not come");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Spans that have been fetched so far.
fn fetched(mounted: &Mounted) -> u64 {
    mounted.signal(Signal::SIGUSR1);
    let report = std::fs::read(&mounted.report).unwrap_or_default();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap_or_default();
    report["spans_fetched"].as_u64().unwrap_or(0)
}

/// What starts have touched is kept beside the archive, and the next mount uses it by itself.
#[test]
fn a_mount_learns_from_starts() {
    let Some(learner) = Learner::new() else { return };
    let mounted = learner.mount(&["--learn"]);
    learner.read(&mounted, 7);
    mounted.end();
    let first = learner.learnt().unwrap();
    let mounted = learner.mount(&["--learn"]);
    until(|| fetched(&mounted) == first.len() as u64);
    learner.read(&mounted, 2);
    mounted.end();
    let both = learner.learnt().unwrap();
    assert_eq!((first.starts(), both.starts()), (1, 2));
    assert!(both.len() > first.len());
    // Who wants none of it gets none.
    let mounted = learner.mount(&["--no-prefetch"]);
    learner.read(&mounted, 0);
    assert!(count(&mounted.end(), "spans_fetched") < 3);
}

/// A start ends when the program says so: what is read later is none of its business.
#[test]
fn a_start_ends_when_the_program_is_ready() {
    let Some(learner) = Learner::new() else { return };
    let ready = learner.dir.path().join("ready");
    let when = format!("file:{}", ready.display());
    let mounted = learner.mount(&["--learn", "--ready-when", &when]);
    learner.read(&mounted, 7);
    std::fs::write(&ready, "").unwrap();
    until(|| learner.learnt().is_some());
    let start = learner.learnt().unwrap();
    learner.read(&mounted, 2);
    mounted.end();
    assert_eq!(learner.learnt().unwrap(), start);
    // From one that never was ready there is nothing to learn.
    let mounted = learner.mount(&["--learn", "--ready-when", "port:1", "--start-seconds", "1"]);
    learner.read(&mounted, 2);
    mounted.end();
    assert_eq!(learner.learnt().unwrap(), start);
}

/// Without a trace, what the image's program needs is fetched before anybody asks for it.
#[test]
fn a_program_is_fetched_ahead_without_a_trace() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let layout = make_image("odd", dir.path());
    let archive = dir.path().join("image.clip");
    index(&registry.push(&layout, "odd"), &archive);
    let mounted = Mounted::new(&archive, dir.path(), &[]);
    until(|| fetched(&mounted) > 0);
    let report = mounted.end();
    assert_eq!(count(&report, "reads"), 0, "{report}");
    let mounted = Mounted::new(&archive, dir.path(), &["--offline"]);
    assert!(!mounted.read("usr/bin/setuid").unwrap().is_empty());
    mounted.end();
    std::fs::remove_dir_all(dir.path().join("cache")).unwrap();
    assert_eq!(
        count(&Mounted::new(&archive, dir.path(), &["--no-prefetch"]).end(), "spans_fetched"),
        0
    );
}

/// Prometheus sees what the report says.
#[test]
fn a_mount_shows_its_metrics() {
    let Some(learner) = Learner::new() else { return };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let mounted = learner.mount(&["--metrics", &address]);
    learner.read(&mounted, 3);
    let shown = run(Command::new("curl").args(["-sf", &format!("http://{address}/metrics")]));
    let shown = String::from_utf8(shown).unwrap();
    let elsewhere = learner.dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    let taken = Mounted::begin(
        clipwright(learner.dir.path()),
        &learner.archive,
        &elsewhere,
        &["--metrics", &address],
    );
    assert!(taken.err().unwrap().contains("can't listen at"));
    let report = mounted.end();
    let value = |name: &str| {
        let line = shown.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    };
    let first = value("clip_first_exec_ms_sum{version=\"2\"}");
    assert!(first.parse::<f64>().unwrap() > 0.0, "{shown}");
    let bytes: u64 = value("clip_range_get_bytes_total").parse().unwrap();
    assert!((1000..=count(&report, "clip_range_get_bytes_total")).contains(&bytes), "{shown}");
    assert!(shown.contains("clip_cache_hits_total{tier=\"disk\"}"), "{shown}");
}

/// Traces of other images, and what is no trace.
#[test]
fn a_trace_of_something_else_does_no_harm() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let layout = Layout::of(&[Blob::gzip(&tar(&[("a", b"hello")]))]);
    let archive = dir.path().join("image.clip");
    index(&registry.push(layout.path(), "image"), &archive);
    let trace = dir.path().join("trace.json");
    let touch = r#"{"start":0,"length":9,"ms":0,"starts":1}"#;
    let other = format!(
        r#"{{"version":1,"starts":1,"sources":[{{"layer":"sha256:{}","touches":[{touch}]}},{{"touches":[{touch}]}}]}}"#,
        "0".repeat(64)
    );
    std::fs::write(&trace, other).unwrap();
    let mounted = Mounted::new(&archive, dir.path(), &["--trace", trace.to_str().unwrap()]);
    assert_eq!(mounted.read("a").unwrap(), b"hello");
    mounted.end();
    std::fs::write(&trace, "{}").unwrap();
    let arguments = ["--trace", trace.to_str().unwrap()];
    let refused = Mounted::begin(clipwright(dir.path()), &archive, dir.path(), &arguments);
    let said = refused.err().unwrap();
    assert!(said.contains("trace.json: not a trace"), "{said}");
}

/// The image is complete when it has been filled: then there is no need for the registry.
#[test]
fn a_filled_image_needs_no_registry() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let layout = make_image("tiny", dir.path());
    let archive = dir.path().join("image.clip");
    index(&registry.push(&layout, "tiny"), &archive);
    let mounted = Mounted::new(&archive, dir.path(), &["--fill=wait", "--fill-rate", "1000"]);
    drop(registry);
    run(Command::new("tar").args(["-cf", "/dev/null", "-C"]).arg(&mounted.point).arg("."));
    let mut report = mounted.end();
    assert_eq!(count(&report, "reads_failed"), 0, "{report}");
    assert!(count(&report, "spans_fetched") > 3, "{report}");
    // In few requests: neighbours come together.
    assert!(count(&report, "clip_range_get_count") < 12, "{report}");
    let mounted = Mounted::new(&archive, dir.path(), &["--offline"]);
    run(Command::new("tar").args(["-cf", "/dev/null", "-C"]).arg(&mounted.point).arg("."));
    report = mounted.end();
    assert_eq!(count(&report, "spans_fetched"), 0, "{report}");
}

/// A program of the image makes its trace.
#[test]
fn a_program_is_traced() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let layout = make_image("tiny", dir.path());
    let archive = dir.path().join("image.clip");
    index(&registry.push(&layout, "tiny"), &archive);
    let trace = dir.path().join("trace.json");
    let traced = |command: &[&str]| {
        let mut traced = clipwright(dir.path());
        traced.arg("trace").arg(&archive).arg("-o").arg(&trace).arg("--").args(command);
        traced.output().unwrap()
    };
    let output = traced(&["/app/run"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.stdout, b"Hello from a layer.\n");
    let known = Trace::parse(&std::fs::read(&trace).unwrap()).unwrap();
    assert!(!known.is_empty());
    let output = traced(&["/app/busybox", "false"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("ended with 1"), "{said}");
}
