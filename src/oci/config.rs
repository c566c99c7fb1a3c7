//! The image config (OCI image-spec "Image Configuration", and Docker's older form of it).
//!
//! Tolerant, as the variety of builders requires: nulls are absences, unknown fields are skipped.
//! oci-client's `ConfigFile` is not: it has no variant, turns times to UTC, and for a null label,
//! a command in one string or an odd date it refuses the whole config.

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset};
use serde::Deserialize;

use crate::digest::Digest;

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageConfig {
    /// When it was made.
    pub created: Option<DateTime<FixedOffset>>,
    /// Who made it.
    pub author: String,
    /// Such as `amd64`.
    pub architecture: String,
    /// Such as `linux`.
    pub os: String,
    /// Such as `v8`.
    pub variant: String,
    /// The Docker version that made it.
    pub docker_version: String,
    /// User to run as.
    pub user: String,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Entry point.
    pub entrypoint: Vec<String>,
    /// Default command, or the entry point's default arguments.
    pub cmd: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// Such as `80/tcp`; sorted.
    pub exposed_ports: Vec<String>,
    /// Paths; sorted.
    pub volumes: Vec<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Such as `SIGTERM`.
    pub stop_signal: String,
}

#[derive(Deserialize)]
struct Document {
    created: Option<String>,
    author: Option<String>,
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    docker_version: Option<String>,
    config: Option<Execution>,
    rootfs: Option<RootFs>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
struct Execution {
    user: Option<String>,
    env: Option<Vec<Option<String>>>,
    entrypoint: Option<Words>,
    cmd: Option<Words>,
    working_dir: Option<String>,
    exposed_ports: Option<Set>,
    volumes: Option<Set>,
    labels: Option<BTreeMap<String, Option<String>>>,
    stop_signal: Option<String>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<String>>,
}

/// Docker took a bare string for a list of one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Many(Vec<Option<String>>),
    One(String),
}

/// Go writes sets as maps to empty objects.
type Set = serde_json::Map<String, serde_json::Value>;

impl ImageConfig {
    /// Reads a config: what it says, and the diff ids of its layers, bottom to top. The error is
    /// a reason without a subject.
    pub(super) fn parse(bytes: &[u8]) -> Result<(Self, Vec<Digest>), String> {
        let document: Document = serde_json::from_slice(bytes)
            .map_err(|error| format!("its config is not valid: {error}"))?;
        let diff_ids = document.rootfs.and_then(|rootfs| rootfs.diff_ids).unwrap_or_default();
        let diff_ids = diff_ids
            .iter()
            .map(|text| text.parse())
            .collect::<Result<_, _>>()
            .map_err(|error| format!("a diff id in its config is not valid: {error}"))?;
        let run = document.config.unwrap_or_default();
        let text = Option::unwrap_or_default;
        let words = |words: Option<Words>| match words {
            None => Vec::new(),
            Some(Words::Many(words)) => words.into_iter().map(text).collect(),
            Some(Words::One(word)) => vec![word],
        };
        let members = |set: Option<Set>| {
            let mut names: Vec<String> =
                set.unwrap_or_default().into_iter().map(|(name, _)| name).collect();
            names.sort_unstable();
            names
        };
        let config = Self {
            created: document.created.and_then(|at| DateTime::parse_from_rfc3339(&at).ok()),
            author: text(document.author),
            architecture: text(document.architecture),
            os: text(document.os),
            variant: text(document.variant),
            docker_version: text(document.docker_version),
            user: text(run.user),
            env: run.env.into_iter().flatten().flatten().collect(),
            entrypoint: words(run.entrypoint),
            cmd: words(run.cmd),
            working_dir: text(run.working_dir),
            exposed_ports: members(run.exposed_ports),
            volumes: members(run.volumes),
            labels: run
                .labels
                .unwrap_or_default()
                .into_iter()
                .map(|(name, value)| (name, text(value)))
                .collect(),
            stop_signal: text(run.stop_signal),
        };
        Ok((config, diff_ids))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_everything() {
        let diff_id = Digest::of(b"layer");
        let (config, diff_ids) = ImageConfig::parse(
            json!({
                "created": "2026-01-02T03:04:05.123456789+02:00", "author": "me",
                "architecture": "arm64", "os": "linux", "variant": "v8",
                "docker_version": "27.1", "history": [{"created_by": "x"}],
                "config": {
                    "User": "1000", "Env": ["A=b"], "Entrypoint": ["/e"], "Cmd": "sh",
                    "WorkingDir": "/w", "ExposedPorts": {"80/tcp": {}, "443/tcp": {}},
                    "Volumes": {"/v": {}}, "Labels": {"l": "1", "n": null},
                    "StopSignal": "SIGINT", "OnBuild": null,
                },
                "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            })
            .to_string()
            .as_bytes(),
        )
        .unwrap();
        assert_eq!(diff_ids, [diff_id]);
        assert_eq!(config.created.unwrap().to_rfc3339(), "2026-01-02T03:04:05.123456789+02:00");
        assert_eq!(config.cmd, ["sh"]);
        assert_eq!(config.exposed_ports, ["443/tcp", "80/tcp"]);
        assert_eq!(config.labels["n"], "");
        assert_eq!((config.user.as_str(), config.stop_signal.as_str()), ("1000", "SIGINT"));
    }

    #[test]
    fn nulls_are_absences() {
        let text = br#"{"created":null,"config":{"Env":null,"Cmd":null,"Labels":null,"Volumes":null},"rootfs":{"diff_ids":null}}"#;
        for text in [&text[..], b"{}", br#"{"config":null,"rootfs":null}"#] {
            assert_eq!(ImageConfig::parse(text).unwrap(), (ImageConfig::default(), vec![]));
        }
        let text = br#"{"config":{"Env":["A=b",null],"Cmd":["x",null]}}"#;
        let (config, _) = ImageConfig::parse(text).unwrap();
        assert_eq!(config.env, ["A=b"]);
        assert_eq!(config.cmd, ["x", ""], "arguments keep their places");
    }

    #[test]
    fn refuses_what_is_no_config() {
        for text in ["", "[]", r#"{"rootfs":{"diff_ids":["sha256:1"]}}"#, r#"{"os":7}"#] {
            assert!(ImageConfig::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn never_panics(text in "[{}\\[\\]\":,a-zA-Z0-9_]{0,60}") {
            let _ = ImageConfig::parse(text.as_bytes());
        }
    }
}
