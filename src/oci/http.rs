//! HTTP as far as a registry needs it: where to send requests, and what answers mean before
//! anybody looks at their content. Knows nothing of images or tokens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use oci_client::errors::OciEnvelope;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::redirect::{Attempt, Policy};
use reqwest::{Client, Request, RequestBuilder, Response, StatusCode, Url};
use tokio::time::timeout;
use tracing::Instrument as _;
use tracing::field::Empty;

use crate::egress::{AddressRefused, Egress};
use crate::oci::error::OciError;
use crate::oci::observe::{RequestKind, RequestObserver, RequestOutcome};
use crate::oci::reference::DOCKER_HUB;
use crate::oci::settings::{OciSettings, host_name, is_local, is_loopback};

/// Where Docker Hub's API is served, whatever its images are called.
const DOCKER_HUB_API: &str = "registry-1.docker.io";
/// The path below which the registry's own API is.
pub(super) const API_ROOT: &str = "/v2/";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_REDIRECTS: usize = 5;
const MAX_ERROR_BODY: u64 = 64 << 10;
/// A document has to be whole within so many times the longest silence.
const DOCUMENT_IDLES: u32 = 4;

/// One repository in one registry, and the connections to it.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) http: Client,
    egress: Egress,
    idle: Duration,
    scheme: &'static str,
    registry: String,
    pub(super) repository: String,
    pub(super) observer: Arc<dyn RequestObserver>,
}

impl Endpoint {
    /// Sets the connections up; opens none. `registry` is normalised; `idle` is the longest
    /// silence within an answer that is borne.
    pub(super) fn new(
        registry: &str,
        repository: &str,
        settings: &OciSettings,
        idle: Duration,
    ) -> Result<Self, OciError> {
        // Fails when a provider is installed already, which is just as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let egress = settings.egress_for(registry);
        let policy = Policy::custom(move |attempt| follow(egress, attempt));
        Ok(Self {
            http: client(egress, registry, idle, policy)?,
            egress,
            idle,
            scheme: if settings.is_plain(registry) { "http" } else { "https" },
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            observer: settings.observer.clone(),
        })
    }

    /// A client for requests whose bodies are secrets: redirects would take those along, so that it
    /// follows none to another host.
    pub(super) fn confidential(&self) -> Result<Client, OciError> {
        let egress = self.egress;
        let policy = Policy::custom(move |attempt| {
            let first = attempt.previous().first().map(Url::origin);
            let stays = first.is_some_and(|first| first == attempt.url().origin());
            if stays { follow(egress, attempt) } else { attempt.stop() }
        });
        client(egress, &self.registry, self.idle, policy)
    }

    /// `registry/repository`, for people.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    pub(super) fn is_https(&self) -> bool {
        self.scheme == "https"
    }

    /// The address of `path` below the API's root.
    pub(super) fn url(&self, path: &str) -> String {
        let host = if self.registry == DOCKER_HUB { DOCKER_HUB_API } else { &self.registry };
        format!("{}://{host}{API_ROOT}{path}", self.scheme)
    }

    /// `host[:port]`.
    pub(super) fn registry(&self) -> &str {
        &self.registry
    }

    /// Whether an address is the registry's own, not that of a server it points to.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        Url::parse(&self.url("")).is_ok_and(|own| own.origin() == url.origin())
    }

    /// Whether credentials may be sent to an address that the registry names: not in the clear,
    /// but to the registry itself or within this machine and its network.
    pub(super) fn may_learn_secrets(&self, url: &Url) -> bool {
        let host = url.host_str().unwrap_or_default();
        let own = Url::parse(&self.url("")).is_ok_and(|own| own.host_str() == Some(host));
        url.scheme() == "https" || !self.is_https() && (own || is_local(host))
    }

    /// Sends a request; the status of the answer is the caller's to judge.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        what: &str,
    ) -> Result<Response, OciError> {
        let (http, request) = request.build_split();
        let sent = match request {
            Ok(request) => self.execute(&http, request).await,
            Err(error) => Err(error.into()),
        };
        sent.map_err(|failure| match failure {
            Failure::Refused(refused) => self.out_of_reach(refused),
            Failure::Http(error) => match AddressRefused::within(&error) {
                Some(refused) => self.out_of_reach(refused.clone()),
                None => self.unavailable(what, describe(error), None),
            },
        })
    }

    /// Sends a request that may go where it goes, and tells of it. Neither its address nor what it brings
    /// is told: both may hold secrets.
    async fn execute(&self, http: &Client, request: Request) -> Result<Response, Failure> {
        self.egress.check(request.url()).map_err(Failure::Refused)?;
        let own = self.is_own(request.url());
        let kind = RequestKind::of(request.method(), request.url(), own);
        let span = tracing::debug_span!(
            "registry request",
            otel.kind = "client",
            http.request.method = request.method().as_str(),
            server.address = self.registry,
            registry.repository = self.repository,
            registry.operation = kind.name(),
            http.response.status_code = Empty,
            error.type = Empty,
        );
        let started = Instant::now();
        let answered = http.execute(request).instrument(span.clone()).await;
        let outcome = match &answered {
            Ok(answer) => RequestOutcome::of(answer.status()),
            Err(_) => RequestOutcome::Unreachable,
        };
        if let Ok(answer) = &answered {
            span.record("http.response.status_code", answer.status().as_u16());
        }
        if outcome != RequestOutcome::Ok {
            span.record("error.type", outcome.name());
        }
        self.observer.answered(kind, outcome, started.elapsed());
        Ok(answered?)
    }

    /// Refuses answers after which trying again can help: 408, 429 and 5xx.
    pub(super) fn check_available(&self, answer: &Response, what: &str) -> Result<(), OciError> {
        let status = answer.status();
        let after = retry_after(answer.headers());
        if status == StatusCode::TOO_MANY_REQUESTS {
            Err(OciError::RateLimited {
                repository: self.name(),
                what: what.to_owned(),
                retry_after: after,
            })
        } else if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
            Err(self.unavailable(what, format!("it answered {status}"), after))
        } else {
            Ok(())
        }
    }

    fn out_of_reach(&self, refused: AddressRefused) -> OciError {
        OciError::OutOfReach { repository: self.name(), refused }
    }

    pub(super) fn unavailable(
        &self,
        what: &str,
        reason: String,
        retry_after: Option<Duration>,
    ) -> OciError {
        OciError::Unavailable {
            repository: self.name(),
            what: what.to_owned(),
            reason,
            retry_after,
        }
    }

    pub(super) fn unexpected(&self, what: &str, reason: String) -> OciError {
        OciError::Unexpected { repository: self.name(), what: what.to_owned(), reason }
    }
}

