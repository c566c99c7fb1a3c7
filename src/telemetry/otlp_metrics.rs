//! Metrics on their way to a collector, by OTLP over HTTP with protobuf: the same values that Prometheus
//! reads, pushed now and then.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry_http::{HttpClient as _, Request};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
    ResourceMetrics, ScopeMetrics, Sum,
};
use opentelemetry_proto::tonic::resource::v1::Resource;
use prometheus::proto::{self, MetricFamily, MetricType};
use prost::Message as _;
use secrecy::ExposeSecret as _;
use tokio::time::{MissedTickBehavior, interval};

use super::catalogue::CATALOGUE;
use super::otlp::{Client, OtlpError, OtlpSettings, pairs};
use super::recorder::gather;

/// How often values are sent.
const EVERY: Duration = Duration::from_secs(15);

/// Sends values.
#[derive(Debug)]
pub(super) struct MetricsSender {
    client: Client,
    endpoint: String,
    headers: Vec<(String, String)>,
    service: String,
    started: SystemTime,
}

impl MetricsSender {
    /// To the collector of `settings`, if it is to have metrics. Needs to be called on a Tokio runtime.
    pub(super) fn new(settings: &OtlpSettings) -> Result<Option<Self>, OtlpError> {
        let Some(endpoint) = settings.metrics.clone() else { return Ok(None) };
        let headers = settings.headers.as_ref().map(|text| pairs(text.expose_secret()));
        Ok(Some(Self {
            client: Client::new().map_err(|error| OtlpError::of(&error.without_url()))?,
            endpoint,
            headers: headers.unwrap_or_default().into_iter().collect(),
            service: settings.service.clone(),
            started: SystemTime::now(),
        }))
    }

    /// Sends until it is dropped.
    pub(super) async fn send_all(&self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.send().await;
        }
    }

    /// Sends what there is now. What can't be sent is in what is sent next.
    pub(super) async fn send(&self) {
        if let Err(error) = self.try_send().await {
            tracing::warn!(%error, "metrics were not sent; trying on");
        }
    }

    async fn try_send(&self) -> Result<(), OtlpError> {
        let now = SystemTime::now();
        let body = export(&gather(), &self.service, self.started, now).encode_to_vec();
        let mut request =
            Request::post(&self.endpoint).header("content-type", "application/x-protobuf");
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(body.into()).map_err(|error| OtlpError::of(&error))?;
        let answer = self.client.send_bytes(request).await;
        let status = answer.map_err(|error| OtlpError::of(&*error))?.status();
        let refused = || OtlpError::saying(format!("the collector answered {status}"));
        if status.is_success() { Ok(()) } else { Err(refused()) }
    }
}

fn export(
    families: &[MetricFamily],
    service: &str,
    started: SystemTime,
    now: SystemTime,
) -> ExportMetricsServiceRequest {
    let times = (nanos(started), nanos(now));
    let scope = InstrumentationScope { name: "clipwright".to_owned(), ..Default::default() };
    let metrics = families.iter().filter_map(|family| metric(family, times)).collect();
    let scope_metrics = ScopeMetrics { scope: Some(scope), metrics, ..Default::default() };
    let attributes = vec![attribute("service.name", service)];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource { attributes, ..Default::default() }),
            scope_metrics: vec![scope_metrics],
            ..Default::default()
        }],
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn attribute(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..Default::default() }
}

fn metric(family: &MetricFamily, times: (u64, u64)) -> Option<Metric> {
    let temporality = AggregationTemporality::Cumulative.into();
    let all = family.get_metric();
    let numbers = |value: fn(&proto::Metric) -> f64| {
        all.iter().map(|metric| number(metric, value(metric), times)).collect()
    };
    let data = match family.get_field_type() {
        MetricType::COUNTER => Data::Sum(Sum {
            data_points: numbers(|metric| metric.get_counter().get_value()),
            aggregation_temporality: temporality,
            is_monotonic: true,
        }),
        MetricType::GAUGE => {
            Data::Gauge(Gauge { data_points: numbers(|metric| metric.get_gauge().get_value()) })
        }
        MetricType::HISTOGRAM => Data::Histogram(Histogram {
            data_points: all.iter().map(|metric| histogram(metric, times)).collect(),
            aggregation_temporality: temporality,
        }),
        _ => return None,
    };
    let known = CATALOGUE.iter().find(|metric| metric.name == family.name());
    Some(Metric {
        name: family.name().to_owned(),
        description: family.help().to_owned(),
        unit: known.map_or("", |metric| metric.unit.ucum()).to_owned(),
        data: Some(data),
        ..Default::default()
    })
}

fn attributes(metric: &proto::Metric) -> Vec<KeyValue> {
    let labels = metric.get_label().iter().filter(|label| !label.value().is_empty());
    labels.map(|label| attribute(label.name(), label.value())).collect()
}

fn number(metric: &proto::Metric, value: f64, (start, now): (u64, u64)) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(metric),
        start_time_unix_nano: start,
        time_unix_nano: now,
        value: Some(Number::AsDouble(value)),
        ..Default::default()
    }
}

/// Prometheus counts what is up to the end of a bucket, OTLP what is in it; the last one has no end.
fn histogram(metric: &proto::Metric, (start, now): (u64, u64)) -> HistogramDataPoint {
    let histogram = metric.get_histogram();
    let finite = histogram.get_bucket().iter().filter(|bucket| bucket.upper_bound().is_finite());
    let (mut before, mut bucket_counts, mut explicit_bounds) = (0, Vec::new(), Vec::new());
    for bucket in finite {
        bucket_counts.push(bucket.cumulative_count().saturating_sub(before));
        explicit_bounds.push(bucket.upper_bound());
        before = bucket.cumulative_count();
    }
    bucket_counts.push(histogram.get_sample_count().saturating_sub(before));
    HistogramDataPoint {
        attributes: attributes(metric),
        start_time_unix_nano: start,
        time_unix_nano: now,
        count: histogram.get_sample_count(),
        sum: Some(histogram.get_sample_sum()),
        bucket_counts,
        explicit_bounds,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::core::Collector as _;
    use prometheus::{HistogramOpts, HistogramVec};

    use super::*;

    #[test]
    fn buckets_are_counted_apart() {
        let options = HistogramOpts::new("h", "help").buckets(vec![1.0, 2.0, 4.0]);
        let family = HistogramVec::new(options, &["a", "empty"]).unwrap();
        for value in [0.5, 1.5, 1.5, 100.0] {
            family.with_label_values(&["b", ""]).observe(value);
        }
        let exported = metric(&family.collect()[0], (1, 2)).unwrap();
        let Some(Data::Histogram(histogram)) = exported.data else { panic!("{exported:?}") };
        let point = &histogram.data_points[0];
        assert_eq!(point.explicit_bounds, [1.0, 2.0, 4.0]);
        assert_eq!(point.bucket_counts, [1, 2, 0, 1]);
        assert_eq!((point.count, point.sum), (4, Some(103.5)));
        assert_eq!(point.attributes, [attribute("a", "b")]);
    }
}
