//! Values of variables in `FROM` and `ARG` (Dockerfile reference, "Environment replacement"): `$NAME`,
//! `${NAME}`, `${NAME:-default}` and `${NAME:+instead}`. One that has no value is empty.

use std::collections::BTreeMap;

use crate::build::error::DockerfileError;

/// Bytes of a text at most once its variables are replaced: values that are made of values can double with
/// every line.
const MAX_EXPANDED: usize = 32 << 10;

/// Replaces the variables in `text`, which stands in this line.
pub(super) fn expand(
    text: &str,
    values: &BTreeMap<String, String>,
    line: usize,
) -> Result<String, DockerfileError> {
    let shown = || text.chars().take(200).collect::<String>();
    let wrong = || {
        let reason = format!("{:?} has a variable that can't be read", shown());
        DockerfileError { line, reason }
    };
    let value = |name: &str| values.get(name).map(String::as_str).unwrap_or_default();
    let (mut expanded, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('$') {
        // Each turn adds one value at most, none of which is longer.
        if expanded.len() > MAX_EXPANDED {
            break;
        }
        if let Some(before) = before.strip_suffix('\\') {
            expanded.push_str(before);
            expanded.push('$');
            rest = after;
            continue;
        }
        expanded.push_str(before);
        if let Some(inside) = after.strip_prefix('{') {
            let (inside, after) = inside.split_once('}').ok_or_else(wrong)?;
            let end = inside.find(|c: char| !is_of_name(c)).unwrap_or(inside.len());
            let (name, modifier) = inside.split_at(end);
            if name.is_empty() {
                return Err(wrong());
            }
            match modifier.get(..2) {
                None if modifier.is_empty() => expanded.push_str(value(name)),
                Some(":-") if value(name).is_empty() => expanded.push_str(&modifier[2..]),
                Some(":-") => expanded.push_str(value(name)),
                Some(":+") if value(name).is_empty() => {}
                Some(":+") => expanded.push_str(&modifier[2..]),
                _ => return Err(wrong()),
            }
            rest = after;
        } else {
            let end = after.find(|c: char| !is_of_name(c)).unwrap_or(after.len());
            let (name, after) = after.split_at(end);
            if name.is_empty() {
                expanded.push('$');
            } else {
                expanded.push_str(value(name));
            }
            rest = after;
        }
    }
    expanded.push_str(rest);
    if expanded.len() > MAX_EXPANDED {
        let reason = format!("{:?} becomes longer than {MAX_EXPANDED} bytes", shown());
        return Err(DockerfileError { line, reason });
    }
    Ok(expanded)
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '_'
}
