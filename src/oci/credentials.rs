//! Credentials for a registry, and the encodings beta9 sends them in (CONTRACT F.1 to F.3).
//!
//! Nothing here calls a cloud: what would have to be exchanged first is refused by name.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use crate::oci::reference::{DOCKER_HUB, normalise_registry};

/// How to present ourselves to a registry.
///
/// [`Credentials::Anonymous`] is a decision: it keeps credentials of the surroundings out. To use
/// those, give no credentials at all.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// As nobody.
    Anonymous,
    /// By user name and password (or a token in a password's place).
    Basic {
        /// User name; some are tokens.
        username: SecretString,
        /// Password.
        password: SecretString,
    },
    /// By an OAuth 2 refresh token, which the registry's token service exchanges.
    IdentityToken(SecretString),
    /// By a bearer token that the registry takes as it is.
    RegistryToken(SecretString),
}

/// Why a credential text can't be used. Never quotes the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCredentials {
    /// None of the encodings.
    #[error(
        "the credentials are in no known form: expected a JSON object with known keys or \
         user:password"
    )]
    UnknownForm,
    /// A user without a password or the reverse.
    #[error("the credentials lack {missing}, which belongs to {present}")]
    Incomplete {
        /// The key that is there.
        present: &'static str,
        /// The key that is not.
        missing: &'static str,
    },
    /// They were made for another registry.
    #[error("the credentials are for registry {given}, the image is in {needed}")]
    WrongRegistry {
        /// The registry they name.
        given: String,
        /// The registry of the image.
        needed: String,
    },
    /// They must be exchanged by a cloud's own service first.
    #[error(
        "credentials of kind {kind} must be exchanged for a user name and password before they \
         are sent here"
    )]
    NeedsExchange {
        /// `aws`, `gcp` or `azure`.
        kind: &'static str,
    },
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(default)]
    registry: String,
    #[serde(default, rename = "type")]
    kind: String,
    credentials: BTreeMap<String, String>,
}

/// Pairs of user name and password keys, most specific first.
const PAIRS: [(&str, &str); 4] = [
    ("DOCKERHUB_USERNAME", "DOCKERHUB_PASSWORD"),
    ("DOCKER_USERNAME", "DOCKER_PASSWORD"),
    ("REGISTRY_USERNAME", "REGISTRY_PASSWORD"),
    ("USERNAME", "PASSWORD"),
];

const CLOUD_KEYS: [(&str, &str); 6] = [
    ("AWS_ACCESS_KEY_ID", "aws"),
    ("AWS_SECRET_ACCESS_KEY", "aws"),
    ("GOOGLE_APPLICATION_CREDENTIALS", "gcp"),
    ("GCP_PROJECT_ID", "gcp"),
    ("AZURE_CLIENT_ID", "azure"),
    ("AZURE_CLIENT_SECRET", "azure"),
];

