//! The config of an image as it is published: what image-spec has words for, and nothing that differs from
//! one build of the same to the next (image-spec 1.1, "OCI Image Configuration"). The builder's own says
//! too in which container it was made, by what and out of what.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::ExportError;
use crate::build::log::Mask;

/// What is kept of the config itself.
const IMAGE: [&str; 8] =
    ["created", "author", "architecture", "variant", "os", "os.version", "os.features", "rootfs"];
/// What is kept of how containers are run. The last three are docker's alone, which image-spec reserves
/// or doesn't know: builds on top of the image need them.
const RUN: [&str; 13] = [
    "User",
    "ExposedPorts",
    "Env",
    "Entrypoint",
    "Cmd",
    "Volumes",
    "WorkingDir",
    "Labels",
    "StopSignal",
    "ArgsEscaped",
    "Healthcheck",
    "Shell",
    "OnBuild",
];
/// What is kept of a line of history.
const HISTORY: [&str; 5] = ["created", "author", "created_by", "comment", "empty_layer"];

/// A config to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::build) struct PublicConfig {
    /// As JSON. Equal configs have the same bytes.
    pub(in crate::build) json: Bytes,
    /// A value that is to be masked is in it all the same, outside its history, where it belongs to the image.
    pub(in crate::build) has_secret: bool,
}

impl PublicConfig {
    /// Makes it out of the builder's. From the history goes what the mask hides, which is where builders write
    /// the values of `ARG`s (`RUN |1 NAME=value ...`).
    pub(in crate::build) fn of(stored: &[u8], mask: &Mask) -> Result<Self, ExportError> {
        let wrong =
            |reason: String| ExportError::Storage { path: "an image's config".into(), reason };
        let stored: Map<String, Value> =
            serde_json::from_slice(stored).map_err(|error| wrong(error.to_string()))?;
        let mut config = kept(&stored, &IMAGE);
        let run = stored.get("config").and_then(Value::as_object);
        let run = run.map(|run| kept(run, &RUN)).unwrap_or_default();
        config.insert("config".to_owned(), run.into());
        let rest = Value::Object(config.clone()).to_string();
        let has_secret = mask.apply(rest.clone()) != rest;
        let history = stored.get("history").and_then(Value::as_array).into_iter().flatten();
        let history = history.filter_map(Value::as_object).map(|entry| {
            let mut entry = kept(entry, &HISTORY);
            for field in ["created_by", "comment"] {
                if let Some(Value::String(text)) = entry.get_mut(field) {
                    *text = mask.apply(std::mem::take(text));
                }
            }
            if entry.get("comment").and_then(Value::as_str).is_some_and(names_a_step) {
                entry.remove("comment");
            }
            Value::Object(entry)
        });
        config.insert("history".to_owned(), history.collect());
        Ok(Self { json: json!(config).to_string().into(), has_secret })
    }
}

/// Whether a comment says nothing but which image of the builder's storage a step began with.
fn names_a_step(comment: &str) -> bool {
    let id = comment.strip_prefix("FROM ").unwrap_or_default();
    id.len() >= 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The fields of these names that say anything.
fn kept(all: &Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    let says = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => true,
    };
    let kept = names.iter().filter_map(|name| {
        let value = all.get(*name).filter(|value| says(value))?;
        Some(((*name).to_owned(), value.clone()))
    });
    kept.collect()
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;

    use super::*;
    use crate::digest::Digest;

    #[test]
    fn what_differs_from_build_to_build_is_left_out() {
        let stored = |container: &str| {
            json!({
                "created": "2026-01-01T00:00:00Z", "container": container, "docker_version": "",
                "container_config": {"Hostname": container}, "os": "linux", "architecture": "amd64",
                "config": {
                    "Hostname": container, "Image": container, "User": "", "Env": ["A=b"], "Cmd": null,
                    "Volumes": {}, "Entrypoint": ["/run"], "ArgsEscaped": false, "OnBuild": [],
                    "Shell": ["/bin/sh", "-c"], "Labels": {"who": "tests"}, "AttachStdin": true,
                },
                "rootfs": {"type": "layers", "diff_ids": ["sha256:aa"]},
                "history": [
                    {"created_by": "RUN x", "empty_layer": true, "odd": container},
                    {"created_by": "RUN y", "comment": format!("FROM {}", Digest::of(container.as_bytes()).hex())},
                    {"created_by": "RUN z", "comment": "FROM debian"},
                ],
            })
            .to_string()
        };
        let of = |container: &str| PublicConfig::of(stored(container).as_bytes(), &Mask::default());
        let made = of("one").unwrap();
        assert_eq!(made, of("two").unwrap());
        let expected = json!({
            "created": "2026-01-01T00:00:00Z", "os": "linux", "architecture": "amd64",
            "config": {
                "Env": ["A=b"], "Entrypoint": ["/run"], "Shell": ["/bin/sh", "-c"],
                "Labels": {"who": "tests"},
            },
            "rootfs": {"type": "layers", "diff_ids": ["sha256:aa"]},
            "history": [
                {"created_by": "RUN x", "empty_layer": true}, {"created_by": "RUN y"},
                {"created_by": "RUN z", "comment": "FROM debian"},
            ],
        });
        assert_eq!(serde_json::from_slice::<Value>(&made.json).unwrap(), expected);
        for broken in ["", "[]", "{"] {
            assert!(PublicConfig::of(broken.as_bytes(), &Mask::default()).is_err(), "{broken}");
        }
        // What has none of the parts is none the worse for it.
        assert!(PublicConfig::of(b"{\"history\":[1],\"config\":2}", &Mask::default()).is_ok());
    }

    #[test]
    fn history_is_masked_and_the_rest_is_the_image() {
        let mask = Mask::of([&SecretString::from("hunter2")]);
        let of = |env: &str| {
            let history = json!([{"created_by": "RUN |1 A=hunter2 x", "comment": "hunter2"}]);
            let stored = json!({"config": {"Env": [env]}, "history": history}).to_string();
            PublicConfig::of(stored.as_bytes(), &mask).unwrap()
        };
        let clean = of("A=b");
        let text = String::from_utf8(clean.json.to_vec()).unwrap();
        assert!(!clean.has_secret && !text.contains("hunter2") && text.contains("A=***"), "{text}");
        let told = of("A=hunter2");
        assert!(told.has_secret && String::from_utf8_lossy(&told.json).contains("\"A=hunter2\""));
    }
}
