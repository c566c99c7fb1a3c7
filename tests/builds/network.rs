//! What a build can reach.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::harness::Yard;
use crate::support::namespaces::{
    Internet, empty, own_mounts, own_network, put_over, redirect, serve,
};
use crate::support::service::Settings;

/// Where the public internet is in these tests.
const PUBLIC: &str = "93.184.215.14";
/// What is asked for names.
const NAME_SERVER: &str = "93.184.215.53";
/// What no build may reach: the metadata service, networks around the machine, and multicast.
const PRIVATE: [&str; 10] = [
    "169.254.169.254",
    "169.254.1.1",
    "10.1.2.3",
    "10.1.2.4",
    "172.16.5.4",
    "192.168.7.7",
    "100.64.0.9",
    "100.100.100.200",
    "168.63.129.16",
    "224.0.0.251",
];

/// Runs a shell in a sandbox with a filtered network.
fn in_sandbox(exceptions: &[&str], script: &str) -> (bool, String) {
    let dir = tempfile::tempdir().unwrap();
    let of = |name: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let spec = json!({
        "arguments": ["sh", "-c", script],
        "environment": [["PATH", "/usr/sbin:/usr/bin:/sbin:/bin"]],
        "root": of("root"), "read_only": [], "writable": [], "temporary": of("tmp"),
        "network": "filtered", "exceptions": exceptions, "cgroups": [], "makes_cgroups": false,
    });
    let mut child = Command::new(env!("CARGO_BIN_EXE_clipwright"))
        .arg("build-sandbox")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Held until it has ended: without it the sandbox ends.
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{spec}").unwrap();
    let output = child.wait_with_output().unwrap();
    drop(input);
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// On a machine of its own: it is connected to an internet that has all addresses that there are, and
/// writes down which of them are reached.
#[test]
fn a_filtered_network_reaches_the_public_internet_and_nothing_else() {
    own_mounts();
    own_network();
    let addresses = &[
        "93.184.215.14/32",
        "93.184.215.53/32",
        "169.254.169.254/32",
        "169.254.1.1/32",
        "10.1.2.3/32",
        "10.1.2.4/32",
        "172.16.5.4/32",
        "192.168.7.7/32",
        "100.64.0.9/32",
        "100.100.100.200/32",
        "168.63.129.16/32",
    ];
    let internet = Internet::connect(addresses, [93, 184, 215, 14]);
    let machine = serve(80);
    let mut names = tempfile::NamedTempFile::new().unwrap();
    writeln!(names, "nameserver {NAME_SERVER}").unwrap();
    put_over(names.path(), Path::new("/etc/resolv.conf"));

    // The machine itself reaches all of them: what the sandbox doesn't is refused there.
    for address in PRIVATE.iter().filter(|address| **address != "224.0.0.251") {
        let reached =
            Command::new("curl").args(["-sS", "-m", "5", &format!("http://{address}/")]).output();
        let reached = reached.unwrap();
        assert_eq!(reached.stdout, b"hello\n", "{}", String::from_utf8_lossy(&reached.stderr));
    }
    internet.server.reached();

    // By itself, by a device that it binds to, and after it tried to do away with the rules. What can't be reached
    // is refused at once, rather than after a while.
    let mut script = format!(
        "curl -sS -m 5 http://{PUBLIC}/; curl -sS -m 5 http://some.example/; echo names: $?\n\
         nft flush ruleset && echo flushed; ip link set tap0 down && echo down; ip route add 10.0.0.0/8 dev tap0 && echo routed\n\
         ping -c 1 -W 1 10.1.2.3 > /dev/null 2>&1 && echo pinged\n"
    );
    let own = ["198.51.100.2", "203.0.113.2"];
    let tries = PRIVATE.iter().chain(&own).map(|address| {
        format!(
            "curl -s -m 2 http://{address}/; echo {address}: $?; curl -s -m 2 --interface 'if!tap0' http://{address}/\n"
        )
    });
    script.extend(tries);
    script.push_str(
        "curl -s -m 2 http://10.1.2.3:81/; curl -s -m 2 -g 'http://[fe80::1%25tap0]/'; echo end\n",
    );
    let (ok, said) = in_sandbox(&["10.1.2.3:80", "169.254.0.0/16"], &script);
    assert!(ok && said.contains("end\n"), "{said}");
    assert!(said.contains("hello\nhello\nnames: 0\n"), "{said}");
    for undone in ["flushed", "down\n", "routed", "pinged"] {
        assert!(!said.contains(undone), "{undone}: {said}");
    }
    for address in PRIVATE.iter().chain(&own).filter(|address| **address != "10.1.2.3") {
        assert!(
            said.contains(&format!("\n{address}: 7\n")),
            "{address} is refused at once: {said}"
        );
    }
    let reached: BTreeSet<IpAddr> = internet.server.reached().into_iter().collect();
    let expected = [PUBLIC, "10.1.2.3"].map(|address| address.parse().unwrap());
    assert_eq!(reached, BTreeSet::from(expected), "and what is an exception");
    assert_eq!(machine.reached(), Vec::<IpAddr>::new());
}

/// As in a container: the device is not there, but may be made.
#[test]
fn the_device_of_the_network_is_made_where_it_is_missing() {
    own_mounts();
    empty(Path::new("/dev/net"));
    let (ok, said) = in_sandbox(&[], "ls /sys/class/net");
    assert!(ok && said == "lo\ntap0\n", "{said}");
}

/// The machine's address in its network.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect("203.0.113.1:9").expect("the machine is connected to something");
    socket.local_addr().unwrap().ip()
}

