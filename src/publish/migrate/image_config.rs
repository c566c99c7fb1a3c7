//! The config of an image, from the configuration of a container (OCI runtime-spec) that was made
//! from it: the image-spec's "Conversion to OCI Runtime Configuration" backwards.
//!
//! That way is not one to one. What an image says in more than one way comes back in one: the entry
//! point stands in front of the default command, users are numbers, and environment that was added
//! on the way (`HOME`, `TERM`) stays. A conversion forwards again gives the same configuration.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::MigrateError;
use crate::digest::Digest;
use crate::oci::Platform;

/// The part of a runtime configuration that came from the image.
#[derive(Debug, Default, Deserialize)]
struct Runtime {
    process: Option<Process>,
    annotations: Option<BTreeMap<String, String>>,
    mounts: Option<Vec<Mount>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    #[serde(default)]
    user: User,
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    #[serde(default)]
    cwd: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct User {
    uid: u32,
    gid: u32,
    additional_gids: Option<Vec<u32>>,
}

#[derive(Debug, Deserialize)]
struct Mount {
    destination: String,
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    source: String,
}

/// Annotations that stand for fields of the image, as umoci writes them, not for labels.
const PREFIX: &str = "org.opencontainers.image.";

/// The bytes of the image config of an image with this one layer, and what the image is made for:
/// this machine, unless it says. `runtime` is the configuration that lies beside the image, by its
/// path; without one the image says nothing of how it is run.
pub fn image_config(
    runtime: Option<(&str, &[u8])>,
    diff_id: Digest,
) -> Result<(Vec<u8>, Platform), MigrateError> {
    let runtime: Runtime = match runtime {
        None => Runtime::default(),
        Some((file, bytes)) => serde_json::from_slice(bytes).map_err(|error| {
            MigrateError::Config { file: file.to_owned(), detail: error.to_string() }
        })?,
    };
    let mut labels = runtime.annotations.unwrap_or_default();
    let mut field = |name: &str| labels.remove(&format!("{PREFIX}{name}")).unwrap_or_default();
    let created = field("created");
    let created = DateTime::parse_from_rfc3339(&created).is_ok().then_some(created);
    let (author, stop_signal) = (field("author"), field("stopSignal"));
    let ports = field("exposedPorts");
    let (os, architecture, variant) = (field("os"), field("architecture"), field("variant"));

    let process = runtime.process.unwrap_or_default();
    let is_volume = |mount: &&Mount| mount.kind == "tmpfs" && mount.source == "none";
    let volumes = runtime.mounts.iter().flatten().filter(is_volume).map(|m| m.destination.as_str());
    let mut run = Map::new();
    let mut say = |name: &str, value: Value| {
        if !matches!(&value, Value::String(text) if text.is_empty())
            && !matches!(&value, Value::Object(map) if map.is_empty())
        {
            run.insert(name.to_owned(), value);
        }
    };
    say("User", user(&process.user).into());
    say("Env", process.env.unwrap_or_default().into());
    say("Cmd", process.args.unwrap_or_default().into());
    say("WorkingDir", if process.cwd == "/" { "".into() } else { process.cwd.into() });
    say("ExposedPorts", set(ports.split(',').filter(|port| !port.is_empty())));
    say("Volumes", set(volumes));
    say("Labels", json!(labels));
    say("StopSignal", stop_signal.into());

    let platform = if os.is_empty() || architecture.is_empty() {
        Platform::host()
    } else {
        Platform::new(&os, &architecture, Some(&variant))
    };
    let mut config = Map::new();
    for (name, value) in [
        ("created", created.map_or(Value::Null, Value::from)),
        ("author", author.into()),
        ("architecture", platform.architecture.as_str().into()),
        ("os", platform.os.as_str().into()),
        ("variant", platform.variant.clone().into()),
        ("config", run.into()),
        ("rootfs", json!({ "type": "layers", "diff_ids": [diff_id] })),
        ("history", json!([{ "created_by": "clipwright migrate" }])),
    ] {
        if !value.is_null() && value != "" {
            config.insert(name.to_owned(), value);
        }
    }
    Ok((Value::from(config).to_string().into_bytes(), platform))
}

/// Go writes sets as maps to empty objects.
fn set<'a>(members: impl Iterator<Item = &'a str>) -> Value {
    members.map(|member| (member.to_owned(), json!({}))).collect::<Map<_, _>>().into()
}

