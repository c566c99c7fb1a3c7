//! What is measured: a function for each thing that happens. It must not know why it happened; names and
//! labels are the catalogue's.

use std::sync::OnceLock;
use std::time::Duration;

use super::catalogue::{self as of, CATALOGUE, Place};
use super::recorder::{begin, count, count_up_to, forget, observe, set, shift};

pub use super::recorder::{CONTENT_TYPE, render};

/// Whether values are told apart by workspace.
static BY_WORKSPACE: OnceLock<bool> = OnceLock::new();

/// What is there from the beginning. `by_workspace` tells attempts at jobs apart by whose they are: as many
/// values as there are workspaces.
pub fn start(place: Place, by_workspace: bool) {
    let _ = BY_WORKSPACE.set(by_workspace);
    for metric in CATALOGUE.iter().filter(|metric| [place, Place::Both].contains(&metric.place)) {
        // Nobody sets these before there is something to say.
        if metric.name != of::RESTING.name {
            begin(metric);
        }
    }
    set(&of::BUILD, &[env!("CARGO_PKG_VERSION")], 1.0);
}

/// A number of things as metrics have it.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
fn number(count: u64) -> f64 {
    count as f64
}

fn version(number: u8) -> &'static str {
    match number {
        1 => "1",
        2 => "2",
        _ => "",
    }
}

/// An attempt at a job, as it is counted.
#[derive(Debug, Clone, Copy)]
pub struct EndedAttempt<'a> {
    /// The job's kind.
    pub kind: &'static str,
    /// A word for what came of it.
    pub outcome: &'static str,
    /// The version of the archive that was made, if one was.
    pub version: Option<u8>,
    /// Whose job it is.
    pub workspace: &'a str,
    /// How long it took.
    pub took: Duration,
}

/// An attempt at a job ended.
pub fn attempt_ended(ended: EndedAttempt<'_>) {
    let EndedAttempt { kind, outcome, workspace, took, .. } = ended;
    let version = version(ended.version.unwrap_or_default());
    let by_workspace = BY_WORKSPACE.get().copied().unwrap_or_default();
    let workspace = if by_workspace { workspace } else { "" };
    count(&of::ATTEMPTS, &[kind, outcome, version, workspace], 1.0);
    observe(&of::ATTEMPT_SECONDS, &[kind, outcome, version], took.as_secs_f64());
}

/// An attempt is in a phase, until this is dropped.
#[derive(Debug)]
pub struct RunningPhase {
    kind: &'static str,
    phase: &'static str,
    started: std::time::Instant,
}

impl RunningPhase {
    /// The phase begins.
    pub fn begin(kind: &'static str, phase: &'static str) -> Self {
        shift(&of::RUNNING, &[kind, phase], 1.0);
        Self { kind, phase, started: std::time::Instant::now() }
    }
}

impl Drop for RunningPhase {
    fn drop(&mut self) {
        let labels = [self.kind, self.phase];
        shift(&of::RUNNING, &labels, -1.0);
        observe(&of::PHASE_SECONDS, &labels, self.started.elapsed().as_secs_f64());
    }
}

/// The first attempt at a job began, so long after the job was accepted.
pub fn job_waited(kind: &'static str, waited: Duration) {
    observe(&of::WAIT, &[kind], waited.as_secs_f64());
}

/// The queue was asked for a job: `outcome` is `claimed`, `none` or `failed`.
pub fn claim_answered(outcome: &'static str, took: Duration) {
    observe(&of::CLAIM, &[outcome], took.as_secs_f64());
}

/// So many jobs can be worked on at a time.
pub fn workers_started(workers: usize) {
    set(&of::WORKERS, &[], number(workers as u64));
    set(&of::WORKERS_BUSY, &[], 0.0);
}

/// A worker is at a job, until this is dropped.
#[derive(Debug)]
pub struct BusyWorker(());

impl BusyWorker {
    /// It begins.
    pub fn begin() -> Self {
        shift(&of::WORKERS_BUSY, &[], 1.0);
        Self(())
    }
}

impl Drop for BusyWorker {
    fn drop(&mut self) {
        shift(&of::WORKERS_BUSY, &[], -1.0);
    }
}

/// The jobs of one kind, of all processes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct QueuedJobs {
    /// The kind.
    pub kind: &'static str,
    /// Those that a worker could take now.
    pub ready: u64,
    /// Those that a worker has.
    pub running: u64,
    /// For how long the one that was due first has waited.
    pub age: Duration,
}