impl Credentials {
    /// Whether the other side could not tell them apart.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same =
            |one: &SecretString, other: &SecretString| one.expose_secret() == other.expose_secret();
        match (self, other) {
            (Self::Anonymous, Self::Anonymous) => true,
            (
                Self::Basic { username, password },
                Self::Basic { username: other, password: its },
            ) => same(username, other) && same(password, its),
            (Self::IdentityToken(one), Self::IdentityToken(other))
            | (Self::RegistryToken(one), Self::RegistryToken(other)) => same(one, other),
            _ => false,
        }
    }

    /// `user:password` as a regular expression (ECMA 262), for documents.
    pub const PATTERN: &str = "^[!-9;-z|~][ -9;-~]*:[!-~]+$";

    /// Reads a credential text for an image in `registry` (`host[:port]`).
    ///
    /// In the order tried (CONTRACT F.1): a JSON object with `registry`, `type` and
    /// `credentials`; a flat JSON object of known keys; `user:password`, split at the first
    /// colon. A blank text is no credentials, `None`. Unlike upstream, a flat object keeps
    /// `DOCKERHUB_USERNAME`, `DOCKERHUB_PASSWORD` and `GITHUB_USERNAME`, broken JSON is never
    /// taken for `user:password`, and credentials for another registry are refused.
    pub fn parse(text: &str, registry: &str) -> Result<Option<Self>, InvalidCredentials> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(None);
        }
        let registry = normalise_registry(registry);
        if !text.starts_with('{') {
            return match text.split_once(':') {
                Some((user, password)) if !user.is_empty() && !password.is_empty() => {
                    Ok(Some(Self::basic(user, password)))
                }
                _ => Err(InvalidCredentials::UnknownForm),
            };
        }
        let json: serde_json::Value =
            serde_json::from_str(text).map_err(|_| InvalidCredentials::UnknownForm)?;
        let (kind, keys) = match envelope(&json) {
            Some(envelope) => {
                let given = host_of(&envelope.registry);
                if !given.is_empty() && given != registry {
                    return Err(InvalidCredentials::WrongRegistry { given, needed: registry });
                }
                (envelope.kind, envelope.credentials)
            }
            None => (String::new(), flat(&json)),
        };
        if kind == "public" || json.as_object().is_some_and(serde_json::Map::is_empty) {
            return Ok(Some(Self::Anonymous));
        }
        Self::from_keys(&keys, &registry).map(Some)
    }

    /// Whether the text says which registry it is for; [`Self::parse`] refuses it for others.
    pub fn names_registry(text: &str) -> bool {
        let json = serde_json::from_str(text.trim()).ok();
        let envelope = json.as_ref().and_then(envelope);
        envelope.is_some_and(|envelope| !host_of(&envelope.registry).is_empty())
    }

    /// A user name and a password.
    pub fn basic(username: &str, password: &str) -> Self {
        Self::Basic { username: username.into(), password: password.into() }
    }

    /// The kind is detected from the keys and the host (CONTRACT F.2, F.3): tokens of the host
    /// at hand, then a complete user and password, then what would need a cloud.
    fn from_keys(
        keys: &BTreeMap<String, String>,
        registry: &str,
    ) -> Result<Self, InvalidCredentials> {
        let get = |key: &str| keys.get(key).map(String::as_str).filter(|value| !value.is_empty());
        let host = registry.split(':').next().unwrap_or_default();
        let within = |domain: &str| {
            host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'))
        };

        if within("nvcr.io")
            && let Some(key) = get("NGC_API_KEY")
        {
            return Ok(Self::basic("$oauthtoken", key));
        }
        if within("ghcr.io")
            && let Some(token) = get("GITHUB_TOKEN")
        {
            let user = get("GITHUB_USERNAME").or(get("USERNAME")).unwrap_or(token);
            return Ok(Self::basic(user, token));
        }
        if (within("gcr.io") || within("pkg.dev"))
            && let Some(token) = get("GCP_ACCESS_TOKEN")
        {
            return Ok(Self::basic("oauth2accesstoken", token));
        }
        if registry == DOCKER_HUB
            && let Some(token) = get("DOCKERHUB_TOKEN")
        {
            let user = get("DOCKERHUB_USERNAME").or(get("DOCKER_USERNAME")).or(get("USERNAME"));
            return user.map(|user| Self::basic(user, token)).ok_or(
                InvalidCredentials::Incomplete {
                    present: "DOCKERHUB_TOKEN",
                    missing: "DOCKERHUB_USERNAME",
                },
            );
        }
        let pairs = PAIRS
            .iter()
            .filter(|(user, _)| registry == DOCKER_HUB || !user.starts_with("DOCKERHUB"));
        let mut half = None;
        for &(user_key, password_key) in pairs {
            match (get(user_key), get(password_key)) {
                (Some(user), Some(password)) => return Ok(Self::basic(user, password)),
                (Some(_), None) => half = half.or(Some((user_key, password_key))),
                (None, Some(_)) => half = half.or(Some((password_key, user_key))),
                (None, None) => {}
            }
        }
        for (key, kind) in CLOUD_KEYS {
            if get(key).is_some() {
                return Err(InvalidCredentials::NeedsExchange { kind });
            }
        }
        match half {
            Some((present, missing)) => Err(InvalidCredentials::Incomplete { present, missing }),
            None => Err(InvalidCredentials::UnknownForm),
        }
    }
}

