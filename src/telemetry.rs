//! Tracing set-up: what is logged, and how it looks; and what is counted. It must not know what the
//! program does.

/// What is counted.
pub mod metrics;
/// What the store is asked for.
pub mod store;

use std::io;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::util::SubscriberInitExt;

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

/// Sends log lines to standard error from now on. The first call in a process decides; the answer
/// says whether this one did.
pub fn init(settings: &LogSettings) -> bool {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_env_filter(EnvFilter::new(&settings.filter.0));
    match settings.format {
        LogFormat::Text => subscriber.finish().try_init(),
        LogFormat::Json => subscriber.json().finish().try_init(),
    }
    .is_ok()
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