/// The queue was looked at.
pub fn queue_sampled(kinds: &[QueuedJobs], resting_registries: u64) {
    for jobs in kinds {
        set(&of::QUEUE_JOBS, &[jobs.kind, "ready"], number(jobs.ready));
        set(&of::QUEUE_JOBS, &[jobs.kind, "running"], number(jobs.running));
        set(&of::QUEUE_AGE, &[jobs.kind], jobs.age.as_secs_f64());
    }
    set(&of::RESTING, &[], number(resting_registries));
}

/// The queue can't be looked at: what was seen before is not told as if it were so still.
pub fn queue_unknown() {
    for metric in [&of::QUEUE_JOBS, &of::QUEUE_AGE, &of::RESTING] {
        forget(metric);
    }
}

/// Leases ended before their jobs: `seen_by` the `worker` that had it, or by the `reconciler`.
pub fn leases_lost(seen_by: &'static str, how_many: u64) {
    count(&of::LEASES_LOST, &[seen_by], number(how_many));
}

/// A reconciler put something right.
pub fn put_right(what: &'static str, how_much: u64) {
    count(&of::PUT_RIGHT, &[what], number(how_much));
}

/// A v2 archive was made.
pub fn index_built(bytes: u64, took: Duration) {
    observe(&of::INDEX_BUILD, &[], took.as_secs_f64());
    count(&of::INDEX_BYTES, &[], number(bytes));
}

/// A v1 archive was made.
pub fn v1_extracted(bytes: u64, took: Duration) {
    observe(&of::V1_EXTRACT, &[], took.as_secs_f64());
    count(&of::V1_BYTES, &[], number(bytes));
}

/// An archive was published. `reason` says why it is not of the version wanted; empty if it is.
pub fn archive_published(requested: u8, produced: u8, reason: &'static str, bytes: u64) {
    count(&of::ARCHIVES, &[version(requested), version(produced), reason], 1.0);
    observe(&of::ARCHIVE_BYTES, &[version(produced)], number(bytes));
}

/// The version of a pull was decided on.
pub fn version_decided(decided_by: &'static str, decided: u8) {
    count(&of::DECISIONS, &[decided_by, version(decided)], 1.0);
}

/// A layer of an image is known: from before, or because it was read.
pub fn layer_done(cached: bool) {
    count(&of::LAYERS, &[if cached { "cache" } else { "registry" }], 1.0);
}

/// A layer was inflated, for so much processor time.
pub fn layer_inflated(took: Duration) {
    count(&of::INFLATE_CPU, &[], took.as_secs_f64());
}

/// The guard rolled a rollout back.
pub fn rollout_rolled_back() {
    count(&of::ROLLED_BACK, &[], 1.0);
}

/// One start of an image that was reported; what is absent was not measured.
#[derive(Debug, Clone, Copy)]
pub struct ReportedStart {
    /// The version of its archive.
    pub version: u8,
    /// `cold` or `warm`.
    pub temperature: &'static str,
    /// `succeeded` or `failed`.
    pub outcome: &'static str,
    /// Seconds until it was ready.
    pub seconds: Option<f64>,
    /// Milliseconds to the first read of a file.
    pub first_exec_ms: Option<f64>,
    /// Bytes that came over the link.
    pub wire_bytes: Option<u64>,
}

/// A start of an image was reported.
pub fn start_reported(start: ReportedStart) {
    let (version, temperature) = (version(start.version), start.temperature);
    count(&of::STARTS, &[version, temperature, start.outcome], 1.0);
    if let Some(seconds) = start.seconds {
        observe(&of::START_SECONDS, &[version, temperature], seconds);
    }
    if let Some(bytes) = start.wire_bytes {
        observe(&of::START_BYTES, &[version, temperature], number(bytes));
    }
    if let Some(ms) = start.first_exec_ms {
        observe(&of::FIRST_EXEC, &[version], ms);
    }
}

/// A registry answered, or did not: `outcome` says which.
pub fn registry_answered(operation: &'static str, outcome: &'static str, took: Duration) {
    count(&of::REGISTRY_REQUESTS, &[operation, outcome], 1.0);
    observe(&of::REGISTRY_SECONDS, &[operation], took.as_secs_f64());
}