/// The first encoding; `credentials` may itself be JSON in a string.
fn envelope(json: &serde_json::Value) -> Option<Envelope> {
    let mut json = json.clone();
    let credentials = json.get_mut("credentials")?;
    if let Some(nested) = credentials.as_str() {
        *credentials = serde_json::from_str(nested).ok()?;
    }
    let envelope: Envelope = serde_json::from_value(json).ok()?;
    (!envelope.credentials.is_empty() || envelope.kind == "public").then_some(envelope)
}

/// The second encoding; a value that is a JSON object in a string stands for its entries, unless its key
/// is one of ours: a password may be JSON by nature, as that of Google's `_json_key` is.
fn flat(json: &serde_json::Value) -> BTreeMap<String, String> {
    let mut keys = BTreeMap::new();
    for (key, value) in json.as_object().into_iter().flatten() {
        let Some(text) = value.as_str() else { continue };
        match serde_json::from_str::<BTreeMap<String, String>>(text) {
            Ok(nested) if !is_known(key) => keys.extend(nested),
            _ => {
                keys.insert(key.clone(), text.to_owned());
            }
        }
    }
    keys
}

fn is_known(key: &str) -> bool {
    PAIRS.iter().any(|(user, password)| [user, password].contains(&&key))
        || CLOUD_KEYS.iter().any(|(known, _)| *known == key)
}

