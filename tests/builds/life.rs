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

    let bomb = "RUN bomb() { bomb | bomb & }; bomb; sleep 1; i=0; while [ $i -lt 200 ]; do sleep 1 & i=$((i+1)); done; wait\n";
    let hungry = "RUN x=$(yes | head -c 400000000); echo ${#x}\n";
    let jobs = [("000000000000c006", bomb), ("000000000000c007", hungry)];
    for (image, rest) in jobs {
        let job = yard.build(image, rest).await;
        assert_eq!(job["state"], "failed", "{job:#}");
        if rest == hungry {
            assert_eq!(job["error"]["code"], "build_out_of_memory", "{job:#}");
        }
    }
    assert_eq!(yard.left(), Vec::<String>::new());
}

/// What has led out of builders before: bind mounts through links (CVE-2024-1753), mount options
/// (CVE-2024-9407), ids of caches (CVE-2024-9675). Whether the builder refuses it or not, nothing of the
/// machine is read or written.
#[tokio::test]
async fn known_ways_out_lead_nowhere() {
    let yard = Yard::start().await;
    let data = yard.service.data().to_owned();
    std::fs::write(data.join("canary"), "sing").unwrap();
    let shown = data.display();
    let link = format!(
        "RUN ln -s / /link; ln -s {shown} /data\nFROM {base}\n\
         RUN --mount=type=bind,from=0,source=/link,target=/mnt,rw ls -a /mnt /mnt/etc > /seen; cat /mnt{shown}/canary >> /seen; \
             echo x > /mnt{shown}/escaped || true\n\
         RUN --mount=type=bind,from=0,source=/data,target=/mnt,rw cat /mnt/canary >> /seen; echo x > /mnt/escaped || true\n",
        base = yard.base,
    );
    let option = format!(
        "RUN --mount=type=bind,source=/,target=/mnt,bind-propagation=/../../../../../../{shown} cat /mnt/canary > /seen || true\n"
    );
    let cache = format!(
        "RUN --mount=type=cache,id=../../../../../../../../../../{shown},target=/c cat /c/canary > /seen; echo x > /c/escaped; true\n"
    );
    let chroot =
        format!("RUN mkdir /x; ls -a /proc/1/root{shown} /proc/2/root{shown} > /seen 2>&1; true\n");
    for (number, rest) in [link, option, cache, chroot].iter().enumerate() {
        let image = format!("000000000000e00{number}");
        let job = yard.build(&image, rest).await;
        if job["state"] == "succeeded" {
            let seen = String::from_utf8_lossy(&yard.service.cat(&image, "/seen")).into_owned();
            assert!(!seen.contains("sing") && !seen.contains("shadow"), "{rest}: {seen}");
        }
        let text = job.to_string();
        assert!(!text.contains("sing\""), "{text}");
        assert!(!data.join("escaped").exists(), "{rest}");
    }
    assert_eq!(yard.left(), Vec::<String>::new());
}