/// A range of a layer was asked for.
pub fn range_requested() {
    count(&of::RANGE_GET_COUNT, &[], 1.0);
}

/// Bytes of a layer came.
pub fn blob_bytes_received(bytes: usize) {
    count(&of::RANGE_GET_BYTES, &[], number(bytes as u64));
}

/// The store did what it was asked for, or did not: `outcome` is `ok` or the error's code.
pub fn store_answered(operation: &'static str, outcome: &'static str, took: Duration) {
    count(&of::STORE_REQUESTS, &[operation, outcome], 1.0);
    observe(&of::STORE_SECONDS, &[operation], took.as_secs_f64());
}

/// The database did what it was asked for, or did not: `outcome` is `ok` or the error's code.
pub fn database_answered(action: &'static str, outcome: &'static str, took: Duration) {
    count(&of::DATABASE_REQUESTS, &[action, outcome], 1.0);
    observe(&of::DATABASE_SECONDS, &[], took.as_secs_f64());
}

/// A request was answered. `route` is its pattern.
pub fn http_answered(method: &str, route: &str, status: u16, took: Duration) {
    // Anything may stand there as a method.
    let method = match method {
        "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" => method,
        _ => "other",
    };
    count(&of::HTTP_REQUESTS, &[method, route, &status.to_string()], 1.0);
    observe(&of::HTTP_SECONDS, &[route], took.as_secs_f64());
}

/// What a mount has done since it began.
#[derive(Debug, Clone, Copy)]
pub struct MountTotals {
    /// The version of its archive.
    pub version: u8,
    /// Milliseconds to the first read of a file, if there was one.
    pub first_exec_ms: Option<f64>,
    /// Bytes that came over the link.
    pub range_get_bytes: u64,
    /// Requests for ranges.
    pub range_gets: u64,
    /// Seconds of processor time for verifying and inflating.
    pub inflate_seconds: f64,
    /// What was found in memory.
    pub hits_in_memory: u64,
    /// What was found on disk.
    pub hits_on_disk: u64,
    /// What was fetched.
    pub fetched: u64,
    /// Reads that were served, and those that failed.
    pub reads: [u64; 2],
}

/// A mount was looked at: the one that this process serves.
pub fn mount_sampled(totals: &MountTotals) {
    static FIRST_EXEC: OnceLock<()> = OnceLock::new();
    if let Some(ms) = totals.first_exec_ms {
        FIRST_EXEC.get_or_init(|| observe(&of::FIRST_EXEC, &[version(totals.version)], ms));
    }
    count_up_to(&of::RANGE_GET_BYTES, &[], number(totals.range_get_bytes));
    count_up_to(&of::RANGE_GET_COUNT, &[], number(totals.range_gets));
    count_up_to(&of::INFLATE_CPU, &[], totals.inflate_seconds);
    count_up_to(&of::CACHE_HITS, &["memory"], number(totals.hits_in_memory));
    count_up_to(&of::CACHE_HITS, &["disk"], number(totals.hits_on_disk));
    count_up_to(&of::SPANS_FETCHED, &[], number(totals.fetched));
    let [served, failed] = totals.reads;
    count_up_to(&of::READS, &["served"], number(served));
    count_up_to(&of::READS, &["failed"], number(failed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_measured_is_shown() {
        archive_published(2, 1, "test_of_metrics", 3);
        archive_published(2, 1, "test_of_metrics", 3);
        let ended = EndedAttempt {
            kind: "test",
            outcome: "succeeded",
            version: Some(2),
            workspace: "acme",
            took: Duration::from_secs(3),
        };
        attempt_ended(ended);
        let text = render();
        for line in [
            "# TYPE clipwright_archives_total counter",
            r#"clipwright_archives_total{produced="1",reason="test_of_metrics",requested="2"} 2"#,
            // Whose it is is not told unless asked for.
            r#"clipwright_job_attempts_total{kind="test",outcome="succeeded",version="2",workspace=""} 1"#,
            r#"clipwright_job_attempt_seconds_bucket{kind="test",outcome="succeeded",version="2",le="5"} 1"#,
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn odd_methods_are_one() {
        for method in ["BREW", "PROPFIND"] {
            http_answered(method, "/test_of_metrics", 405, Duration::ZERO);
        }
        let line = r#"clipwright_http_requests_total{method="other",route="/test_of_metrics",status="405"} 2"#;
        assert!(render().contains(line));
    }
}