fn client(
    egress: Egress,
    registry: &str,
    idle: Duration,
    policy: Policy,
) -> Result<Client, OciError> {
    let mut http = egress
        .guard(Client::builder())
        .user_agent(concat!("clipwright/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(idle)
        .referer(false) // it may be signed
        .redirect(policy);
    if is_loopback(host_name(registry)) {
        http = http.no_proxy();
    }
    http.build().map_err(|error| OciError::Client { reason: describe(error) })
}

/// Why a request brought no answer.
enum Failure {
    Refused(AddressRefused),
    Http(reqwest::Error),
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::Http(error)
    }
}

/// Follows redirects, to other hosts without the `Authorization` header (reqwest drops it), but
/// never from https to http, and never to where requests may not go.
fn follow(egress: Egress, attempt: Attempt<'_>) -> reqwest::redirect::Action {
    if let Err(refused) = egress.check(attempt.url()) {
        return attempt.error(refused);
    }
    let downgrade = attempt.url().scheme() != "https"
        && attempt.previous().last().is_some_and(|previous| previous.scheme() == "https");
    if downgrade {
        attempt.error("a redirect from https to http is not followed")
    } else if attempt.previous().len() > MAX_REDIRECTS {
        attempt.error("too many redirects")
    } else {
        attempt.follow()
    }
}

/// Reads a body of at most `limit` bytes, which may not come drop by drop.
pub(super) async fn read_capped(
    mut answer: Response,
    endpoint: &Endpoint,
    what: &str,
    limit: u64,
) -> Result<Bytes, OciError> {
    let too_large =
        || OciError::TooLarge { what: format!("{what} from {}", endpoint.name()), limit };
    if answer.content_length().is_some_and(|length| length > limit) {
        return Err(too_large());
    }
    let whole = async {
        let mut body = BytesMut::new();
        loop {
            let chunk = answer.chunk().await;
            match chunk.map_err(|error| endpoint.unavailable(what, describe(error), None))? {
                None => return Ok(body.freeze()),
                Some(chunk) if (body.len() + chunk.len()) as u64 > limit => return Err(too_large()),
                Some(chunk) => body.extend_from_slice(&chunk),
            }
        }
    };
    let patience = endpoint.idle.saturating_mul(DOCUMENT_IDLES);
    timeout(patience, whole).await.unwrap_or_else(|_| {
        let reason = format!("it was not whole after {} s", patience.as_secs_f32());
        Err(endpoint.unavailable(what, reason, None))
    })
}

/// The registry's own words, if it has any (distribution-spec, "Error Codes"). They may quote secrets, and
/// be as long as the body.
pub(super) async fn words_of(answer: Response, endpoint: &Endpoint) -> String {
    let body = read_capped(answer, endpoint, "an error", MAX_ERROR_BODY).await.unwrap_or_default();
    serde_json::from_slice::<OciEnvelope>(&body)
        .ok()
        .and_then(|body| body.errors.into_iter().next())
        .and_then(|error| {
            let code = serde_json::to_value(error.code).ok()?;
            Some(format!("{}: {}", code.as_str()?, error.message))
        })
        .unwrap_or_default()
}

/// The error and its causes, without the address: that may be signed.
pub(super) fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let reason = error.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        cause = error.source();
    }
    text
}

/// `Retry-After`: seconds, or a date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?;
    Some((date.with_timezone(&Utc) - Utc::now()).to_std().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hub_has_its_own_api_host() {
        let (settings, idle) = (OciSettings::default(), Duration::from_secs(1));
        let endpoint = Endpoint::new(DOCKER_HUB, "library/a", &settings, idle).unwrap();
        assert_eq!(endpoint.url("x"), "https://registry-1.docker.io/v2/x");
        assert_eq!(endpoint.name(), "index.docker.io/library/a");
    }

    #[test]
    fn retry_after_in_both_forms() {
        let after = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(after("Mon, 21 Oct 2999 07:28:00 GMT").unwrap() > Duration::from_secs(1_000_000));
        assert_eq!(after("soon"), None);
        assert_eq!(after("-1"), None);
    }
}
