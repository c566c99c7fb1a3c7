//! Starts of images, as those report them who started them: written down as they come, and counted by and
//! by ([`super::tally`]).

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::Rollouts;
use crate::archive::ClipVersion;
use crate::image_id::ImageId;
use crate::jobs::queue::{Connection, QueueError, patiently};
use crate::telemetry::metrics::{ReportedStart, start_reported};
use crate::workspace::WorkspaceId;

/// How old a start may be that is reported: longer than any outage that a fleet sits out.
pub const MAX_AGE: TimeDelta = TimeDelta::days(7);

/// Whether a start could make use of what earlier ones had left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Temperature {
    /// Nothing of the image was there.
    Cold,
    /// Something was.
    Warm,
}

/// How a start ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StartOutcome {
    /// It could be used.
    Succeeded,
    /// It could not.
    Failed,
}

/// One start of an image; what is absent was not measured.
#[derive(Debug, Clone, PartialEq)]
pub struct NewStart {
    /// Of the client's choice: who sends it twice reports it once.
    pub id: Uuid,
    /// When; now when absent.
    pub at: Option<DateTime<Utc>>,
    /// The version of the archive that was mounted.
    pub clip_version: ClipVersion,
    /// What was there before.
    pub temperature: Temperature,
    /// How it ended.
    pub outcome: StartOutcome,
    /// Seconds from mounting until it was ready.
    pub start_seconds: Option<f64>,
    /// Milliseconds from mounting to the first read of a file.
    pub first_exec_ms: Option<f64>,
    /// Bytes that came over the link.
    pub wire_bytes: Option<i64>,
    /// Requests for ranges.
    pub range_gets: Option<i64>,
    /// How often something was found in a cache.
    pub cache_hits: Option<i64>,
    /// Where it was.
    pub host: Option<String>,
}

impl NewStart {
    /// As it is measured.
    fn measured(&self) -> ReportedStart {
        ReportedStart {
            version: self.clip_version as u8,
            temperature: match self.temperature {
                Temperature::Cold => "cold",
                Temperature::Warm => "warm",
            },
            outcome: match self.outcome {
                StartOutcome::Succeeded => "succeeded",
                StartOutcome::Failed => "failed",
            },
            seconds: self.start_seconds,
            first_exec_ms: self.first_exec_ms,
            wire_bytes: self.wire_bytes.map(i64::unsigned_abs),
        }
    }
}

/// What became of reported starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReportedStarts {
    /// How many are new.
    #[schema(minimum = 0)]
    pub accepted: i64,
    /// How many were known by their ids; nothing was changed about them.
    #[schema(minimum = 0)]
    pub known: i64,
}

impl Rollouts {
    /// Writes down starts of an image; `None`: the workspace has no such image.
    ///
    /// `is_vouched`: by whoever runs the fleet. Only these are a reason for the guard to roll back.
    pub async fn report_starts(
        &self,
        workspace: &WorkspaceId,
        image: &ImageId,
        starts: &[NewStart],
        is_vouched: bool,
    ) -> Result<Option<ReportedStarts>, QueueError> {
        const ACTION: &str = "write down starts of an image";
        fn column<T>(starts: &[NewStart], of: impl Fn(&NewStart) -> T) -> Vec<T> {
            starts.iter().map(of).collect()
        }
        let ids = column(starts, |start| start.id);
        let times = column(starts, |start| start.at);
        let versions = column(starts, |start| start.clip_version as i16);
        let warm = column(starts, |start| start.temperature == Temperature::Warm);
        let failed = column(starts, |start| start.outcome == StartOutcome::Failed);
        let seconds = column(starts, |start| start.start_seconds);
        let first_exec = column(starts, |start| start.first_exec_ms);
        let bytes = column(starts, |start| start.wire_bytes);
        let gets = column(starts, |start| start.range_gets);
        let hits = column(starts, |start| start.cache_hits);
        let hosts = column(starts, |start| start.host.clone());
        let written = patiently(ACTION, async || {
            let mut db = Connection::acquire(&self.pool, ACTION).await?;
            // The archive's job may have been one of a rollout's: then the start counts for it.
            let written = sqlx::query!(
                r#"WITH image AS (
                       SELECT image.job_id, trial.rollout_id, trial.arm
                       FROM image LEFT JOIN rollout_trial AS trial ON trial.job_id = image.job_id
                       WHERE image.workspace_id = $1 AND image.image_id = $2),
                   added AS (
                       INSERT INTO image_start
                           (workspace_id, image_id, rollout_id, arm, id, at, clip_version, is_warm,
                            has_failed, start_seconds, first_exec_ms, wire_bytes, range_gets,
                            cache_hits, host, is_vouched)
                       SELECT $1, $2, image.rollout_id, image.arm, start.id,
                              coalesce(start.at, now()), start.clip_version, start.is_warm,
                              start.has_failed, start.start_seconds, start.first_exec_ms,
                              start.wire_bytes, start.range_gets, start.cache_hits, start.host,
                              $14
                       FROM image, unnest($3::uuid[], $4::timestamptz[], $5::smallint[], $6::bool[],
                                $7::bool[], $8::float8[], $9::float8[], $10::bigint[],
                                $11::bigint[], $12::bigint[], $13::text[])
                            AS start (id, at, clip_version, is_warm, has_failed, start_seconds,
                                      first_exec_ms, wire_bytes, range_gets, cache_hits, host)
                       ORDER BY start.id
                       ON CONFLICT DO NOTHING RETURNING id)
                   SELECT EXISTS (SELECT FROM image) AS "is_there!",
                          (SELECT count(*) FROM added) AS "added!""#,
                workspace.as_str(),
                image.as_str(),
                &ids,
                &times as &[Option<DateTime<Utc>>],
                &versions,
                &warm,
                &failed,
                &seconds as &[Option<f64>],
                &first_exec as &[Option<f64>],
                &bytes as &[Option<i64>],
                &gets as &[Option<i64>],
                &hits as &[Option<i64>],
                &hosts as &[Option<String>],
                is_vouched,
            )
            .fetch_one(&mut *db)
            .await;
            db.answered(ACTION, written)
        });
        let written = written.await?;
        let sent = i64::try_from(starts.len()).unwrap_or(i64::MAX);
        // Which of them were known is not said: what is sent again is not measured.
        if written.is_there && written.added == sent {
            starts.iter().map(NewStart::measured).for_each(start_reported);
        }
        Ok(written
            .is_there
            .then_some(ReportedStarts { accepted: written.added, known: sent - written.added }))
    }
}
