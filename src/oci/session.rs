//! Requests to one repository as somebody: authorization is presented, and renewed once when the
//! registry refuses it. What an answer means is judged here as far as that is the same for every
//! request.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use crate::oci::auth::Authenticator;
use crate::oci::credential_file::CredentialFile;
use crate::oci::credentials::Credentials;
use crate::oci::docker_config;
use crate::oci::error::OciError;
use crate::oci::http::{API_ROOT, Endpoint, words_of};
use crate::oci::reference::DOCKER_HUB;
use crate::oci::settings::OciSettings;

/// Characters of a registry's own words at most.
const MAX_WORDS: usize = 300;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) endpoint: Endpoint,
    auth: Authenticator,
}

impl Session {
    /// Prepares access; nothing is asked of the registry yet. `scopes` are those of the
    /// distribution project's token protocol.
    ///
    /// `credentials` of `None` means those of the surroundings, if the settings allow that: for
    /// Docker Hub the settings' own, then Docker's configuration file, then none. Those that stand in a file
    /// are read again when they are refused.
    pub(super) async fn open(
        endpoint: Endpoint,
        scopes: Vec<String>,
        settings: &OciSettings,
        credentials: Option<Credentials>,
    ) -> Result<Self, OciError> {
        let registry = endpoint.registry();
        let hub = settings.default_hub_credentials.as_ref().filter(|_| registry == DOCKER_HUB);
        let registry = registry.to_owned();
        let (credentials, file) = match (credentials, hub) {
            (Some(Credentials::Anonymous), _) => (None, None),
            (Some(credentials), _) => {
                let given = |path| CredentialFile::Given { path, registry };
                (Some(credentials), settings.credentials_file.clone().map(given))
            }
            (None, _) if !settings.ambient.are_for(&registry) => (None, None),
            (None, Some(hub)) => (Some(hub.clone()), None),
            (None, None) => {
                let path = settings.docker_config.clone();
                let found = docker_config::look_up(path.as_deref(), &registry).await?;
                (found, Some(CredentialFile::Docker { path, registry }))
            }
        };
        let credentials = credentials.unwrap_or(Credentials::Anonymous);
        Ok(Self { endpoint, auth: Authenticator::new(credentials, file, scopes) })
    }

    /// `registry/repository`, for people.
    pub(super) fn name(&self) -> String {
        self.endpoint.name()
    }

    /// Sends a request that `fill` completes, with one renewal of the authorization when it is
    /// refused. Another host than the registry gets no authorization. Answers after which trying
    /// again can help, and those that refuse access, are errors; any other status is the caller's
    /// to judge.
    pub(super) async fn send(
        &self,
        method: Method,
        url: &str,
        what: &str,
        fill: impl Fn(RequestBuilder) -> RequestBuilder,
    ) -> Result<Response, OciError> {
        let endpoint = &self.endpoint;
        let request = || fill(endpoint.http.request(method.clone(), url));
        let own = Url::parse(url).is_ok_and(|url| endpoint.is_own(&url));
        let answer = if own {
            let authorization = self.auth.current(endpoint).await?;
            let answer = endpoint.send(authorization.apply(request()), what).await?;
            let challenged = answer.status() == StatusCode::UNAUTHORIZED
                && endpoint.is_own(answer.url())
                && (answer.headers().contains_key(WWW_AUTHENTICATE)
                    || !is_storage(endpoint, url, answer.url()));
            if challenged {
                let renewed = self.auth.renew(endpoint, &authorization, answer.headers()).await?;
                endpoint.send(renewed.apply(request()), what).await?
            } else {
                answer
            }
        } else {
            endpoint.send(request(), what).await?
        };
        endpoint.check_available(&answer, what)?;
        let status = answer.status();
        let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
        if is_storage(endpoint, url, answer.url()) {
            // Storage says 400 too when the signature that the registry sent us with has expired.
            if refused || status == StatusCode::BAD_REQUEST {
                let reason = format!("the storage it points to answered {status}");
                return Err(endpoint.unavailable(what, reason, None));
            }
        } else if refused {
            return Err(self.auth.refused(endpoint, &self.refusal(answer).await));
        }
        Ok(answer)
    }

    /// The error for an answer that the specification doesn't foresee.
    pub(super) async fn unexpected(&self, what: &str, answer: Response) -> OciError {
        self.endpoint.unexpected(what, self.refusal(answer).await)
    }

    /// The status, and the registry's own words.
    async fn refusal(&self, answer: Response) -> String {
        let status = answer.status();
        // Cut afterwards: of a part of a secret nobody could tell what it is.
        let words = self.auth.without_secrets(words_of(answer, &self.endpoint).await).await;
        let words: String = words.chars().filter(|c| !c.is_control()).take(MAX_WORDS).collect();
        if words.is_empty() { status.to_string() } else { format!("{status}, {words}") }
    }
}

/// Whether the answer to a request for `asked` comes from where the registry keeps its blobs: that
/// may be behind its own host name, but not in its API.
fn is_storage(endpoint: &Endpoint, asked: &str, answered: &Url) -> bool {
    !endpoint.is_own(answered)
        || answered.as_str() != asked && !answered.path().starts_with(API_ROOT)
}

/// A header that is text.
pub(super) fn text<'a>(
    headers: &'a HeaderMap,
    name: &reqwest::header::HeaderName,
) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}
