//! The OCI runtime spec (`config.json`) of an image, as `umoci unpack` generates it: workers take
//! environment, arguments, directory, user and mounts of a v1 archive from there (CONTRACT A.12).

use chrono::{DateTime, FixedOffset, SecondsFormat, Timelike as _};
use serde_json::{Value, json};

use crate::oci::ImageConfig;

/// Users and groups of an image.
mod account;

use account::{Account, look_up};

const ENV: [&str; 2] =
    ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"];
const CAPABILITIES: [&str; 3] = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"];

/// The spec's bytes, and what the user should know. `passwd` and `group` are the image's own files
/// of those names, where it has them.
pub(super) fn runtime_spec(
    image: &ImageConfig,
    passwd: Option<&[u8]>,
    group: Option<&[u8]>,
) -> (Vec<u8>, Vec<String>) {
    let mut warnings = Vec::new();
    let account = look_up(&image.user, passwd, group).unwrap_or_else(|reason| {
        warnings.push(format!("the image's user {:?}: {reason}; it becomes root", image.user));
        Account::default()
    });
    let mut env: Vec<String> = ENV.map(str::to_owned).into();
    for variable in &image.env {
        match variable.split_once('=') {
            Some((name, _)) if !name.is_empty() => set(&mut env, name, variable.clone()),
            _ => warnings.push(format!("{variable:?} in the image's environment has no name")),
        }
    }
    if !account.home.is_empty() {
        set(&mut env, "HOME", format!("HOME={}", account.home));
    }
    let mut spec = spec(image, &account, &env);
    if !account.more_gids.is_empty() {
        spec["process"]["user"]["additionalGids"] = json!(account.more_gids);
    }
    (format!("{spec:#}\n").into_bytes(), warnings)
}

fn set(env: &mut Vec<String>, name: &str, variable: String) {
    let same = |old: &&mut String| old.split_once('=').is_some_and(|(old, _)| old == name);
    match env.iter_mut().find(same) {
        Some(old) => *old = variable,
        None => env.push(variable),
    }
}

fn spec(image: &ImageConfig, account: &Account, env: &[String]) -> Value {
    let mut args = [&image.entrypoint[..], &image.cmd[..]].concat();
    if args.is_empty() {
        args.push("sh".into());
    }
    let cwd = if image.working_dir.is_empty() { "/" } else { &image.working_dir };
    json!({
        "ociVersion": "1.0.0",
        "process": {
            "terminal": true,
            "user": { "uid": account.uid, "gid": account.gid },
            "args": args,
            "env": env,
            "cwd": cwd,
            "capabilities": {
                "bounding": CAPABILITIES,
                "effective": CAPABILITIES,
                "inheritable": CAPABILITIES,
                "permitted": CAPABILITIES,
                "ambient": CAPABILITIES,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": "rootfs" },
        "hostname": "umoci-default",
        "mounts": mounts(image),
        "annotations": annotations(image),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": (["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({ "type": kind }))),
            "maskedPaths": [
                "/proc/kcore", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
                "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys",
                "/proc/sysrq-trigger",
            ],
        },
    })
}

fn mounts(image: &ImageConfig) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| {
        let mut mount = json!({ "destination": destination, "type": kind, "source": source });
        if !options.is_empty() {
            mount["options"] = json!(options);
        }
        mount
    };
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &[]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount(
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount(
            "/sys/fs/cgroup",
            "cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", "ro"],
        ),
    ];
    // Workers copy mounts whose source is "none" (CONTRACT A.12).
    mounts.extend(image.volumes.iter().map(|volume| {
        mount(volume, "tmpfs", "none", &["rw", "nosuid", "nodev", "noexec", "relatime"])
    }));
    mounts
}

fn annotations(image: &ImageConfig) -> Value {
    let mut annotations = json!(image.labels);
    for (name, value) in [
        ("os", image.os.clone()),
        ("architecture", image.architecture.clone()),
        ("author", image.author.clone()),
        ("created", created(image.created)),
        ("stopSignal", image.stop_signal.clone()),
        ("exposedPorts", image.exposed_ports.join(",")),
    ] {
        annotations[format!("org.opencontainers.image.{name}")] = json!(value);
    }
    annotations
}

/// As Go prints times: no more digits of a second than there are.
fn created(at: Option<DateTime<FixedOffset>>) -> String {
    let Some(at) = at else { return "0001-01-01T00:00:00Z".into() };
    let whole = at.to_rfc3339_opts(SecondsFormat::Secs, true);
    let fraction = format!(".{:09}", at.nanosecond());
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    let (seconds, zone) = whole.split_at("0001-01-01T00:00:00".len().min(whole.len()));
    format!("{seconds}{fraction}{zone}")
}

#[cfg(test)]
mod tests;
