//! What came of a rollout: v1 against v2, of the jobs that it decided and of the starts of their images.
//! Whatever became of a job, it counts for the version that was chosen for it: a v2 that fell back to v1
//! is one of v2's (intention to treat).

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::Serialize;
use utoipa::ToSchema;

use super::{RolloutState, Rollouts};
use crate::jobs::queue::QueueError;

/// What was counted, as it stands in the database.
mod counts;
/// As a table.
mod csv;
/// Proportions.
mod proportion;
/// The bootstrap.
mod resample;
/// Counts in buckets.
mod sketch;
/// In words.
mod verdict;

use counts::Counts;
use proportion::Proportion;
use resample::{Sample, ratios};
use sketch::Sketch;

/// Parts that a rollout falls into, as the schema has them (`rollout_part`).
const PARTS: usize = 16;
/// How often an interval holds the true value.
const CONFIDENCE: f64 = 0.95;

/// Which days (UTC) a report is about, both of them included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// From the beginning when absent.
    pub since: Option<NaiveDate>,
    /// To the end when absent.
    pub until: Option<NaiveDate>,
}

/// A figure, and between which two the true one lies with 95 % confidence; these are absent where there are
/// too few data to say.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Estimate {
    /// As it was measured.
    pub value: f64,
    /// It is hardly less than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// It is hardly more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

impl Estimate {
    fn new(value: f64, bounds: Option<(f64, f64)>) -> Self {
        Self { value, low: bounds.map(|(low, _)| low), high: bounds.map(|(_, high)| high) }
    }

    fn bounds(self) -> Option<(f64, f64)> {
        Some((self.low?, self.high?))
    }
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Seconds that the attempt took which made an archive of a pulled image.
    PullSeconds,
    /// The same of an image that was built.
    BuildSeconds,
    /// Size of an archive.
    ArchiveBytes,
    /// Bytes that came over the link for a start.
    WireBytes,
    /// Requests for ranges for a start.
    RangeGets,
    /// How often a start found something in a cache.
    CacheHits,
    /// Seconds from mounting until it was ready, with nothing there.
    ColdStartSeconds,
    /// The same with something there.
    WarmStartSeconds,
    /// Milliseconds from mounting to the first read of a file.
    FirstExecMs,
}

impl Measure {
    /// All there are, in the order in which they are told.
    pub const ALL: [Self; 9] = [
        Self::PullSeconds,
        Self::BuildSeconds,
        Self::ArchiveBytes,
        Self::ColdStartSeconds,
        Self::WarmStartSeconds,
        Self::FirstExecMs,
        Self::WireBytes,
        Self::RangeGets,
        Self::CacheHits,
    ];

    /// As it stands in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PullSeconds => "pull_seconds",
            Self::BuildSeconds => "build_seconds",
            Self::ArchiveBytes => "archive_bytes",
            Self::WireBytes => "wire_bytes",
            Self::RangeGets => "range_gets",
            Self::CacheHits => "cache_hits",
            Self::ColdStartSeconds => "cold_start_seconds",
            Self::WarmStartSeconds => "warm_start_seconds",
            Self::FirstExecMs => "first_exec_ms",
        }
    }
}

/// Jobs of one version, or starts of images.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Tries {
    /// All that ended.
    pub count: u64,
    /// Those that succeeded.
    pub succeeded: u64,
    /// Those that failed, and not for what their users got wrong.
    pub failed: u64,
    /// Those that failed for what their users got wrong, such as credentials: they say nothing of a version.
    pub refused: u64,
    /// Those that were cancelled or that nobody took in time.
    pub cancelled: u64,
    /// Those of v2 that another version was made for, or that started another one.
    pub fell_back: u64,
    /// The failed ones, of those that failed or succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_rate: Option<Estimate>,
    /// Those that fell back, of those that succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback_rate: Option<Estimate>,
}

/// How jobs ended, or starts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Outcomes {
    /// Those of v1.
    pub v1: Tries,
    /// Those of v2.
    pub v2: Tries,
    /// How much greater the failure rate of v2 is; absent with fewer than 20 of either.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more_failures: Option<Estimate>,
}

/// A measure of one version.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Distribution {
    /// How often it was measured.
    pub count: u64,
    /// Half of what was measured is no more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median: Option<Estimate>,
    /// 95 % of what was measured are no more than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<Estimate>,
}

/// How many times as much v1 needs as v2: more than 1 is better for v2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Ratio {
    /// Of the medians.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median: Option<Estimate>,
    /// Of what 95 % do not exceed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p95: Option<Estimate>,
}

/// A measure of both versions.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
pub struct Comparison {
    /// What is measured.
    pub measure: Measure,
    /// Of v1.
    pub v1: Distribution,
    /// Of v2.
    pub v2: Distribution,
    /// v1 by v2.
    pub ratio: Ratio,
}

