//! Builds that take more than they may: each ends with a sentence that says so, and nothing of it is left.

use std::time::{Duration, Instant};

use serde_json::json;

use super::harness::{Yard, build, processes, until};
use crate::support::service::Settings;

#[tokio::test]
async fn a_flood_of_lines_is_bounded_and_its_end_is_kept() {
    let yard = Yard::start().await;
    let job = yard.build("000000000000c004", "RUN yes 'a line that is long enough to fill a log, sooner or later' | head -n 200000; echo the end\n").await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let log = yard.log(job["id"].as_str().unwrap()).await;
    let bytes: usize = log.iter().map(|line| line.to_string().len()).sum();
    assert!((8 << 20..20 << 20).contains(&bytes), "{bytes}");
    assert!(
        log.iter().any(|line| line["text"].as_str().unwrap().contains("lines are left out here"))
    );
    // Of what programs say at their very end buildah itself loses a little when it comes so fast.
    assert!(log.iter().any(|line| line["text"].as_str().unwrap().starts_with("Image built")));
}

/// Memory and processes run out for the build, and for nobody else.
#[tokio::test]
async fn memory_and_processes_are_the_builds_own() {
    let settings = Settings::default().argument("build-processes", "64");
    let yard = Yard::with(settings.argument("build-memory-mib", "256")).await;
    let bomb = "RUN bomb() { bomb | bomb & }; bomb; sleep 1; i=0; while [ $i -lt 200 ]; do sleep 86451 & i=$((i+1)); done; wait\n";
    let hungry = "RUN x=$(yes | head -c 400000000); echo ${#x}\n";
    let bomb = yard.service.submit(build("000000000000c006", &yard.on_base(bomb))).await;
    let hungry = yard.service.submit(build("000000000000c007", &yard.on_base(hungry))).await;
    // Beside them another one goes its way.
    let beside = yard.build("000000000000c008", "RUN echo beside > /beside\n").await;
    assert_eq!(beside["state"], "succeeded", "{beside:#}");
    let job = yard.service.finished(&bomb).await;
    assert_eq!(job["state"], "failed", "{job:#}");
    let message = job["error"]["message"].as_str().unwrap();
    assert!(message.contains("Dockerfile line 2: RUN"), "{message}");
    let job = yard.service.finished(&hungry).await;
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("build_out_of_memory")),
        "{job:#}"
    );
    let message = job["error"]["message"].as_str().unwrap();
    assert!(message.contains("256 MiB") && message.contains("Dockerfile line 2"), "{message}");
    assert_eq!(processes("sleep 86451"), Vec::<String>::new());
    assert_eq!(yard.left(), Vec::<String>::new());
}

/// However it writes: quickly, into a file that has no name any more, or a little in each step. What others write
/// beside it in the same workspace isn't counted.
#[tokio::test]
async fn the_disk_is_not_filled() {
    let yard = Yard::with(Settings::default().argument("build-disk-mib", "128")).await;
    let cases = [
        "RUN head -c 8000000000 /dev/zero > /big\n".to_owned(),
        "RUN exec 3> /big; rm /big; head -c 8000000000 /dev/zero >&3\n".to_owned(),
        "RUN --mount=type=bind,target=/c,rw head -c 8000000000 /dev/zero > /c/big\n".to_owned(),
        "RUN --mount=type=cache,target=/c head -c 8000000000 /dev/zero > /c/big\n".to_owned(),
        [1, 2, 3, 4, 5, 6]
            .map(|step| format!("RUN head -c 30000000 /dev/zero > /big{step}\n"))
            .concat(),
    ];
    let mut jobs = Vec::new();
    for (number, rest) in cases.iter().enumerate() {
        let image = format!("00000000000c10{number:02x}");
        jobs.push(yard.service.submit(build(&image, &yard.on_base(rest))).await);
    }
    let small =
        yard.build("00000000000c1100", "RUN head -c 30000000 /dev/zero > /small; sleep 1\n").await;
    assert_eq!(small["state"], "succeeded", "{small:#}");
    for (job, rest) in jobs.iter().zip(cases) {
        let job = yard.service.finished(job).await;
        assert_eq!(
            (&job["state"], &job["error"]["code"]),
            (&json!("failed"), &json!("build_out_of_disk")),
            "{rest}: {job:#}"
        );
        let message = job["error"]["message"].as_str().unwrap();
        assert!(message.contains("128 MiB") && message.contains("Dockerfile line"), "{message}");
        assert_eq!(job["attempt"], 1);
    }
    assert_eq!(yard.left(), Vec::<String>::new());
}

/// A step that ends leaves nothing behind that runs on: neither beside the steps that follow it nor after the build.
#[tokio::test]
async fn what_a_step_leaves_behind_ends_with_the_build() {
    let yard = Yard::start().await;
    let rest = "RUN setsid sleep 86461 > /dev/null 2>&1 & sleep 86461 > /dev/null 2>&1 & echo done\nRUN echo next\n";
    let job = yard.build("000000000000c009", rest).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert_eq!(processes("sleep 86461"), Vec::<String>::new());
    assert_eq!(yard.left(), Vec::<String>::new());
}

/// The same end as when somebody else had killed it, such as the kernel.
#[tokio::test]
async fn a_step_that_is_killed_is_named() {
    let yard = Yard::start().await;
    let job = yard.build("000000000000c00a", "RUN echo so far; kill -9 $$\n").await;
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("build_step_failed")),
        "{job:#}"
    );
    let message = job["error"]["message"].as_str().unwrap();
    assert!(message.contains("Dockerfile line 2: RUN"), "{message}");

    // The builder itself, while it is at a step.
    let mark = "sleep 86471";
    let job =
        yard.service.submit(build("000000000000c00b", &yard.on_base("RUN sleep 86471\n"))).await;
    until("the step is under way", async || !processes(mark).is_empty()).await;
    for process in processes("buildah bud").iter().filter(|process| is_of(process, &yard)) {
        let id = process.trim_start_matches("/proc/").parse().unwrap();
        // One may have died with another.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(id),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
    let job = yard.service.finished(&job).await;
    assert_eq!(job["state"], "failed", "{job:#}");
    let message = job["error"]["message"].as_str().unwrap();
    assert!(message.contains("Dockerfile line 2: RUN") && message.contains("137"), "{message}");
    assert_eq!(processes(mark), Vec::<String>::new());
    assert_eq!(yard.left(), Vec::<String>::new());
}

/// Whether a process runs for this service.
fn is_of(process: &str, yard: &Yard) -> bool {
    let line = std::fs::read_to_string(format!("{process}/cmdline")).unwrap_or_default();
    line.contains(yard.service.data().to_str().unwrap())
}

/// Whatever it does with signals.
#[tokio::test]
async fn a_hang_ends_when_its_time_is_over() {
    let yard = Yard::start().await;
    let mut body = build(
        "000000000000c00c",
        &yard.on_base("RUN trap '' TERM INT HUP; while true; do sleep 86481; done\n"),
    );
    body["timeout"] = json!(3);
    let began = Instant::now();
    let job = yard.service.run(body).await;
    assert_eq!(job["error"]["code"], "build_timed_out", "{job:#}");
    assert!(began.elapsed() < Duration::from_mins(1), "{:?}", began.elapsed());
    assert_eq!(processes("sleep 86481"), Vec::<String>::new());
    assert_eq!(yard.left(), Vec::<String>::new());
}
