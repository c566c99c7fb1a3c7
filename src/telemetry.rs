//! What the process tells of itself: log lines, metrics, traces. It must not know what the program does.

/// Everything that can be measured.
pub mod catalogue;
/// What is measured.
pub mod metrics;
/// Traces on their way to a collector.
mod otlp;
/// Metrics on their way to a collector.
mod otlp_metrics;
/// Where measured values are kept.
mod recorder;
/// What registries are asked for.
pub mod registry;
/// What the store is asked for.
pub mod store;
/// The trace that something belongs to.
pub mod trace;

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

pub use otlp::{OtlpError, OtlpSettings};

use otlp_metrics::MetricsSender;

/// How long the end of a process waits for the collector.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which log lines are written: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`), or a
/// comma-separated list of levels and `target=level`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

/// The text is not a [`LogFilter`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a log filter: expected a level, or a list of levels and target=level")]
pub struct InvalidLogFilter;

impl FromStr for LogFilter {
    type Err = InvalidLogFilter;

    fn from_str(text: &str) -> Result<Self, InvalidLogFilter> {
        // The filter's own parser takes any word for a target, so that a misspelt level would
        // silence everything else.
        let is_meant = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
        if text.split(',').all(|part| !part.is_empty() && is_meant(part))
            && EnvFilter::try_new(text).is_ok()
        {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidLogFilter)
        }
    }
}

/// What is logged, and how it looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// How lines look.
    pub format: LogFormat,
    /// Which lines are written.
    pub filter: LogFilter,
}

impl LogSettings {
    /// What commands other than the service have to say beside their output.
    pub fn warnings() -> Self {
        Self { format: LogFormat::Text, filter: LogFilter("warn".to_owned()) }
    }
}

/// What this process sends to a collector, until it ends.
#[derive(Debug, Default)]
pub struct Telemetry {
    provider: Option<SdkTracerProvider>,
    metrics: Option<(Arc<MetricsSender>, AbortOnDropHandle<()>)>,
}

impl Telemetry {
    /// Sends what was not sent yet. Waits for the collector, for some seconds at most; the runtime that
    /// telemetry was started on has to run still, elsewhere.
    pub fn shutdown(self, runtime: &Handle) {
        if let Some((metrics, sending)) = self.metrics {
            drop(sending);
            let _ = runtime.block_on(async { timeout(LAST_SPANS, metrics.send()).await });
        }
        if let Some(provider) = self.provider
            && let Err(error) = provider.shutdown_with_timeout(LAST_SPANS)
        {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// Sends log lines to standard error from now on. The first call in a process decides; the answer
/// says whether this one did.
pub fn init(settings: &LogSettings) -> bool {
    Registry::default().with(log_lines(settings)).try_init().is_ok()
}

/// As [`init`], and sends spans, and metrics if it is to have them, to a collector. Needs to be called on a Tokio runtime.
pub fn init_with_collector(
    settings: &LogSettings,
    otlp: &OtlpSettings,
) -> Result<Telemetry, OtlpError> {
    let provider = match &otlp.traces {
        Some(traces) => Some(otlp::provider(otlp, traces)?),
        None => None,
    };
    let tracer = provider.as_ref().map(|provider| provider.tracer("clipwright"));
    let spans = tracer.clone().map(|tracer| {
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_traced))
    });
    if Registry::default().with(log_lines(settings)).with(spans).try_init().is_ok()
        && let Some(tracer) = tracer
    {
        trace::install(tracer);
    }
    let metrics = MetricsSender::new(otlp)?.map(|metrics| {
        let metrics = Arc::new(metrics);
        let sender = metrics.clone();
        let sending = tokio::spawn(async move { sender.send_all().await });
        (metrics, AbortOnDropHandle::new(sending))
    });
    Ok(Telemetry { provider, metrics })
}

/// Our spans are of two kinds: those at `DEBUG` are parts of traces, those at `INFO` say in log lines whose
/// they are. Log lines are no parts of traces.
fn is_traced(metadata: &Metadata<'_>) -> bool {
    metadata.is_span()
        && *metadata.level() == Level::DEBUG
        && metadata.target().starts_with("clipwright")
}

fn log_lines<S>(settings: &LogSettings) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> LookupSpan<'a>,
{
    let lines =
        fmt::layer().with_writer(io::stderr).with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
    let filter = EnvFilter::new(&settings.filter.0);
    match settings.format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().with_filter(filter).boxed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for text in ["info", "WARN", "off", "info,clipwright=debug", "clipwright::jobs=trace"] {
            assert!(text.parse::<LogFilter>().is_ok(), "{text}");
        }
        for text in ["", "verbose", "inof", "info,", "clipwright=loud", "="] {
            assert!(text.parse::<LogFilter>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_second_call_is_harmless() {
        let filter: LogFilter = "off".parse().unwrap();
        let settings = |format| LogSettings { format, filter: filter.clone() };
        init(&settings(LogFormat::Text));
        assert!(!init(&settings(LogFormat::Json)));
    }
}