/// The normalised host in `https://host/v1/`, `host/` or `host`. What stands before an `@` is no part
/// of it: it may be a password.
pub(super) fn host_of(address: &str) -> String {
    let address = address.trim();
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    normalise_registry(rest.split('/').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use secrecy::ExposeSecret;

    use super::*;

    fn pair(text: &str, registry: &str) -> Option<(String, String)> {
        match Credentials::parse(text, registry).unwrap()? {
            Credentials::Basic { username, password } => {
                Some((username.expose_secret().to_owned(), password.expose_secret().to_owned()))
            }
            other => panic!("{other:?}"),
        }
    }

    fn refused(text: &str, registry: &str) -> InvalidCredentials {
        Credentials::parse(text, registry).unwrap_err()
    }

    #[test]
    fn only_an_object_with_a_registry_names_one() {
        let named = r#"{"registry":"h","credentials":{"USERNAME":"me","PASSWORD":"x"}}"#;
        assert!(Credentials::names_registry(named));
        let blank = r#"{"registry":" ","credentials":{"USERNAME":"me","PASSWORD":"x"}}"#;
        for text in ["", "me:x", r#"{"USERNAME":"me","PASSWORD":"x"}"#, blank] {
            assert!(!Credentials::names_registry(text), "{text}");
        }
    }

    #[test]
    fn every_encoding() {
        for (text, registry, user, password) in [
            ("me:pa:ss", "h", "me", "pa:ss"),
            (r#"{"USERNAME":"me","PASSWORD":"x"}"#, "h", "me", "x"),
            (r#"{"REGISTRY_USERNAME":"me","REGISTRY_PASSWORD":"x","OTHER":7}"#, "h", "me", "x"),
            (
                r#"{"registry":"h","type":"basic","credentials":{"USERNAME":"me","PASSWORD":"x"}}"#,
                "h",
                "me",
                "x",
            ),
            (
                r#"{"registry":"https://h/v1/","credentials":"{\"USERNAME\":\"me\",\"PASSWORD\":\"x\"}"}"#,
                "h",
                "me",
                "x",
            ),
            (r#"{"secret":"{\"USERNAME\":\"me\",\"PASSWORD\":\"x\"}"}"#, "h", "me", "x"),
            (
                r#"{"registry":"docker.io","credentials":{"DOCKERHUB_USERNAME":"me","DOCKERHUB_PASSWORD":"x"}}"#,
                "index.docker.io",
                "me",
                "x",
            ),
            (r#"{"DOCKERHUB_USERNAME":"me","DOCKERHUB_TOKEN":"t"}"#, "docker.io", "me", "t"),
            (
                r#"{"USERNAME":"_json_key","PASSWORD":"{\"type\":\"service_account\"}"}"#,
                "gcr.io",
                "_json_key",
                r#"{"type":"service_account"}"#,
            ),
            (r#"{"NGC_API_KEY":"k"}"#, "nvcr.io", "$oauthtoken", "k"),
            (r#"{"GITHUB_TOKEN":"t"}"#, "ghcr.io", "t", "t"),
            (r#"{"GITHUB_TOKEN":"t","GITHUB_USERNAME":"me"}"#, "ghcr.io", "me", "t"),
            (r#"{"GCP_ACCESS_TOKEN":"t"}"#, "eu.gcr.io", "oauth2accesstoken", "t"),
            (r#"{"GCP_ACCESS_TOKEN":"t"}"#, "x-docker.pkg.dev", "oauth2accesstoken", "t"),
            (
                r#"{"AWS_ACCESS_KEY_ID":"a","USERNAME":"AWS","PASSWORD":"exchanged"}"#,
                "1.dkr.ecr.eu-west-1.amazonaws.com",
                "AWS",
                "exchanged",
            ),
        ] {
            assert_eq!(
                pair(text, registry),
                Some((user.to_owned(), password.to_owned())),
                "{text}"
            );
        }
        assert_eq!(pair(" ", "h"), None);
    }

    #[test]
    fn anonymous_is_explicit() {
        for text in ["{}", r#"{"type":"public","credentials":{}}"#] {
            assert!(matches!(Credentials::parse(text, "h").unwrap(), Some(Credentials::Anonymous)));
        }
    }

    #[test]
    fn refuses_what_it_cannot_use() {
        for text in ["justatoken", ":x", "me:", "{broken:json", r#"{"A":"b"}"#, "[]"] {
            assert_eq!(refused(text, "h"), InvalidCredentials::UnknownForm, "{text}");
        }
        assert_eq!(
            refused(r#"{"USERNAME":"me"}"#, "h"),
            InvalidCredentials::Incomplete { present: "USERNAME", missing: "PASSWORD" }
        );
        for (text, kind) in [
            (r#"{"AWS_ACCESS_KEY_ID":"a","AWS_SECRET_ACCESS_KEY":"s"}"#, "aws"),
            (r#"{"GOOGLE_APPLICATION_CREDENTIALS":"{\"type\":\"x\"}"}"#, "gcp"),
            (r#"{"AZURE_CLIENT_ID":"a","AZURE_CLIENT_SECRET":"s"}"#, "azure"),
        ] {
            assert_eq!(refused(text, "h"), InvalidCredentials::NeedsExchange { kind });
        }
    }

    #[test]
    fn never_for_another_registry() {
        let text = r#"{"registry":"h:5000","credentials":{"USERNAME":"me","PASSWORD":"x"}}"#;
        assert!(matches!(refused(text, "evil"), InvalidCredentials::WrongRegistry { .. }));
        // A token goes to its own service only, and not to a host that merely resembles it.
        for host in ["ghcr.io.evil.com", "notghcr.io"] {
            let error = refused(r#"{"GITHUB_TOKEN":"t"}"#, host);
            assert_eq!(error, InvalidCredentials::UnknownForm);
        }
        assert_eq!(
            refused(r#"{"DOCKERHUB_USERNAME":"me","DOCKERHUB_PASSWORD":"x"}"#, "evil"),
            InvalidCredentials::UnknownForm
        );
    }

    #[test]
    fn secrets_do_not_print() {
        for (text, registry) in [
            ("visible:visible", "h"),
            (r#"{"GITHUB_TOKEN":"visible"}"#, "ghcr.io"),
            (r#"{"NGC_API_KEY":"visible"}"#, "nvcr.io"),
            (r#"{"type":"basic","credentials":{"USERNAME":"visible","PASSWORD":"visible"}}"#, "h"),
        ] {
            let credentials = Credentials::parse(text, registry).unwrap().unwrap();
            assert!(!format!("{credentials:?}").contains("visible"));
        }
        let text =
            r#"{"registry":"https://me:visible@h","credentials":{"USERNAME":"u","PASSWORD":"p"}}"#;
        let error = refused(text, "other");
        assert!(!format!("{error} {error:?}").contains("visible"), "{error}");
        assert!(Credentials::parse(text, "h").is_ok());
        let error = refused(r#"{"PASSWORD":"hunter2"}"#, "h");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn never_panics(text in any::<String>(), json in "[{}\":a-z,]{0,40}") {
            let _ = Credentials::parse(&text, "h");
            let _ = Credentials::parse(&json, "h");
        }
    }
}
