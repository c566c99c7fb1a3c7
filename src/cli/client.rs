//! A client of the service's own API, for commands that work through it.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use secrecy::{ExposeSecret as _, SecretString};

use crate::error::{Classify, Fault};
use crate::retry::{RetrySettings, Retryable, retry};
use crate::workspace::WorkspaceId;

/// The longest an answer may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// The longest answer that is read.
const MAX_ANSWER: u64 = 64 << 20;

/// Why the service did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// It can't be reached, or its answer broke off.
    #[error(
        "the service at {server} can't be reached: {reason}; is `clipwright serve` running there?"
    )]
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

/// One request: method, path, body.
pub(super) type Call = (Method, String, Option<Value>);

/// The service, by its address.
#[derive(Debug, Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    server: String,
    token: Option<SecretString>,
    workspace: Option<WorkspaceId>,
    retry: RetrySettings,
}

impl Client {
    /// With a `workspace` the requests are about what is its.
    pub(super) fn new(
        server: &str,
        token: Option<SecretString>,
        workspace: Option<WorkspaceId>,
    ) -> anyhow::Result<Self> {
        // Fails when a provider is installed already, which is just as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut http = reqwest::Client::builder().timeout(PATIENCE);
        let address = reqwest::Url::parse(server).ok();
        let address = address.filter(|url| matches!(url.scheme(), "http" | "https"));
        let host = address.as_ref().and_then(|url| url.host_str()).map(str::to_owned);
        let host = host.with_context(|| {
            format!(
                "{server:?} is no address of a service: expected one such as http://127.0.0.1:8080"
            )
        })?;
        if host == "localhost" || host.starts_with("127.") || host == "[::1]" {
            http = http.no_proxy();
        }
        let server = server.trim_end_matches('/').to_owned();
        let (http, retry) = (http.build()?, RetrySettings::default());
        Ok(Self { http, server, token, workspace, retry })
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
        let body = Some((body, Some(key)));
        retry(&self.retry, cancel, || self.send(Method::POST, path, body)).await
    }

