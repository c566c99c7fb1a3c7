//! Authorization at one registry for given scopes: challenges, tokens, renewal.
//!
//! Implements the distribution project's token protocol ("Token Authentication Specification" and
//! its OAuth 2 form for identity tokens) and HTTP Basic (RFC 7617). Secrets leave this file only
//! as `Authorization` headers that are marked sensitive.
//!
//! The exchange is our own: oci-client's `Client::auth` drops the token service's status, so that
//! one which is down looks like refused credentials, reads answers of any length, and has no
//! identity tokens; and its `RegistryToken` takes an empty `token` for one.

use std::sync::{PoisonError, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{RequestBuilder, StatusCode, Url};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::oci::challenge::challenges;
use crate::oci::credential_file::CredentialFile;
use crate::oci::credentials::Credentials;
use crate::oci::error::OciError;
use crate::oci::http::{Endpoint, read_capped};

const MAX_TOKEN_ANSWER: u64 = 1 << 20;

/// Holds the authorization in force and renews it when the registry refuses it.
#[derive(Debug)]
pub(super) struct Authenticator {
    credentials: RwLock<Credentials>,
    /// Where they stand, if they may change.
    file: Option<CredentialFile>,
    scopes: Vec<String>,
    current: Mutex<Authorization>,
}

/// An `Authorization` header, or the lack of one, with its place in the sequence of renewals.
#[derive(Debug, Clone, Default)]
pub(super) struct Authorization {
    generation: u64,
    header: Option<HeaderValue>,
}

impl Authorization {
    pub(super) fn apply(&self, request: RequestBuilder) -> RequestBuilder {
        match &self.header {
            Some(header) => request.header(AUTHORIZATION, header.clone()),
            None => request,
        }
    }
}

/// What we answer a challenge with.
#[derive(Debug, PartialEq, Eq)]
enum Demand {
    Token { realm: String, service: Option<String> },
    Password,
}

/// The answer of a token service. Registries fill one of the two, and leave the other out, null or
/// empty.
#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
}

impl TokenAnswer {
    fn token(self) -> Option<SecretString> {
        let given = |token: &String| !token.is_empty();
        self.token.filter(given).or(self.access_token.filter(given)).map(SecretString::from)
    }
}

impl Authenticator {
    /// `scopes` say what tokens are asked for, such as `repository:library/alpine:pull`.
    pub(super) fn new(
        credentials: Credentials,
        file: Option<CredentialFile>,
        scopes: Vec<String>,
    ) -> Self {
        Self { credentials: RwLock::new(credentials), file, scopes, current: Mutex::default() }
    }

