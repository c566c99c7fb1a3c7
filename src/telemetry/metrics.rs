//! What is counted, all names in one place, and the text that Prometheus reads. It must not know
//! who counts what for.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_histogram, histogram};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

const JOB_ATTEMPTS: &str = "clipwright_job_attempts_total";
const ARCHIVES: &str = "clipwright_archives_total";
const ROLLED_BACK: &str = "clipwright_rollouts_rolled_back_total";
const STORE_REQUESTS: &str = "clipwright_store_requests_total";
const STORE_SECONDS: &str = "clipwright_store_request_seconds";

/// Upper ends of the buckets of whatever is told in seconds.
const SECONDS: [f64; 12] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0, 600.0];

const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// The recorder of this process, installed by the first who counts or asks.
static RECORDER: LazyLock<PrometheusHandle> = LazyLock::new(|| {
    // Fails for an empty list alone.
    let builder = PrometheusBuilder::new().set_buckets(&SECONDS).unwrap_or_default();
    let recorder = builder.build_recorder();
    let handle = recorder.handle();
    // Fails where a program that uses the library has a recorder of its own, which is then fed.
    let _ = metrics::set_global_recorder(recorder);
    describe_counter!(JOB_ATTEMPTS, "Attempts at jobs that ended in this process");
    describe_counter!(ARCHIVES, "Archives published, by the version wanted and that made");
    describe_counter!(ROLLED_BACK, "Rollouts that the guard rolled back in this process");
    describe_counter!(STORE_REQUESTS, "What the store was asked for, by how it ended");
    describe_histogram!(STORE_SECONDS, Unit::Seconds, "Time that the store took to answer");
    handle
});

/// An attempt at a job ended.
pub fn attempt_ended(kind: &'static str, outcome: &'static str) {
    LazyLock::force(&RECORDER);
    counter!(JOB_ATTEMPTS, "kind" => kind, "outcome" => outcome).increment(1);
}

/// An archive was published. `reason` says why it is not of the version wanted; empty if it is.
pub fn archive_published(requested: u8, produced: u8, reason: &'static str) {
    LazyLock::force(&RECORDER);
    let (requested, produced) = (requested.to_string(), produced.to_string());
    counter!(ARCHIVES, "requested" => requested, "produced" => produced, "reason" => reason)
        .increment(1);
}

/// The guard rolled a rollout back.
pub fn rollout_rolled_back() {
    LazyLock::force(&RECORDER);
    counter!(ROLLED_BACK).increment(1);
}

/// The store did what it was asked for, or did not: `outcome` is `ok` or the error's code.
pub fn store_answered(operation: &'static str, outcome: &'static str, took: Duration) {
    LazyLock::force(&RECORDER);
    counter!(STORE_REQUESTS, "operation" => operation, "outcome" => outcome).increment(1);
    histogram!(STORE_SECONDS, "operation" => operation).record(took.as_secs_f64());
}

/// Has the recorder do its upkeep now and then, without which what it keeps of histograms grows.
pub async fn keep_up() {
    loop {
        tokio::time::sleep(UPKEEP_EVERY).await;
        RECORDER.run_upkeep();
    }
}

/// Everything that was counted, in Prometheus's text format.
pub fn render() -> String {
    RECORDER.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        archive_published(2, 1, "test_of_metrics");
        archive_published(2, 1, "test_of_metrics");
        attempt_ended("test", "succeeded");
        let text = render();
        for line in [
            "# TYPE clipwright_archives_total counter",
            r#"clipwright_archives_total{requested="2",produced="1",reason="test_of_metrics"} 2"#,
            r#"clipwright_job_attempts_total{kind="test",outcome="succeeded"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