    /// Reads an answer of one JSON object a line as it comes. An answer that goes on has no limit of time
    /// but that of silence: the service says something now and then.
    pub(super) async fn lines(
        &self,
        path: &str,
        cancel: &CancellationToken,
        mut line: impl FnMut(&Value),
    ) -> Result<(), ClientError> {
        let request = self.request(Method::GET, path).header("accept", "application/x-ndjson");
        // Longer than any job; silence is noticed below.
        let request = request.timeout(Duration::from_hours(24 * 30));
        let reading = async {
            let mut answer = request.send().await.map_err(|error| self.unreachable(&error))?;
            let status = answer.status();
            if !status.is_success() {
                let body = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
                return Err(refused(status, &body));
            }
            let mut rest = Vec::new();
            loop {
                let silent = |_| ClientError::Unreachable {
                    server: self.server.clone(),
                    reason: format!("it said nothing for {PATIENCE:?}"),
                };
                let chunk = timeout(PATIENCE, answer.chunk()).await.map_err(silent)?;
                let Some(chunk) = chunk.map_err(|error| self.unreachable(&error))? else {
                    return Ok(());
                };
                rest.extend_from_slice(&chunk);
                if rest.len() as u64 > MAX_ANSWER {
                    return Err(self.nonsense(format!("a line is longer than {MAX_ANSWER} bytes")));
                }
                while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                    let text: Vec<u8> = rest.drain(..=end).collect();
                    if text.trim_ascii().is_empty() {
                        continue;
                    }
                    let event = serde_json::from_slice(&text)
                        .map_err(|error| self.nonsense(error.to_string()))?;
                    line(&event);
                }
            }
        };
        cancel.run_until_cancelled(reading).await.unwrap_or(Err(ClientError::Cancelled))
    }

    /// Sends a request that changes something, once: whether it took effect can't be told from an answer
    /// that did not come. An empty answer is `null`.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        cancel: &CancellationToken,
    ) -> Result<T, ClientError> {
        let sent = self.send(method, path, body.map(|body| (body, None)));
        cancel.run_until_cancelled(sent).await.unwrap_or(Err(ClientError::Cancelled))
    }

    /// An answer that is not JSON, as it is.
    pub(super) async fn text(
        &self,
        path: &str,
        cancel: &CancellationToken,
    ) -> Result<String, ClientError> {
        let bytes = retry(&self.retry, cancel, || self.exchange(Method::GET, path, None)).await?;
        String::from_utf8(bytes).map_err(|error| self.nonsense(error.to_string()))
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<(&Value, Option<&str>)>,
    ) -> Result<T, ClientError> {
        let bytes = self.exchange(method, path, body).await?;
        let answer = if bytes.is_empty() { b"null" } else { &bytes[..] };
        serde_json::from_slice(answer).map_err(|error| self.nonsense(error.to_string()))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<(&Value, Option<&str>)>,
    ) -> Result<Vec<u8>, ClientError> {
        let mut request = self.request(method, path);
        if let Some((body, key)) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
        }
        let unreachable = |error: reqwest::Error| self.unreachable(&error);
        let mut answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > MAX_ANSWER {
                return Err(self.nonsense(format!("it is longer than {MAX_ANSWER} bytes")));
            }
        }
        if status.is_success() { Ok(bytes) } else { Err(refused(status, &bytes)) }
    }

    /// Copies an answer's bytes as they come.
    pub(super) async fn download(
        &self,
        path: &str,
        out: &mut impl std::io::Write,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        let request = self.request(Method::GET, path).timeout(Duration::from_hours(24));
        let reading = async {
            let mut answer = request.send().await.map_err(|error| self.unreachable(&error))?;
            let status = answer.status();
            if !status.is_success() {
                let body = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
                return Err(refused(status, &body).into());
            }
            while let Some(chunk) = answer.chunk().await.map_err(|e| self.unreachable(&e))? {
                out.write_all(&chunk)?;
            }
            Ok(out.flush()?)
        };
        cancel.run_until_cancelled(reading).await.unwrap_or(Err(ClientError::Cancelled.into()))
    }

    /// Whether something is there.
    pub(super) async fn exists(
        &self,
        path: &str,
        cancel: &CancellationToken,
    ) -> Result<bool, ClientError> {
        match retry(&self.retry, cancel, || self.exchange(Method::HEAD, path, None)).await {
            Ok(_) => Ok(true),
            Err(ClientError::Refused { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Sends a file as it is, which takes as long as it does.
    pub(super) async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        file: &std::path::Path,
        cancel: &CancellationToken,
    ) -> anyhow::Result<T> {
        let sending = async {
            let file = tokio::fs::File::open(file).await?;
            let length = file.metadata().await?.len();
            let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::new(file));
            let request = self.request(Method::POST, path).timeout(Duration::from_hours(24));
            let request = request
                .header("content-type", "application/octet-stream")
                .header("content-length", length)
                .body(body);
            let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
            let status = answer.status();
            let bytes = answer.bytes().await.map_err(|error| self.unreachable(&error))?;
            if !status.is_success() {
                return Err(refused(status, &bytes).into());
            }
            Ok(serde_json::from_slice(&bytes).map_err(|error| self.nonsense(error.to_string()))?)
        };
        cancel.run_until_cancelled(sending).await.unwrap_or(Err(ClientError::Cancelled.into()))
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.server));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        if let Some(workspace) = &self.workspace {
            request = request.header("clipwright-workspace", workspace.as_str());
        }
        request
    }

    fn unreachable(&self, error: &reqwest::Error) -> ClientError {
        let causes =
            std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        // Each tells more than the one before.
        let reason = causes.last().map_or_else(|| error.to_string(), ToString::to_string);
        ClientError::Unreachable { server: self.server.clone(), reason }
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