    /// As whom the next authorization is asked for.
    fn credentials(&self) -> Credentials {
        self.credentials.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Who we say we are, for error texts.
    pub(super) fn identity(&self) -> String {
        match self.credentials() {
            Credentials::Anonymous => "an anonymous client".to_owned(),
            Credentials::Basic { .. } => "the given user".to_owned(),
            Credentials::IdentityToken(_) => "the given identity token".to_owned(),
            Credentials::RegistryToken(_) => "the given registry token".to_owned(),
        }
    }

    /// The authorization in force. The first call presents the credentials, if there are any:
    /// wrong ones must be refused even where anybody may read.
    pub(super) async fn current(&self, endpoint: &Endpoint) -> Result<Authorization, OciError> {
        let mut current = self.current.lock().await;
        if current.generation == 0 {
            let header = match self.credentials() {
                Credentials::Anonymous => None,
                Credentials::RegistryToken(token) => Some(bearer(endpoint, &token)?),
                Credentials::Basic { .. } | Credentials::IdentityToken(_) => {
                    let what = "its API version";
                    let request = endpoint.http.get(endpoint.url(""));
                    let answer = endpoint.send(request, what).await?;
                    if answer.status() == StatusCode::UNAUTHORIZED {
                        self.answer(endpoint, answer.headers()).await?
                    } else {
                        endpoint.check_available(&answer, what)?;
                        None
                    }
                }
            };
            *current = Authorization { generation: 1, header };
        }
        Ok(current.clone())
    }

    /// A new authorization after the registry answered `refused` with 401 and `headers`. Of
    /// several callers one does the work.
    pub(super) async fn renew(
        &self,
        endpoint: &Endpoint,
        refused: &Authorization,
        headers: &HeaderMap,
    ) -> Result<Authorization, OciError> {
        let mut current = self.current.lock().await;
        if current.generation == refused.generation {
            let header = match self.read_again().await {
                Some(Credentials::RegistryToken(token)) => Some(bearer(endpoint, &token)?),
                _ => self.answer(endpoint, headers).await?,
            };
            *current = Authorization { generation: refused.generation + 1, header };
        }
        Ok(current.clone())
    }

    /// Takes what stands in the credentials' file by now, if it is not what was there before.
    async fn read_again(&self) -> Option<Credentials> {
        let read = self.file.as_ref()?.read().await?;
        let mut credentials = self.credentials.write().unwrap_or_else(PoisonError::into_inner);
        if credentials.is_same(&read) {
            return None;
        }
        *credentials = read.clone();
        Some(read)
    }

    /// Answers the challenges in `headers` with the credentials.
    async fn answer(
        &self,
        endpoint: &Endpoint,
        headers: &HeaderMap,
    ) -> Result<Option<HeaderValue>, OciError> {
        let refused = |reason: &str| self.refused(endpoint, reason);
        match (demand(headers), &self.credentials()) {
            (_, Credentials::RegistryToken(_)) => Err(refused("it is not accepted")),
            (Some(Demand::Token { realm, service }), _) => {
                self.token(endpoint, &realm, service.as_deref()).await.map(Some)
            }
            (Some(Demand::Password), Credentials::Basic { username, password }) => {
                basic(endpoint, username, password).map(Some)
            }
            (Some(Demand::Password), Credentials::Anonymous) => {
                Err(refused("a user name and a password are required"))
            }
            (Some(Demand::Password), Credentials::IdentityToken(_)) => {
                Err(refused("the registry takes user name and password only"))
            }
            (None, _) => Err(refused("it names no way of authorization that we know")),
        }
    }

    /// Fetches a token for the scopes.
    async fn token(
        &self,
        endpoint: &Endpoint,
        realm: &str,
        service: Option<&str>,
    ) -> Result<HeaderValue, OciError> {
        let what = "an access token";
        let mut url = Url::parse(realm).map_err(|_| {
            endpoint.unexpected(what, "the address of its token service is not valid".to_owned())
        })?;
        let credentials = self.credentials();
        let anonymous = matches!(credentials, Credentials::Anonymous);
        if !anonymous && !endpoint.may_learn_secrets(&url) {
            return Err(endpoint.unexpected(
                what,
                "its token service is not reached over https, so it gets no credentials".to_owned(),
            ));
        }
        let request = if let Credentials::IdentityToken(token) = &credentials {
            endpoint.confidential()?.post(url).form(&[
                ("grant_type", "refresh_token"),
                ("client_id", "clipwright"),
                ("service", service.unwrap_or_default()),
                ("scope", &self.scopes.join(" ")),
                ("refresh_token", token.expose_secret()),
            ])
        } else {
            {
                let mut query = url.query_pairs_mut();
                for scope in &self.scopes {
                    query.append_pair("scope", scope);
                }
                if let Some(service) = service {
                    query.append_pair("service", service);
                }
            }
            let request = endpoint.http.get(url);
            match &credentials {
                Credentials::Basic { username, password } => {
                    request.header(AUTHORIZATION, basic(endpoint, username, password)?)
                }
                _ => request,
            }
        };
        let answer = endpoint.send(request, what).await?;
        endpoint.check_available(&answer, what)?;
        let status = answer.status();
        let body = read_capped(answer, endpoint, what, MAX_TOKEN_ANSWER).await?;
        if !status.is_success() {
            let reason = format!("the token service answered {status}");
            return Err(self.refused(endpoint, &reason));
        }
        match serde_json::from_slice(&body).ok().and_then(TokenAnswer::token) {
            Some(token) => bearer(endpoint, &token),
            // What is wrong with the answer is not told: that may quote a secret.
            None => Err(endpoint.unexpected(what, "its token service sent no token".to_owned())),
        }
    }

    /// What the registry said, without any part of the credentials that it may have quoted.
    pub(super) async fn without_secrets(&self, words: String) -> String {
        let clear = |secret: &SecretString| secret.expose_secret().to_owned();
        let mut secrets = match &self.credentials() {
            Credentials::Anonymous => Vec::new(),
            Credentials::Basic { username, password } => {
                let encoded = STANDARD.encode(pair(username, password));
                vec![encoded, clear(password), clear(username)]
            }
            Credentials::IdentityToken(token) | Credentials::RegistryToken(token) => {
                vec![clear(token)]
            }
        };
        let current = self.current.lock().await.header.clone();
        let current = current.as_ref().and_then(|header| header.to_str().ok()?.split_once(' '));
        secrets.extend(current.map(|(_, token)| token.to_owned()));
        secrets.iter().fold(words, |words, secret| hide(&words, secret))
    }

    pub(super) fn refused(&self, endpoint: &Endpoint, reason: &str) -> OciError {
        OciError::Unauthorized {
            repository: endpoint.name(),
            identity: self.identity(),
            reason: reason.to_owned(),
        }
    }
}

/// A token, where a challenge says how to get one, or else a password.
fn demand(headers: &HeaderMap) -> Option<Demand> {
    let mut password = None;
    for header in headers.get_all(WWW_AUTHENTICATE) {
        for challenge in challenges(&String::from_utf8_lossy(header.as_bytes())) {
            match (challenge.scheme.as_str(), challenge.parameter("realm")) {
                ("bearer", Some(realm)) => {
                    let service = challenge.parameter("service").map(str::to_owned);
                    return Some(Demand::Token { realm: realm.to_owned(), service });
                }
                ("basic", _) => password = Some(Demand::Password),
                _ => {}
            }
        }
    }
    password
}

fn basic(
    endpoint: &Endpoint,
    username: &SecretString,
    password: &SecretString,
) -> Result<HeaderValue, OciError> {
    let pair = STANDARD.encode(pair(username, password));
    sensitive(endpoint, format!("Basic {pair}"))
}

/// `words` without `secret`; a short one is only looked for as a word, lest every `a` go.
fn hide(words: &str, secret: &str) -> String {
    let mut shown = String::new();
    let mut rest = words;
    while let Some(at) = rest.find(secret).filter(|_| !secret.is_empty()) {
        let (before, behind) = (&rest[..at], &rest[at + secret.len()..]);
        let inside =
            before.ends_with(char::is_alphanumeric) || behind.starts_with(char::is_alphanumeric);
        shown.push_str(before);
        shown.push_str(if inside && secret.len() < 8 { secret } else { "[...]" });
        rest = behind;
    }
    shown + rest
}

fn pair(username: &SecretString, password: &SecretString) -> String {
    format!("{}:{}", username.expose_secret(), password.expose_secret())
}

fn bearer(endpoint: &Endpoint, token: &SecretString) -> Result<HeaderValue, OciError> {
    sensitive(endpoint, format!("Bearer {}", token.expose_secret()))
}

fn sensitive(endpoint: &Endpoint, text: String) -> Result<HeaderValue, OciError> {
    let mut value = HeaderValue::try_from(text).map_err(|_| {
        let reason = "it holds characters that no HTTP header may hold";
        endpoint.unexpected("an access token", reason.to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(values: &[&'static str]) -> Option<Demand> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        demand(&headers)
    }

    #[test]
    fn prefers_tokens() {
        let token = |realm: &str, service: Option<&str>| {
            Some(Demand::Token { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        assert_eq!(
            asked(&[r#"Bearer realm="https://a/t",service="s, x",scope="y""#]),
            token("https://a/t", Some("s, x"))
        );
        assert_eq!(
            asked(&[r#"Basic realm="r""#, r#"bearer realm="https://a""#]),
            token("https://a", None)
        );
        assert_eq!(asked(&["Basic realm=/, Bearer realm='https://a'"]), token("https://a", None));
        assert_eq!(asked(&[r#"Basic realm="r""#]), Some(Demand::Password));
        assert_eq!(asked(&["Basic realm=/"]), Some(Demand::Password));
        assert_eq!(asked(&[r#"Bearer realm="", Basic"#]), Some(Demand::Password));
        assert_eq!(asked(&["Negotiate abc=="]), None);
        assert_eq!(asked(&[r#"Bearer service="s""#]), None);
        assert_eq!(asked(&[]), None);
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        for (words, secret, shown) in [
            ("no: hunter2pass!", "hunter2pass", "no: [...]!"),
            ("xhunter2passx hunter2pass", "hunter2pass", "x[...]x [...]"),
            ("me, not the name of me", "me", "[...], not the name of [...]"),
            ("nothing", "hunter2", "nothing"),
            ("nothing", "", "nothing"),
        ] {
            assert_eq!(hide(words, secret), shown);
        }
    }

    #[test]
    fn empty_tokens_are_none() {
        for (answer, token) in [
            (r#"{"token":"T"}"#, Some("T")),
            (r#"{"access_token":"T"}"#, Some("T")),
            (r#"{"token":"","access_token":"T"}"#, Some("T")),
            (r#"{"token":null,"access_token":"T","expires_in":"x"}"#, Some("T")),
            (r#"{"token":"T","access_token":""}"#, Some("T")),
            (r#"{"token":"T","access_token":"U"}"#, Some("T")),
            (r#"{"token":""}"#, None),
            ("{}", None),
        ] {
            let read: TokenAnswer = serde_json::from_str(answer).unwrap();
            let read = read.token();
            assert_eq!(read.as_ref().map(ExposeSecret::expose_secret), token, "{answer}");
        }
    }
}
