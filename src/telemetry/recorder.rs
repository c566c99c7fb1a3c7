//! Where measured values are kept, and the text that Prometheus reads. What there is to measure is the
//! catalogue's to say.

use std::collections::HashMap;
use std::sync::LazyLock;

use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;
use prometheus::{
    CounterVec, Encoder as _, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry, TextEncoder,
};

use super::catalogue::{CATALOGUE, Kind, Metric};

/// The text exposition format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The recorder of this process.
static RECORDER: LazyLock<Recorder> = LazyLock::new(Recorder::new);

struct Recorder {
    registry: Registry,
    families: HashMap<&'static str, Family>,
}

/// All values of one metric.
enum Family {
    Counter(CounterVec),
    Gauge(GaugeVec),
    Histogram(HistogramVec),
}

impl Family {
    fn new(metric: &Metric) -> prometheus::Result<Self> {
        let options = Opts::new(metric.name, metric.help);
        Ok(match metric.kind {
            Kind::Counter => Self::Counter(CounterVec::new(options, metric.labels)?),
            Kind::Gauge => Self::Gauge(GaugeVec::new(options, metric.labels)?),
            Kind::Histogram(buckets) => {
                let options = HistogramOpts::from(options).buckets(buckets.to_vec());
                Self::Histogram(HistogramVec::new(options, metric.labels)?)
            }
        })
    }

    fn register(&self, registry: &Registry) -> prometheus::Result<()> {
        registry.register(match self {
            Self::Counter(family) => Box::new(family.clone()),
            Self::Gauge(family) => Box::new(family.clone()),
            Self::Histogram(family) => Box::new(family.clone()),
        })
    }
}

impl Recorder {
    /// What the catalogue's tests let through is registered.
    fn new() -> Self {
        let registry = Registry::new();
        let register = |metric: &Metric| {
            let family = Family::new(metric).ok()?;
            family.register(&registry).ok()?;
            Some((metric.name, family))
        };
        let families = CATALOGUE.iter().filter_map(|metric| register(metric)).collect();
        let _ = registry.register(Box::new(ProcessCollector::for_self()));
        Self { registry, families }
    }
}

/// Adds to a counter.
pub(super) fn count(metric: &Metric, labels: &[&str], by: f64) {
    if let Some(Family::Counter(family)) = RECORDER.families.get(metric.name)
        && let Ok(counter) = family.get_metric_with_label_values(labels)
        && by >= 0.0
    {
        counter.inc_by(by);
    }
}

/// Lets a counter have counted so much in all. It never goes back.
pub(super) fn count_up_to(metric: &Metric, labels: &[&str], total: f64) {
    if let Some(Family::Counter(family)) = RECORDER.families.get(metric.name)
        && let Ok(counter) = family.get_metric_with_label_values(labels)
    {
        counter.inc_by((total - counter.get()).max(0.0));
    }
}

/// Sets a gauge.
pub(super) fn set(metric: &Metric, labels: &[&str], value: f64) {
    if let Some(Family::Gauge(family)) = RECORDER.families.get(metric.name)
        && let Ok(gauge) = family.get_metric_with_label_values(labels)
    {
        gauge.set(value);
    }
}

/// Adds to a gauge, or takes from it.
pub(super) fn shift(metric: &Metric, labels: &[&str], by: f64) {
    if let Some(Family::Gauge(family)) = RECORDER.families.get(metric.name)
        && let Ok(gauge) = family.get_metric_with_label_values(labels)
    {
        gauge.add(by);
    }
}

/// Forgets all values of a gauge.
pub(super) fn forget(metric: &Metric) {
    if let Some(Family::Gauge(family)) = RECORDER.families.get(metric.name) {
        family.reset();
    }
}

/// Adds an observation to a histogram.
pub(super) fn observe(metric: &Metric, labels: &[&str], value: f64) {
    if let Some(Family::Histogram(family)) = RECORDER.families.get(metric.name)
        && let Ok(histogram) = family.get_metric_with_label_values(labels)
    {
        histogram.observe(value);
    }
}

/// Has a metric without labels be there before anything was measured, so that its growth can be told from
/// the beginning.
pub(super) fn begin(metric: &Metric) {
    if metric.labels.is_empty()
        && let Some(family) = RECORDER.families.get(metric.name)
    {
        match family {
            Family::Counter(family) => drop(family.get_metric_with_label_values(&[] as &[&str])),
            Family::Gauge(family) => drop(family.get_metric_with_label_values(&[] as &[&str])),
            Family::Histogram(family) => drop(family.get_metric_with_label_values(&[] as &[&str])),
        }
    }
}

/// Everything that was measured; no family is without values.
pub(super) fn gather() -> Vec<MetricFamily> {
    let mut families = RECORDER.registry.gather();
    families.retain(|family| !family.get_metric().is_empty());
    families
}

/// Everything that was measured, in Prometheus's text format.
pub fn render() -> String {
    let mut text = Vec::new();
    // Fails where it can't write, and for families without values.
    let _ = TextEncoder::new().encode(&gather(), &mut text);
    String::from_utf8(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_in_the_catalogue_is_registered() {
        let registered = RECORDER.families.len();
        assert_eq!(registered, CATALOGUE.len());
        for metric in CATALOGUE {
            let family = &RECORDER.families[metric.name];
            let fits = match family {
                Family::Counter(_) => matches!(metric.kind, Kind::Counter),
                Family::Gauge(_) => matches!(metric.kind, Kind::Gauge),
                Family::Histogram(_) => matches!(metric.kind, Kind::Histogram(_)),
            };
            assert!(fits, "{}", metric.name);
        }
    }
}