/// Whoever has further groups gets them from the image's own files, which name a user's groups
/// only where the image doesn't (image-spec, `User`).
fn user(user: &User) -> String {
    match user {
        User { additional_gids: Some(more), uid, .. } if !more.is_empty() => uid.to_string(),
        User { uid: 0, gid: 0, .. } => String::new(),
        User { uid, gid, .. } => format!("{uid}:{gid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(runtime: &Value) -> Value {
        let bytes = runtime.to_string();
        let runtime = Some(("/config.json", bytes.as_bytes()));
        let (bytes, _) = image_config(runtime, Digest::of(b"")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// The configuration is what umoci 0.4.7 made of an image that says all of this.
    #[test]
    fn what_umoci_writes_comes_back() {
        let found = config(&json!({
            "ociVersion": "1.0.0",
            "process": {
                "terminal": true,
                "user": { "uid": 1000, "gid": 1000, "additionalGids": [2000] },
                "args": ["/e", "x"], "env": ["PATH=/bin", "A=b"], "cwd": "/w",
                "noNewPrivileges": true,
            },
            "hostname": "umoci-default",
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs" },
                { "destination": "/data", "type": "tmpfs", "source": "none", "options": ["rw"] },
            ],
            "annotations": {
                "k": "v", "org.opencontainers.image.authors": "all",
                "org.opencontainers.image.architecture": "arm64",
                "org.opencontainers.image.author": "me",
                "org.opencontainers.image.created": "2024-01-02T03:04:05Z",
                "org.opencontainers.image.exposedPorts": "53/udp,80/tcp",
                "org.opencontainers.image.os": "linux",
                "org.opencontainers.image.stopSignal": "SIGINT",
            },
        }));
        assert_eq!(
            found,
            json!({
                "created": "2024-01-02T03:04:05Z", "author": "me",
                "architecture": "arm64", "os": "linux",
                "config": {
                    "User": "1000", "Env": ["PATH=/bin", "A=b"], "Cmd": ["/e", "x"],
                    "WorkingDir": "/w", "ExposedPorts": { "53/udp": {}, "80/tcp": {} },
                    "Volumes": { "/data": {} }, "StopSignal": "SIGINT",
                    "Labels": { "k": "v", "org.opencontainers.image.authors": "all" },
                },
                "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"")] },
                "history": [{ "created_by": "clipwright migrate" }],
            })
        );
    }

    #[test]
    fn users_keep_their_groups() {
        let of = |user: Value| config(&json!({ "process": { "user": user } }))["config"].take();
        assert_eq!(of(json!({ "uid": 5, "gid": 7 }))["User"], "5:7");
        assert_eq!(of(json!({ "uid": 0, "gid": 7 }))["User"], "0:7");
        assert_eq!(of(json!({ "uid": 5, "gid": 7, "additionalGids": [8] }))["User"], "5");
        assert_eq!(of(json!({ "uid": 0, "gid": 0, "additionalGids": [] }))["User"], Value::Null);
    }

    #[test]
    fn without_a_configuration_there_is_still_a_config() {
        let (bytes, platform) = image_config(None, Digest::of(b"")).unwrap();
        let found: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(platform, Platform::host());
        assert_eq!(
            (&found["os"], &found["architecture"]),
            (&json!("linux"), &json!(platform.architecture))
        );
    }

    #[test]
    fn nonsense_is_named() {
        let nonsense = Some(("/config.json", &b"{\"process\": 7}"[..]));
        let error = image_config(nonsense, Digest::of(b"")).unwrap_err().to_string();
        assert!(error.starts_with("/config.json: "), "{error}");
    }
}
