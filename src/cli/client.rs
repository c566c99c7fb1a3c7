//! A client of the service's own API, for commands that work through it.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use secrecy::{ExposeSecret as _, SecretString};

use crate::error::{Classify, Fault};
use crate::retry::{RetrySettings, Retryable, retry};

/// The longest an answer may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// The longest answer that is read.
const MAX_ANSWER: u64 = 64 << 20;

/// Why the service did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// It can't be reached, or its answer broke off.
    #[error("the service at {server} can't be reached: {reason}")]
    Unreachable {
        /// Its address.
        server: String,
        /// What happened.
        reason: String,
    },
    /// It refused.
    #[error("the service answered {status}: {detail}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its own words.
        detail: String,
    },
    /// It answered what no version of it would.
    #[error("the service at {server} gave no answer that makes sense: {reason}")]
    Nonsense {
        /// Its address.
        server: String,
        /// What is wrong.
        reason: String,
    },
    /// The user interrupted.
    #[error("interrupted")]
    Cancelled,
}

impl Classify for ClientError {
    fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            Self::Nonsense { .. } | Self::Cancelled => false,
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Refused { status, .. } if *status < 500 => Fault::User,
            _ => Fault::Upstream,
        }
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "service_unreachable",
            Self::Refused { .. } => "service_refused",
            Self::Nonsense { .. } => "service_nonsense",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Retryable for ClientError {
    fn cancelled() -> Self {
        Self::Cancelled
    }
}

/// The service, by its address.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<SecretString>,
    retry: RetrySettings,
}

impl Client {
    pub(super) fn new(server: &str, token: Option<SecretString>) -> anyhow::Result<Self> {
        // Fails when a provider is installed already, which is just as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder().timeout(PATIENCE);
        let host = reqwest::Url::parse(server)?.host_str().unwrap_or_default().to_owned();
        if host == "localhost" || host.starts_with("127.") || host == "[::1]" {
            http = http.no_proxy();
        }
        let server = server.trim_end_matches('/').to_owned();
        Ok(Self { http: http.build()?, server, token, retry: RetrySettings::default() })
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        cancel: &CancellationToken,
    ) -> Result<T, ClientError> {
        retry(&self.retry, cancel, || self.send(Method::GET, path, None)).await
    }

    /// `key` names the request: if it has to be sent twice, it is done once.
    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
        key: &str,
        cancel: &CancellationToken,
    ) -> Result<T, ClientError> {
        retry(&self.retry, cancel, || self.send(Method::POST, path, Some((body, key)))).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<(&Value, &str)>,
    ) -> Result<T, ClientError> {
        let mut request = self.http.request(method, format!("{}{path}", self.server));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some((body, key)) = body {
            request = request
                .header("content-type", "application/json")
                .header("idempotency-key", key)
                .body(body.to_string());
        }
        let unreachable = |error: reqwest::Error| ClientError::Unreachable {
            server: self.server.clone(),
            reason: std::error::Error::source(&error)
                .map_or_else(|| error.to_string(), ToString::to_string),
        };
        let mut answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > MAX_ANSWER {
                return Err(self.nonsense(format!("it is longer than {MAX_ANSWER} bytes")));
            }
        }
        if !status.is_success() {
            return Err(refused(status, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|error| self.nonsense(error.to_string()))
    }

    fn nonsense(&self, reason: String) -> ClientError {
        ClientError::Nonsense { server: self.server.clone(), reason }
    }
}

/// The problem document's own sentence, where there is one.
fn refused(status: StatusCode, body: &[u8]) -> ClientError {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let detail = problem["detail"].as_str().or(status.canonical_reason()).unwrap_or_default();
    ClientError::Refused { status: status.as_u16(), detail: detail.to_owned() }
}
