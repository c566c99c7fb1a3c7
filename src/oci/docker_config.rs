//! Ambient credentials: the `auths` of Docker's configuration file (CONTRACT F.4).
//!
//! Credential helpers are programs; running them is not ours to do, so they are left alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde::Deserialize;

use crate::oci::credentials::{Credentials, host_of};
use crate::oci::error::OciError;

const MAX_FILE: u64 = 4 << 20;

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigFile {
    auths: Option<BTreeMap<String, Entry>>,
    #[serde(rename = "credHelpers")]
    credential_helpers: Option<BTreeMap<String, String>>,
    #[serde(rename = "credsStore")]
    credential_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<String>,
    #[serde(rename = "registrytoken")]
    registry_token: Option<String>,
}

/// Looks `registry` (normalised) up in `file`, or where Docker looks when that is `None`:
/// `$DOCKER_CONFIG/config.json`, then `~/.docker/config.json`. There a missing file is no
/// credentials; a file that was named must exist.
pub(super) async fn look_up(
    file: Option<&Path>,
    registry: &str,
) -> Result<Option<Credentials>, OciError> {
    let Some(path) = file.map(Path::to_owned).or_else(default_file) else { return Ok(None) };
    let failed = |reason: String| OciError::DockerConfig { path: path.clone(), reason };
    let text = match read(&path).await {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => {
            return Ok(None);
        }
        other => other.map_err(|error| failed(error.to_string()))?,
    };
    // serde_json's own message may quote what it stumbled over: only the place is told.
    let config: ConfigFile = serde_json::from_slice(&text).map_err(|error| {
        failed(format!("not valid JSON at line {} column {}", error.line(), error.column()))
    })?;
    find(&config, registry).map_err(|reason| failed(format!("entry for {registry}: {reason}")))
}

async fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let size = tokio::fs::metadata(path).await?.len();
    if size > MAX_FILE {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    tokio::fs::read(path).await
}

fn default_file() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let directory = set("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".docker")))?;
    Some(directory.join("config.json"))
}

fn find(config: &ConfigFile, registry: &str) -> Result<Option<Credentials>, &'static str> {
    let auths = config.auths.iter().flatten();
    let entry = auths
        .filter(|(key, _)| names_registry(key, registry))
        .find_map(|(_, entry)| credentials(entry).transpose());
    if entry.is_none()
        && (config.credential_store.is_some()
            || config.credential_helpers.iter().flatten().any(|(key, _)| host_of(key) == registry))
    {
        tracing::debug!(registry, "credential helpers in the Docker configuration are not used");
    }
    entry.transpose()
}

/// Keys are hosts, or addresses with the API's version; longer paths name single repositories
/// (as in podman's files) and don't speak for the host.
fn names_registry(key: &str, registry: &str) -> bool {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path.trim_end_matches('/'));
    matches!(path, "" | "v1" | "v2") && host_of(key) == registry
}

/// An entry with nothing in it is what a credential helper leaves behind: no credentials.
fn credentials(entry: &Entry) -> Result<Option<Credentials>, &'static str> {
    let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
    if let Some(token) = given(&entry.identity_token) {
        return Ok(Some(Credentials::IdentityToken(SecretString::from(token))));
    }
    if let Some(token) = given(&entry.registry_token) {
        return Ok(Some(Credentials::RegistryToken(SecretString::from(token))));
    }
    if let Some(auth) = given(&entry.auth) {
        let decoded = STANDARD.decode(auth.trim()).map_err(|_| "auth is not base64")?;
        let decoded = String::from_utf8(decoded).map_err(|_| "auth is not text")?;
        let (user, password) = decoded.split_once(':').ok_or("auth is not user:password")?;
        // Docker pads passwords with zero bytes in some versions.
        return Ok(Some(Credentials::basic(user, password.trim_end_matches('\0'))));
    }
    match (given(&entry.username), given(&entry.password)) {
        (Some(user), Some(password)) => Ok(Some(Credentials::basic(&user, &password))),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    async fn found(json: &str, registry: &str) -> Result<Option<Credentials>, OciError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, json).unwrap();
        look_up(Some(&path), registry).await
    }

    async fn user(json: &str, registry: &str) -> Option<String> {
        match found(json, registry).await.unwrap()? {
            Credentials::Basic { username, password } => {
                Some(format!("{}:{}", username.expose_secret(), password.expose_secret()))
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn finds_the_host_under_all_its_names() {
        // bWU6cGE6c3M= is me:pa:ss
        for (key, registry) in [
            ("h:5000", "h:5000"),
            ("https://h:5000", "h:5000"),
            ("https://h:5000/v2/", "h:5000"),
            ("https://index.docker.io/v1/", "index.docker.io"),
            ("docker.io", "index.docker.io"),
            ("registry-1.docker.io", "index.docker.io"),
        ] {
            let json = format!(r#"{{"auths":{{"{key}":{{"auth":"bWU6cGE6c3M="}}}}}}"#);
            assert_eq!(user(&json, registry).await.as_deref(), Some("me:pa:ss"), "{key}");
        }
        let json = r#"{"auths":{"h/namespace":{"auth":"bWU6cGE6c3M="},"h2":{}}}"#;
        assert_eq!(user(json, "h").await, None);
        assert_eq!(user(json, "h2").await, None);
        assert_eq!(user("{}", "h").await, None);
        let json = r#"{"auths":{"h":{"username":"a","password":"b"}}}"#;
        assert_eq!(user(json, "h").await.as_deref(), Some("a:b"));
    }

    #[tokio::test]
    async fn knows_tokens() {
        let json = r#"{"auths":{"h":{"auth":"PHRva2VuPjo=","identitytoken":"t"}}}"#;
        let credentials = found(json, "h").await.unwrap();
        assert!(matches!(credentials, Some(Credentials::IdentityToken(_))));
    }

    #[tokio::test]
    async fn names_the_file_and_no_secret() {
        let json = r#"{"auths":{"h":{"auth":"aHVudGVyMg=="}}}"#;
        let error = found(json, "h").await.unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("user:password"), "{error}");
        assert!(!error.contains("hunter2") && !error.contains("aHVudGVyMg"), "{error}");
        let error = found(r#"{"auths":{"h":"hunter2"}}"#, "h").await.unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(look_up(Some(Path::new("/nonexistent/config.json")), "h").await.is_err());
    }
}
