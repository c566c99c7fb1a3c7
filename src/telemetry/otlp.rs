//! Traces on their way to a collector, by OTLP over HTTP with protobuf. What is in them is not known here.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::runtime::Handle;

/// How long a collector may take for one batch of spans.
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read at most: it says what was refused.
const MAX_ANSWER: usize = 64 << 10;

/// Where traces go. The standard's variables for what is not set here (`OTEL_RESOURCE_ATTRIBUTES`,
/// `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*`) are read by the SDK.
#[derive(Debug, Clone)]
pub struct OtlpSettings {
    /// Where traces are sent, path and all, if they are.
    pub traces: Option<String>,
    /// The same of metrics, if they are sent at all.
    pub metrics: Option<String>,
    /// Headers for the collector, as `name=value` by commas: what it asks for to know us.
    pub headers: Option<SecretString>,
    /// What the process is called in traces.
    pub service: String,
}

/// Nothing can be sent to the collector.
#[derive(Debug, thiserror::Error)]
#[error("the collector can't be told: {reason}")]
pub struct OtlpError {
    reason: String,
}

impl OtlpError {
    pub(super) fn of(error: &dyn std::error::Error) -> Self {
        Self::saying(error.to_string())
    }

    pub(super) fn saying(reason: String) -> Self {
        Self { reason }
    }
}

/// Who makes spans that are sent. Needs to be called on a Tokio runtime, which sends them.
pub(super) fn provider(
    settings: &OtlpSettings,
    traces: &str,
) -> Result<SdkTracerProvider, OtlpError> {
    let client = Client::new().map_err(|error| OtlpError::of(&error.without_url()))?;
    let mut exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(client)
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(traces)
        .with_timeout(LIMIT);
    if let Some(headers) = &settings.headers {
        exporter = exporter.with_headers(pairs(headers.expose_secret()));
    }
    let exporter = exporter.build().map_err(|error| OtlpError::of(&error))?;
    let resource = Resource::builder().with_service_name(settings.service.clone()).build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

pub(super) fn pairs(text: &str) -> HashMap<String, String> {
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim().to_owned(), value.trim().to_owned()))
    };
    text.split(',').filter_map(pair).collect()
}

/// The SDK sends from a thread of its own, and the client needs a runtime.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    runtime: Handle,
}

impl Client {
    pub(super) fn new() -> Result<Self, reqwest::Error> {
        // Fails when a provider is installed already, which is just as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("clipwright/", env!("CARGO_PKG_VERSION")))
            .timeout(LIMIT)
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(Self { http, runtime: Handle::current() })
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let answer = self.runtime.spawn(async move {
            let request = reqwest::Request::try_from(request)?;
            let mut answer = http.execute(request).await?;
            let status = answer.status();
            let mut body = Vec::new();
            while let Some(chunk) = answer.chunk().await? {
                let room = MAX_ANSWER.saturating_sub(body.len());
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if room < chunk.len() {
                    break;
                }
            }
            Ok::<_, reqwest::Error>((status, body))
        });
        let (status, body) = answer.await?.map_err(reqwest::Error::without_url)?;
        Ok(Response::builder().status(status).body(body.into())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let pairs = pairs("authorization=Bearer a=b, x-scope = acme,,nothing");
        assert_eq!(pairs["authorization"], "Bearer a=b");
        assert_eq!(pairs["x-scope"], "acme");
        assert_eq!(pairs.len(), 2);
    }
}
