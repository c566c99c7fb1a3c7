//! JSON as Postgres takes it.

use serde_json::Value;

use super::QueueError;

/// The most bytes that a value may have: beyond, a row costs more than it tells. `jsonb` itself ends
/// at 256 MiB.
const MAX: usize = 1 << 20;

/// A value for a `jsonb` column, which can't hold NUL; names in a hostile image may.
pub(super) fn to_json(
    action: &'static str,
    value: &impl serde::Serialize,
) -> Result<Value, QueueError> {
    let refused = |reason| QueueError::Refused { action, reason };
    let mut json = serde_json::to_value(value).map_err(|error| refused(error.to_string()))?;
    replace_nul(&mut json);
    let bytes = json.to_string().len();
    if bytes > MAX {
        return Err(refused(format!("{bytes} bytes of JSON: expected at most {MAX}")));
    }
    Ok(json)
}

fn replace_nul(json: &mut Value) {
    match json {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', "\u{fffd}"),
        Value::Array(items) => items.iter_mut().for_each(replace_nul),
        Value::Object(fields) => fields.values_mut().for_each(replace_nul),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nul_never_reaches_the_database() {
        let json = to_json("test", &json!({"a": ["x\0y", 1], "b": {"c": "\0"}}));
        assert_eq!(json.unwrap(), json!({"a": ["x\u{fffd}y", 1], "b": {"c": "\u{fffd}"}}));
    }

    #[test]
    fn what_is_too_long_is_refused_with_its_size() {
        assert!(to_json("test", &"x".repeat(MAX - 2)).is_ok());
        let error = to_json("record a success", &"x".repeat(MAX)).unwrap_err().to_string();
        assert!(error.contains("1048578 bytes of JSON: expected at most 1048576"), "{error}");
    }
}
