//! The API document: it is checked in, so that every change to the API shows in review.

use std::path::Path;
use std::process::Command;

use clipwright::api::openapi_json;
use serde_json::Value;

use crate::support::service::{Service, Settings};
use crate::support::upstream::skip;

#[test]
fn the_checked_in_document_is_the_one_the_code_makes() {
    let checked_in = include_str!("../openapi/openapi.json");
    assert!(
        checked_in == openapi_json(),
        "openapi/openapi.json is out of date; regenerate it with\n\
         \n    cargo run -- openapi > openapi/openapi.json\n"
    );
}

#[test]
fn every_operation_says_what_it_does_and_how_it_fails() {
    let document: Value = serde_json::from_str(openapi_json()).unwrap();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let place = format!("{method} {path}");
            assert!(operation["operationId"].is_string(), "{place} has no operationId");
            assert!(operation["summary"].is_string(), "{place} has no summary");
            let tag = &operation["tags"][0];
            let tags = document["tags"].as_array().unwrap();
            assert!(tags.iter().any(|t| t["name"] == *tag), "{place}: tag {tag} is not described");
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status.starts_with(['4', '5']) {
                    let schema = &response["content"]["application/problem+json"]["schema"];
                    let problem = "#/components/schemas/Problem";
                    assert_eq!(schema["$ref"], problem, "{place}: {status} is not a problem");
                }
            }
            if path.starts_with("/v1/") {
                for status in ["400", "401", "403", "500", "503"] {
                    assert!(operation["responses"][status].is_object(), "{place} lacks {status}");
                }
                let schemes = operation["security"].as_array().unwrap();
                assert!(schemes.iter().any(|s| s.get("token").is_some()), "{place}: no security");
            }
        }
    }
}

#[test]
fn every_reference_leads_somewhere() {
    fn walk(value: &Value, document: &Value) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(reference)) = map.get("$ref") {
                    let pointer = reference.strip_prefix('#').unwrap();
                    assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                }
                map.values().for_each(|value| walk(value, document));
            }
            Value::Array(items) => items.iter().for_each(|value| walk(value, document)),
            _ => {}
        }
    }
    let document: Value = serde_json::from_str(openapi_json()).unwrap();
    walk(&document, &document);
}

/// More than a thousand requests that are made from the document, good ones and bad ones: all are answered
/// as it says.
#[tokio::test]
async fn the_document_takes_what_the_service_takes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    if !root.join("target/tools/schemathesis/bin/schemathesis").exists() {
        return skip("no schemathesis here: scripts/setup.sh test installs it");
    }
    let service = Service::start(Settings::default().argument("role", "api")).await;
    let mut command = Command::new(root.join("scripts/schemathesis.sh"));
    command.arg(&service.url);
    let run = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{told}\n{}", String::from_utf8_lossy(&run.stderr));
    let generated =
        told.lines().find_map(|line| line.trim().split_once(" generated")?.0.parse().ok());
    assert!(generated.is_some_and(|cases: u32| cases >= 1000), "{told}");
}