/// What the guard has seen, since the rollout last became active.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Guarded {
    /// `job`: what first came of an image's job. `start`: its first start.
    #[schema(examples("job"))]
    pub stage: String,
    /// Images of v1, and those that failed.
    pub v1: GuardedImages,
    /// Images of v2, and those that failed.
    pub v2: GuardedImages,
    /// How many times as likely as by chance that is.
    pub evidence: f64,
    /// From which on the rollout is rolled back; absent if nobody guards it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
}

/// Images of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct GuardedImages {
    /// How many.
    pub images: u64,
    /// How many failed.
    pub failed: u64,
}

/// What came of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Report {
    /// The rollout.
    pub rollout: String,
    /// Whether it decides.
    #[schema(value_type = RolloutState)]
    pub state: String,
    /// Why it is in this state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The first day; from the beginning when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<NaiveDate>,
    /// The last day; to the end when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<NaiveDate>,
    /// How often an interval holds the true value.
    pub confidence: f64,
    /// How far a median or a p95 is from the exact one of what was measured at most, as a part of it.
    pub relative_error: f64,
    /// Whether there are enough data to compare the failures of jobs, and the cold starts.
    pub enough: bool,
    /// What it comes to, one sentence each.
    pub verdict: Vec<String>,
    /// How jobs ended.
    pub jobs: Outcomes,
    /// How starts ended.
    pub starts: Outcomes,
    /// What was measured.
    pub measures: Vec<Comparison>,
    /// What the guard has seen, whatever days are asked for.
    pub guard: Vec<Guarded>,
}

impl Rollouts {
    /// The report of the rollout of this name, from counts alone.
    pub async fn report(&self, name: &str, window: Window) -> Result<Option<Report>, QueueError> {
        let Some(rollout) = self.get(name).await? else { return Ok(None) };
        let counts = self.counts(rollout.id, window).await?;
        let watched = self.watched(Some(rollout.id)).await?;
        let guard = watched.into_iter().map(|watched| {
            let totals = watched.evidence.totals;
            let images = |tried: super::guard::evidence::Tried| GuardedImages {
                images: tried.all,
                failed: tried.failed,
            };
            Guarded {
                v1: images(totals.v1),
                v2: images(totals.v2),
                evidence: watched.evidence.value(),
                threshold: watched.threshold(),
                stage: watched.stage,
            }
        });
        let guard = guard.collect();
        let drawn = tokio::task::spawn_blocking(move || counts.compared());
        // It does not panic and is not cancelled; if it were, the report would be empty, and say so.
        let (jobs, starts, measures) = drawn.await.unwrap_or_else(|_| Counts::default().compared());
        let (enough, verdict) = verdict::of(&jobs, &starts, &measures);
        Ok(Some(Report {
            rollout: rollout.name,
            state: rollout.state,
            reason: rollout.reason,
            since: window.since,
            until: window.until,
            confidence: CONFIDENCE,
            relative_error: sketch::RELATIVE_ERROR,
            enough,
            verdict,
            jobs,
            starts,
            measures,
            guard,
        }))
    }
}

impl Counts {
    fn compared(&self) -> (Outcomes, Outcomes, Vec<Comparison>) {
        let measures = Measure::ALL.into_iter().map(|measure| self.comparison(measure)).collect();
        (self.outcomes("jobs"), self.outcomes("starts"), measures)
    }

    fn comparison(&self, measure: Measure) -> Comparison {
        let quantiles =
            |arm: u8| Sample::new(&self.parts(measure.as_str(), arm)).quantiles(arm.into());
        let (one, other) = (quantiles(1), quantiles(2));
        let [median, p95] = ratios(&one, &other);
        let of = |quantiles: &resample::Quantiles| {
            let [median, p95] = quantiles.estimates;
            Distribution { count: quantiles.count, median, p95 }
        };
        Comparison { measure, v1: of(&one), v2: of(&other), ratio: Ratio { median, p95 } }
    }

    /// Of `jobs` or `starts`.
    fn outcomes(&self, of: &str) -> Outcomes {
        let tries = |arm| {
            let count = |what: &str| self.count(&format!("{of}_{what}"), arm);
            let [succeeded, failed, refused, cancelled, fell_back] =
                ["succeeded", "failed", "refused", "cancelled", "fell_back"].map(count);
            let rate = |some, all| Proportion { some, all }.estimate();
            Tries {
                count: succeeded + failed + refused + cancelled,
                succeeded,
                failed,
                refused,
                cancelled,
                fell_back,
                failure_rate: rate(failed, succeeded + failed),
                fallback_rate: rate(fell_back.min(succeeded), succeeded),
            }
        };
        let (v1, v2) = (tries(1), tries(2));
        let failures =
            |tries: Tries| Proportion { some: tries.failed, all: tries.failed + tries.succeeded };
        Outcomes { v1, v2, more_failures: failures(v2).more_than(failures(v1)) }
    }
}

/// Sketches by measure and version.
type Sketches = BTreeMap<(String, u8), Vec<Sketch>>;
