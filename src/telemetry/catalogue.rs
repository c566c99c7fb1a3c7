//! The one table of what is measured: every name, unit, label, bucket and help. Who measures what must
//! not stand here; `docs/metrics.md` says the same to people, and a test compares the two.

/// What is known of a metric before anything was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Its name in the exposition.
    pub name: &'static str,
    /// What kind of values it has.
    pub kind: Kind,
    /// What a value of 1 is.
    pub unit: Unit,
    /// Names of its labels. Each has few values, however many tenants and images there are.
    pub labels: &'static [&'static str],
    /// Who has it.
    pub place: Place,
    /// One line for people.
    pub help: &'static str,
}

/// What kind of values a metric has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations, counted by the upper ends of their buckets.
    Histogram(&'static [f64]),
}

impl Kind {
    /// As Prometheus calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram(_) => "histogram",
        }
    }
}

/// What a value of 1 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// One of something.
    Count,
    /// A second.
    Seconds,
    /// A thousandth of a second.
    Milliseconds,
    /// A byte.
    Bytes,
}

impl Unit {
    /// As `docs/metrics.md` calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "1",
            Self::Seconds => "seconds",
            Self::Milliseconds => "milliseconds",
            Self::Bytes => "bytes",
        }
    }

    /// As OpenTelemetry calls it (UCUM).
    pub fn ucum(self) -> &'static str {
        match self {
            Self::Count => "1",
            Self::Seconds => "s",
            Self::Milliseconds => "ms",
            Self::Bytes => "By",
        }
    }
}

/// Who has a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// `clipwright serve`.
    Service,
    /// `clipwright mount --metrics`.
    Mount,
    /// Both.
    Both,
}

impl Place {
    /// As `docs/metrics.md` calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Mount => "mount",
            Self::Both => "both",
        }
    }
}

/// Of requests: from what a cache answers to what gives up.
const REQUEST: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Of work on images: from one whose layers are known to one of tens of GB.
const WORK: &[f64] =
    &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0];
/// Of starts, in milliseconds.
const START_MS: &[f64] = &[
    1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 30_000.0,
    120_000.0,
];
/// Of archives and of what a start fetches: from 64 KiB to 16 GiB, each four times the one before.
const SIZE: &[f64] = &[
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
    67_108_864.0,
    268_435_456.0,
    1_073_741_824.0,
    4_294_967_296.0,
    17_179_869_184.0,
];

macro_rules! catalogue {
    ($($id:ident = $name:literal $kind:ident $(($buckets:ident))?, $unit:ident, [$($label:literal),*], $place:ident, $help:literal;)*) => {
        $(pub(super) static $id: Metric = Metric {
            name: $name,
            kind: Kind::$kind $(($buckets))?,
            unit: Unit::$unit,
            labels: &[$($label),*],
            place: Place::$place,
            help: $help,
        };)*

        /// Everything that is measured, but for `process_*`, which come from the client library.
        pub static CATALOGUE: &[&Metric] = &[$(&$id),*];
    };
}