#[tokio::test]
async fn run_and_add_are_filtered_alike_but_for_exceptions() {
    let server = serve(0);
    let at = format!("{}:{}", own_address(), server.port);
    let run = format!("RUN wget -q -O /got http://{at}/\n");
    let add = format!("ADD http://{at}/ /got\n");
    let yard = Yard::start().await;
    for (image, rest) in [("000000000000a001", &run), ("000000000000a002", &add)] {
        let job = yard.build(image, rest).await;
        assert_eq!(job["state"], "failed", "{rest}: {job:#}");
        assert_eq!(job["error"]["code"], "build_step_failed", "{job:#}");
    }
    assert_eq!(server.reached(), Vec::<IpAddr>::new());

    // Whoever may be reached can't send the builder on to who may not.
    let other = serve(0);
    let sent_on = redirect(&format!("http://{}:{}/", own_address(), other.port));
    let from = format!("{}:{}", own_address(), sent_on.port);
    let exceptions = format!("{at},{from}");
    let exceptions = Settings::default().argument("build-network-exceptions", &exceptions);
    let yard = Yard::with(exceptions).await;
    for (image, rest) in [("000000000000a001", &run), ("000000000000a002", &add)] {
        let job = yard.build(image, rest).await;
        assert_eq!(job["state"], "succeeded", "{rest}: {job:#}");
        assert_eq!(job["result"]["build"]["network"], "filtered");
        assert_eq!(yard.service.cat(image, "/got"), b"hello\n");
    }
    let job = yard.build("000000000000a004", &format!("ADD http://{from}/ /got\n")).await;
    assert_eq!(job["error"]["code"], "build_step_failed", "{job:#}");
    assert!(!sent_on.reached().is_empty() && other.reached().is_empty());
    assert_eq!(yard.left(), Vec::<String>::new());
}

/// However `RUN` is kept apart from the builder.
#[tokio::test]
async fn what_runc_runs_is_filtered_too() {
    let server = serve(0);
    let at = format!("{}:{}", own_address(), server.port);
    let run = format!("RUN wget -q -O /got http://{at}/\n");
    let settings = || Settings::default().argument("build-isolation", "oci");
    let yard = Yard::with(settings()).await;
    let job = yard.build("000000000000a005", &run).await;
    assert_eq!(job["error"]["code"], "build_step_failed", "{job:#}");
    assert_eq!(server.reached(), Vec::<IpAddr>::new());
    let rest = "RUN echo h > /proc/sys/kernel/core_pattern && echo wrote; cat /proc/self/status > /status\n";
    let job = yard.build("000000000000a006", rest).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    let status = String::from_utf8(yard.service.cat("000000000000a006", "/status")).unwrap();
    let bounds = status.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap();
    // CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN.
    let bounds = u64::from_str_radix(bounds.trim(), 16).unwrap();
    assert_eq!(bounds & (1 << 12 | 1 << 13 | 1 << 21), 0, "{bounds:x}");
    let log = yard.log(job["id"].as_str().unwrap()).await;
    assert!(!log.iter().any(|line| line["text"] == "wrote"), "{log:#?}");
    assert_eq!(yard.left(), Vec::<String>::new());

    let yard = Yard::with(settings().argument("build-network-exceptions", &at)).await;
    let job = yard.build("000000000000a005", &run).await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert_eq!(yard.service.cat("000000000000a005", "/got"), b"hello\n");
}

/// Where a network can't be filtered there is none, and everybody is told: never the machine's.
#[tokio::test]
async fn without_what_filters_there_is_no_network() {
    own_mounts();
    put_over(Path::new("/dev/null"), Path::new("/usr/bin/slirp4netns"));
    let yard = Yard::start().await;
    let (_, ready) = yard.service.get("/readyz").await;
    let reason = ready["no_build_network"].as_str().unwrap_or_else(|| panic!("{ready}"));
    assert!(reason.contains("slirp4netns is not installed"), "{reason}");
    let job = yard.build("000000000000a003", "RUN ls /sys/class/net > /devices\n").await;
    assert_eq!(job["state"], "succeeded", "{job:#}");
    assert_eq!(job["result"]["build"]["network"], "none");
    assert_eq!(yard.service.cat("000000000000a003", "/devices"), b"lo\n");
    let events = yard.service.events(job["id"].as_str().unwrap()).await;
    let is_told = |event: &Value| {
        event["event"] == "warning"
            && event["data"]["message"].as_str().unwrap().contains("the build has no network")
    };
    assert!(events.iter().any(is_told), "{events:#?}");
}
