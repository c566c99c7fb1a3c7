//! What was done for the readers of a mount, under the names of the seed plan.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

/// Counts from when it was made.
#[derive(Debug)]
pub struct Counters {
    started: Instant,
    first_read: OnceLock<Duration>,
    bytes: AtomicU64,
    requests: AtomicU64,
    inflate: AtomicU64,
    memory_hits: AtomicU64,
    disk_hits: AtomicU64,
    fetched_spans: AtomicU64,
    reads: AtomicU64,
    failed_reads: AtomicU64,
    passed_opens: AtomicU64,
}

/// The counts at a time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Milliseconds from the beginning of the mount to the first read of a file; `null` before.
    pub clip_first_exec_ms: Option<f64>,
    /// Bytes that came over the link.
    pub clip_range_get_bytes_total: u64,
    /// Requests for ranges.
    pub clip_range_get_count: u64,
    /// Seconds of processor time for verifying and inflating.
    pub clip_inflate_cpu_seconds_total: f64,
    /// Spans that were found in memory.
    pub cache_hits_memory: u64,
    /// Spans that were found on disk.
    pub cache_hits_disk: u64,
    /// Spans that were fetched.
    pub spans_fetched: u64,
    /// Reads that the kernel asked for.
    pub reads: u64,
    /// Those that failed.
    pub reads_failed: u64,
    /// Files that were opened and are read past us by the kernel.
    pub opens_passed_through: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            first_read: OnceLock::new(),
            bytes: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            inflate: AtomicU64::new(0),
            memory_hits: AtomicU64::new(0),
            disk_hits: AtomicU64::new(0),
            fetched_spans: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            failed_reads: AtomicU64::new(0),
            passed_opens: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// The kernel asks for bytes of a file.
    pub fn read(&self) {
        self.first_read.get_or_init(|| self.started.elapsed());
        self.reads.fetch_add(1, Ordering::Relaxed);
    }

    /// It could not be given them.
    pub fn failed(&self) {
        self.failed_reads.fetch_add(1, Ordering::Relaxed);
    }

    /// The kernel reads a file past us that somebody has opened.
    pub fn passed(&self) {
        self.first_read.get_or_init(|| self.started.elapsed());
        self.passed_opens.fetch_add(1, Ordering::Relaxed);
    }

    /// How long ago counting began.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The counts so far.
    pub fn report(&self) -> Report {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Report {
            clip_first_exec_ms: self.first_read.get().map(|first| first.as_secs_f64() * 1e3),
            clip_range_get_bytes_total: get(&self.bytes),
            clip_range_get_count: get(&self.requests),
            clip_inflate_cpu_seconds_total: Duration::from_nanos(get(&self.inflate)).as_secs_f64(),
            cache_hits_memory: get(&self.memory_hits),
            cache_hits_disk: get(&self.disk_hits),
            spans_fetched: get(&self.fetched_spans),
            reads: get(&self.reads),
            reads_failed: get(&self.failed_reads),
            opens_passed_through: get(&self.passed_opens),
        }
    }

    pub(crate) fn received(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn requested(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn inflated(&self, took: Duration) {
        self.fetched_spans.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.inflate.fetch_add(nanos, Ordering::Relaxed);
    }

    pub(super) fn hit_memory(&self) {
        self.memory_hits.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn hit_disk(&self) {
        self.disk_hits.fetch_add(1, Ordering::Relaxed);
    }
}