catalogue! {
    INDEX_BUILD = "clip_index_build_seconds" Histogram(WORK), Seconds, [], Service,
        "Time from the manifest to the finished v2 archive: layers read, trees merged, file written";
    INDEX_BYTES = "clip_index_bytes_total" Counter, Bytes, [], Service,
        "Bytes of the v2 archives that were made";
    FIRST_EXEC = "clip_first_exec_ms" Histogram(START_MS), Milliseconds, ["version"], Both,
        "Milliseconds from mounting an image to the first read of a file in it";
    RANGE_GET_BYTES = "clip_range_get_bytes_total" Counter, Bytes, [], Both,
        "Bytes of layers and of blocks that came over the link";
    RANGE_GET_COUNT = "clip_range_get_count" Counter, Count, [], Both,
        "Requests for ranges of layers and of blocks";
    INFLATE_CPU = "clip_inflate_cpu_seconds_total" Counter, Seconds, [], Both,
        "Processor time for inflating what was fetched, and in a mount for verifying it";
    V1_EXTRACT = "clip_v1_extract_seconds" Histogram(WORK), Seconds, [], Service,
        "Time from the manifest to the v1 archive in the store: layers extracted, files packed and uploaded";
    V1_BYTES = "clip_v1_archive_bytes_total" Counter, Bytes, [], Service,
        "Bytes of the v1 archives that were made, the files' content included";

    ATTEMPTS = "clipwright_job_attempts_total" Counter, Count,
        ["kind", "outcome", "version", "workspace"], Service,
        "Attempts at jobs that ended in this process";
    ATTEMPT_SECONDS = "clipwright_job_attempt_seconds" Histogram(WORK), Seconds,
        ["kind", "outcome", "version"], Service,
        "Time that attempts at jobs took";
    PHASE_SECONDS = "clipwright_job_phase_seconds" Histogram(WORK), Seconds, ["kind", "phase"], Service,
        "Time that the phases of attempts took";
    RUNNING = "clipwright_jobs_running" Gauge, Count, ["kind", "phase"], Service,
        "Attempts that run in this process, by the phase that they are in";
    WAIT = "clipwright_job_wait_seconds" Histogram(WORK), Seconds, ["kind"], Service,
        "Time from accepting a job to its first attempt";
    CLAIM = "clipwright_claim_seconds" Histogram(REQUEST), Seconds, ["outcome"], Service,
        "Time that the queue took to give a worker a job, or to say that there is none";
    WORKERS = "clipwright_workers" Gauge, Count, [], Service,
        "Jobs that this process can work on at a time";
    WORKERS_BUSY = "clipwright_workers_busy" Gauge, Count, [], Service,
        "Jobs that this process works on";
    QUEUE_JOBS = "clipwright_queue_jobs" Gauge, Count, ["kind", "state"], Service,
        "Jobs of all processes that a worker could take now, or has; of each kind 10,000 are counted at most";
    QUEUE_AGE = "clipwright_queue_age_seconds" Gauge, Seconds, ["kind"], Service,
        "For how long the job that was due first has waited for a worker; 0 when none waits";
    RESTING = "clipwright_registries_resting" Gauge, Count, [], Service,
        "Registries that don't answer, whose jobs wait without a worker";
    LEASES_LOST = "clipwright_leases_lost_total" Counter, Count, ["seen_by"], Service,
        "Leases that ended before their jobs: seen by the worker that had it, or by whoever took the job back";
    PUT_RIGHT = "clipwright_put_right_total" Counter, Count, ["what"], Service,
        "What the reconcilers put right";

    ARCHIVES = "clipwright_archives_total" Counter, Count, ["requested", "produced", "reason"], Service,
        "Archives published, by the version wanted and that made; the reason is the code of a fallback";
    ARCHIVE_BYTES = "clipwright_archive_bytes" Histogram(SIZE), Bytes, ["version"], Service,
        "Sizes of the archives that were published";
    LAYERS = "clipwright_layers_total" Counter, Count, ["source"], Service,
        "Layers of images that were worked on: known from the cache of layer indexes, or read from the registry";

    DECISIONS = "clipwright_version_decisions_total" Counter, Count, ["decided_by", "version"], Service,
        "Versions decided on for pulls, and what decided";
    STARTS = "clipwright_starts_total" Counter, Count, ["version", "temperature", "outcome"], Service,
        "Starts of images that workers and mounts reported to this process";
    START_SECONDS = "clipwright_start_seconds" Histogram(WORK), Seconds, ["version", "temperature"], Service,
        "Time from mounting to being ready, of the reported starts";
    START_BYTES = "clipwright_start_wire_bytes" Histogram(SIZE), Bytes, ["version", "temperature"], Service,
        "Bytes that came over the link for a start, of the reported starts";
    ROLLED_BACK = "clipwright_rollouts_rolled_back_total" Counter, Count, [], Service,
        "Rollouts that the guard rolled back in this process";

    REGISTRY_REQUESTS = "clipwright_registry_requests_total" Counter, Count, ["operation", "outcome"], Service,
        "Requests to registries and their token services, by how they were answered";
    REGISTRY_SECONDS = "clipwright_registry_request_seconds" Histogram(REQUEST), Seconds, ["operation"], Service,
        "Time until a registry began to answer";
    STORE_REQUESTS = "clipwright_store_requests_total" Counter, Count, ["operation", "outcome"], Service,
        "What the store was asked for, by how it ended";
    STORE_SECONDS = "clipwright_store_request_seconds" Histogram(REQUEST), Seconds, ["operation"], Service,
        "Time that the store took";
    DATABASE_REQUESTS = "clipwright_database_requests_total" Counter, Count, ["action", "outcome"], Service,
        "What the database was asked for, by how it ended";
    DATABASE_SECONDS = "clipwright_database_request_seconds" Histogram(REQUEST), Seconds, [], Service,
        "Time that the database took, once there was a connection";
    HTTP_REQUESTS = "clipwright_http_requests_total" Counter, Count, ["method", "route", "status"], Service,
        "Requests to this process, by the route's pattern";
    HTTP_SECONDS = "clipwright_http_request_seconds" Histogram(REQUEST), Seconds, ["route"], Service,
        "Time until this process began to answer";

    CACHE_HITS = "clip_cache_hits_total" Counter, Count, ["tier"], Mount,
        "Spans and blocks that were found in a cache";
    SPANS_FETCHED = "clip_spans_fetched_total" Counter, Count, [], Mount,
        "Spans and blocks that were fetched";
    READS = "clip_reads_total" Counter, Count, ["outcome"], Mount,
        "Reads that the kernel asked for";

    BUILD = "clipwright_build_info" Gauge, Count, ["version"], Both,
        "1; the version of the program stands in the label";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_is_sound() {
        let mut names = BTreeSet::new();
        for metric in CATALOGUE {
            assert!(names.insert(metric.name), "{} stands twice", metric.name);
            assert!(metric.name.starts_with("clip"), "{}", metric.name);
            if let Kind::Histogram(buckets) = metric.kind {
                assert!(buckets.is_sorted(), "{}", metric.name);
            }
            // The names of the plan are as they are.
            if metric.kind == Kind::Counter && metric.name != RANGE_GET_COUNT.name {
                assert!(metric.name.ends_with("_total"), "{}", metric.name);
            }
            let has_unit = |unit| metric.name.trim_end_matches("_total").ends_with(unit);
            let named = match metric.unit {
                Unit::Count => true,
                Unit::Seconds => has_unit("_seconds"),
                Unit::Milliseconds => has_unit("_ms"),
                Unit::Bytes => has_unit("_bytes"),
            };
            assert!(named, "{} does not name its unit", metric.name);
        }
    }
}
