//! What a start has read is fetched ahead of the next one.

use std::process::Command;
use std::time::{Duration, Instant};

use clipwright::mount::Trace;
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

/// Traces of other images, and what is no trace.
#[test]
fn a_trace_of_something_else_does_no_harm() {
    let Some(dir) = scratch() else { return };
    let registry = Registry::start(dir.path());
    let layout = Layout::of(&[Blob::gzip(&tar(&[("a", b"hello")]))]);
    let archive = dir.path().join("image.clip");
    index(&registry.push(layout.path(), "image"), &archive);
    let trace = dir.path().join("trace.json");
    let other = format!(
        r#"{{"version":1,"starts":1,"sources":["sha256:{}","data"],"touches":[[0,0,9,0,1],[1,5,5,0,1]]}}"#,
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
