//! The API document: it is checked in, so that every change to the API shows in review.

use clipwright::api::openapi_json;
use serde_json::Value;

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
