//! Builds that are stopped, hang or die with their service: nothing of them goes on, and nothing is left.

use std::time::Instant;

use serde_json::json;

use super::harness::{Yard, build, processes, until};
use crate::support::service::Settings;

/// Ignores what it is told, and leaves a daemon behind that has a session of its own.
fn stubborn(seconds: u32) -> String {
    format!(
        "RUN trap '' TERM; setsid sleep {seconds} & echo under way; while true; do sleep 0.2; done\n"
    )
}

async fn is_under_way(yard: &Yard, job: &str) {
    until("the build is under way", async || {
        yard.log(job).await.iter().any(|line| line["text"] == "under way")
    })
    .await;
}

#[tokio::test]
async fn a_build_that_is_cancelled_or_too_slow_leaves_nothing() {
    let yard = Yard::start().await;
    let mark = "sleep 86411";
    let cancelled =
        yard.service.submit(build("000000000000c001", &yard.on_base(&stubborn(86_411)))).await;
    let mut slow = build("000000000000c002", &yard.on_base(&stubborn(86_412)));
    slow["timeout"] = json!(4);
    let slow = yard.service.submit(slow).await;
    is_under_way(&yard, &cancelled).await;
    assert!(!processes(mark).is_empty());
    let asked = Instant::now();
    yard.service.post(&format!("/v1/jobs/{cancelled}/cancel"), &json!({})).await;
    let job = yard.service.finished(&cancelled).await;
    assert_eq!(job["state"], "cancelled", "{job:#}");
    assert!(asked.elapsed().as_secs() < 30, "{:?}", asked.elapsed());
    let job = yard.service.finished(&slow).await;
    assert_eq!(
        (&job["state"], &job["error"]["code"]),
        (&json!("failed"), &json!("build_timed_out")),
        "{job:#}"
    );
    let message = job["error"]["message"].as_str().unwrap();
    assert!(message.contains("4 seconds") && message.contains("Dockerfile line 2"), "{message}");
    assert_eq!([processes(mark), processes("sleep 86412")].concat(), Vec::<String>::new());
    assert_eq!(yard.left(), Vec::<String>::new());
}

#[tokio::test]
async fn a_build_dies_with_its_service_and_is_done_again() {
    let mut yard = Yard::with(
        Settings::default().argument("lease-seconds", "2").argument("build-network", "host"),
    )
    .await;
    // The first time it hangs, the second time there is what it waits for.
    let dir = tempfile::tempdir().unwrap();
    let rest = "RUN echo under way; sleep 86421 & while ! wget -q -O /flag http://ADDRESS/flag; do sleep 0.2; done\n";
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let rest = rest.replace("ADDRESS", &address.to_string());
    let job = yard.service.submit(build("000000000000c003", &yard.on_base(&rest))).await;
    is_under_way(&yard, &job).await;
    let before = processes("sleep 86421");
    assert!(!before.is_empty());
    yard.service.crash_and_restart().await;
    until("the builder has died with its service", async || {
        processes("sleep 86421").iter().all(|process| !before.contains(process))
    })
    .await;
    let _served = std::thread::spawn(move || serve(address, dir));
    let done = yard.service.finished(&job).await;
    assert_eq!(done["state"], "succeeded", "{done:#}");
    assert_eq!(yard.service.cat("000000000000c003", "/flag"), b"flag");
    until("what the dead left is gone", async || {
        processes("sleep 86421").is_empty() && yard.left().is_empty()
    })
    .await;
}

/// Answers each request with the same few bytes.
fn serve(address: std::net::SocketAddr, _dir: tempfile::TempDir) {
    use std::io::{Read as _, Write as _};
    let listener = std::net::TcpListener::bind(address).unwrap();
    for stream in listener.incoming().flatten() {
        let mut stream = stream;
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(b"HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nflag");
    }
}

#[tokio::test]
async fn run_sees_neither_the_machine_nor_the_network_that_it_may_not() {
    let settings = Settings::default().argument("build-network", "none");
    let yard =
        Yard::with(settings.argument("build-processes", "64").argument("build-memory-mib", "256"))
            .await;
    let data = yard.service.data().display().to_string();
    let rest = format!(
        "RUN ls -a / /dev > /seen; ls /sys/class/net >> /seen; cat /proc/1/cmdline >> /seen; ls {data} >> /seen 2>&1 || true; cat /proc/self/status > /status\n\
         RUN wget -T 1 http://{}/v2/ && exit 3 || true\n",
        yard.registry.address
    );
    let job = yard.build("000000000000c005", &rest).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let seen = String::from_utf8_lossy(&yard.service.cat("000000000000c005", "/seen")).into_owned();
    let status = String::from_utf8(yard.service.cat("000000000000c005", "/status")).unwrap();
    let field =
        |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    assert_eq!(field("Seccomp:"), "2", "system calls are filtered");
    let capabilities = u64::from_str_radix(field("CapBnd:"), 16).unwrap();
    // CAP_SYS_MODULE, CAP_SYS_PTRACE, CAP_SYS_ADMIN.
    assert_eq!(capabilities & (1 << 16 | 1 << 19 | 1 << 21), 0, "{capabilities:x}");
    assert!(!seen.contains("vda") && !seen.contains("sda") && !seen.contains("eth0"), "{seen}");
    assert!(seen.contains("build-sandbox") && !seen.contains("secret.key"), "{seen}");
    assert_eq!(yard.left(), Vec::<String>::new());
}
