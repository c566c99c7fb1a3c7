//! What single values may look like: each function takes a text and returns the value, or `None`
//! when the text is not one.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use secrecy::SecretString;

pub(super) fn from_str<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

pub(super) fn between<T: FromStr + PartialOrd>(text: &str, range: RangeInclusive<T>) -> Option<T> {
    text.parse().ok().filter(|value| range.contains(value))
}

pub(super) fn absolute(text: &str) -> Option<PathBuf> {
    std::path::absolute(text).ok()
}

pub(super) fn word(text: &str) -> Option<String> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic())).then(|| text.to_owned())
}

pub(super) fn secret(text: &str) -> Option<SecretString> {
    Some(text).filter(|text| !text.trim().is_empty()).map(SecretString::from)
}

pub(super) fn header_safe(text: &str) -> Option<SecretString> {
    word(text).map(SecretString::from)
}

pub(super) fn database_url(text: &str) -> Option<SecretString> {
    let known = text.starts_with("postgres://") || text.starts_with("postgresql://");
    known.then(|| SecretString::from(text))
}

pub(super) fn bucket_name(text: &str) -> Option<String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    ((1..=255).contains(&text.len()) && text.bytes().all(legal)).then(|| text.to_owned())
}

pub(super) fn endpoint(text: &str) -> Option<String> {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"))?;
    let rest = word(rest.trim_end_matches('/'))?;
    (!rest.contains(['@', '?', '#'])).then(|| text.trim_end_matches('/').to_owned())
}

pub(super) fn registry_host(text: &str) -> Option<String> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    (!text.is_empty() && text.bytes().all(legal)).then(|| text.to_ascii_lowercase())
}
